//! What a client is told is true when it is told: a `strong` write is committed (and so flushed on a majority), a
//! `leader` write is on the leader's disk, and the answer is what the state machine answers to that entry.

use net::protocol::{Answer, WriteConsistency};

use super::commitment::Commitment;
use super::reference::Reference;
use super::{Verdict, violated};
use crate::convert;

/// "Your write is done", on its way to a client.
#[derive(Debug)]
pub struct Claim {
    /// The shard.
    pub shard: u32,
    /// What was asked for.
    pub consistency: WriteConsistency,
    /// The entry that is said to hold the write.
    pub index: u64,
    /// What is said.
    pub answer: Answer,
}

/// Checks a claim of a node that has the log up to `flushed` on its disk.
pub fn check(
    claim: &Claim,
    node: u64,
    flushed: u64,
    commitment: &Commitment,
    reference: &Reference,
) -> Verdict {
    const PROPERTY: &str = "no acknowledgement before its time";
    match claim.consistency {
        WriteConsistency::Strong => {
            if claim.index > commitment.last() {
                let detail = format!(
                    "node {node} acknowledges entry {}; only {} are committed",
                    claim.index,
                    commitment.last()
                );
                return violated(PROPERTY, detail);
            }
            let told =
                reference.outcome(claim.index).cloned().map(|outcome| convert::outcome(claim.index, outcome));
            if !matches!(&told, Some(Ok(answer)) if *answer == claim.answer) {
                let detail = format!("node {node} tells {claim:?}; the state machine says {told:?}");
                return violated("answers are those of the state machine", detail);
            }
        }
        WriteConsistency::Leader if claim.index > flushed => {
            let detail = format!("node {node} acknowledges entry {}; {flushed} are on its disk", claim.index);
            return violated(PROPERTY, detail);
        }
        WriteConsistency::Leader | WriteConsistency::Eventual => {}
    }
    Ok(())
}
