//! Reads that wait for their index (thesis §6.4), on the leader and on the follower that forwards them.
//!
//! A read must not be served from before it began. On the leader it takes the commit index of when it came, or, if
//! nothing of the leader's own term was committed then, of when something is; and it waits for a quorum to echo a round
//! opened for it, which proves that no later leader had committed anything by then.

use std::collections::VecDeque;

use crate::types::{Index, NodeId, Round};

/// Who asked for a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadOrigin {
    /// The caller of this node.
    Local { context: u64 },
    /// A follower, for a batch of its own reads.
    Remote { node: NodeId, context: u64 },
}

/// A read at the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PendingRead {
    pub(crate) origin: ReadOrigin,
    /// The round that confirms it.
    pub(crate) round: Round,
    /// Its read index, once something of the term is committed.
    pub(crate) index: Option<Index>,
    /// The leader's tick at which it came.
    pub(crate) tick: u64,
}

/// The reads at a leader, in order of arrival.
///
/// Invariant: rounds and ticks do not fall along the queue.
#[derive(Debug, Default)]
pub(crate) struct PendingReads {
    queue: VecDeque<PendingRead>,
}

impl PendingReads {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn push(&mut self, read: PendingRead) {
        self.queue.push_back(read);
    }

    /// Takes the next read confirmed by `round`, with its index. `committed` is the commit index, if an entry of this
    /// term is committed.
    pub(crate) fn pop_confirmed(
        &mut self,
        round: Round,
        committed: Option<Index>,
    ) -> Option<(ReadOrigin, Index)> {
        let committed = committed?;
        let read = self.pop_front_if(|read| read.round <= round)?;
        Some((read.origin, read.index.unwrap_or(committed)))
    }

    /// Takes the next read that came at or before `tick`.
    pub(crate) fn pop_older(&mut self, tick: u64) -> Option<ReadOrigin> {
        self.pop_front_if(|read| read.tick <= tick).map(|read| read.origin)
    }

    fn pop_front_if(&mut self, condition: impl Fn(&PendingRead) -> bool) -> Option<PendingRead> {
        if self.queue.front().is_some_and(condition) { self.queue.pop_front() } else { None }
    }
}

/// A follower's reads on their way to the leader, one message per batch.
///
/// A batch's number begins at random in each incarnation, lest a late answer to a former one be taken for its own.
#[derive(Debug)]
pub(crate) struct ForwardedReads {
    next_batch: u64,
    /// Came since the last `Ready`.
    collecting: Vec<u64>,
    under_way: VecDeque<Batch>,
    len: usize,
}

#[derive(Debug)]
struct Batch {
    id: u64,
    contexts: Vec<u64>,
    age_ticks: u32,
}

impl ForwardedReads {
    pub(crate) fn new(first_batch: u64) -> ForwardedReads {
        ForwardedReads { next_batch: first_batch, collecting: Vec::new(), under_way: VecDeque::new(), len: 0 }
    }

    /// How many reads wait, under way or not.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, context: u64) {
        self.collecting.push(context);
        self.len += 1;
    }

    pub(crate) fn is_collecting(&self) -> bool {
        !self.collecting.is_empty()
    }

    /// Closes the batch being collected and returns its number, if there is one.
    pub(crate) fn close_batch(&mut self) -> Option<u64> {
        if self.collecting.is_empty() {
            return None;
        }
        let id = self.next_batch;
        self.next_batch = self.next_batch.wrapping_add(1);
        let contexts = std::mem::take(&mut self.collecting);
        self.under_way.push_back(Batch { id, contexts, age_ticks: 0 });
        Some(id)
    }

    /// The reads of a batch that was answered; `None` if it is not under way (any more).
    pub(crate) fn answer(&mut self, id: u64) -> Option<Vec<u64>> {
        let position = self.under_way.iter().position(|batch| batch.id == id)?;
        let batch = self.under_way.remove(position)?;
        self.len -= batch.contexts.len();
        Some(batch.contexts)
    }

    /// A tick passes. Calls `resend` with each batch that has waited a multiple of `resend_ticks`, and returns the reads
    /// of those that have waited `age_max` ticks: their leader, or the way to it, is gone.
    pub(crate) fn tick(&mut self, resend_ticks: u32, age_max: u32, mut resend: impl FnMut(u64)) -> Vec<u64> {
        let mut dropped = Vec::new();
        for batch in &mut self.under_way {
            batch.age_ticks += 1;
            if batch.age_ticks >= age_max {
                dropped.append(&mut batch.contexts);
            } else if batch.age_ticks.is_multiple_of(resend_ticks) {
                resend(batch.id);
            }
        }
        self.under_way.retain(|batch| batch.age_ticks < age_max);
        self.len -= dropped.len();
        dropped
    }

    /// Gives up all reads: the leader changed.
    pub(crate) fn take_all(&mut self) -> Vec<u64> {
        self.len = 0;
        let mut contexts: Vec<u64> = self.under_way.drain(..).flat_map(|batch| batch.contexts).collect();
        contexts.append(&mut self.collecting);
        contexts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(context: u64, round: u64, index: Option<u64>) -> PendingRead {
        PendingRead {
            origin: ReadOrigin::Local { context },
            round: Round(round),
            index: index.map(Index),
            tick: round,
        }
    }

    #[test]
    fn a_read_waits_for_its_round_and_for_a_commit_of_the_term() {
        let mut reads = PendingReads::default();
        reads.push(read(1, 3, None));
        reads.push(read(2, 4, Some(7)));
        assert_eq!(reads.pop_confirmed(Round(2), Some(Index(9))), None);
        assert_eq!(reads.pop_confirmed(Round(4), None), None);
        let local = |context, index| Some((ReadOrigin::Local { context }, Index(index)));
        assert_eq!(reads.pop_confirmed(Round(4), Some(Index(9))), local(1, 9));
        assert_eq!(reads.pop_confirmed(Round(4), Some(Index(9))), local(2, 7));
        assert_eq!(reads.pop_confirmed(Round(4), Some(Index(9))), None);
    }

    #[test]
    fn a_batch_is_resent_and_in_the_end_given_up() {
        let mut reads = ForwardedReads::new(u64::MAX);
        reads.push(10);
        reads.push(11);
        let id = reads.close_batch().unwrap();
        assert_eq!((id, reads.close_batch()), (u64::MAX, None));
        let mut resent = Vec::new();
        let dropped: Vec<Vec<u64>> = (0..5).map(|_| reads.tick(2, 5, |id| resent.push(id))).collect();
        assert_eq!(resent, [id, id]);
        assert_eq!(dropped, [vec![], vec![], vec![], vec![], vec![10, 11]]);
        assert_eq!((reads.answer(id), reads.len()), (None, 0));
    }

    #[test]
    fn an_answer_counts_once() {
        let mut reads = ForwardedReads::new(5);
        reads.push(10);
        reads.close_batch();
        reads.push(11);
        assert_eq!(reads.answer(5), Some(vec![10]));
        assert_eq!(reads.answer(5), None);
        assert_eq!((reads.take_all(), reads.len()), (vec![11], 0));
    }
}
