//! The only I/O seam: the same batches, tasks and plans go to real files or to a simulated disk.

pub mod dma;
pub mod sim;
