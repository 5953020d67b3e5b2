//! Real files through glommio: O_DIRECT | O_DSYNC.
#![allow(missing_docs, unused_variables, clippy::todo, dead_code)]
use crate::*;
use std::{io, path::Path};
use thiserror::Error;
#[derive(Debug, Error)]
pub enum OpenError { #[error(transparent)] Recovery(#[from] RecoveryError) }
/// Cheap to clone; all clones are one disk. Methods may run concurrently in several tasks.
#[derive(Clone)]
pub struct DmaDisk { d: std::rc::Rc<()> }
impl DmaDisk {
    pub async fn open(dir: &Path, config: &WalConfig) -> Result<(DmaDisk, Recovered), OpenError> { todo!() }
    /// Returns when the whole batch is durable.
    pub async fn write(&self, batch: WriteBatch) -> io::Result<()> { todo!() }
    pub async fn run_segment_task(&self, task: &SegmentTask) -> io::Result<()> { todo!() }
    /// Answers with one buffer per extent, for `ReadPlan::decode`.
    pub async fn read(&self, plan: &ReadPlan) -> io::Result<Vec<Vec<u8>>> { todo!() }
}
