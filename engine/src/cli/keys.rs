//! Commands about single keys.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use net::PutOptions;
use net::protocol::{Access, Program, WriteConsistency};
use net::resp::{self, Value};
use net::slot::slot_of;
use serde_json::{Map, json};

use super::{Data, Output, ReadLevel, WriteLevel, bytes, text};

/// Longest value read from standard input; what the servers take is decided by them.
const STDIN_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct Get {
    /// The key.
    key: OsString,
    /// Who answers, and how fresh it must be.
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: ReadLevel,
    #[command(flatten)]
    data: Data,
}

impl Get {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (key, level, output) = (bytes(self.key), self.consistency, self.data.output);
        self.data.with_client(async move |client| {
            let (value, freshness) = match level {
                ReadLevel::Stale => client.get_stale(key.clone()).await?,
                other => (client.get_with(key.clone(), other.into()).await?, None),
            };
            let found = value.is_some();
            let mut out = std::io::stdout().lock();
            if output == Output::Json {
                let mut object = Map::new();
                text::insert(&mut object, "key", &key);
                object.insert("found".to_owned(), found.into());
                if let Some(value) = value {
                    text::insert(&mut object, "value", &value.data);
                    object.insert("version".to_owned(), value.version.into());
                }
                if let Some(freshness) = freshness {
                    object.insert("lag_ms".to_owned(), freshness.lag_ms.into());
                }
                writeln!(out, "{}", serde_json::Value::from(object))?;
            } else if let Some(value) = value {
                out.write_all(&value.data)?;
                out.write_all(b"\n")?;
            }
            Ok(ExitCode::from(u8::from(!found)))
        })
    }
}

#[derive(Debug, Args)]
pub struct Set {
    /// The key.
    key: OsString,
    /// The value; read from standard input when it is not given.
    value: Option<OsString>,
    /// Time until the key expires: a number with ms, s (as without), m, h or d.
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// When the write counts as done.
    #[arg(long, value_enum, default_value = "strong")]
    consistency: WriteLevel,
    #[command(flatten)]
    data: Data,
}

impl Set {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (key, output) = (bytes(self.key), self.data.output);
        let value = match self.value {
            Some(value) => bytes(value),
            None => from_stdin()?,
        };
        let options = PutOptions { ttl: self.ttl, consistency: self.consistency.into() };
        self.data.with_client(async move |client| {
            let version = client.put_with(key, value, options).await?;
            match output {
                Output::Text => println!("OK"),
                Output::Json => println!("{}", json!({"version": version})),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn from_stdin() -> Result<Bytes> {
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_end(&mut value)
        .context("cannot read the value from standard input")?;
    if u64::try_from(value.len()).is_ok_and(|length| length > STDIN_BYTES_MAX) {
        bail!("the value on standard input is longer than {STDIN_BYTES_MAX} bytes");
    }
    Ok(value.into())
}

#[derive(Debug, Args)]
pub struct Del {
    /// The keys.
    #[arg(required = true)]
    keys: Vec<OsString>,
    /// When a deletion counts as done. Short of `strong` it is not known whether the key existed.
    #[arg(long, value_enum, default_value = "strong")]
    consistency: WriteLevel,
    #[command(flatten)]
    data: Data,
}

impl Del {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (level, output) = (self.consistency, self.data.output);
        let keys: Vec<Bytes> = self.keys.into_iter().map(bytes).collect();
        self.data.with_client(async move |client| {
            let mut missing = false;
            for key in keys {
                let existed = client.delete_with(key.clone(), level.into()).await?;
                missing |= existed == Some(false);
                match (output, existed) {
                    (Output::Text, Some(true)) => println!("deleted"),
                    (Output::Text, Some(false)) => println!("no such key"),
                    (Output::Text, None) => println!("accepted"),
                    (Output::Json, _) => {
                        let mut object = Map::new();
                        text::insert(&mut object, "key", &key);
                        object.insert("existed".to_owned(), existed.into());
                        println!("{}", serde_json::Value::from(object));
                    }
                }
            }
            Ok(ExitCode::from(u8::from(missing)))
        })
    }
}

#[derive(Debug, Args)]
pub struct Incr {
    /// The key.
    key: OsString,
    /// How much to add; may be negative.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    data: Data,
}

impl Incr {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (key, by, output) = (bytes(self.key), self.by, self.data.output);
        self.data.with_client(async move |client| {
            let args = vec![Bytes::from_static(b"INCRBY"), key.clone(), Bytes::from(by.to_string())];
            let program = Program::single(slot_of(&key), client.namespace(), args);
            let replies = client.execute(program, Access::Write(WriteConsistency::Strong)).await?;
            let mut replies = replies.context("the cluster answered nothing")?;
            match resp::decode_value(&mut replies) {
                Ok(Some(Value::Integer(sum))) => {
                    match output {
                        Output::Text => println!("{sum}"),
                        Output::Json => println!("{}", json!({"value": sum})),
                    }
                    Ok(ExitCode::SUCCESS)
                }
                Ok(Some(Value::Error(why))) => {
                    eprintln!("ringkv: {}: {why}", text::printable(&key));
                    Ok(ExitCode::from(1))
                }
                other => bail!("the cluster's answer cannot be read: {other:?}"),
            }
        })
    }
}

/// A time such as `500ms`, `30`, `5m`.
fn duration(argument: &str) -> Result<Duration, String> {
    let digits = argument.find(|c: char| !c.is_ascii_digit()).unwrap_or(argument.len());
    let (number, unit) = argument.split_at(digits);
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(format!("`{unit}` is no unit of time; use ms, s, m, h or d")),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number and a unit, such as 30s".to_owned())?;
    match number.checked_mul(factor_ms) {
        None => Err("that is too long".to_owned()),
        Some(0) => Err("a key must live for at least 1ms".to_owned()),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(2 * 86_400)));
        for wrong in ["", "m", "-5", "5w", "0s", "1.5h", "99999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
