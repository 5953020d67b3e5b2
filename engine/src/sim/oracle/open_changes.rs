//! A replica that starts finds at most one change of members in its log that it does not know committed (thesis §4.1, §4.3).
//! Were there two, it could act by a configuration whose majorities do not meet those of the present one.

use raft::EntryKind;

use super::mirror::Mirror;
use super::{Verdict, violated};

/// Checks the log of replica `raft_id`, which has just started and knows everything up to `committed` committed.
pub fn check(raft_id: u64, mirror: &Mirror, committed: u64) -> Verdict {
    let changes: Vec<u64> = (committed.max(mirror.base()) + 1..=mirror.last())
        .filter(|index| mirror.entry(*index).is_some_and(|entry| entry.kind == EntryKind::ConfChange))
        .collect();
    if changes.len() <= 1 {
        return Ok(());
    }
    let detail =
        format!("replica {raft_id} knows {committed} committed and finds changes of members at {changes:?}");
    violated("one change of members at a time", detail)
}
