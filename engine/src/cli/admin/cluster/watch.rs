//! Watching shards move until nothing is on its way: a bar on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use engine::driver::executor;
use net::Client;
use net::protocol::{ClusterAccount, ClusterOp};

use super::super::super::progress::{Unit, bar};
use super::account::stuck_for;
use super::look;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long nothing may change until it is told what things wait for, and again.
const REMIND_EVERY: Duration = Duration::from_secs(60);

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
        let settled = account.moving.is_empty() && account.waiting.is_empty() && account.unheard.is_empty();
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
        let mut told = vec![format!("{} moving, {} waiting", account.moving.len(), account.waiting.len())];
        let silent: Vec<String> = account.silent_ms.keys().map(u64::to_string).collect();
        if !silent.is_empty() {
            told.push(format!("not heard of: node {}", silent.join(", ")));
        }
        let unheard: Vec<String> = account.unheard.iter().map(u32::to_string).collect();
        if !unheard.is_empty() {
            told.push(format!("no leader heard of shard {}", unheard.join(", ")));
        }
        if !account.stuck.is_empty() {
            told.push(format!("{} stuck", account.stuck.len()));
        }
        told.join("; ")
    }

    /// Why the goal will never be reached, if that is so.
    fn is_void(&self, account: &ClusterAccount) -> Option<String> {
        let Goal::Gone { node } = *self else { return None };
        let stays = account.map.as_ref()?.node(node).is_some_and(|node| !node.leaving);
        stays.then(|| format!("node {node} does not leave any more: it was told to stay"))
    }
}

/// Why watching ended before the goal was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// Nobody has answered for long; what came last.
    Unanswered(String),
    /// It will never be reached; why.
    Void(String),
}

/// Looks until the goal is reached, twice in a row: between two steps of the controller nothing may be on its way for a
/// moment. Given up when nobody answers for so many seconds.
pub async fn until(
    client: &Client,
    goal: &Goal,
    begun: ClusterAccount,
    patience: u64,
) -> Result<ClusterAccount, GivenUp> {
    let mut total = left(&begun);
    let bar = bar("shards", Some(total), Unit::Shards);
    let (mut reached, mut told) = (false, String::new());
    let mut answered = Instant::now();
    let mut changed = Instant::now();
    loop {
        executor::pause(LOOK_EVERY).await;
        let missed = match look(client).await {
            // A leader that has not heard of the change yet says nothing of it.
            Ok(account) if account.epoch >= begun.epoch => {
                answered = Instant::now();
                if let Some(why) = goal.is_void(&account) {
                    bar.finish_and_clear();
                    return Err(GivenUp::Void(why));
                }
                if goal.is_reached(&account) && reached {
                    bar.finish_and_clear();
                    return Ok(account);
                }
                reached = goal.is_reached(&account);
                total = total.max(left(&account));
                bar.set_length(total);
                bar.set_position(total - left(&account));
                let distance = goal.distance(&account);
                if distance != told || changed.elapsed() >= REMIND_EVERY {
                    let all = if distance == told { obstacles(&account) } else { Vec::new() };
                    let line = format!("{} of {total} shards are done: {distance}", total - left(&account));
                    tell(&bar, &line, &distance, &all);
                    (told, changed) = (distance, Instant::now());
                }
                continue;
            }
            Ok(account) => format!("epoch {} is told, not {}", account.epoch, begun.epoch),
            Err(error) => error.to_string(),
        };
        if answered.elapsed() >= Duration::from_secs(patience) {
            return Err(GivenUp::Unanswered(missed));
        }
    }
}

/// One line where there is no bar. What holds things up is told above a bar, too.
fn tell(bar: &indicatif::ProgressBar, line: &str, distance: &str, obstacles: &[String]) {
    match bar.is_hidden() {
        true => eprintln!("{line}"),
        false => bar.set_message(distance.to_owned()),
    }
    for obstacle in obstacles {
        bar.suspend(|| eprintln!("  {obstacle}"));
    }
}

/// What the cluster says of shards that do not get on.
fn obstacles(account: &ClusterAccount) -> Vec<String> {
    let stuck = account.stuck.iter().map(|it| format!("shard {} is {}", it.shard, stuck_for(it)));
    let unheard = account.unheard.iter().map(|shard| format!("shard {shard}: no leader of it was heard of"));
    let map = account.map.iter().flat_map(|map| &map.shards);
    let split = map.filter_map(|shard| {
        let (id, split) = (shard.id, shard.plan.split?);
        let late: Vec<String> = (shard.replicas.iter())
            .filter(|replica| account.silent_ms.contains_key(&replica.node))
            .map(|replica| replica.node.to_string())
            .collect();
        let waits = if late.is_empty() {
            "its replicas to follow".to_owned()
        } else {
            format!("node {}", late.join(", "))
        };
        Some(format!("shard {id} is to be cut at slot {}: it waits for {waits}", split.at))
    });
    stuck.chain(unheard).chain(split).collect()
}

fn left(account: &ClusterAccount) -> u64 {
    u64::try_from(account.moving.len() + account.waiting.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::account;
    use super::*;
    use net::map::Split;
    use net::protocol::StuckShard;

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
    fn a_node_that_is_told_to_stay_is_not_waited_for() {
        let mut now = account();
        let goal = Goal::Gone { node: 2 };
        assert_eq!(goal.is_void(&now), None);
        now.map.as_mut().unwrap().nodes[1].leaving = false;
        assert!(goal.is_void(&now).unwrap().contains("node 2 does not leave any more"));
        assert_eq!(Goal::Settled.is_void(&now), None);
        now.map.as_mut().unwrap().nodes.remove(1);
        assert_eq!(goal.is_void(&now), None, "it has left");
    }

    #[test]
    fn what_holds_things_up_is_told() {
        let mut now = account();
        assert_eq!(obstacles(&now), Vec::<String>::new());
        let why = "waits for node 4, which is not heard of".to_owned();
        now.stuck = vec![StuckShard { shard: 1, for_ms: 130_000, why }];
        now.unheard = vec![2];
        let shard = &mut now.map.as_mut().unwrap().shards[1];
        shard.plan.split = Some(Split { at: 4096, into: 3 });
        now.silent_ms = [(3, 5_000)].into();
        let told = [
            "shard 1 is stuck for 2 min: waits for node 4, which is not heard of",
            "shard 2: no leader of it was heard of",
            "shard 1 is to be cut at slot 4096: it waits for node 3",
        ];
        assert_eq!(obstacles(&now), told);
        let settled = ClusterAccount { moving: Vec::new(), waiting: Vec::new(), ..now.clone() };
        assert!(!Goal::Settled.is_reached(&settled), "nobody knows where shard 2 is");
        let distance = Goal::Settled.distance(&now);
        assert_eq!(
            distance,
            "1 moving, 1 waiting; not heard of: node 3; no leader heard of shard 2; 1 stuck"
        );
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
