//! Raft's view of its log: one stream of the core's write-ahead log.

use std::cell::RefCell;
use std::rc::Rc;

use raft::{Entry, Index, LogReadError, LogStorage, Term};
use wal::{StreamId, Wal};

use crate::convert;

/// One stream of the core's log. Everything handed to the log is visible here at once, flushed or not.
pub struct WalLog {
    wal: Rc<RefCell<Wal>>,
    stream: StreamId,
}

impl WalLog {
    /// The view of `stream`.
    pub fn new(wal: Rc<RefCell<Wal>>, stream: StreamId) -> WalLog {
        WalLog { wal, stream }
    }
}

impl LogStorage for WalLog {
    fn first_index(&self) -> Index {
        Index(self.wal.borrow().first_index(self.stream))
    }

    fn last_index(&self) -> Index {
        Index(self.wal.borrow().last_index(self.stream))
    }

    fn term(&self, index: Index) -> Result<Term, LogReadError> {
        // A log that never held anything has no stream yet; the position before the first entry has term 0.
        if index == Index::ZERO && self.first_index() == Index(1) {
            return Ok(Term::ZERO);
        }
        self.wal.borrow().term(self.stream, index.0).map(Term).map_err(convert::log_read_error)
    }

    fn entries(&self, low: Index, high: Index, bytes_max: u64) -> Result<Vec<Entry>, LogReadError> {
        let entries = self
            .wal
            .borrow()
            .entries(self.stream, low.0, high.0, bytes_max)
            .map_err(convert::log_read_error)?;
        Ok(entries.into_iter().map(convert::raft_entry).collect())
    }
}
