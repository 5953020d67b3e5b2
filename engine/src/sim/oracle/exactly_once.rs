//! A write of a session takes effect once: a repetition changes nothing and answers what the first execution answered,
//! and no write is refused as forgotten that its client has not given up.

use std::collections::HashMap;

use super::{Verdict, violated};
use crate::command::Session;
use crate::machine::Outcome;

/// The writes of all sessions of a shard, kept for ever.
#[derive(Clone, Debug, Default)]
pub struct ExactlyOnce {
    /// By client and sequence: where it was executed, and what that answered.
    executed: HashMap<(u64, u64), (u64, Outcome)>,
    /// By client: the highest `acked_below` in the log so far.
    acked_below: HashMap<u64, u64>,
}

impl ExactlyOnce {
    /// The entry `index` carries a write of `session`; the state machine answered `outcome`, and `changed` users' data or not.
    pub fn observe(&mut self, index: u64, session: &Session, outcome: &Outcome, changed: bool) -> Verdict {
        let acked = self.acked_below.entry(session.client).or_default();
        *acked = (*acked).max(session.acked_below);
        let (name, forgotten) = ((session.client, session.sequence), session.sequence < *acked);
        if *outcome == Outcome::SessionExpired {
            if forgotten && !changed {
                return Ok(());
            }
            let detail = format!("entry {index}, {session:?}, is refused as forgotten (changed: {changed})");
            return violated("session exactly-once", detail);
        }
        if forgotten {
            return violated(
                "session exactly-once",
                format!("entry {index}, {session:?}, is below its session"),
            );
        }
        if let Some((first, answer)) = self.executed.get(&name) {
            if changed || answer != outcome {
                let detail = format!(
                    "entry {index} repeats entry {first} of {name:?}: it answered {outcome:?} after {answer:?}, and \
                     changed the data: {changed}"
                );
                return violated("session exactly-once", detail);
            }
            return Ok(());
        }
        self.executed.insert(name, (index, outcome.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MutationOutcome;

    const STAMP: Session = Session { client: 1, sequence: 2, acked_below: 1 };

    fn put(version: u64) -> Outcome {
        Outcome::One(MutationOutcome::Put { version })
    }

    #[test]
    fn a_repetition_changes_nothing_and_answers_the_same() {
        let mut checker = ExactlyOnce::default();
        checker.observe(1, &STAMP, &put(1), true).unwrap();
        checker.observe(2, &STAMP, &put(1), false).unwrap();
        assert!(checker.observe(3, &STAMP, &put(1), true).is_err(), "it changed the data");
        assert!(checker.observe(3, &STAMP, &put(3), false).is_err(), "it was executed anew");
        assert!(checker.observe(3, &STAMP, &Outcome::SessionExpired, false).is_err(), "it was forgotten");
    }

    #[test]
    fn what_the_client_gave_up_is_refused() {
        let mut checker = ExactlyOnce::default();
        checker.observe(1, &Session { sequence: 5, acked_below: 4, ..STAMP }, &put(1), true).unwrap();
        checker.observe(2, &STAMP, &Outcome::SessionExpired, false).unwrap();
        assert!(checker.observe(3, &STAMP, &put(3), true).is_err());
    }
}
