//! Answers: a status, headers and a body. Errors are JSON too, and say what to do.

use bytes::Bytes;
use net::protocol::{Oversize, Refusal};
use serde_json::{Value, json};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// Bytes of a value.
pub const BINARY: &str = "application/octet-stream";
/// A JSON document.
pub const JSON: &str = "application/json";

impl Reply {
    /// A body of some type.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
        Reply { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// A JSON body.
    pub fn json(status: u16, value: &Value) -> Reply {
        let mut body = value.to_string();
        body.push('\n');
        Reply::new(status, JSON, body)
    }

    /// No body.
    pub fn empty(status: u16) -> Reply {
        Reply::new(status, JSON, Bytes::new())
    }

    /// With another header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: u16,
    code: &'static str,
    message: String,
    headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// An error with a word for programs and a sentence for people.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), headers: Vec::new() }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Problem {
        Problem::new(400, "invalid", message)
    }

    /// There is no such key.
    pub fn no_key() -> Problem {
        Problem::new(404, "no_key", "the key does not exist")
    }

    /// A condition of the request does not hold; `current` is the version found.
    pub fn mismatch(current: Option<u64>) -> Problem {
        match current {
            Some(version) => {
                let message = "the key is not as the condition says, nothing was changed; read it again";
                Problem::new(412, "mismatch", message).with("etag", etag(version))
            }
            None => Problem::new(412, "mismatch", "the key does not exist, nothing was changed"),
        }
    }

    /// A body that is longer than this route takes.
    pub fn body_too_long(limit: u64) -> Problem {
        Problem::new(413, "too_large", format!("the body is over the limit of {limit} bytes"))
    }

    /// More than this node can hold now.
    pub fn busy() -> Problem {
        Problem::new(503, "busy", "too much is under way on this node; try again in a moment")
            .with("retry-after", "1")
    }

    /// A connection over the limit; nothing was read from it.
    pub fn too_many_connections() -> Problem {
        let message =
            "the node has as many connections as limits.connections_max allows; close some, or raise it";
        Problem::new(503, "too_many_connections", message).with("retry-after", "1")
    }

    /// A shard's refusal; a write was not executed.
    pub fn refused(refusal: &Refusal) -> Problem {
        let not_now = |code, message: String| Problem::new(503, code, message).with("retry-after", "1");
        match refusal {
            Refusal::Busy { .. } => Problem::busy(),
            Refusal::NotLeader { .. } | Refusal::WrongShard { .. } => {
                not_now("unavailable", "the shard's leader is moving; try again in a moment".to_owned())
            }
            Refusal::Unavailable { why } => not_now("unavailable", format!("{why}; try again later")),
            Refusal::Invalid { why } => Problem::invalid(why.as_str()),
            Refusal::Conflict { why } => Problem::new(409, "conflict", why.as_str()),
            Refusal::TooLarge { what, limit } => {
                let what = match what {
                    Oversize::Key => "the key",
                    Oversize::Value => "the value",
                    Oversize::Batch => "the number of changes",
                    Oversize::Request => "the request",
                };
                Problem::new(413, "too_large", format!("{what} is over the limit of {limit}"))
            }
            refusal => Problem::new(500, "internal", refusal.to_string()),
        }
    }

    /// A write that may or may not have taken effect.
    pub fn outcome_unknown(cause: &str) -> Problem {
        let message = format!(
            "the write may or may not have taken effect, now or later ({cause}); read the key to find out"
        );
        Problem::new(504, "outcome_unknown", message)
    }

    /// No answer in time; nothing was executed.
    pub fn timed_out(last: &str) -> Problem {
        let message = format!("no answer in time, nothing was changed ({last}); try again");
        Problem::new(504, "timeout", message).with("retry-after", "1")
    }

    /// With another header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Problem {
        self.headers.push((name, value.into()));
        self
    }

    /// As an answer.
    pub fn into_reply(self) -> Reply {
        let reply = Reply::json(self.status, &json!({ "error": self.code, "message": self.message }));
        Reply { headers: self.headers, ..reply }
    }
}

/// The version of a value as an entity tag.
pub fn etag(version: u64) -> String {
    format!("\"{version}\"")
}
