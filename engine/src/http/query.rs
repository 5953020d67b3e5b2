//! Parameters: `name=value` pairs joined by `&`, of an address or of a form. Values are bytes, not text.

use bytes::Bytes;
use percent_encoding::percent_decode;

use super::reply::Problem;

/// Most parameters of one request.
const PARAMETERS_MAX: usize = 16;

/// Parameters, each of a known name and given once.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, Bytes)>,
}

impl Query {
    /// Reads parameters; names other than `known` are refused, for a mistyped one would be ignored.
    pub fn parse(text: &[u8], known: &[&str]) -> Result<Query, Problem> {
        let mut pairs: Vec<(String, Bytes)> = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let name = String::from_utf8_lossy(&decode(&pair[..end])).into_owned();
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "takes none".to_owned() } else { known.join(", ") };
                return Err(Problem::invalid(format!("unknown parameter `{name}`; this route: {known}")));
            }
            if pairs.len() == PARAMETERS_MAX || pairs.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(format!("parameter `{name}` is given twice; give it once")));
            }
            let value = pair.get(end + 1..).unwrap_or_default();
            pairs.push((name, decode(value).into()));
        }
        Ok(Query { pairs })
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The value of a parameter that must be there.
    pub fn need(&self, name: &str) -> Result<&Bytes, Problem> {
        self.get(name).ok_or_else(|| Problem::invalid(format!("parameter `{name}` is missing")))
    }

    /// A parameter as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        let text = |value| {
            std::str::from_utf8(value).map_err(|_| Problem::invalid(format!("`{name}` is not UTF-8 text")))
        };
        self.get(name).map(|value| text(value)).transpose()
    }

    /// A parameter as a number within a range.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            Problem::invalid(format!("`{name}` must be a number from {} to {}", range.start(), range.end()))
        })?;
        Ok(Some(number))
    }
}

/// Undoes `%41` and `+`.
fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}
