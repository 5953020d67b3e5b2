//! LCS: the longest common subsequence of two values, by the table of all their beginnings.

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, count, integer_argument, is_word, syntax};
use super::execute::{Context, Outcome};
use super::keyspace::Keyspace;

#[derive(Default)]
struct Options {
    length: bool,
    ranges: bool,
    with_length: bool,
    shortest: usize,
}

impl Options {
    fn parse(args: &[Bytes]) -> Result<Options, Complaint> {
        let mut options = Options::default();
        let mut rest = args;
        while let Some((option, after)) = rest.split_first() {
            rest = after;
            if is_word(option, b"idx") {
                options.ranges = true;
            } else if is_word(option, b"len") {
                options.length = true;
            } else if is_word(option, b"withmatchlen") {
                options.with_length = true;
            } else if is_word(option, b"minmatchlen") && !after.is_empty() {
                options.shortest = usize::try_from(integer_argument(&after[0])?).unwrap_or(0);
                rest = &after[1..];
            } else {
                return Err(syntax());
            }
        }
        if options.length && options.ranges {
            let text = "ERR If you want both the length and indexes, please just use IDX.";
            return Err(Complaint::new(text));
        }
        Ok(options)
    }
}

pub(super) fn lcs<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let first = context.get(&context.args[1])?.unwrap_or_default().data;
    let second = context.get(&context.args[2])?.unwrap_or_default().data;
    let options = Options::parse(&context.args[3..])?;
    let cells = (first.len() as u64 + 1).checked_mul(second.len() as u64 + 1);
    let bytes = cells.and_then(|cells| cells.checked_mul(size_of::<u32>() as u64)).unwrap_or(u64::MAX);
    if bytes > context.keyspace.value_bytes_max() as u64 {
        let text = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
        return Err(Complaint::new(text).into());
    }
    let table = Table::new(&first, &second);
    let length = table.at(first.len(), second.len()) as usize;
    if options.length {
        return Ok(count(length));
    }
    let matches = table.matches();
    if !options.ranges {
        let common: Vec<u8> = matches.iter().rev().map(|&(at, _)| first[at]).collect();
        return Ok(Value::Bulk(common.into()));
    }
    let ranges = ranges(&matches).into_iter().filter(|range| range.length >= options.shortest);
    let ranges = ranges.map(|range| range.value(options.with_length)).collect();
    let name = |name: &'static str| Value::Bulk(Bytes::from_static(name.as_bytes()));
    Ok(Value::Map(vec![(name("matches"), Value::Array(ranges)), (name("len"), count(length))]))
}

/// For each beginning of the one and each beginning of the other, the length of their longest common subsequence.
struct Table<'a> {
    first: &'a [u8],
    second: &'a [u8],
    lengths: Vec<u32>,
}

impl Table<'_> {
    fn new<'a>(first: &'a [u8], second: &'a [u8]) -> Table<'a> {
        let width = second.len() + 1;
        let mut lengths = vec![0; width * (first.len() + 1)];
        for (above, &byte) in first.iter().enumerate() {
            let (upper, lower) = lengths[above * width..(above + 2) * width].split_at_mut(width);
            for (left, &other) in second.iter().enumerate() {
                lower[left + 1] =
                    if byte == other { upper[left] + 1 } else { upper[left + 1].max(lower[left]) };
            }
        }
        Table { first, second, lengths }
    }

    fn at(&self, in_first: usize, in_second: usize) -> u32 {
        self.lengths[in_first * (self.second.len() + 1) + in_second]
    }

    /// The positions of the bytes of one longest common subsequence, from the last to the first: of several, the one
    /// that Redis finds.
    fn matches(&self) -> Vec<(usize, usize)> {
        let (mut i, mut j) = (self.first.len(), self.second.len());
        let mut matches = Vec::with_capacity(self.at(i, j) as usize);
        while i > 0 && j > 0 {
            if self.first[i - 1] == self.second[j - 1] {
                i -= 1;
                j -= 1;
                matches.push((i, j));
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        matches
    }
}

/// A run of bytes that are neighbours in both values.
struct Range {
    in_first: usize,
    in_second: usize,
    length: usize,
}

impl Range {
    fn value(&self, with_length: bool) -> Value {
        let pair = |start: usize| Value::Array(vec![count(start), count(start + self.length - 1)]);
        let mut parts = vec![pair(self.in_first), pair(self.in_second)];
        if with_length {
            parts.push(count(self.length));
        }
        Value::Array(parts)
    }
}

fn ranges(matches: &[(usize, usize)]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for &(in_first, in_second) in matches {
        match ranges.last_mut() {
            Some(range) if range.in_first == in_first + 1 && range.in_second == in_second + 1 => {
                range.in_first = in_first;
                range.in_second = in_second;
                range.length += 1;
            }
            _ => ranges.push(Range { in_first, in_second, length: 1 }),
        }
    }
    ranges
}
