//! Watching shards move until nothing is on its way: a bar on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use engine::driver::executor;
use net::Client;
use net::protocol::{ClusterAccount, ClusterOp};

use super::super::super::progress::{Unit, bar};
use super::look;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The state that a change leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing is on its way or waits.
    Settled,
    /// The node is not in the map any more.
    Gone { node: u64 },
    /// The shard has become two, the second of this number where it is known.
    Split { shard: u32, into: Option<u32> },
}

impl Goal {
    /// Where the accepted operation leads.
    pub fn of(op: &ClusterOp, account: &ClusterAccount) -> Goal {
        match op {
            ClusterOp::Leave { node, stay: false, .. } => Goal::Gone { node: *node },
            ClusterOp::Split { shard, .. } => {
                let planned = account.map.as_ref().and_then(|map| map.shard(*shard)?.plan.split);
                Goal::Split { shard: *shard, into: planned.map(|split| split.into) }
            }
            _ => Goal::Settled,
        }
    }

    pub fn is_reached(&self, account: &ClusterAccount) -> bool {
        let settled = account.moving.is_empty() && account.waiting.is_empty();
        let Some(map) = &account.map else { return false };
        match *self {
            Goal::Settled => settled,
            Goal::Gone { node } => map.node(node).is_none(),
            Goal::Split { shard, into } => {
                let cut = map.shard(shard).is_some_and(|shard| shard.plan.split.is_none());
                cut && into.is_none_or(|into| map.shard(into).is_some_and(|shard| shard.slots.is_some()))
            }
        }
    }

    /// What is done.
    pub fn done(&self) -> String {
        match *self {
            Goal::Settled => "every shard is where it belongs".to_owned(),
            Goal::Gone { node } => format!("node {node} has left; its process can be stopped"),
            Goal::Split { shard, into: Some(into) } => format!("shard {shard} is two: {shard} and {into}"),
            Goal::Split { shard, into: None } => format!("shard {shard} is two"),
        }
    }

    /// What is missing, for people.
    pub fn distance(&self, account: &ClusterAccount) -> String {
        let ways = format!("{} moving, {} waiting", account.moving.len(), account.waiting.len());
        let silent: Vec<String> = account.silent_ms.keys().map(u64::to_string).collect();
        match silent.is_empty() {
            true => ways,
            false => format!("{ways}; not heard of: node {}", silent.join(", ")),
        }
    }
}

/// Looks until the goal is reached, twice in a row: between two steps of the controller nothing may be on its way for a
/// moment. Given up when nobody answers for so many seconds; then why.
pub async fn until(
    client: &Client,
    goal: &Goal,
    begun: ClusterAccount,
    patience: u64,
) -> Result<ClusterAccount, String> {
    let mut total = left(&begun);
    let bar = bar("shards", Some(total), Unit::Shards);
    let (mut reached, mut told) = (false, String::new());
    let mut answered = Instant::now();
    loop {
        executor::pause(LOOK_EVERY).await;
        match look(client).await {
            // A leader that has not heard of the change yet says nothing of it.
            Ok(account) if account.epoch >= begun.epoch => {
                answered = Instant::now();
                if goal.is_reached(&account) && reached {
                    bar.finish_and_clear();
                    return Ok(account);
                }
                reached = goal.is_reached(&account);
                total = total.max(left(&account));
                bar.set_length(total);
                bar.set_position(total - left(&account));
                let distance = goal.distance(&account);
                if bar.is_hidden() && distance != told {
                    eprintln!("{} of {total} shards are done: {distance}", total - left(&account));
                    told = distance;
                } else if !bar.is_hidden() {
                    bar.set_message(distance);
                }
            }
            Ok(account) => told = format!("epoch {} is told, not {}", account.epoch, begun.epoch),
            Err(error) if answered.elapsed() >= Duration::from_secs(patience) => {
                return Err(error.to_string());
            }
            Err(_) => {}
        }
    }
}

fn left(account: &ClusterAccount) -> u64 {
    u64::try_from(account.moving.len() + account.waiting.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::account;
    use super::*;
    use net::map::Split;

    #[test]
    fn a_move_is_over_when_nothing_is_on_its_way() {
        let mut now = account();
        let goal = Goal::of(&ClusterOp::Rebalance { dry_run: false }, &now);
        assert!(!goal.is_reached(&now));
        assert_eq!(goal.distance(&now), "1 moving, 1 waiting; not heard of: node 4");
        now.moving.clear();
        assert!(!goal.is_reached(&now));
        now.waiting.clear();
        assert!(goal.is_reached(&now));
        assert!(!goal.is_reached(&ClusterAccount { map: None, ..now }), "nothing is known");
    }

    #[test]
    fn a_node_has_left_when_the_map_forgets_it() {
        let mut now = account();
        let goal = Goal::of(&ClusterOp::Leave { node: 2, stay: false, dry_run: false }, &now);
        assert_eq!(goal, Goal::Gone { node: 2 });
        now.moving.clear();
        now.waiting.clear();
        assert!(!goal.is_reached(&now));
        now.map.as_mut().unwrap().nodes.retain(|node| node.id != 2);
        assert!(goal.is_reached(&now));
        let stays = Goal::of(&ClusterOp::Leave { node: 2, stay: true, dry_run: false }, &now);
        assert_eq!(stays, Goal::Settled);
    }

    #[test]
    fn a_shard_is_two_when_the_map_has_both() {
        let mut now = account();
        let split = ClusterOp::Split { shard: 1, at: None, dry_run: false };
        now.map.as_mut().unwrap().shards[1].plan.split = Some(Split { at: 4096, into: 3 });
        let goal = Goal::of(&split, &now);
        assert_eq!(goal, Goal::Split { shard: 1, into: Some(3) });
        assert!(!goal.is_reached(&now));
        let map = now.map.as_mut().unwrap();
        map.shards[1].plan.split = None;
        assert!(!goal.is_reached(&now), "the other half is not there");
        let mut half = now.map.as_ref().unwrap().shards[1].clone();
        half.id = 3;
        now.map.as_mut().unwrap().shards.push(half);
        assert!(goal.is_reached(&now));
    }
}
