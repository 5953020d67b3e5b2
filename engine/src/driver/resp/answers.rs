//! What becomes of the gateway's answers: replies, and errors in the words that Redis clients act on.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use net::protocol::{Answer, MutationOutcome, Refusal};
use net::resp::{Value, Version, decode_value, encode};

use super::Door;
use crate::driver::gateway::GatewayError;
use crate::resp::{Merge, Shape, moved};

/// A reply, or what a state machine has written as one.
pub(super) enum Answered {
    Value(Value),
    /// A RESP3 value.
    Written(Bytes),
}

impl Answered {
    /// Appends it to what is sent.
    pub fn append(&self, version: Version, out: &mut BytesMut) {
        match self {
            Answered::Value(value) => encode(value, version, out),
            // These look the same in both versions.
            Answered::Written(bytes)
                if version == Version::Resp3 || matches!(bytes.first(), Some(b'$' | b':' | b'+' | b'-')) =>
            {
                out.extend_from_slice(bytes);
            }
            Answered::Written(bytes) => encode(&read(bytes), version, out),
        }
    }

    pub fn is_error(&self) -> bool {
        match self {
            Answered::Value(value) => matches!(value, Value::Error(_)),
            Answered::Written(bytes) => bytes.first() == Some(&b'-'),
        }
    }

    pub fn into_value(self) -> Value {
        match self {
            Answered::Value(value) => value,
            Answered::Written(bytes) => read(&bytes),
        }
    }
}

fn read(bytes: &Bytes) -> Value {
    match decode_value(&mut bytes.clone()) {
        Ok(Some(value)) => value,
        _ => Value::error("ERR internal error: a reply that cannot be read"),
    }
}

/// What the answer to a call becomes.
pub(super) fn answered(shape: Shape, answer: Answer) -> Answered {
    Answered::Value(match (shape, answer) {
        (Shape::Value, Answer::Value { value, .. }) => {
            value.map_or(Value::Null, |value| Value::Bulk(value.data))
        }
        (Shape::Stored, Answer::Written { .. }) => Value::OK,
        (Shape::Removed, Answer::Written { outcomes, .. }) => match outcomes[..] {
            [MutationOutcome::Deleted { existed }] => Value::Integer(existed.into()),
            _ => unexpected(),
        },
        (Shape::Exists, Answer::Exists { exists, .. }) => Value::Integer(exists.into()),
        (Shape::Count, Answer::Counted { count }) => Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)),
        (Shape::Program, Answer::Executed { replies: Some(replies), .. }) => {
            return Answered::Written(replies);
        }
        (Shape::Program, Answer::Executed { replies: None, .. }) => Value::NullArray,
        _ => unexpected(),
    })
}

pub(super) fn unexpected() -> Value {
    Value::error("ERR internal error: an answer to something else")
}

/// The replies of commands that were asked as one.
pub(super) fn each(answer: Answer) -> VecDeque<Answered> {
    match answer {
        Answer::Written { outcomes, .. } => {
            let reply = |outcome| match outcome {
                MutationOutcome::Put { .. } => Value::OK,
                MutationOutcome::Deleted { existed } => Value::Integer(existed.into()),
                _ => unexpected(),
            };
            outcomes.into_iter().map(|outcome| Answered::Value(reply(outcome))).collect()
        }
        Answer::Executed { replies: Some(mut written), .. } => {
            let mut replies = VecDeque::new();
            while !written.is_empty() {
                let mut rest = written.clone();
                if !matches!(decode_value(&mut rest), Ok(Some(_))) {
                    break;
                }
                replies.push_back(Answered::Written(written.split_to(written.len() - rest.len())));
            }
            replies
        }
        _ => VecDeque::new(),
    }
}

/// The replies of a transaction: its commands in order, answered here or by the shard.
pub(super) fn executed(parts: Vec<Option<Value>>, answer: Option<Answer>) -> Value {
    let mut written = match answer {
        None => Bytes::new(),
        Some(Answer::Executed { replies: Some(replies), .. }) => replies,
        Some(Answer::Executed { replies: None, .. }) => return Value::NullArray,
        Some(_) => return unexpected(),
    };
    let next = |part: Option<Value>| match part {
        Some(value) => value,
        None => decode_value(&mut written).ok().flatten().unwrap_or_else(unexpected),
    };
    Value::Array(parts.into_iter().map(next).collect())
}

/// One reply of several.
pub(super) fn merged(merge: &Merge, values: Vec<Value>) -> Value {
    if let Some(error) = values.iter().find(|value| matches!(value, Value::Error(_))) {
        return error.clone();
    }
    match merge {
        Merge::Ok => Value::OK,
        Merge::Sum => {
            Value::Integer(values.iter().map(|it| if let Value::Integer(it) = it { *it } else { 0 }).sum())
        }
        Merge::Order(positions) => {
            let length = positions.iter().map(Vec::len).sum();
            let mut ordered = vec![Value::Null; length];
            for (value, positions) in values.into_iter().zip(positions) {
                let Value::Array(elements) = value else { return unexpected() };
                for (element, position) in elements.into_iter().zip(positions) {
                    ordered[*position] = element;
                }
            }
            Value::Array(ordered)
        }
    }
}

/// Begins the error of a command that may have been executed, or still be.
pub(super) const INDETERMINATE: &str = "INDETERMINATE";

/// The error a client gets where a call failed.
pub(super) fn failed(error: &GatewayError, slot: u16, door: &Door) -> Value {
    Value::Error(match error {
        GatewayError::NotHere { leader, .. } => moved(slot, *leader, door),
        GatewayError::Refused(refusal) => refused(refusal),
        GatewayError::Indeterminate { cause } => {
            format!("{INDETERMINATE} the command may or may not have been executed: {cause}")
        }
        GatewayError::TimedOut { last } => format!("CLUSTERDOWN no answer in time: {last}"),
    })
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Busy { retry_after_ms } => {
            format!("TRYAGAIN the server is busy, retry after {retry_after_ms} ms")
        }
        Refusal::NotLeader { .. } | Refusal::WrongShard { .. } => {
            "CLUSTERDOWN Hash slot not served".to_owned()
        }
        Refusal::Unavailable { why } => format!("CLUSTERDOWN the shard cannot serve now: {why}"),
        Refusal::TooLarge { .. } => format!("ERR {refusal}"),
        Refusal::Invalid { why } | Refusal::Conflict { why } => format!("ERR {why}"),
        Refusal::SessionExpired | Refusal::Timeout | Refusal::Internal { .. } => format!("ERR {refusal}"),
    }
}
