//! The only I/O seam: the same batches, tasks and plans go to real files or to a simulated disk.
//!
//! Every disk keeps the same promises: a write is reported when all of it is durable, writes under way
//! may land in any order, a segment gets its name when it is whole.

pub mod blocking;
pub mod dma;
pub mod files;
mod folder;
pub mod real;
pub mod sim;

pub use folder::OpenError;
pub use real::{Io, RealDisk};
