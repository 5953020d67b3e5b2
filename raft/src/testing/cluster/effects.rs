//! What a node wants done, and what its disk does.

use super::watch::must_hold;
use super::{Cluster, Host};
use crate::entry::EntryKind;
use crate::message::Message;
use crate::ready::Ready;
use crate::types::NodeId;

impl Cluster {
    /// Does everything a node wants done, except that the disk takes its time. Returns whether there was anything.
    pub fn drain(&mut self, id: NodeId) -> bool {
        let mut any = false;
        while self.is_up(id) && self.node(id).has_ready() {
            any = true;
            let ready = self.node_mut(id).ready();
            self.take(id, ready);
            self.verify(id);
        }
        any
    }

    /// Makes the oldest write of a node durable. Returns whether there was one.
    pub fn flush(&mut self, id: NodeId) -> bool {
        let host = self.host_mut(id);
        let Some((ready, messages)) = host.disk.flush() else { return false };
        if let (Some(node), Some(ready)) = (&mut host.node, ready) {
            node.on_persisted(ready);
        }
        self.send(messages);
        self.verify(id);
        true
    }

    fn take(&mut self, id: NodeId, mut ready: Ready) {
        assert!(
            ready != Ready { id: ready.id, ..Ready::default() },
            "a ready of node {id} with nothing in it"
        );
        self.observe_appended(id, &ready);
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_mut().expect("a running node");
        node.storage_mut().write(ready.truncate_from, &ready.entries);
        host.disk.submit(&mut ready);
        self.observe_committed(id);
        self.apply(id, &ready);
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_mut().expect("a running node");
        for fetch in &ready.fetches {
            let result = node.storage().read(fetch.low, fetch.high, fetch.bytes_max);
            node.on_entries_fetched(fetch.id, result);
        }
        for state in &ready.read_states {
            must_hold(self.checkers.reads.observe_index(state.context, state.index));
        }
        for context in &ready.reads_dropped {
            must_hold(self.checkers.reads.observe_dropped(*context));
        }
        host.applied.append(&mut ready.committed);
        host.read_states.append(&mut ready.read_states);
        host.reads_dropped.append(&mut ready.reads_dropped);
        host.snapshots_needed.append(&mut ready.snapshots_needed);
        if let Some(meta) = ready.snapshot {
            assert_eq!(host.installing, None, "node {id} has a snapshot to install already");
            host.installing = Some(meta);
        }
        self.send(ready.messages);
    }

    fn apply(&mut self, id: NodeId, ready: &Ready) {
        let Host { node, .. } = self.hosts.get_mut(&id).expect("a host");
        let node = node.as_mut().expect("a running node");
        for entry in &ready.committed {
            must_hold(self.checkers.machines.observe_apply(id, entry));
            if entry.kind == EntryKind::ConfChange {
                let state = node.apply_conf_change(entry);
                must_hold(self.checkers.configurations.observe_change(id, entry.index, &state));
            }
        }
        if let Some(last) = ready.committed.last() {
            node.on_applied(last.index);
        }
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        self.wire.extend(messages);
        self.apply_cuts();
    }
}
