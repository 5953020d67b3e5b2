//! What a change is to lead to, recognised in the description of its shard.

use net::protocol::{AdminAccepted, MemberProgress, MemberRole, ShardDescription};

use super::Action;

/// The state that a change leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The node's replica votes, and no change is under way.
    Votes { node: u64 },
    /// The node has no replica, and no change is under way.
    Absent { node: u64 },
    /// This node leads, or, when none was named, another than `former`.
    Leads { node: Option<u64>, former: Option<u64> },
    /// There is a snapshot of this entry or a later one.
    Snapshot { index: u64 },
    /// The leader's log begins after this entry.
    Compacted { index: u64 },
}

impl Goal {
    /// Where the accepted action leads.
    pub fn of(action: Action, accepted: AdminAccepted, former: Option<u64>) -> Goal {
        let index = accepted.index.unwrap_or(0);
        match action {
            Action::AddReplica(node) => Goal::Votes { node },
            Action::RemoveReplica(node) => Goal::Absent { node },
            Action::TransferLeader(node) => Goal::Leads { node: node.or(accepted.node), former },
            Action::Snapshot => Goal::Snapshot { index },
            Action::Compact => Goal::Compacted { index },
        }
    }

    pub fn is_reached(&self, shard: &ShardDescription) -> bool {
        match *self {
            Goal::Votes { node } => {
                !shard.joint && shard.member_on(node).is_some_and(|member| member.role == MemberRole::Voter)
            }
            Goal::Absent { node } => !shard.joint && shard.member_on(node).is_none(),
            Goal::Leads { node: Some(node), .. } => shard.node == node,
            Goal::Leads { node: None, former } => Some(shard.node) != former,
            Goal::Snapshot { index } => shard.snapshot.is_some_and(|snapshot| snapshot.index >= index),
            Goal::Compacted { index } => shard.first_index > index,
        }
    }

    /// Whether a new leader may not know that this was asked for: until a replica has joined, only the leader asked does.
    /// Asking twice does no harm, for a node never gets two.
    pub fn may_be_forgotten(&self, shard: &ShardDescription) -> bool {
        matches!(*self, Goal::Votes { node } if shard.member_on(node).is_none())
    }

    /// What is missing, for people.
    pub fn distance(&self, shard: &ShardDescription) -> String {
        match *self {
            Goal::Votes { node } => match shard.member_on(node) {
                None => format!("node {node} has no replica in the group yet"),
                Some(member) if member.role == MemberRole::Learner => match member.progress {
                    MemberProgress::Snapshot => format!("node {node} receives a snapshot"),
                    _ if !member.is_active => format!("node {node} learns, and has not been heard of lately"),
                    _ => format!("node {node} learns, {} entries behind", member.lag),
                },
                Some(_) => format!("node {node} is about to vote, the change is not over"),
            },
            Goal::Absent { node } => match shard.member_on(node) {
                Some(member) if member.is_leader => {
                    format!("node {node} still leads, and hands over first")
                }
                Some(_) => format!("node {node} is still a member"),
                None => "the change is not over".to_owned(),
            },
            Goal::Leads { node: Some(node), .. } => {
                format!("node {} leads, node {node} does not yet", shard.node)
            }
            Goal::Leads { node: None, .. } => format!("node {} still leads", shard.node),
            Goal::Snapshot { index } => match shard.snapshot {
                Some(snapshot) => {
                    format!("the newest snapshot is of entry {}, not {index}", snapshot.index)
                }
                None => "there is no snapshot yet".to_owned(),
            },
            Goal::Compacted { index } => format!(
                "the log begins with entry {}, and is to begin after {index}; durable without it is {}",
                shard.first_index, shard.applied_durable
            ),
        }
    }

    /// What has begun, and how to go on watching it.
    pub fn begun(&self) -> String {
        match *self {
            Goal::Votes { node } => format!(
                "node {node} makes a replica, which learns first and votes when it has caught up; `ringkv admin describe` \
                 shows how far it is"
            ),
            Goal::Absent { node } => {
                format!(
                    "the replica of node {node} is being removed; `ringkv admin describe` shows when it is gone"
                )
            }
            Goal::Leads { node: Some(node), .. } => format!("the leadership goes to node {node}"),
            Goal::Leads { node: None, .. } => "the leadership goes to another node".to_owned(),
            Goal::Snapshot { .. } => "the leader takes a snapshot".to_owned(),
            Goal::Compacted { index } => {
                format!("the replicas drop their logs up to entry {index}, as far as their data are on disk")
            }
        }
    }

    /// What to do when it takes too long.
    pub fn advice(&self) -> &'static str {
        match self {
            Goal::Votes { .. } => {
                "It goes on by itself once the node has a replica: see with `ringkv admin describe`, and that the node is \
                 up; ask again if its replica does not appear within two minutes"
            }
            Goal::Absent { .. } => {
                "It goes on by itself: look with `ringkv admin describe`, or wait longer with --timeout"
            }
            Goal::Leads { .. } => {
                "A transfer is given up when the other node does not take over at once: see with `ringkv admin \
                 describe` that it is up and caught up, then ask again"
            }
            Goal::Snapshot { .. } => {
                "Taking it goes on by itself unless the leader changes: look with `ringkv admin describe`"
            }
            Goal::Compacted { .. } => {
                "A log keeps what its replica has not on disk elsewhere: try again later, or wait longer with --timeout"
            }
        }
    }

    /// What is done.
    pub fn done(&self) -> String {
        match *self {
            Goal::Votes { node } => format!("node {node} has a replica that votes"),
            Goal::Absent { node } => format!("node {node} has no replica any more"),
            Goal::Leads { node: Some(node), .. } => format!("node {node} leads"),
            Goal::Leads { node: None, .. } => "another node leads".to_owned(),
            Goal::Snapshot { index } => format!("there is a snapshot of entry {index} or a later one"),
            Goal::Compacted { index } => format!("the leader's log begins after entry {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::tests::{member, shard};
    use super::*;

    const NONE: AdminAccepted = AdminAccepted { index: None, node: None };

    #[test]
    fn a_replica_is_added_when_it_votes_and_the_change_is_over() {
        let goal = Goal::of(Action::AddReplica(4), NONE, None);
        let mut now = shard();
        assert!(!goal.is_reached(&now));
        assert_eq!(goal.distance(&now), "node 4 has no replica in the group yet");
        assert!(goal.may_be_forgotten(&now));
        now.members.push(member(4, MemberRole::Learner));
        now.members[3].lag = 7;
        assert!(!goal.may_be_forgotten(&now));
        assert!(!goal.is_reached(&now));
        assert_eq!(goal.distance(&now), "node 4 learns, 7 entries behind");
        now.members[3].progress = MemberProgress::Snapshot;
        assert_eq!(goal.distance(&now), "node 4 receives a snapshot");
        now.members[3].role = MemberRole::Incoming;
        now.joint = true;
        assert!(!goal.is_reached(&now));
        now.members[3].role = MemberRole::Voter;
        assert!(!goal.is_reached(&now), "the old voters still have a say");
        now.joint = false;
        assert!(goal.is_reached(&now));
    }

    #[test]
    fn a_replica_is_removed_when_nothing_of_it_is_left() {
        let goal = Goal::of(Action::RemoveReplica(1), NONE, None);
        let mut now = shard();
        assert_eq!(goal.distance(&now), "node 1 still leads, and hands over first");
        now.members.remove(0);
        now.joint = true;
        assert!(!goal.is_reached(&now));
        now.joint = false;
        assert!(goal.is_reached(&now));
    }

    #[test]
    fn a_leader_named_by_the_cluster_or_by_nobody_is_recognised() {
        let mut now = shard();
        let accepted = AdminAccepted { index: None, node: Some(2) };
        let named = Goal::of(Action::TransferLeader(None), accepted, Some(1));
        assert_eq!(named.distance(&now), "node 1 leads, node 2 does not yet");
        let nobody = Goal::of(Action::TransferLeader(None), NONE, Some(1));
        assert!(!named.is_reached(&now) && !nobody.is_reached(&now));
        now.node = 3;
        assert!(!named.is_reached(&now) && nobody.is_reached(&now));
        now.node = 2;
        assert!(named.is_reached(&now) && nobody.is_reached(&now));
    }

    #[test]
    fn snapshots_and_logs_are_compared_with_the_index_told() {
        let mut now = shard();
        let accepted = AdminAccepted { index: Some(2000), node: None };
        let snapshot = Goal::of(Action::Snapshot, accepted, None);
        let compacted = Goal::of(Action::Compact, accepted, None);
        assert!(!snapshot.is_reached(&now) && !compacted.is_reached(&now));
        assert_eq!(snapshot.distance(&now), "the newest snapshot is of entry 1900, not 2000");
        now.snapshot.as_mut().unwrap().index = 2000;
        now.first_index = 2001;
        assert!(snapshot.is_reached(&now) && compacted.is_reached(&now));
    }
}
