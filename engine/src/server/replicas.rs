//! Which replicas a core starts with: decided from what its log and its folders hold.
//!
//! A replica is held when its stream is in the log. Invariants:
//! - a stream of which records may be lost is never used again: its shard gets a fresh replica, under a name that has
//!   promised nothing, which asks the group to be taken in;
//! - a blank stream of a founding replica that has no folder was made for a replica that another shard's was to be cut
//!   into, before a crash: it stays as it is, for the entry that makes the folder will be applied again;
//! - no folder outlives its replica, unless it is set aside because the replica was lost, not removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::Stage;
use crate::replica_id::FOUNDING;

/// A replica of this core, by shard and generation.
pub(crate) type Held = (u32, u64);

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub stage: Stage,
    /// All shards that this core would host.
    pub shards: &'a [u32],
    /// Those of them that the first placement gives this node.
    pub placed: &'a [u32],
    /// The replicas whose streams are whole.
    pub streams: &'a [Held],
    /// Those of them whose streams were begun and nothing else.
    pub blank: &'a [Held],
    /// The replicas whose streams may have lost records.
    pub damaged: &'a [Held],
    /// Whether the log is so damaged that streams may be missing from both.
    pub hidden: bool,
    /// The replicas that have a folder.
    pub folders: &'a [Held],
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The generation of each shard's replica; the founders' streams may have to be made yet.
    pub held: BTreeMap<u32, u64>,
    /// Shards that get a fresh replica.
    pub fresh: BTreeSet<u32>,
    /// Streams to forget: of two replicas of one shard neither can be trusted.
    pub forgotten: Vec<Held>,
    /// Folders of lost replicas, kept until their successors are members.
    pub set_aside: Vec<Held>,
    /// Folders of removed replicas, or of replicas never begun.
    pub leftovers: Vec<Held>,
}

impl Found<'_> {
    /// Whether a stream waits for its replica to be made.
    fn is_unborn(&self, held: Held) -> bool {
        let waits = self.stage == Stage::Running && held.1 == FOUNDING;
        waits && self.blank.contains(&held) && !self.folders.contains(&held)
    }
}

impl Plan {
    pub fn of(found: &Found<'_>) -> Plan {
        let mut plan = Plan::default();
        let unborn = |held: &Held| found.is_unborn(*held);
        for &(shard, generation) in found.streams {
            let mut others = found.streams.iter().filter(|other| other.0 == shard && other.1 != generation);
            if unborn(&(shard, generation)) {
                // A replica that was made at a leader's invitation took its place, and the stream's removal was lost.
                if others.next().is_some() {
                    plan.forgotten.push((shard, generation));
                }
            } else if others.any(|other| !unborn(other)) {
                plan.forgotten.push((shard, generation));
                plan.fresh.insert(shard);
            } else {
                plan.held.insert(shard, generation);
            }
        }
        // Of a stream that lay in the damaged part alone, nothing is left but its folder.
        let hidden = if found.hidden { found.folders } else { &[] };
        let lost = found.damaged.iter().chain(hidden).map(|(shard, _)| *shard);
        plan.fresh.extend(lost.filter(|shard| !plan.held.contains_key(shard)));
        // Whoever replaces a lost directory does not know which replicas that had: those nobody misses are sent away.
        let begun = if found.stage == Stage::Replacing { found.shards } else { found.placed };
        for &shard in begun {
            if plan.held.contains_key(&shard) || found.stage == Stage::Running {
                continue;
            }
            if found.stage == Stage::Founding && !found.hidden && !plan.fresh.contains(&shard) {
                plan.held.insert(shard, FOUNDING);
            } else {
                plan.fresh.insert(shard);
            }
        }
        for &(shard, generation) in found.folders {
            if plan.held.get(&shard) == Some(&generation) {
                continue;
            }
            let lost = plan.fresh.contains(&shard) && found.stage != Stage::Replacing;
            if lost { &mut plan.set_aside } else { &mut plan.leftovers }.push((shard, generation));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stage: Stage) -> Found<'static> {
        Found {
            stage,
            shards: &[0, 2, 4],
            placed: &[0, 2],
            streams: &[],
            blank: &[],
            damaged: &[],
            hidden: false,
            folders: &[],
        }
    }

    #[test]
    fn founders_make_what_is_missing_and_only_when_they_start_for_the_first_time() {
        let founding = Plan::of(&Found { streams: &[(2, 0)], ..found(Stage::Founding) });
        assert_eq!(founding, Plan { held: [(0, 0), (2, 0)].into(), ..Plan::default() });
        let running = Plan::of(&Found { streams: &[(2, 0)], ..found(Stage::Running) });
        assert_eq!(running, Plan { held: [(2, 0)].into(), ..Plan::default() });
    }

    #[test]
    fn a_replacement_begins_fresh_and_keeps_what_it_has_begun() {
        let plan = Plan::of(&Found { streams: &[(2, 77)], folders: &[(2, 77)], ..found(Stage::Replacing) });
        assert_eq!(plan, Plan { held: [(2, 77)].into(), fresh: [0, 4].into(), ..Plan::default() });
    }

    #[test]
    fn what_was_removed_leaves_no_folder() {
        let folders = [(0, 0), (0, 5), (2, 9)];
        let plan = Plan::of(&Found { streams: &[(0, 5)], folders: &folders, ..found(Stage::Running) });
        let expected = Plan { held: [(0, 5)].into(), leftovers: vec![(0, 0), (2, 9)], ..Plan::default() };
        assert_eq!(plan, expected);
    }

    #[test]
    fn a_damaged_stream_is_replaced_and_its_folder_set_aside() {
        let damage = Found {
            streams: &[(0, 0)],
            damaged: &[(2, 0)],
            folders: &[(0, 0), (2, 0)],
            ..found(Stage::Running)
        };
        let expected =
            Plan { held: [(0, 0)].into(), fresh: [2].into(), set_aside: vec![(2, 0)], ..Plan::default() };
        assert_eq!(Plan::of(&damage), expected);
        // The damage is still in the log at the next start: the successor is not to be replaced again.
        let again = Found { streams: &[(0, 0), (2, 6)], folders: &[(0, 0), (2, 6)], ..damage };
        assert_eq!(Plan::of(&again), Plan { held: [(0, 0), (2, 6)].into(), ..Plan::default() });
    }

    #[test]
    fn a_replica_of_which_the_log_tells_nothing_any_more_is_replaced_too() {
        let damage = Found { hidden: true, folders: &[(0, 0)], placed: &[0], ..found(Stage::Running) };
        let expected = Plan { fresh: [0].into(), set_aside: vec![(0, 0)], ..Plan::default() };
        assert_eq!(Plan::of(&damage), expected);
        assert_eq!(Plan::of(&Found { stage: Stage::Founding, ..damage }), expected);
        let harmless = Found { hidden: false, ..damage };
        assert_eq!(Plan::of(&harmless), Plan { leftovers: vec![(0, 0)], ..Plan::default() });
    }

    #[test]
    fn a_stream_that_waits_for_its_replica_is_left_alone() {
        let waits = Found {
            streams: &[(0, 0), (2, 0)],
            blank: &[(2, 0)],
            folders: &[(0, 0)],
            ..found(Stage::Running)
        };
        assert_eq!(Plan::of(&waits), Plan { held: [(0, 0)].into(), ..Plan::default() });
        // The folder was made: so is the replica.
        let made = Found { folders: &[(0, 0), (2, 0)], ..waits };
        assert_eq!(Plan::of(&made), Plan { held: [(0, 0), (2, 0)].into(), ..Plan::default() });
        // What is not blank has lost its folder: as ever.
        let lost = Found { blank: &[], ..waits };
        assert_eq!(Plan::of(&lost), Plan { held: [(0, 0), (2, 0)].into(), ..Plan::default() });
        let invited = Found { streams: &[(2, 0), (2, 7)], folders: &[(2, 7)], ..waits };
        let expected = Plan { held: [(2, 7)].into(), forgotten: vec![(2, 0)], ..Plan::default() };
        assert_eq!(Plan::of(&invited), expected);
    }

    #[test]
    fn of_two_replicas_of_a_shard_neither_is_trusted() {
        let both = Found { streams: &[(0, 0), (0, 7)], folders: &[(0, 0), (0, 7)], ..found(Stage::Running) };
        let plan = Plan::of(&both);
        assert_eq!((plan.fresh, plan.forgotten), ([0].into(), vec![(0, 0), (0, 7)]));
        assert_eq!(plan.set_aside, vec![(0, 0), (0, 7)]);
    }
}
