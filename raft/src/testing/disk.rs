//! A disk that writes in order, acknowledges late, and in a crash keeps some prefix of what was not acknowledged.

use std::collections::VecDeque;

use crate::entry::{ConfState, Entry, HardState, InitialState};
use crate::message::Message;
use crate::ready::Ready;
use crate::storage::MemStorage;
use crate::types::{Index, ReadyId};

/// The durable state of one node, and the writes under way to it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    log: MemStorage,
    hard_state: HardState,
    queue: VecDeque<Write>,
}

/// What one `Ready` brings to the disk.
#[derive(Clone, Debug)]
struct Write {
    id: ReadyId,
    hard_state: Option<HardState>,
    truncate_from: Option<Index>,
    entries: Vec<Entry>,
    messages: Vec<Message>,
}

impl Disk {
    /// A disk that durably holds this log and hard state.
    #[must_use]
    pub fn new(log: MemStorage, hard_state: HardState) -> Disk {
        Disk { log, hard_state, queue: VecDeque::new() }
    }

    /// Queues what `ready` brings, and the messages that wait for it.
    pub fn submit(&mut self, ready: &mut Ready) {
        let messages = std::mem::take(&mut ready.persisted_messages);
        if ready.must_sync || ready.hard_state.is_some() || !messages.is_empty() {
            self.queue.push_back(Write {
                id: ready.id,
                hard_state: ready.hard_state,
                truncate_from: ready.truncate_from,
                entries: ready.entries.clone(),
                messages,
            });
        }
    }

    /// Makes the oldest write durable: its number, and the messages that waited for it.
    pub fn flush(&mut self) -> Option<(ReadyId, Vec<Message>)> {
        let write = self.queue.pop_front()?;
        self.log.write(write.truncate_from, &write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        Some((write.id, write.messages))
    }

    /// Loses power after `kept` of the writes under way reached the disk; none of them was acknowledged.
    pub fn crash(&mut self, kept: usize) {
        for _ in 0..kept {
            self.flush();
        }
        self.queue.clear();
    }

    /// Forgets the log up to `index`, as far as it is durable.
    pub fn compact_to(&mut self, index: Index) {
        self.log.compact_to(index.min(self.last_index()));
    }

    /// How many writes are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// The end of the durable log.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.log.iter().last().map_or_else(|| self.compacted(), |entry| entry.index)
    }

    /// What a node starting from this disk is given; the state machine starts at the beginning of the log.
    #[must_use]
    pub fn recover(&self, conf_state: ConfState) -> (InitialState, MemStorage) {
        let initial = InitialState { hard_state: self.hard_state, conf_state, applied: self.compacted() };
        (initial, self.log.clone())
    }

    fn compacted(&self) -> Index {
        crate::storage::LogStorage::first_index(&self.log).prev()
    }
}
