//! Bytes to requests: arrays of strings, or a line of words as a person types it.

use bytes::{Bytes, BytesMut};

use super::ProtocolError;

/// Longest line with a number in it, and longest request typed as a line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// What somebody may send who has not given the password.
const UNAUTHENTICATED_ARGS_MAX: usize = 10;
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 << 10;
/// What an argument costs beside its bytes.
const ARGUMENT_OVERHEAD_BYTES: usize = 64;
/// Positions kept for the next request; the list of a longer one is given back.
const KEPT_POSITIONS: usize = 256;

/// What a request may be. Beyond it, the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Arguments, the name of the command among them.
    pub args_max: usize,
    /// Length of one argument.
    pub bulk_bytes_max: usize,
    /// All arguments of one request and what is kept of each.
    pub request_bytes_max: usize,
}

impl Default for DecoderLimits {
    fn default() -> DecoderLimits {
        DecoderLimits { args_max: 1 << 20, bulk_bytes_max: 64 << 20, request_bytes_max: 128 << 20 }
    }
}

/// Takes requests off the front of a buffer. Nothing is read twice, however small the pieces in which it arrives.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: DecoderLimits,
    authenticated: bool,
    /// The request at the front of the buffer as far as it has been read: where its arguments lie, ...
    positions: Vec<(usize, usize)>,
    /// ... how many are to come, ...
    args_left: usize,
    /// ... the length of the next one, once it is known, ...
    bulk: Option<usize>,
    /// ... where to read on, ...
    at: usize,
    /// ... how far after that no end of a line was found, ...
    scanned: usize,
    /// ... and what it costs to keep.
    request_bytes: usize,
}

impl RequestDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new(limits: DecoderLimits) -> RequestDecoder {
        RequestDecoder {
            limits,
            authenticated: true,
            positions: Vec::new(),
            args_left: 0,
            bulk: None,
            at: 0,
            scanned: 0,
            request_bytes: 0,
        }
    }

    /// Whether the client has given the password, if there is one; until then it may send little.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
    }

    /// How many bytes the request at the front of the buffer is known to lack; 0 when that is not known.
    #[must_use]
    pub fn missing_bytes(&self, buffer: &BytesMut) -> usize {
        self.bulk.map_or(0, |length| (self.at + length + 2).saturating_sub(buffer.len()))
    }

    /// Takes one request: its name and arguments, never empty. `None`: it has not arrived as a whole, call again when
    /// there is more at the end of the same buffer.
    ///
    /// # Errors
    /// The stream cannot be read on.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if self.args_left == 0 {
                match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        if !self.read_count(buffer)? {
                            return Ok(None);
                        }
                    }
                    Some(_) => match self.read_line_of_words(buffer)? {
                        Some(words) if words.is_empty() => {}
                        words => return Ok(words),
                    },
                }
                continue;
            }
            if !self.read_arguments(buffer)? {
                return Ok(None);
            }
            return Ok(Some(self.finish(buffer)));
        }
    }

    /// Reads `*<count>`; false: it is not there yet. A count of no arguments is no request.
    fn read_count(&mut self, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(end) = self.find_line_end(buffer, ProtocolError::CountTooBig)? else { return Ok(false) };
        let count = number(&buffer[1..end]).ok_or(ProtocolError::InvalidCount)?;
        if count <= 0 {
            self.skip(buffer, end + 2);
            return Ok(true);
        }
        let count = usize::try_from(count).expect("positive");
        if count > self.limits.args_max {
            return Err(ProtocolError::InvalidCount);
        }
        if !self.authenticated && count > UNAUTHENTICATED_ARGS_MAX {
            return Err(ProtocolError::UnauthenticatedCount);
        }
        self.args_left = count;
        self.at = end + 2;
        self.scanned = 0;
        self.request_bytes = 0;
        Ok(true)
    }

    /// Reads arguments until the request is whole; false: it is not.
    fn read_arguments(&mut self, buffer: &BytesMut) -> Result<bool, ProtocolError> {
        while self.args_left > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.read_length(buffer)? {
                    Some(length) => length,
                    None => return Ok(false),
                },
            };
            // As in Redis, the two bytes after an argument are taken for its end whatever they are.
            if buffer.len() < self.at + length + 2 {
                return Ok(false);
            }
            self.positions.push((self.at, self.at + length));
            self.at += length + 2;
            self.bulk = None;
            self.args_left -= 1;
        }
        Ok(true)
    }

    /// Reads `$<length>`.
    fn read_length(&mut self, buffer: &BytesMut) -> Result<Option<usize>, ProtocolError> {
        match buffer.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let Some(end) = self.find_line_end(buffer, ProtocolError::LengthTooBig)? else { return Ok(None) };
        let length = number(&buffer[self.at + 1..end]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= self.limits.bulk_bytes_max);
        let length = length.ok_or(ProtocolError::InvalidLength)?;
        if !self.authenticated && length > UNAUTHENTICATED_BULK_BYTES_MAX {
            return Err(ProtocolError::UnauthenticatedLength);
        }
        self.request_bytes += length + ARGUMENT_OVERHEAD_BYTES;
        if self.request_bytes > self.limits.request_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        self.at = end + 2;
        self.scanned = 0;
        self.bulk = Some(length);
        Ok(Some(length))
    }

    #[cfg(test)]
    pub(super) fn positions_capacity(&self) -> usize {
        self.positions.capacity()
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Vec<Bytes> {
        let request = buffer.split_to(self.at).freeze();
        let args = self.positions.iter().map(|&(start, end)| request.slice(start..end)).collect();
        self.positions.clear();
        self.positions.shrink_to(KEPT_POSITIONS);
        self.at = 0;
        args
    }

    /// Where the line at `self.at` ends: the position of its CR, once the byte after it is there, too.
    fn find_line_end(
        &mut self,
        buffer: &BytesMut,
        error: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let from = self.at + self.scanned;
        let found = buffer[from..].iter().position(|&byte| byte == b'\r').map(|offset| from + offset);
        match found {
            Some(end) if end - self.at > LINE_BYTES_MAX => Err(error),
            Some(end) if end + 1 < buffer.len() => Ok(Some(end)),
            Some(end) => {
                self.scanned = end - self.at;
                Ok(None)
            }
            None if buffer.len() - self.at > LINE_BYTES_MAX => Err(error),
            None => {
                self.scanned = buffer.len() - self.at;
                Ok(None)
            }
        }
    }

    /// Reads a request typed as a line; an empty one is no request.
    fn read_line_of_words(&mut self, buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(offset) = buffer[self.scanned..].iter().position(|&byte| byte == b'\n') else {
            self.scanned = buffer.len();
            if buffer.len() > LINE_BYTES_MAX {
                return Err(ProtocolError::InlineTooBig);
            }
            return Ok(None);
        };
        let end = self.scanned + offset;
        if end > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        let line = &buffer[..end];
        let words = split_words(line.strip_suffix(b"\r").unwrap_or(line))?;
        self.skip(buffer, end + 1);
        Ok(Some(words))
    }

    fn skip(&mut self, buffer: &mut BytesMut, count: usize) {
        drop(buffer.split_to(count));
        self.at = 0;
        self.scanned = 0;
    }
}

/// A decimal number as Redis reads one: no plus sign, no leading zeros, no spaces.
fn number(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 || (digits[0] == b'0' && (digits.len() > 1 || negative)) {
        return None;
    }
    let mut value = 0i64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(if negative { -value } else { value })
}

/// Words apart by white space; in double quotes with `\n`, `\x41` and the like, in single quotes with `\'` only.
fn split_words(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0);
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let Some(start) = rest.iter().position(|byte| !is_space(byte)) else { return Ok(words) };
        rest = &rest[start..];
        let mut word = Vec::new();
        while let Some(&byte) = rest.first() {
            if is_space(&byte) {
                break;
            }
            rest = &rest[1..];
            if matches!(byte, b'"' | b'\'') {
                rest = quoted(byte, rest, &mut word)?;
                if rest.first().is_some_and(|byte| !is_space(byte)) {
                    return Err(ProtocolError::UnbalancedQuotes);
                }
                break;
            }
            word.push(byte);
        }
        words.push(Bytes::from(word));
    }
}

/// Reads up to the closing quote; what follows it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [byte, after @ ..] if *byte == quote => return Ok(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => (b'\'', after),
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => (unescaped(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}
