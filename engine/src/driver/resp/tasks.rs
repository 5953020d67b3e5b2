//! Commands over all keys of a namespace: page by page, shard by shard.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use net::map::SlotRange;
use net::protocol::{
    Access, Answer, Op, Program, ProgramCommand, ReadConsistency, ScanItem, WriteConsistency,
};
use net::resp::Value;
use net::slot::slot_of;

use super::Door;
use super::answers::{INDETERMINATE, failed};
use crate::redis::{NAMESPACES, glob};
use crate::resp::scan::{slot_of_position, slot_start};
use crate::resp::{Task, info};

/// Keys of one page.
const PAGE_KEYS: u32 = 1000;
/// What the reply of `KEYS` may hold.
const KEYS_BYTES_MAX: usize = 256 << 20;
/// What a key costs beside its bytes.
const KEY_OVERHEAD_BYTES: usize = 64;

/// Does what takes several steps; the reply.
pub(super) async fn run(door: Rc<Door>, cluster: bool, task: Task) -> Value {
    let tasks = Tasks { door, cluster };
    let result = match task {
        Task::Keys { namespace, pattern, consistency } => tasks.keys(namespace, &pattern, consistency).await,
        Task::Scan { namespace, cursor, pattern, count, any, consistency } => {
            tasks.scan(namespace, cursor, pattern, count, any, consistency).await
        }
        Task::Size { namespace, consistency } => tasks.size(namespace, consistency).await.map(number),
        Task::RandomKey { namespace, consistency } => tasks.random_key(namespace, consistency).await,
        Task::KeysInSlot { slot, count, consistency } => tasks.keys_in_slot(slot, count, consistency).await,
        Task::Flush { namespace } => tasks.flush(namespace).await,
        Task::Keyspace { text } => tasks.keyspace(text).await,
        Task::Wait { .. } => unreachable!("the connection knows what it has written"),
        Task::Sleep { ms } => {
            glommio::timer::sleep(Duration::from_millis(ms)).await;
            Ok(Value::OK)
        }
    };
    result.unwrap_or_else(|error| error)
}

/// Whether a command that failed may have been executed, or still be.
fn is_in_doubt(error: &Value) -> bool {
    matches!(error, Value::Error(text) if text.starts_with(INDETERMINATE))
}

fn number(count: u64) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

#[derive(Clone)]
struct Tasks {
    door: Rc<Door>,
    cluster: bool,
}

type Page = (Vec<ScanItem>, Option<Bytes>);

impl Tasks {
    /// The shards to be asked, in the order of their slots: all, or those led here.
    fn shards(&self) -> Vec<(u32, SlotRange)> {
        let mut shards = self.door.gateway.shards();
        shards.retain(|(shard, _)| !self.cluster || self.door.gateway.is_local(*shard));
        shards
    }

    /// One page at a position or behind it, whichever shard has that by now, and where the next one begins.
    async fn step(
        &self,
        namespace: u8,
        from: Bytes,
        limit: u32,
        consistency: ReadConsistency,
    ) -> Result<Page, Value> {
        let slot = slot_of_position(&from);
        let found = self.shards().into_iter().find(|(_, slots)| slots.last >= slot);
        let Some((shard, slots)) = found else { return Ok((Vec::new(), None)) };
        let from = if slots.contains(slot) { from } else { slot_start(slots.first) };
        let (items, next) = self.page(namespace, shard, from.clone(), limit, consistency).await?;
        let last = items.last().map(|item| &item.key);
        let next = next.or_else(|| self.door.gateway.behind_shard(shard, &from, last));
        Ok((items, next))
    }

    async fn ask(&self, namespace: u8, shard: u32, slot: u16, op: Op) -> Result<Answer, Value> {
        let call = self.door.gateway.call(Door::mode(self.cluster), namespace, shard, op);
        call.await.map_err(|error| failed(&error, slot, &self.door))
    }

    async fn page(
        &self,
        namespace: u8,
        shard: u32,
        start: Bytes,
        limit: u32,
        consistency: ReadConsistency,
    ) -> Result<Page, Value> {
        let slot = slot_of_position(&start);
        let op = Op::Scan { start, end: None, limit, consistency, keys_only: true };
        match self.ask(namespace, shard, slot, op).await? {
            Answer::Scan { items, next, .. } => Ok((items, next)),
            _ => Err(Value::error("ERR internal error: an answer to something else")),
        }
    }

    async fn keys(
        &self,
        namespace: u8,
        pattern: &[u8],
        consistency: ReadConsistency,
    ) -> Result<Value, Value> {
        let mut keys = Vec::new();
        let mut bytes = 0;
        let mut next = Some(slot_start(0));
        while let Some(start) = next {
            let (items, rest) = self.step(namespace, start, PAGE_KEYS, consistency).await?;
            next = rest;
            for item in items.iter().filter(|item| glob::matches(pattern, &item.key, false)) {
                bytes += item.key.len() + KEY_OVERHEAD_BYTES;
                // A copy: a slice would keep the page.
                keys.push(Value::Bulk(Bytes::copy_from_slice(&item.key)));
            }
            if bytes > KEYS_BYTES_MAX {
                return Err(Value::error("ERR too many keys for one reply, use SCAN"));
            }
        }
        Ok(Value::Array(keys))
    }

    async fn scan(
        &self,
        namespace: u8,
        cursor: u64,
        pattern: Option<Bytes>,
        count: u32,
        any: bool,
        consistency: ReadConsistency,
    ) -> Result<Value, Value> {
        let Some(start) = self.door.positions.borrow().position(namespace, cursor) else {
            return Err(Value::error("ERR invalid cursor"));
        };
        let mut start = Some(start);
        let mut keys = Vec::new();
        let mut left = count.min(PAGE_KEYS * 10);
        while left > 0
            && let Some(from) = start.take()
        {
            let (items, next) = self.step(namespace, from, left, consistency).await?;
            left = left.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
            let wanted = |key: &[u8]| any && pattern.as_ref().is_none_or(|it| glob::matches(it, key, false));
            let wanted = items.into_iter().map(|item| item.key).filter(|key| wanted(key));
            keys.extend(wanted.map(Value::Bulk));
            start = next;
        }
        let shards = self.shards();
        let more = start.filter(|at| shards.iter().any(|(_, slots)| slots.last >= slot_of_position(at)));
        let cursor = more.map_or(0, |at| self.door.positions.borrow_mut().cursor(namespace, &at));
        Ok(Value::Array(vec![Value::bulk(cursor.to_string()), Value::Array(keys)]))
    }

    async fn size(&self, namespace: u8, consistency: ReadConsistency) -> Result<u64, Value> {
        loop {
            let before = self.shards();
            let size = self.size_of(namespace, &before, consistency).await?;
            // Of a shard that was cut in two meanwhile, a half may have been counted.
            if self.shards().iter().map(|it| it.1).eq(before.iter().map(|it| it.1)) {
                return Ok(size);
            }
        }
    }

    /// All shards are asked before the first answer is waited for.
    async fn size_of(
        &self,
        namespace: u8,
        shards: &[(u32, SlotRange)],
        consistency: ReadConsistency,
    ) -> Result<u64, Value> {
        let ask = |(shard, slots): (u32, SlotRange)| {
            let op = Op::Count { first_slot: slots.first, last_slot: slots.last, consistency };
            (slots.first, self.door.gateway.call(Door::mode(self.cluster), namespace, shard, op))
        };
        let asked: Vec<_> = shards.iter().copied().map(ask).collect();
        let mut sum = 0;
        for (slot, call) in asked {
            match call.await.map_err(|error| failed(&error, slot, &self.door))? {
                Answer::Counted { count } => sum += count,
                _ => return Err(Value::error("ERR internal error: an answer to something else")),
            }
        }
        Ok(sum)
    }

    /// One of the first keys behind a random slot, around the whole ring: to its end, and from its beginning up to that slot.
    async fn random_key(&self, namespace: u8, consistency: ReadConsistency) -> Result<Value, Value> {
        let shards = self.shards();
        if shards.is_empty() {
            return Ok(Value::Null);
        }
        let random = self.door.random();
        let chosen = usize::try_from(random % u64::try_from(shards.len()).expect("few")).expect("few");
        let slots = shards[chosen].1;
        let width = u64::from(slots.last - slots.first) + 1;
        let begun = slots.first + u16::try_from((random >> 32) % width).expect("a slot");
        let mut next = Some(slot_start(begun));
        let mut is_second = false;
        loop {
            let from = match next.filter(|from| !is_second || slot_of_position(from) < begun) {
                Some(from) => from,
                None if is_second => return Ok(Value::Null),
                None => {
                    is_second = true;
                    next = Some(slot_start(0));
                    continue;
                }
            };
            let (items, rest) = self.step(namespace, from, 16, consistency).await?;
            if !items.is_empty() {
                let chosen = usize::try_from((random >> 48) % u64::try_from(items.len()).expect("few"));
                return Ok(Value::Bulk(items[chosen.expect("few")].key.clone()));
            }
            next = rest;
        }
    }

    /// The first keys of a slot, from whichever shard has it by then. In cluster mode the client is sent there.
    async fn keys_in_slot(
        &self,
        slot: u16,
        count: u32,
        consistency: ReadConsistency,
    ) -> Result<Value, Value> {
        let gateway = &self.door.gateway;
        let wanted = usize::try_from(count).expect("64-bit machine");
        let mut keys = Vec::new();
        let mut next = Some(slot_start(slot));
        while let Some(start) = next.filter(|start| slot_of_position(start) == slot)
            && keys.len() < wanted
        {
            let shards = gateway.shards();
            let owner = shards.iter().find(|(_, slots)| slots.contains(slot));
            let (shard, _) = *owner.expect("every slot belongs to a shard");
            let left = u32::try_from(wanted - keys.len()).expect("at most the count").min(PAGE_KEYS);
            // The page may reach into the next slots: where the shard ends, and no page may, can change at any time.
            let (items, rest) = self.page(0, shard, start.clone(), left, consistency).await?;
            next = rest.or_else(|| gateway.behind_shard(shard, &start, items.last().map(|item| &item.key)));
            let in_slot = items.into_iter().map(|item| item.key).take_while(|key| slot_of(key) == slot);
            keys.extend(in_slot.map(Value::Bulk));
        }
        Ok(Value::Array(keys))
    }

    /// Removes page after page, the shards side by side.
    async fn flush(&self, namespace: Option<u8>) -> Result<Value, Value> {
        let namespaces = namespace.map_or(0..NAMESPACES, |namespace| namespace..namespace + 1);
        let mut under_way = Vec::new();
        for (_, slots) in self.shards() {
            let (tasks, namespaces) = (self.clone(), namespaces.clone());
            under_way.push(glommio::spawn_local(async move {
                for namespace in namespaces {
                    tasks.flush_slots(namespace, slots).await?;
                }
                Ok::<(), Value>(())
            }));
        }
        for task in under_way {
            task.await?;
        }
        Ok(Value::OK)
    }

    async fn flush_slots(&self, namespace: u8, slots: SlotRange) -> Result<(), Value> {
        let mut next = Some(slot_start(slots.first));
        while let Some(start) = next.filter(|start| slot_of_position(start) <= slots.last) {
            let consistency = ReadConsistency::Linearizable;
            let (items, rest) = self.step(namespace, start.clone(), PAGE_KEYS, consistency).await?;
            let shards = self.door.gateway.shards();
            next = match self.remove(namespace, &items, &shards).await {
                Ok(()) => rest,
                // A shard was cut in two with some of these keys, so nobody could remove them all. What may still remove
                // some would do so behind the answer.
                Err(error) if !is_in_doubt(&error) && self.door.gateway.shards() != shards => Some(start),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Removes keys, which come in the order of their slots, from the shards that have them.
    async fn remove(
        &self,
        namespace: u8,
        items: &[ScanItem],
        shards: &[(u32, SlotRange)],
    ) -> Result<(), Value> {
        let owner = |item: &ScanItem| {
            let slot = slot_of(&item.key);
            shards.iter().find(|(_, slots)| slots.contains(slot)).map(|(shard, _)| *shard)
        };
        for part in items.chunk_by(|one, other| owner(one) == owner(other)) {
            let slot = slot_of(&part[0].key);
            let shard = owner(&part[0]).expect("every slot belongs to a shard");
            let name = Bytes::from_static(b"DEL");
            let args = std::iter::once(name).chain(part.iter().map(|item| item.key.clone())).collect();
            let commands = vec![ProgramCommand { namespace, args }];
            let program = Program { slot, watched: Vec::new(), commands };
            let consistency = Access::Write(WriteConsistency::Strong);
            self.ask(namespace, shard, slot, Op::Execute { program, consistency }).await?;
        }
        Ok(())
    }

    async fn keyspace(&self, text: String) -> Result<Value, Value> {
        let mut counts = Vec::new();
        for namespace in 0..NAMESPACES {
            counts.push(self.size(namespace, ReadConsistency::Stale).await.unwrap_or(0));
        }
        Ok(info::keyspace(text, &counts))
    }
}
