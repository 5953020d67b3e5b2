//! Who must agree: a majority, or during a joint change two of them (thesis §4.3).

mod joint;
mod majority;

pub use joint::JointConfig;
pub use majority::MajorityConfig;

/// Where a vote stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VoteResult {
    /// A quorum said yes.
    Won,
    /// A quorum can no longer say yes.
    Lost,
    /// Neither yet.
    Pending,
}
