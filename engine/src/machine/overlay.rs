//! The writes of the batch being applied, and how later commands of the batch see them.
//!
//! A batch of blind writes never looks anything up, so the index over the writes is only built at the
//! first lookup and costs nothing before.
//!
//! Invariant: once built, `index` maps every key of `writes` to its last write, and `undo` holds what the
//! current command's writes changed in it.

use std::collections::HashMap;

use crate::store::Write;

#[derive(Debug)]
pub(super) struct Overlay<'a> {
    writes: Vec<Write<'a>>,
    /// Where the current command's writes begin.
    command_start: usize,
    index: Option<HashMap<&'a [u8], usize>>,
    /// For each write of the current command, its key and the write it hides, if any.
    undo: Vec<(&'a [u8], Option<usize>)>,
}

impl<'a> Overlay<'a> {
    pub(super) fn with_capacity(writes: usize) -> Self {
        Self { writes: Vec::with_capacity(writes), command_start: 0, index: None, undo: Vec::new() }
    }

    /// Begins a command: what is pushed from here on can be undone.
    pub(super) fn begin_command(&mut self) {
        self.command_start = self.writes.len();
        self.undo.clear();
    }

    /// Takes the current command's writes back.
    pub(super) fn undo_command(&mut self) {
        self.writes.truncate(self.command_start);
        if let Some(index) = &mut self.index {
            for (key, hidden) in self.undo.drain(..).rev() {
                match hidden {
                    Some(at) => index.insert(key, at),
                    None => index.remove(key),
                };
            }
        }
    }

    pub(super) fn push(&mut self, write: Write<'a>) {
        let at = self.writes.len();
        self.writes.push(write);
        if let Some(index) = &mut self.index {
            let key = key_of(write);
            self.undo.push((key, index.insert(key, at)));
        }
    }

    /// The last write of `key` in this batch.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<Write<'a>> {
        if self.writes.is_empty() {
            return None;
        }
        let (writes, undo, start) = (&self.writes, &mut self.undo, self.command_start);
        let index = self.index.get_or_insert_with(|| {
            let mut index = HashMap::with_capacity(writes.capacity());
            for (at, write) in writes.iter().enumerate() {
                let key = key_of(*write);
                let hidden = index.insert(key, at);
                if at >= start {
                    undo.push((key, hidden));
                }
            }
            index
        });
        index.get(key).map(|at| self.writes[*at])
    }

    pub(super) fn into_writes(self) -> Vec<Write<'a>> {
        self.writes
    }
}

fn key_of<'a>(write: Write<'a>) -> &'a [u8] {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key,
        Write::DeleteRange { .. } => unreachable!("ranges go in batches in which nothing is looked up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static [u8], value: &'static [u8]) -> Write<'static> {
        Write::Put { key, value }
    }

    #[test]
    fn the_last_write_of_a_key_is_seen_and_blind_writes_build_no_index() {
        let mut overlay = Overlay::with_capacity(4);
        overlay.begin_command();
        overlay.push(put(b"a", b"1"));
        overlay.push(put(b"a", b"2"));
        assert!(overlay.index.is_none());
        assert_eq!(overlay.find(b"a"), Some(put(b"a", b"2")));
        overlay.push(Write::Delete { key: b"a" });
        assert_eq!(overlay.find(b"a"), Some(Write::Delete { key: b"a" }));
        assert_eq!(overlay.find(b"b"), None);
    }

    #[test]
    fn undo_restores_what_the_command_hid_whenever_the_index_was_built() {
        for built_early in [true, false] {
            let mut overlay = Overlay::with_capacity(4);
            overlay.begin_command();
            overlay.push(put(b"a", b"1"));
            if built_early {
                assert_eq!(overlay.find(b"b"), None);
            }
            overlay.begin_command();
            overlay.push(put(b"a", b"2"));
            overlay.push(put(b"a", b"3"));
            overlay.push(put(b"b", b"4"));
            assert_eq!(overlay.find(b"a"), Some(put(b"a", b"3")));
            overlay.undo_command();
            assert_eq!(overlay.find(b"a"), Some(put(b"a", b"1")));
            assert_eq!(overlay.find(b"b"), None);
            assert_eq!(overlay.into_writes(), [put(b"a", b"1")]);
        }
    }
}
