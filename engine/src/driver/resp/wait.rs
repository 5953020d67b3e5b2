//! `WAIT`: how many replicas have what a connection has written.
//!
//! What is acknowledged lies on the disks of a majority. How many more have it, the leaders of its shards know; they are
//! asked until it is as many as wanted, or time is over. A group counts from what its leader's log held when first asked:
//! that holds whatever was acknowledged before.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use net::protocol::{AdminOp, Answer, Op, ShardDescription};
use net::resp::Value;

use super::Door;
use crate::driver::gateway::Mode;
use crate::resp::action::Slots;
use crate::resp::{Node, Touches};

/// Slots that are remembered; of a connection that has written to more, all shards are asked.
const SLOTS_MAX: usize = 64;
/// Between two questions.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Where a connection has written.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    slots: BTreeSet<u16>,
    is_everywhere: bool,
}

impl Written {
    /// It writes to these keys.
    pub fn note(&mut self, touched: &Touches) {
        if !touched.write || self.is_everywhere {
            return;
        }
        match &touched.slots {
            Slots::Key(slot, _) | Slots::One(slot) => drop(self.slots.insert(*slot)),
            Slots::Many(slots) => self.slots.extend(slots),
        }
        if self.slots.len() > SLOTS_MAX {
            self.note_all();
        }
    }

    /// It writes to all keys, or to many.
    pub fn note_all(&mut self) {
        self.is_everywhere = true;
        self.slots.clear();
    }

    /// The shards that have it now.
    fn shards(&self, door: &Door) -> Vec<u32> {
        let shards = door.gateway.shards().into_iter();
        let has = |first: u16, last: u16| self.slots.range(first..=last).next().is_some();
        let wanted = shards.filter(|(_, slots)| self.is_everywhere || has(slots.first, slots.last));
        wanted.map(|(shard, _)| shard).collect()
    }
}

/// What is known of a shard's group.
#[derive(Clone, Copy, Debug)]
struct Group {
    shard: u32,
    /// The end of its log when first asked.
    end: Option<u64>,
    /// Replicas beside the leader that have all up to there on disk.
    count: usize,
}

impl Group {
    fn learn(&mut self, described: &ShardDescription) {
        let end = *self.end.get_or_insert(described.last_index);
        let have = described.members.iter().filter(|member| !member.is_leader && member.match_index >= end);
        // A leader that has just been elected knows less than the one before.
        self.count = self.count.max(have.count());
    }
}

/// Waits until `wanted` replicas beside the leaders have what was written, but no longer than `timeout`, if there is one, and
/// no longer than the client may send; how many have it then.
pub(super) async fn run(
    door: Rc<Door>,
    written: Written,
    client: RawFd,
    wanted: i64,
    timeout: Option<Duration>,
) -> Value {
    let begun = Instant::now();
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let group = |shard| Group { shard, end: None, count: 0 };
    let mut groups: Vec<Group> = written.shards(&door).into_iter().map(group).collect();
    let mut pause = PAUSE_MIN;
    loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        match left {
            // Once, however short the time.
            Some(left) => {
                let asking = async {
                    ask(&door, &mut groups, wanted).await;
                    Ok(())
                };
                let _ = glommio::timer::timeout(left.max(PAUSE_MAX), asking).await;
            }
            None => ask(&door, &mut groups, wanted).await,
        }
        let count = groups.iter().map(|group| group.count).min().unwrap_or_else(|| replicas(&door));
        let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        if count >= wanted || left == Some(Duration::ZERO) || is_gone(client) {
            return number(count);
        }
        glommio::timer::sleep(left.map_or(pause, |left| left.min(pause))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Asks the leaders of those groups of which not enough is known. One that does not answer is asked again later.
async fn ask(door: &Door, groups: &mut [Group], wanted: usize) {
    let describe = |shard| door.gateway.call(Mode::Proxy, 0, shard, Op::Admin(AdminOp::Describe));
    let asked: Vec<_> = groups
        .iter_mut()
        .filter(|group| group.end.is_none() || group.count < wanted)
        .map(|group| (describe(group.shard), group))
        .collect();
    for (call, group) in asked {
        if let Ok(Answer::Shard(described)) = call.await {
            group.learn(&described);
        }
    }
}

/// The replicas that all shards have beside their leaders: where nothing was written, all have it.
fn replicas(door: &Door) -> usize {
    let map = door.map();
    let users = map.shards.iter().filter(|shard| shard.slots.is_some());
    users.map(|shard| shard.replicas.len().saturating_sub(1)).min().unwrap_or(0)
}

fn number(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Whether a client has closed its end: nobody may be waiting any more.
fn is_gone(client: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: client, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the kernel fills in one structure, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_remembered_up_to_a_bound() {
        let mut written = Written::default();
        let touches = |write, slots| Touches { write, slots };
        written.note(&touches(false, Slots::One(5)));
        assert!(written.slots.is_empty() && !written.is_everywhere, "reads leave nothing behind");
        written.note(&touches(true, Slots::One(5)));
        written.note(&touches(true, Slots::Many(vec![5, 6])));
        assert_eq!(written.slots.iter().copied().collect::<Vec<u16>>(), [5, 6]);
        written.note(&touches(true, Slots::Many((0..100).collect())));
        assert!(written.is_everywhere && written.slots.is_empty());
    }
}
