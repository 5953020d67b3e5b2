//! Bounds the entries kept in memory, over all streams, oldest out first.
//!
//! The entries themselves sit in their streams (as a suffix of each); here is the order they came in.
//! Invariants: `bytes` is the cost of every cached entry; each cached entry has exactly one token, in
//! LSN order; an entry that is not flushed is never evicted, so the bound may be exceeded by what is
//! queued and in flight, no more.

use std::collections::{BTreeMap, VecDeque};

use crate::record::RECORD_HEADER_BYTES;
use crate::stream::{CachedEntry, StreamLog};
use crate::types::{Lsn, StreamId};
use crate::width::to_u64;

/// What an entry costs besides its payload: its slot and its token.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

#[derive(Debug, Clone, Copy)]
struct Token {
    stream: StreamId,
    lsn: Lsn,
}

#[derive(Debug, Clone)]
pub(crate) struct Cache {
    bytes_max: u64,
    bytes: u64,
    entries: usize,
    tokens: VecDeque<Token>,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, entries: 0, tokens: VecDeque::new() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Adds the entry just appended to `log`.
    pub(crate) fn push(&mut self, stream: StreamId, log: &mut StreamLog, cached: CachedEntry) {
        self.bytes += cost(&cached);
        self.entries += 1;
        self.tokens.push_back(Token { stream, lsn: cached.lsn });
        log.cached.push_back(cached);
    }

    /// Accounts for entries that their stream dropped.
    pub(crate) fn forget(&mut self, gone: &[CachedEntry]) {
        self.bytes -= gone.iter().map(cost).sum::<u64>();
        self.entries -= gone.len();
    }

    /// Drops the oldest flushed entries until the bound holds.
    pub(crate) fn evict(&mut self, streams: &mut BTreeMap<StreamId, StreamLog>, flushed: Lsn) {
        while self.bytes > self.bytes_max {
            let Some(token) = self.tokens.front().copied() else { break };
            if let Some(log) = streams.get_mut(&token.stream).filter(|log| is_live(token, log)) {
                let oldest = log.cached.front().expect("a live token names the front");
                if end_lsn(oldest) > flushed {
                    break;
                }
                let gone = log.cached.pop_front().expect("looked at above");
                self.bytes -= cost(&gone);
                self.entries -= 1;
            }
            self.tokens.pop_front();
        }
        self.sweep(streams);
    }

    /// Tokens of entries dropped by their stream stay behind; removes them once they are the majority.
    fn sweep(&mut self, streams: &BTreeMap<StreamId, StreamLog>) {
        const SLACK: usize = 64;
        if self.tokens.len() <= 2 * self.entries + SLACK {
            return;
        }
        self.tokens.retain(|token| {
            streams
                .get(&token.stream)
                .is_some_and(|log| log.cached.binary_search_by_key(&token.lsn, |cached| cached.lsn).is_ok())
        });
        assert_eq!(self.tokens.len(), self.entries, "one token per cached entry");
    }

    /// Panics if the accounting is off.
    pub(crate) fn check_invariants(&self, streams: &BTreeMap<StreamId, StreamLog>) {
        let cached = || streams.values().flat_map(|log| log.cached.iter());
        assert_eq!(self.bytes, cached().map(cost).sum::<u64>());
        assert_eq!(self.entries, cached().count());
        assert!(self.tokens.len() >= self.entries);
    }
}

/// Tokens and a stream's cached entries are both in LSN order, so the oldest live token of a stream names
/// its oldest cached entry.
fn is_live(token: Token, log: &StreamLog) -> bool {
    log.cached.front().is_some_and(|cached| cached.lsn == token.lsn)
}

fn cost(cached: &CachedEntry) -> u64 {
    to_u64(cached.entry.payload.len()) + ENTRY_OVERHEAD_BYTES
}

fn end_lsn(cached: &CachedEntry) -> Lsn {
    Lsn(cached.lsn.0 + to_u64(RECORD_HEADER_BYTES + cached.entry.payload.len()))
}
