//! Versions of one key: a value has one version, and later writes have higher ones.
//!
//! Linearizability alone does not look at versions, and a store that told a wrong one would break every
//! compare-and-swap by version.

use std::collections::HashMap;
use std::fmt;

use super::{Action, Answer, End, Record};

/// Two answers that cannot both be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionConflict {
    /// The key.
    pub key: String,
    /// What contradicts what.
    pub detail: String,
}

impl fmt::Display for VersionConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions of key `{}` contradict each other: {}", self.key, self.detail)
    }
}

/// When a value of a key was certainly being written: the window of a write, or of a read that saw it.
struct Sighting {
    invoked: u64,
    returned: u64,
    version: u64,
    is_write: bool,
}

/// Checks all keys.
pub fn check(records: &[Record]) -> Result<(), VersionConflict> {
    let mut version_of: HashMap<(&str, u64), u64> = HashMap::new();
    let mut by_key: HashMap<&str, Vec<Sighting>> = HashMap::new();
    for record in records {
        let End::Ok { at, answer, version: Some(version) } = record.end else { continue };
        let (value, is_write) = match (record.action, answer) {
            (Action::Get, Answer::Found(Some(value))) => (value, false),
            (Action::Put(value), _) => (value, true),
            (Action::Swap { new: Some(value), .. }, Answer::Swapped(true)) => (value, true),
            _ => continue,
        };
        let known = *version_of.entry((&record.key, value)).or_insert(version);
        if known != version {
            let detail = format!("value {value} was told with version {known} and with version {version}");
            return Err(VersionConflict { key: record.key.clone(), detail });
        }
        let sighting = Sighting { invoked: record.invoked, returned: at, version, is_write };
        by_key.entry(&record.key).or_default().push(sighting);
    }
    by_key.into_iter().try_for_each(|(key, sightings)| check_order(key, sightings))
}

/// What returned before a write or read began is not newer than it, and older than a write.
fn check_order(key: &str, mut sightings: Vec<Sighting>) -> Result<(), VersionConflict> {
    let mut returned: Vec<(u64, u64)> = sightings.iter().map(|it| (it.returned, it.version)).collect();
    returned.sort_unstable();
    sightings.sort_by_key(|it| it.invoked);
    let mut newest = 0;
    let mut next = 0;
    for sighting in sightings {
        while let Some((_, version)) = returned.get(next).filter(|(at, _)| *at < sighting.invoked) {
            newest = newest.max(*version);
            next += 1;
        }
        let wrong = if sighting.is_write { sighting.version <= newest } else { sighting.version < newest };
        if wrong {
            let what = if sighting.is_write { "written" } else { "read" };
            let detail =
                format!("version {} was {what} after version {newest} had been told", sighting.version);
            return Err(VersionConflict { key: key.to_owned(), detail });
        }
    }
    Ok(())
}
