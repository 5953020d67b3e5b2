//! The test bench: a deterministic network of nodes with disks that can lose what was not flushed, the script language
//! of the data-driven tests, and one checker for each safety property.
//!
//! The checkers know nothing of the bench: they are told what is observed, so any simulation can use them.

pub mod checker;
pub mod cluster;
mod describe;
pub mod disk;
pub mod script;

pub use cluster::Cluster;
pub use describe::{describe_conf_state, describe_entry, describe_message};
pub use disk::Disk;
