//! Real files, by whichever way the configuration chooses.

use std::io;
use std::path::Path;

use super::blocking::BlockingDisk;
use super::dma::{DmaDisk, DmaRead};
use super::folder::OpenError;
use crate::batch::WriteBatch;
use crate::config::WalConfig;
use crate::pool::SegmentTask;
use crate::read::ReadPlan;
use crate::recovery::Recovered;

/// How the log's files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// O_DIRECT and O_DSYNC through io_uring.
    #[default]
    Direct,
    /// Through the page cache, and `fdatasync`.
    Buffered,
}

/// The folder of one core's WAL on real files. Clones are the same disk.
#[derive(Debug, Clone)]
pub enum RealDisk {
    /// [`Io::Direct`].
    Direct(DmaDisk),
    /// [`Io::Buffered`].
    Buffered(BlockingDisk),
}

/// What was read for one extent of a plan.
#[derive(Debug, Clone)]
pub enum RealRead {
    /// Of a [`DmaDisk`].
    Direct(DmaRead),
    /// Of a [`BlockingDisk`].
    Buffered(Vec<u8>),
}

impl AsRef<[u8]> for RealRead {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Direct(read) => read.as_ref(),
            Self::Buffered(bytes) => bytes,
        }
    }
}

impl RealDisk {
    /// Opens a folder, making it if it does not exist, and recovers the log in it.
    pub async fn open(dir: &Path, config: &WalConfig, io: Io) -> Result<(Self, Recovered), OpenError> {
        Ok(match io {
            Io::Direct => {
                let (disk, recovered) = DmaDisk::open(dir, config).await?;
                (Self::Direct(disk), recovered)
            }
            Io::Buffered => {
                let (disk, recovered) = BlockingDisk::open(dir, config)?;
                (Self::Buffered(disk), recovered)
            }
        })
    }

    /// Writes a batch; returns when all of it is durable. An error is fatal: what is on the disk is unknown,
    /// and a second attempt could report success for data the first one lost.
    pub async fn write(&self, batch: WriteBatch) -> io::Result<()> {
        match self {
            Self::Direct(disk) => disk.write(batch).await,
            Self::Buffered(disk) => disk.write(batch).await,
        }
    }

    /// Runs a segment task; returns when it is durable. After an error it may be run again: that is how a full
    /// disk is waited out.
    pub async fn run_segment_task(&self, task: &SegmentTask) -> io::Result<()> {
        match self {
            Self::Direct(disk) => disk.run_segment_task(task).await,
            Self::Buffered(disk) => disk.run_segment_task(task).await,
        }
    }

    /// Reads what a plan asks for: one buffer per extent, for [`ReadPlan::decode`].
    pub async fn read(&self, plan: &ReadPlan) -> io::Result<Vec<RealRead>> {
        Ok(match self {
            Self::Direct(disk) => disk.read(plan).await?.into_iter().map(RealRead::Direct).collect(),
            Self::Buffered(disk) => disk.read(plan).await?.into_iter().map(RealRead::Buffered).collect(),
        })
    }

    /// The folder, absolute.
    pub fn dir(&self) -> &Path {
        match self {
            Self::Direct(disk) => disk.dir(),
            Self::Buffered(disk) => disk.dir(),
        }
    }
}
