//! An ordered map of which a copy costs little and holds still: what a checkpoint is written from while writes go on.
//!
//! Items lie in chunks of neighbours, shared between copies. A copy clones the list of chunks, about a hundredth of
//! the items; a write clones the one chunk it touches, if a copy shares it. Keys and values are never copied.
//!
//! Invariants:
//! - A chunk's items are sorted; they are at or above its bound and below the next chunk's.
//! - No chunk is empty, and none holds more than [`CHUNK_ITEMS_MAX`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

/// An item, and the unit of cloning: large enough that the list of chunks is short, small enough that cloning one
/// goes unnoticed in an `apply`.
const CHUNK_ITEMS_MAX: usize = 128;

type Item = (Bytes, Bytes);
type Chunk = Arc<Vec<Item>>;

/// The map. Cloning it is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct CowMap {
    /// By bound; the first chunk's may lie above its lowest possible key only if nothing is below.
    chunks: BTreeMap<Bytes, Chunk>,
    items: usize,
    /// Bytes of keys and values.
    bytes: usize,
}

impl CowMap {
    pub(super) fn len(&self) -> usize {
        self.items
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let (_, chunk) = self.chunks.range::<[u8], _>(up_to(key)).next_back()?;
        let at = find(chunk, key).ok()?;
        Some(&chunk[at].1)
    }

    pub(super) fn insert(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        let Some((_, chunk)) = self.chunks.range_mut::<[u8], _>(up_to(&key)).next_back() else {
            // Below all others, or the first. The empty bound is below every key.
            let replaced = self.chunks.insert(Bytes::new(), Arc::new(vec![(key, value)]));
            assert!(replaced.is_none(), "a chunk with the empty bound is found for every key");
            self.items += 1;
            return;
        };
        let items = Arc::make_mut(chunk);
        match find(items, &key) {
            Ok(at) => {
                let old = std::mem::replace(&mut items[at].1, value);
                self.bytes -= key.len() + old.len();
            }
            Err(at) => {
                items.insert(at, (key, value));
                self.items += 1;
                if items.len() > CHUNK_ITEMS_MAX {
                    // Keys that rise leave full chunks behind, others halves.
                    let middle = if at == CHUNK_ITEMS_MAX { at } else { CHUNK_ITEMS_MAX / 2 };
                    let upper = items.split_off(middle);
                    self.chunks.insert(upper[0].0.clone(), Arc::new(upper));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        let Some((bound, chunk)) = self.chunks.range_mut::<[u8], _>(up_to(key)).next_back() else { return };
        // Looked for first, so that a copy's chunk is not cloned for nothing.
        let Ok(at) = find(chunk, key) else { return };
        let items = Arc::make_mut(chunk);
        let (key, value) = items.remove(at);
        self.bytes -= key.len() + value.len();
        self.items -= 1;
        if items.is_empty() {
            let bound = bound.clone();
            self.chunks.remove(&bound);
        }
    }

    /// Removes the items of `[start, end)`.
    pub(super) fn remove_range(&mut self, start: &[u8], end: &[u8]) {
        let keys: Vec<Bytes> = self.range(start, end).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key));
    }

    /// The items of `[start, end)`, in order.
    pub(super) fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> + 'a {
        let first = self.chunks.range::<[u8], _>(up_to(start)).next_back();
        let later = self.chunks.range::<[u8], _>((Bound::Excluded(start), Bound::Unbounded));
        let items = first.into_iter().chain(later).flat_map(|(_, chunk)| chunk.iter());
        let items = items.skip_while(move |(key, _)| key.as_ref() < start);
        items.take_while(move |(key, _)| key.as_ref() < end).map(|(key, value)| (key, value))
    }

    /// All items, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.chunks.values().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// Checks the invariants.
    #[cfg(test)]
    fn check_invariants(&self) {
        let mut before: Option<&Bytes> = None;
        let (mut count, mut bytes) = (0, 0);
        for (bound, chunk) in &self.chunks {
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK_ITEMS_MAX);
            assert!(before.is_none_or(|before| before < bound || bound.is_empty()));
            for (key, value) in chunk.iter() {
                assert!(key >= bound && before.is_none_or(|before| before < key));
                before = Some(key);
                count += 1;
                bytes += key.len() + value.len();
            }
        }
        assert_eq!((count, bytes), (self.items, self.bytes));
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

fn find(items: &[Item], key: &[u8]) -> Result<usize, usize> {
    // Keys that rise, and an image being loaded, append.
    match items.last() {
        Some((last, _)) if last.as_ref() < key => Err(items.len()),
        _ => items.binary_search_by(|(item, _)| item.as_ref().cmp(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        RemoveRange(u16, u16),
        Copy,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..900_u16, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => (0..900_u16).prop_map(Step::Remove),
            1 => (0..900_u16, 0..60_u16).prop_map(|(key, keys)| Step::RemoveRange(key, key + keys)),
            1 => Just(Step::Copy),
        ]
    }

    /// Keys of different lengths, the empty one among them.
    fn bytes(key: u16) -> Bytes {
        let [high, low] = key.to_be_bytes();
        match key {
            0 => Bytes::new(),
            1..256 => Bytes::copy_from_slice(&[low]),
            _ => Bytes::copy_from_slice(&[low, high]),
        }
    }

    fn same(map: &CowMap, model: &BTreeMap<Bytes, Bytes>) {
        map.check_invariants();
        assert!(map.iter().eq(model.iter()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_an_ordered_map_and_copies_hold_still(
            first in proptest::collection::vec((0..900_u16, any::<u8>()), 0..600),
            steps in proptest::collection::vec(step(), 0..600),
            ranges in proptest::collection::vec((0..900_u16, 0..900_u16), 1..10),
        ) {
            let mut map = CowMap::default();
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            let insert = first.into_iter().map(|(key, value)| Step::Insert(key, value));
            for step in insert.chain(steps) {
                match step {
                    Step::Insert(key, value) => {
                        let value = Bytes::from(vec![value; usize::from(value % 5)]);
                        map.insert(bytes(key), value.clone());
                        model.insert(bytes(key), value);
                    }
                    Step::Remove(key) => {
                        map.remove(&bytes(key));
                        model.remove(&bytes(key));
                    }
                    Step::RemoveRange(start, end) => {
                        let (start, end) = (bytes(start), bytes(end));
                        map.remove_range(&start, &end);
                        model.retain(|key, _| *key < start || *key >= end);
                    }
                    Step::Copy => copies.push((map.clone(), model.clone())),
                }
            }
            same(&map, &model);
            for (copy, model) in &copies {
                same(copy, model);
            }
            for (start, end) in ranges {
                let (start, end) = (bytes(start), bytes(end));
                prop_assert_eq!(map.get(&start), model.get(&start));
                if start < end {
                    prop_assert!(map.range(&start, &end).eq(model.range(start.clone()..end.clone())));
                }
            }
        }
    }
}
