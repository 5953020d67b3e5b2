//! The names of a replica: its Raft id, its stream in the log, its folder.
//!
//! A node holds one replica of a shard at a time, and over the years one after the other: a replica that lost its state
//! or was removed comes back as another, never as itself. The *generation* tells them apart. It is zero for the replicas
//! a cluster begins with and a random number for every later one, and it is part of all three names, so that a message,
//! vote, record or file of a former replica can never be taken for one of its successor.
//!
//! ```text
//!   Raft id   generation (44 bits) | node (20 bits)
//!   stream    generation (44 bits) | shard (20 bits)
//! ```
//!
//! Invariant: an id is never used again. A replica that forgot what it promised must not vote under the same name.

/// Bits of a name that hold the node or the shard; the generation has the rest.
const PLACE_BITS: u32 = 20;

/// The highest node id, and the highest shard number, that a name can hold.
pub const PLACE_MAX: u64 = (1 << PLACE_BITS) - 1;

/// The highest generation that a name can hold.
pub const GENERATION_MAX: u64 = (1 << (64 - PLACE_BITS)) - 1;

/// The generation of the replicas that a cluster begins with.
pub const FOUNDING: u64 = 0;

/// The Raft id of a node's replica.
///
/// # Panics
/// When the node or the generation is out of range: both are checked where they come in.
pub fn raft_id(node: u64, generation: u64) -> u64 {
    compose(generation, node)
}

/// The node on which a replica lives.
pub fn node_of(raft_id: u64) -> u64 {
    raft_id & PLACE_MAX
}

/// The generation of a replica.
pub fn generation_of(raft_id: u64) -> u64 {
    raft_id >> PLACE_BITS
}

/// The stream of a replica in its core's log.
///
/// # Panics
/// When the shard or the generation is out of range: both are checked where they come in.
pub fn stream_id(shard: u32, generation: u64) -> u64 {
    compose(generation, u64::from(shard))
}

/// The shard and the generation of a stream's replica.
pub fn of_stream(stream: u64) -> (u32, u64) {
    let shard = u32::try_from(stream & PLACE_MAX).expect("20 bits");
    (shard, stream >> PLACE_BITS)
}

/// A generation from a random number: never that of the founders.
pub fn generation_from(random: u64) -> u64 {
    (random & GENERATION_MAX).max(1)
}

/// The name of the folder that holds a replica's data.
pub fn folder(shard: u32, generation: u64) -> String {
    match generation {
        FOUNDING => format!("shard-{shard}"),
        later => format!("shard-{shard}-{later:011x}"),
    }
}

/// The shard and the generation of the replica whose folder has this name.
pub fn of_folder(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix("shard-")?.splitn(2, '-');
    let shard = parts.next()?.parse().ok()?;
    let generation = parts.next().map_or(Ok(FOUNDING), |digits| u64::from_str_radix(digits, 16)).ok()?;
    // What would be named differently is not one of ours.
    (generation <= GENERATION_MAX && folder(shard, generation) == name).then_some((shard, generation))
}

fn compose(generation: u64, place: u64) -> u64 {
    assert!(place <= PLACE_MAX, "{place} does not fit {PLACE_BITS} bits");
    assert!(generation <= GENERATION_MAX, "generation {generation} does not fit");
    generation << PLACE_BITS | place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn founding_replicas_bear_the_plain_names() {
        assert_eq!((raft_id(3, FOUNDING), stream_id(7, FOUNDING)), (3, 7));
        assert_eq!(folder(7, FOUNDING), "shard-7");
        assert_eq!(folder(7, 0xABC), "shard-7-00000000abc");
        assert_eq!(of_folder("shard-7"), Some((7, FOUNDING)));
        assert_eq!(of_folder("shard-7-00000000abc"), Some((7, 0xABC)));
        for other in ["shard-", "shard-x", "shard-7-abc", "shard-7-00000000000", "lost-shard-7", "wal"] {
            assert_eq!(of_folder(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_gives_its_parts_back() {
        for generation in [0, 1, 77, GENERATION_MAX] {
            for place in [0, 1, PLACE_MAX] {
                let id = raft_id(place, generation);
                assert_eq!((node_of(id), generation_of(id)), (place, generation));
                let shard = u32::try_from(place).unwrap();
                assert_eq!(of_stream(stream_id(shard, generation)), (shard, generation));
            }
        }
    }

    #[test]
    fn no_random_number_gives_the_generation_of_the_founders() {
        assert_eq!(generation_from(0), 1);
        assert_eq!(generation_from(1 << (64 - PLACE_BITS)), 1);
        assert_eq!(generation_from(u64::MAX), GENERATION_MAX);
    }
}
