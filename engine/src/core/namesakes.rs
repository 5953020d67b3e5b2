//! Which data directory runs under the name of each other node, as it says itself when it links to this core. Two
//! processes of one name would take each other's links and votes, so the cluster takes nobody in under a name that is in
//! use; and whoever has lost its disk is let in when nothing is heard any more under its name but from itself.

use std::collections::BTreeMap;

use net::map::{META_SHARD, NodeInfo};
use net::protocol::Refusal;

use super::Core;
use crate::controller::HEARD_WITHIN;

/// What the links say.
#[derive(Default)]
pub(super) struct Namesakes {
    /// By node: the data directory at the other end of the newest link, 0 for not known, and whether nothing was heard of
    /// a link's end since.
    linked: BTreeMap<u64, (u64, bool)>,
}

impl Namesakes {
    /// A node linked to this core, or was linked to.
    pub fn linked(&mut self, node: u64, store: u64) {
        self.linked.insert(node, (store, true));
    }

    /// A link to a node broke: perhaps it ended, perhaps it links again at once.
    pub fn lost(&mut self, node: u64) {
        if let Some((_, is_up)) = self.linked.get_mut(&node) {
            *is_up = false;
        }
    }
}

impl Core {
    /// Refuses to take a node in whose name another one uses, with another data directory.
    ///
    /// Where a link broke just now, the other one may have ended or not; that is clear when it was not heard for a while.
    pub(super) fn check_name_is_free(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let (store, is_up) = match self.namesakes.linked.get(&node.id) {
            _ if node.id == self.config.node => (self.config.store, true),
            Some(linked) => *linked,
            None => return Ok(()),
        };
        // An operator who describes a node, and a simulated one, know nothing of data directories.
        if store == 0 || node.store == 0 || store == node.store {
            return Ok(());
        }
        let silent = self.outbox.heard_at(node.id, META_SHARD).map(|(heard, _)| self.now.since(heard));
        let silent = silent.filter(|_| node.id != self.config.node).unwrap_or_default();
        if silent >= HEARD_WITHIN.max(self.config.raft.election_timeout()) {
            return Ok(());
        }
        let id = node.id;
        if is_up {
            let why = format!(
                "the cluster has a node {id} already, and it runs, with another data directory: give the new one another \
                 node.id or, if it is to take the place of the old one, stop that one first"
            );
            return Err(Refusal::Conflict { why });
        }
        let why = format!(
            "node {id} was heard a moment ago, with another data directory; ask again when it has ended"
        );
        Err(Refusal::Unavailable { why })
    }
}
