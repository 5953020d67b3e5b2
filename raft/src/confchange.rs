//! Changes of the membership as data: what a change asks for, how it travels in an entry, and what it makes of a
//! configuration (thesis §4).
//!
//! [`changed`] is a pure function, so the group and its state machine come to the same configuration from the same
//! entries. A change of at most one voter takes effect in one step; a larger one goes through a joint configuration,
//! which a second, empty change leaves:
//!
//! ```text
//!   {1,2,3} ── AddVoter 4 ──────────────▶ {1,2,3,4}
//!   {1,2,3} ── AddVoter 4, Remove 1 ──▶ {2,3,4} + outgoing {1,2,3} ── (leave) ──▶ {2,3,4}
//! ```
//!
//! Invariant: of two configurations that follow each other, any quorum of the one has a node in common with any quorum
//! of the other.

use bytes::{BufMut, Bytes, BytesMut};

use crate::entry::ConfState;
use crate::error::ConfChangeError;
use crate::types::{Index, NodeId};

/// One step of a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConfChangeStep {
    /// The node receives the log and does not vote. A voter is not made a learner: remove it.
    AddLearner(NodeId),
    /// The node votes; a learner is promoted.
    AddVoter(NodeId),
    /// The node leaves the group, voter or learner.
    Remove(NodeId),
}

impl ConfChangeStep {
    /// Whom the step is about.
    #[must_use]
    pub fn node(self) -> NodeId {
        match self {
            ConfChangeStep::AddLearner(node)
            | ConfChangeStep::AddVoter(node)
            | ConfChangeStep::Remove(node) => node,
        }
    }
}

/// A change: its steps take effect together. Without steps it leaves a joint configuration.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConfChange {
    /// At most one per node.
    pub steps: Vec<ConfChangeStep>,
}

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 9;
const STEP_BYTES: usize = 9;

impl ConfChange {
    /// A change of one step.
    #[must_use]
    pub fn one(step: ConfChangeStep) -> ConfChange {
        ConfChange { steps: vec![step] }
    }

    /// The change that leaves a joint configuration.
    #[must_use]
    pub fn leave() -> ConfChange {
        ConfChange::default()
    }

    /// The change as the payload of an entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_after(Index::ZERO)
    }

    /// As [`ConfChange::encode`]; whoever holds the entry knows everything up to `floor` committed.
    ///
    /// ```text
    ///   format: u8 = 1 │ floor: u64 │ (kind: u8, node: u64)*          little-endian
    /// ```
    pub(crate) fn encode_after(&self, floor: Index) -> Bytes {
        let mut data = BytesMut::with_capacity(HEADER_BYTES + STEP_BYTES * self.steps.len());
        data.put_u8(FORMAT);
        data.put_u64_le(floor.0);
        for step in &self.steps {
            data.put_u8(match step {
                ConfChangeStep::AddLearner(_) => 0,
                ConfChangeStep::AddVoter(_) => 1,
                ConfChangeStep::Remove(_) => 2,
            });
            data.put_u64_le(step.node().0);
        }
        data.freeze()
    }

    /// Reads the payload of an entry.
    ///
    /// # Errors
    /// If it is none that this version writes.
    pub fn decode(data: &[u8]) -> Result<ConfChange, ConfChangeError> {
        let (_, steps) = split(data)?;
        let step = |bytes: &[u8]| {
            let node = NodeId(word(&bytes[1..]));
            match bytes[0] {
                0 => Ok(ConfChangeStep::AddLearner(node)),
                1 => Ok(ConfChangeStep::AddVoter(node)),
                2 => Ok(ConfChangeStep::Remove(node)),
                _ => Err(ConfChangeError::Malformed),
            }
        };
        let steps = steps.chunks_exact(STEP_BYTES).map(step).collect::<Result<_, _>>()?;
        Ok(ConfChange { steps })
    }
}

/// What a change in the log proves committed; zero of one that cannot be read.
pub(crate) fn floor(data: &[u8]) -> Index {
    split(data).map_or(Index::ZERO, |(floor, _)| floor)
}

fn split(data: &[u8]) -> Result<(Index, &[u8]), ConfChangeError> {
    let well_formed = data.len() >= HEADER_BYTES
        && data[0] == FORMAT
        && (data.len() - HEADER_BYTES).is_multiple_of(STEP_BYTES);
    if !well_formed {
        return Err(ConfChangeError::Malformed);
    }
    let (header, steps) = data.split_at(HEADER_BYTES);
    Ok((Index(word(&header[1..])), steps))
}

/// Eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a slice of eight bytes"))
}

/// The configuration that the change in `data`, the payload of an entry, makes of `state`. All lists come out sorted.
///
/// # Errors
/// If the change does not fit the state. A leader proposes none such, so that of a committed entry is a bug.
pub fn changed(state: &ConfState, data: &[u8]) -> Result<ConfState, ConfChangeError> {
    changed_by(state, &ConfChange::decode(data)?)
}

/// As [`changed`], of a change at hand.
pub(crate) fn changed_by(state: &ConfState, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
    let joint = !state.voters_outgoing.is_empty();
    match (joint, change.steps.is_empty()) {
        (true, false) => return Err(ConfChangeError::Joint),
        (false, true) => return Err(ConfChangeError::NotJoint),
        (true, true) => return Ok(sorted(ConfState { voters_outgoing: Vec::new(), ..state.clone() })),
        (false, false) => {}
    }
    let mut next = state.clone();
    for (position, step) in change.steps.iter().enumerate() {
        let node = step.node();
        if node == NodeId(0) {
            return Err(ConfChangeError::ZeroNodeId);
        }
        if change.steps[..position].iter().any(|before| before.node() == node) {
            return Err(ConfChangeError::Repeated { node });
        }
        take_step(&mut next, *step)?;
    }
    if next.voters.is_empty() {
        return Err(ConfChangeError::NoVoters);
    }
    let gone = state.voters.iter().filter(|voter| !next.voters.contains(voter)).count();
    let new = next.voters.iter().filter(|voter| !state.voters.contains(voter)).count();
    if gone + new > 1 {
        next.voters_outgoing = state.voters.clone();
    }
    Ok(sorted(next))
}

fn take_step(state: &mut ConfState, step: ConfChangeStep) -> Result<(), ConfChangeError> {
    let insert = |nodes: &mut Vec<NodeId>, node| {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    };
    match step {
        ConfChangeStep::AddLearner(node) if state.voters.contains(&node) => {
            return Err(ConfChangeError::IsVoter { node });
        }
        ConfChangeStep::AddLearner(node) => insert(&mut state.learners, node),
        ConfChangeStep::AddVoter(node) => {
            state.learners.retain(|learner| *learner != node);
            insert(&mut state.voters, node);
        }
        ConfChangeStep::Remove(node) => {
            state.learners.retain(|learner| *learner != node);
            state.voters.retain(|voter| *voter != node);
        }
    }
    Ok(())
}

fn sorted(mut state: ConfState) -> ConfState {
    for nodes in [&mut state.voters, &mut state.learners, &mut state.voters_outgoing] {
        nodes.sort_unstable();
    }
    state
}

#[cfg(test)]
#[path = "confchange/tests.rs"]
mod tests;
