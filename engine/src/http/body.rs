//! Bodies that name a key and its value.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::query::Query;
use super::reply::Problem;
use super::route::{Condition, WriteOptions, write_options};

/// A key, a value, and how to store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// How.
    pub options: WriteOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetJson {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<f64>,
    consistency: Option<String>,
    #[serde(default)]
    namespace: u8,
}

/// The longest JSON that a key and a value within the limits make: every byte may be written as `\u0000`.
pub fn json_bytes_max(key_bytes_max: u64, value_bytes_max: u64) -> u64 {
    6 * (key_bytes_max + value_bytes_max) + 1024
}

/// The longest form that a key and a value within the limits make: every byte may be written as `%00`.
pub fn form_bytes_max(key_bytes_max: u64, value_bytes_max: u64) -> u64 {
    3 * (key_bytes_max + value_bytes_max) + 1024
}

/// Reads `{"key": …, "value": …}`.
pub fn set_of_json(body: &[u8]) -> Result<Set, Problem> {
    let set: SetJson = serde_json::from_slice(body).map_err(|error| {
        Problem::invalid(format!(
            "the body is not what this route takes ({error}); send {{\"key\": \"…\", \"value\": \"…\"}}"
        ))
    })?;
    if set.namespace > 15 {
        return Err(Problem::invalid("`namespace` must be a number from 0 to 15"));
    }
    Ok(Set {
        key: one_of("key", set.key, set.key_base64)?,
        value: one_of("value", set.value, set.value_base64)?,
        options: write_options(set.namespace, set.consistency.as_deref(), set.ttl, Condition::None)?,
    })
}

fn one_of(name: &str, text: Option<String>, encoded: Option<String>) -> Result<Bytes, Problem> {
    match (text, encoded) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(encoded)) => STANDARD
            .decode(encoded)
            .map(Bytes::from)
            .map_err(|_| Problem::invalid(format!("`{name}_base64` is not base64"))),
        _ => Err(Problem::invalid(format!("give either `{name}` or `{name}_base64`"))),
    }
}

/// Reads `key=…&value=…`.
pub fn set_of_form(body: &[u8]) -> Result<Set, Problem> {
    let form = Query::parse(body, &["key", "value"])?;
    Ok(Set {
        key: form.need("key")?.clone(),
        value: form.need("value")?.clone(),
        options: write_options(0, None, None, Condition::None)?,
    })
}
