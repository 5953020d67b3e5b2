//! What has expired goes also where nobody writes: the leader of a group in which something is due adds an entry that has
//! it removed (`machine/expiry.rs`). One at a time for each group, and one a tick: there is no hurry, for nobody sees
//! what has expired. Where nothing is due, nothing is added, and a group that sleeps goes on sleeping.

use super::Core;

impl Core {
    pub(super) fn tick_expiry(&mut self) {
        let wall_ms = self.wall_ms;
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_mut() else { continue };
            if replica.propose_removal(wall_ms) {
                let shard = replica.id.shard;
                self.note_awake(shard);
                self.touch(shard);
            }
        }
    }
}
