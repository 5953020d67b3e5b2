//! Typed calls: what each asks of the cluster, and how its answer is read. Every transport's client is made of these
//! (see `methods`), so a call means the same on all of them.

use super::ClientError;
use super::core::Target;
use crate::map::{ClusterMap, META_SHARD};
use crate::protocol::{
    Access, AdminAccepted, AdminOp, Answer, ClusterAccount, ClusterOp, Expected, Freshness, Mutation,
    MutationOutcome, Op, Program, ReadConsistency, ScanItem, ShardDescription, WriteConsistency,
};
use crate::types::Value;
use bytes::Bytes;
use std::time::Duration;

/// How to store a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Time until the key expires; `None`: never.
    pub ttl: Option<Duration>,
    /// When the write counts as done.
    pub consistency: WriteConsistency,
}

/// What a compare-and-swap did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Made; the version is that of the new value.
    Done {
        /// Version of the new value (of the removal, when the swap removed the key).
        version: u64,
    },
    /// Not made: the key is not as expected.
    Mismatch {
        /// Version found; `None`: the key does not exist.
        current: Option<u64>,
    },
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and values in (slot, key) order.
    pub items: Vec<ScanItem>,
    /// `start` of the next page; `None`: there is none.
    pub next: Option<Bytes>,
}

/// A request, and what makes a result of its answer.
#[derive(Debug)]
pub(crate) struct Call<R> {
    pub(crate) target: Target,
    pub(crate) op: Op,
    pub(crate) read: R,
}

/// Turns an answer into what the caller asked for.
pub(crate) trait Read<T>: FnOnce(Answer) -> Result<T, ClientError> {}
impl<T, F: FnOnce(Answer) -> Result<T, ClientError>> Read<T> for F {}

/// A write answered with something else was probably executed.
fn unexpected_write() -> ClientError {
    ClientError::Indeterminate { cause: "the answer does not fit the request".to_owned() }
}

fn to_key<R>(op: Op, read: R) -> Call<R> {
    Call { target: Target::Key, op, read }
}

pub(crate) fn get(key: Bytes, consistency: ReadConsistency) -> Call<impl Read<Option<Value>>> {
    to_key(Op::Get { key, consistency }, |answer| match answer {
        Answer::Value { value, .. } => Ok(value),
        _ => Err(ClientError::UnexpectedAnswer),
    })
}

pub(crate) fn get_stale(key: Bytes) -> Call<impl Read<(Option<Value>, Option<Freshness>)>> {
    to_key(Op::Get { key, consistency: ReadConsistency::Stale }, |answer| match answer {
        Answer::Value { value, freshness } => Ok((value, freshness)),
        _ => Err(ClientError::UnexpectedAnswer),
    })
}

pub(crate) fn exists(key: Bytes) -> Call<impl Read<bool>> {
    let consistency = ReadConsistency::Linearizable;
    to_key(Op::Exists { key, consistency }, |answer| match answer {
        Answer::Exists { exists, .. } => Ok(exists),
        _ => Err(ClientError::UnexpectedAnswer),
    })
}

pub(crate) fn put(key: Bytes, value: Bytes, options: PutOptions) -> Call<impl Read<u64>> {
    // A fraction of a millisecond must not become "at once".
    let ttl_ms = options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
    write_one(Mutation::Put { key, value, ttl_ms }, options.consistency, |index, outcome| match outcome {
        MutationOutcome::Put { version } => Some(version),
        MutationOutcome::Accepted => Some(index),
        _ => None,
    })
}

pub(crate) fn delete(key: Bytes) -> Call<impl Read<bool>> {
    write_one(Mutation::Delete { key }, WriteConsistency::Strong, |_, outcome| match outcome {
        MutationOutcome::Deleted { existed } => Some(existed),
        _ => None,
    })
}

pub(crate) fn delete_with(key: Bytes, consistency: WriteConsistency) -> Call<impl Read<Option<bool>>> {
    write_one(Mutation::Delete { key }, consistency, |_, outcome| match outcome {
        MutationOutcome::Deleted { existed } => Some(Some(existed)),
        MutationOutcome::Accepted => Some(None),
        _ => None,
    })
}

pub(crate) fn compare_and_swap(key: Bytes, expected: Expected, new: Option<Bytes>) -> Call<impl Read<Swap>> {
    let mutation = Mutation::CompareAndSwap { key, expected, new };
    write_one(mutation, WriteConsistency::Strong, |_, outcome| match outcome {
        MutationOutcome::Swapped { version } => Some(Swap::Done { version }),
        MutationOutcome::NotSwapped { current } => Some(Swap::Mismatch { current }),
        _ => None,
    })
}

pub(crate) fn batch(
    mutations: Vec<Mutation>,
    consistency: WriteConsistency,
) -> Call<impl Read<Vec<MutationOutcome>>> {
    let expected = mutations.len();
    let op = Op::Write { session: None, consistency, mutations };
    to_key(op, move |answer| match answer {
        Answer::Written { outcomes, .. } if outcomes.len() == expected => Ok(outcomes),
        _ => Err(unexpected_write()),
    })
}

pub(crate) fn scan(
    shard: u32,
    start: Bytes,
    end: Option<Bytes>,
    limit: u32,
    consistency: ReadConsistency,
    keys_only: bool,
) -> Call<impl Read<ScanPage>> {
    let op = Op::Scan { start, end, limit, consistency, keys_only };
    let read = |answer| match answer {
        Answer::Scan { items, next, .. } => Ok(ScanPage { items, next }),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::Shard(shard), op, read }
}

pub(crate) fn execute(program: Program, consistency: Access) -> Call<impl Read<Option<Bytes>>> {
    to_key(Op::Execute { program, consistency }, move |answer| match answer {
        Answer::Executed { replies, .. } => Ok(replies),
        _ if matches!(consistency, Access::Write(_)) => Err(unexpected_write()),
        _ => Err(ClientError::UnexpectedAnswer),
    })
}

pub(crate) fn count(
    shard: u32,
    (first_slot, last_slot): (u16, u16),
    consistency: ReadConsistency,
) -> Call<impl Read<u64>> {
    let read = |answer| match answer {
        Answer::Counted { count } => Ok(count),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::Shard(shard), op: Op::Count { first_slot, last_slot, consistency }, read }
}

pub(crate) fn fetch_cluster_map() -> Call<impl Read<ClusterMap>> {
    let read = |answer| match answer {
        Answer::ClusterMap(map) => Ok(map),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::AnyNode, op: Op::ClusterMap, read }
}

pub(crate) fn status(endpoint: &str) -> Call<impl Read<Bytes> + use<>> {
    let read = |answer| match answer {
        Answer::Status(json) => Ok(json),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::Endpoint(endpoint.into()), op: Op::Status, read }
}

pub(crate) fn describe_shard(shard: u32) -> Call<impl Read<ShardDescription>> {
    let read = |answer| match answer {
        Answer::Shard(described) => Ok(described),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::Shard(shard), op: Op::Admin(AdminOp::Describe), read }
}

pub(crate) fn change(shard: u32, op: AdminOp) -> Call<impl Read<AdminAccepted>> {
    let read = |answer| match answer {
        Answer::AdminAccepted(accepted) => Ok(accepted),
        // What was answered with something else was probably executed.
        _ => Err(unexpected_write()),
    };
    Call { target: Target::Shard(shard), op: Op::Admin(op), read }
}

pub(crate) fn cluster(op: ClusterOp) -> Call<impl Read<ClusterAccount>> {
    let is_change = op.is_change();
    let read = move |answer| match answer {
        Answer::Cluster(account) => Ok(*account),
        _ if is_change => Err(unexpected_write()),
        _ => Err(ClientError::UnexpectedAnswer),
    };
    Call { target: Target::Shard(META_SHARD), op: Op::Cluster(op), read }
}

fn write_one<T>(
    mutation: Mutation,
    consistency: WriteConsistency,
    read: impl FnOnce(u64, MutationOutcome) -> Option<T>,
) -> Call<impl Read<T>> {
    let op = Op::Write { session: None, consistency, mutations: vec![mutation] };
    to_key(op, |answer| match answer {
        Answer::Written { index, outcomes } => match outcomes[..] {
            [outcome] => read(index, outcome).ok_or_else(unexpected_write),
            _ => Err(unexpected_write()),
        },
        _ => Err(unexpected_write()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered<T>(call: Call<impl Read<T>>, answer: Answer) -> Result<T, ClientError> {
        (call.read)(answer)
    }

    #[test]
    fn a_read_answered_with_something_else_has_no_answer() {
        let odd = || Answer::Status(Bytes::new());
        let key = || Bytes::from_static(b"a");
        let unexpected = ClientError::UnexpectedAnswer;
        assert_eq!(answered(get(key(), ReadConsistency::Stale), odd()), Err(unexpected.clone()));
        assert_eq!(answered(exists(key()), odd()), Err(unexpected.clone()));
        assert_eq!(answered(fetch_cluster_map(), odd()), Err(unexpected));
    }

    #[test]
    fn a_write_answered_with_something_else_may_have_been_executed() {
        let key = || Bytes::from_static(b"a");
        let doubtful = |error| matches!(error, Err(ClientError::Indeterminate { .. }));
        let written = |outcomes| Answer::Written { index: 7, outcomes };
        let put = || put(key(), key(), PutOptions::default());
        assert!(doubtful(answered(put(), written(vec![]))));
        assert!(doubtful(answered(put(), written(vec![MutationOutcome::Deleted { existed: true }]))));
        assert_eq!(answered(put(), written(vec![MutationOutcome::Accepted])), Ok(7));
        let gone = MutationOutcome::Deleted { existed: true };
        let two = batch(vec![Mutation::Delete { key: key() }; 2], WriteConsistency::Strong);
        assert!(answered(two, written(vec![gone])).is_err(), "one outcome for two mutations");
    }

    #[test]
    fn a_short_life_is_not_no_life() {
        let options = PutOptions { ttl: Some(Duration::from_micros(10)), ..PutOptions::default() };
        let Op::Write { mutations, .. } = put(Bytes::new(), Bytes::new(), options).op else {
            panic!("a write")
        };
        assert!(matches!(mutations[..], [Mutation::Put { ttl_ms: Some(1), .. }]));
    }
}
