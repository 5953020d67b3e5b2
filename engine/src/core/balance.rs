//! Leaders go back to where they belong: when the preferred leader of a shard is well again and has caught up, the
//! present one hands over (thesis §3.10), so that a restarted node takes its share of the work.

use super::{Core, usize_of};

/// Ticks between two looks, and so between two hand-overs of one core: each pauses the writes of its shard for about
/// a round trip.
const LOOK_TICKS: u32 = 10;
/// Looks in a row that must find the preferred leader well.
const WELL_LOOKS: u32 = 6;

/// What a core remembers between two looks.
#[derive(Default)]
pub(super) struct Balance {
    ticks: u32,
    /// By shard: looks in a row that found its preferred leader, another node, well.
    well: Vec<u32>,
}

impl Core {
    pub(super) fn tick_balance(&mut self) {
        self.balance.ticks += 1;
        if !self.balance.ticks.is_multiple_of(LOOK_TICKS) {
            return;
        }
        self.balance.well.resize(self.replicas.len(), 0);
        let mut handed_over = self.leaving.is_some() || self.log_is_slow;
        // Groups that sleep are led by whom they should be.
        for position in 0..self.awake.len() {
            let shard = self.awake[position];
            let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { continue };
            let Some(preferred) = replica.preferred_leader else { continue };
            let well = replica.is_well(preferred, BEHIND_MAX);
            let looks = &mut self.balance.well[usize_of(shard)];
            *looks = if well { *looks + 1 } else { 0 };
            if *looks < WELL_LOOKS || handed_over {
                continue;
            }
            *looks = 0;
            // A refusal is as good as a later try: the next looks find the same.
            if replica.raft.transfer_leader(preferred).is_ok() {
                tracing::info!(shard, to = preferred.0, "handing the leadership to the preferred node");
                handed_over = true;
                self.touch(shard);
            }
        }
    }
}

/// Entries by which a follower may lag and still count as caught up.
const BEHIND_MAX: u64 = 1024;
