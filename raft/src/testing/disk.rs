//! A disk that writes in order, acknowledges late, and in a crash keeps some prefix of what was not acknowledged.

use std::collections::VecDeque;

use crate::entry::{ConfState, Entry, HardState, InitialState, SnapshotMeta};
use crate::message::Message;
use crate::ready::Ready;
use crate::storage::{LogStorage, MemStorage};
use crate::types::{Index, ReadyId, Term};

/// The durable state of one node, and the writes under way to it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    log: MemStorage,
    hard_state: HardState,
    /// What the state machine durably holds; it has a place of its own and is written at once.
    machine: Option<SnapshotMeta>,
    queue: VecDeque<Write>,
}

/// One write of the log.
#[derive(Clone, Debug)]
enum Write {
    /// What one `Ready` brings.
    Ready {
        id: ReadyId,
        hard_state: Option<HardState>,
        truncate_from: Option<Index>,
        entries: Vec<Entry>,
        messages: Vec<Message>,
    },
    /// The log begins anew after a snapshot.
    Reset { index: Index, term: Term },
}

impl Disk {
    /// A disk that durably holds this log and hard state.
    #[must_use]
    pub fn new(log: MemStorage, hard_state: HardState) -> Disk {
        Disk { log, hard_state, ..Disk::default() }
    }

    /// Queues what `ready` brings, and the messages that wait for it.
    pub fn submit(&mut self, ready: &mut Ready) {
        let messages = std::mem::take(&mut ready.persisted_messages);
        // A commit index alone is not worth a write, unless the node asks for it.
        if ready.must_sync || !messages.is_empty() {
            self.queue.push_back(Write::Ready {
                id: ready.id,
                hard_state: ready.hard_state,
                truncate_from: ready.truncate_from,
                entries: ready.entries.clone(),
                messages,
            });
        }
    }

    /// Queues the reset of the log to a snapshot that the state machine durably holds.
    pub fn reset(&mut self, meta: SnapshotMeta) {
        self.queue.push_back(Write::Reset { index: meta.index, term: meta.term });
        self.machine = Some(meta);
    }

    /// Makes the oldest write durable: its number, and the messages that waited for it. `None` if nothing is under way.
    pub fn flush(&mut self) -> Option<(Option<ReadyId>, Vec<Message>)> {
        match self.queue.pop_front()? {
            Write::Ready { id, hard_state, truncate_from, entries, messages } => {
                self.log.write(truncate_from, &entries);
                self.hard_state = hard_state.unwrap_or(self.hard_state);
                Some((Some(id), messages))
            }
            Write::Reset { index, term } => {
                self.log.reset(index, term);
                Some((None, Vec::new()))
            }
        }
    }

    /// Loses power after `kept` of the writes under way reached the disk; none of them was acknowledged. If `torn`, the
    /// entries of the next one are there too, and the hard state behind them is not.
    pub fn crash(&mut self, kept: usize, torn: bool) {
        for _ in 0..kept {
            self.flush();
        }
        if let Some(Write::Ready { truncate_from, entries, .. }) = self.queue.front()
            && torn
        {
            self.log.write(*truncate_from, entries);
            let last_term = self.log.term(self.log.last_index()).expect("the term of the last entry");
            if last_term > self.hard_state.term {
                // Nothing was promised in that term: promises wait for the whole write.
                self.hard_state = HardState { term: last_term, vote: None, ..self.hard_state };
            }
        }
        self.queue.clear();
    }

    /// The state machine is durable as of `meta`.
    pub fn checkpoint(&mut self, meta: SnapshotMeta) {
        self.machine = Some(meta);
    }

    /// What the state machine durably holds.
    #[must_use]
    pub fn machine(&self) -> Option<&SnapshotMeta> {
        self.machine.as_ref()
    }

    /// Forgets the log up to `index`, as far as it is durable and the state machine does not need it.
    pub fn compact_to(&mut self, index: Index) {
        let held = self.machine.as_ref().map_or(Index::ZERO, |meta| meta.index);
        let end = index.min(self.log.last_index()).min(held);
        if end >= self.log.first_index() {
            self.log.compact_to(end);
        }
    }

    /// How many writes are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// What a node starting from this disk is given. `founding` is the configuration before the first change. A log that
    /// does not reach to the state machine, or disagrees with it, gives way to a snapshot's place: it was to be reset.
    #[must_use]
    pub fn recover(&mut self, founding: ConfState) -> (InitialState, MemStorage) {
        let (applied, conf_state) = match &self.machine {
            Some(meta) => {
                if self.log.term(meta.index) != Ok(meta.term) {
                    self.log.reset(meta.index, meta.term);
                }
                (meta.index, meta.conf_state.clone())
            }
            None => (Index::ZERO, founding),
        };
        let mut hard_state = self.hard_state;
        if let Ok(term) = self.log.term(self.log.last_index()) {
            hard_state.term = hard_state.term.max(term);
        }
        (InitialState { hard_state, conf_state, applied }, self.log.clone())
    }
}
