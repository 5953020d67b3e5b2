//! What is committed stays committed, and was flushed on a majority before anybody called it so.

use raft::testing::checker::Violation;
use raft::{ConfState, Entry, NodeId, Term};

use super::violated;

/// What is committed in one shard, and who has flushed what.
#[derive(Default)]
pub struct Commitment {
    /// Term of each committed entry, from index 1.
    terms: Vec<Term>,
    /// Who flushed an entry of which term, by index.
    flushes: Vec<Vec<(u64, Term)>>,
}

fn at(index: u64) -> usize {
    usize::try_from(index - 1).expect("64-bit machine")
}

impl Commitment {
    /// Of a shard that was cut off this one, whose newest entry did it: its log goes on from there.
    pub fn of_cut_off(&self) -> Commitment {
        Commitment { terms: self.terms.clone(), flushes: Vec::new() }
    }

    /// The newest committed entry.
    pub fn last(&self) -> u64 {
        u64::try_from(self.terms.len()).expect("64-bit machine")
    }

    /// A replica has the entry on its disk.
    pub fn flushed(&mut self, index: u64, raft_id: u64, term: Term) {
        if self.flushes.len() <= at(index) {
            self.flushes.resize_with(at(index) + 1, Vec::new);
        }
        self.flushes[at(index)].push((raft_id, term));
    }

    /// A replica calls an entry committed; whether it is the first to do so. It must be on the disks of a majority, in one
    /// of the configurations it had meanwhile.
    pub fn observe(&mut self, raft_id: u64, entry: &Entry, confs: &[&ConfState]) -> Result<bool, Violation> {
        let index = entry.index.0;
        if let Some(term) = self.terms.get(at(index)) {
            if *term != entry.term {
                let detail = format!(
                    "replica {raft_id} has entry {index} of term {} committed; it was of term {term}",
                    entry.term
                );
                violated("committed never changes", detail)?;
            }
            return Ok(false);
        }
        if index != self.last() + 1 {
            let detail =
                format!("replica {raft_id} commits {index}, and {} was the last so far", self.last());
            violated("committed never changes", detail)?;
        }
        if !confs.iter().any(|conf| self.majority_has(entry, conf)) {
            let holders = self.flushes.get(at(index));
            let detail = format!(
                "replica {raft_id} commits {index} of term {}; on disk it is at {holders:?}, the members are {confs:?}",
                entry.term
            );
            violated("committed is flushed on a majority", detail)?;
        }
        self.terms.push(entry.term);
        Ok(true)
    }

    fn majority_has(&self, entry: &Entry, conf: &ConfState) -> bool {
        let holders = self.flushes.get(at(entry.index.0)).map_or(&[][..], Vec::as_slice);
        let has = |voter: &&NodeId| holders.contains(&(voter.0, entry.term));
        let majority = |voters: &[NodeId]| voters.iter().filter(has).count() > voters.len() / 2;
        majority(&conf.voters) && (conf.voters_outgoing.is_empty() || majority(&conf.voters_outgoing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{EntryKind, Index};

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Index(index), term: Term(term), kind: EntryKind::Noop, data: bytes::Bytes::new() }
    }

    fn three() -> ConfState {
        ConfState { voters: [1, 2, 3].map(NodeId).into_iter().collect(), ..ConfState::default() }
    }

    #[test]
    fn a_commit_needs_a_majority_on_disk() {
        let mut commitment = Commitment::default();
        commitment.flushed(1, 1, Term(1));
        commitment.flushed(1, 2, Term(2));
        assert!(commitment.observe(1, &entry(1, 1), &[&three()]).is_err());
        commitment.flushed(1, 3, Term(1));
        assert!(commitment.observe(1, &entry(1, 1), &[&three()]).unwrap());
        assert!(!commitment.observe(2, &entry(1, 1), &[&three()]).unwrap());
        assert!(commitment.observe(2, &entry(1, 2), &[&three()]).is_err(), "another entry at the same index");
        assert!(commitment.observe(1, &entry(3, 1), &[&three()]).is_err(), "a hole");
    }

    #[test]
    fn both_majorities_count_in_a_joint_configuration() {
        let outgoing = [4, 5, 6].map(NodeId).into_iter().collect();
        let joint = ConfState { voters_outgoing: outgoing, ..three() };
        let mut commitment = Commitment::default();
        for id in [1, 2, 3, 4] {
            commitment.flushed(1, id, Term(1));
        }
        assert!(commitment.observe(1, &entry(1, 1), &[&joint]).is_err());
        commitment.flushed(1, 5, Term(1));
        assert!(commitment.observe(1, &entry(1, 1), &[&joint]).unwrap());
    }
}
