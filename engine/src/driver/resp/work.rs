//! What a Redis connection waits for, and the reply that becomes of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use net::resp::Value;

use super::Door;
use super::answers::{Answered, answered, each, executed, failed, merged, unexpected};
use crate::driver::gateway::{self, GatewayError};
use crate::resp::{Call, Merge, Session, Shape};

/// One command under way.
pub(super) enum Work {
    Reply(Value),
    /// Gathered, and asked before the wake-up is over.
    Unasked(Box<Call>),
    Call {
        call: gateway::Call,
        shape: Shape,
        slot: u16,
    },
    /// One command of several that were asked as one; they are answered in their order.
    Member {
        batch: Rc<RefCell<Batch>>,
        slot: u16,
    },
    Calls {
        parts: Vec<Part>,
        merge: Merge,
    },
    Watch {
        parts: Vec<Part>,
        keys: Vec<(u8, Bytes)>,
    },
    Execute {
        call: Option<(gateway::Call, u16)>,
        parts: Vec<Option<Value>>,
    },
    Task(Pin<Box<dyn Future<Output = Value>>>),
}

/// One question of several.
pub(super) struct Part {
    pub call: gateway::Call,
    pub shape: Shape,
    pub slot: u16,
    pub value: Option<Value>,
}

/// Commands that were asked as one.
pub(super) struct Batch {
    call: gateway::Call,
    /// The replies that are not taken yet.
    result: Option<Result<VecDeque<Answered>, GatewayError>>,
}

impl Batch {
    pub fn new(call: gateway::Call) -> Rc<RefCell<Batch>> {
        Rc::new(RefCell::new(Batch { call, result: None }))
    }

    /// The reply of the next command of the batch, which is in `slot`.
    fn poll_next(&mut self, cx: &mut Context<'_>, slot: u16, door: &Door) -> Poll<Answered> {
        if self.result.is_none() {
            let Poll::Ready(result) = Pin::new(&mut self.call).poll(cx) else { return Poll::Pending };
            self.result = Some(result.map(each));
        }
        Poll::Ready(match self.result.as_mut().expect("just set") {
            Ok(replies) => replies.pop_front().unwrap_or_else(|| Answered::Value(unexpected())),
            Err(error) => Answered::Value(failed(error, slot, door)),
        })
    }
}

impl Work {
    /// What is to be asked, if it is not yet; nothing may be polled until it is put back as something else.
    pub fn take_unasked(&mut self) -> Option<Call> {
        match std::mem::replace(self, Work::Reply(Value::Null)) {
            Work::Unasked(call) => Some(*call),
            other => {
                *self = other;
                None
            }
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>, door: &Door, session: &mut Session) -> Poll<Answered> {
        let value = match self {
            Work::Reply(value) => std::mem::replace(value, Value::Null),
            Work::Call { call, shape, slot } => {
                return Pin::new(call).poll(cx).map(|result| match result {
                    Ok(answer) => answered(*shape, answer),
                    Err(error) => Answered::Value(failed(&error, *slot, door)),
                });
            }
            Work::Unasked(_) => unreachable!("what is gathered is asked before anything is polled"),
            Work::Member { batch, slot } => return batch.borrow_mut().poll_next(cx, *slot, door),
            Work::Calls { parts, merge } => {
                let Poll::Ready(values) = poll_parts(parts, cx, door) else { return Poll::Pending };
                merged(merge, values)
            }
            Work::Watch { parts, keys } => {
                let Poll::Ready(values) = poll_parts(parts, cx, door) else { return Poll::Pending };
                watched(values, std::mem::take(keys), session)
            }
            Work::Execute { call: None, parts } => executed(std::mem::take(parts), None),
            Work::Execute { call: Some((call, slot)), parts } => {
                let Poll::Ready(result) = Pin::new(call).poll(cx) else { return Poll::Pending };
                match result {
                    Ok(answer) => executed(std::mem::take(parts), Some(answer)),
                    Err(error) => failed(&error, *slot, door),
                }
            }
            Work::Task(task) => return task.as_mut().poll(cx).map(Answered::Value),
        };
        Poll::Ready(Answered::Value(value))
    }
}

fn poll_parts(parts: &mut [Part], cx: &mut Context<'_>, door: &Door) -> Poll<Vec<Value>> {
    for part in parts.iter_mut().filter(|part| part.value.is_none()) {
        if let Poll::Ready(result) = Pin::new(&mut part.call).poll(cx) {
            part.value = Some(match result {
                Ok(answer) => answered(part.shape, answer).into_value(),
                Err(error) => failed(&error, part.slot, door),
            });
        }
    }
    if parts.iter().any(|part| part.value.is_none()) {
        return Poll::Pending;
    }
    Poll::Ready(parts.iter_mut().filter_map(|part| part.value.take()).collect())
}

/// The versions of keys to be watched have come.
fn watched(values: Vec<Value>, keys: Vec<(u8, Bytes)>, session: &mut Session) -> Value {
    let mut versions = Vec::with_capacity(keys.len());
    for (value, (namespace, key)) in values.into_iter().zip(keys) {
        match value {
            Value::Integer(version) => {
                versions.push((namespace, key, u64::try_from(version).unwrap_or_default()));
            }
            Value::Error(_) => return value,
            _ => return Value::error("ERR internal error: an answer to something else"),
        }
    }
    session.watch_versions(versions);
    Value::OK
}
