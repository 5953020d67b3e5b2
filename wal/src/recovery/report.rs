//! Which damage is to be reported: whatever was not dealt with before.

use std::collections::BTreeMap;

use super::chain::Chain;
use super::recovered::Damage;
use super::replay::HoleNumber;
use super::scan::{Hole, Loss};
use crate::error::RecoveryError;
use crate::types::{BLOCK, Lsn, StreamId};

const WHAT_TO_DO: &str = "Restore the file, or set the recovery mode to quarantine: the streams listed are \
                          then dropped and rebuilt from their peers";

/// The streams that may have lost records, with the hole that explains it.
type Lost = BTreeMap<StreamId, (Option<HoleNumber>, u32)>;

/// One report per place, in the order of the log. `found` is what made the survey necessary.
pub(super) fn damage(
    found: Option<Hole>,
    chain: &Chain,
    losses: &[Loss],
    mended: &[(Lsn, Lsn)],
    lost: &Lost,
) -> Vec<Damage> {
    let mut damage = Vec::new();
    for (number, loss) in losses.iter().enumerate() {
        let streams = lost.iter().filter(|(_, (hole, _))| *hole == Some(number));
        let streams: Vec<StreamId> = streams.map(|(stream, _)| *stream).collect();
        if !streams.is_empty() || !loss.is_mended(mended) {
            damage.push(report(&loss.hole, Some(loss), streams));
        }
    }
    let unexplained = lost.iter().filter(|(_, (hole, _))| hole.is_none_or(|number| number >= losses.len()));
    let unexplained: Vec<StreamId> = unexplained.map(|(stream, _)| *stream).collect();
    if !unexplained.is_empty() {
        // Every batch is whole, yet records that must be there are not: segments of another time.
        let missing = || {
            let first = chain.links.first().expect("streams come from segments");
            let why = "records that older segments held are missing".to_owned();
            Hole { segment: first.id, offset: BLOCK, lsn: first.first_lsn(), why }
        };
        damage.push(report(&found.unwrap_or_else(missing), None, unexplained));
    }
    damage
}

fn report(hole: &Hole, loss: Option<&Loss>, streams: Vec<StreamId>) -> Damage {
    let positions = match loss {
        Some(loss) if loss.to > hole.lsn => format!(" ({}..{} was acknowledged)", hole.lsn, loss.to.0),
        _ => format!(" (at {})", hole.lsn),
    };
    Damage {
        file: hole.file(),
        offset: hole.offset,
        why: hole.why.clone() + &positions,
        streams,
        may_hide_streams: loss.is_none_or(|loss| !loss.attributed),
    }
}

/// The error for a log that is not to be opened damaged.
pub(super) fn refusal(first: &Damage, streams: Vec<StreamId>) -> RecoveryError {
    let (file, offset, why) = (first.file.clone(), first.offset, first.why.clone());
    RecoveryError::Corrupt { file, offset, why, streams, what_to_do: WHAT_TO_DO }
}
