//! What lies in the log of a node that is down: read from its files, by the log's own recovery, changing nothing.

use bytes::Bytes;
use wal::disk::files;
use wal::{ReadError, StreamId, Wal, WalConfig};

use super::cluster::Cluster;

/// Entries fetched at once, in bytes.
const FETCH_BYTES_MAX: u64 = 4 << 20;

/// What one core's log of a node holds of a shard.
pub struct Logged {
    /// Index of the first entry held. The log drops an entry only when the state machine holds it durably.
    pub first_index: u64,
    /// The payloads of all entries held.
    pub payloads: Vec<Bytes>,
}

/// Reads one core's log of a node, as far as it concerns a shard.
///
/// # Panics
/// When the log is damaged.
pub fn read_log(cluster: &Cluster, node: u64, core: u16, shard: u32) -> Logged {
    let dir = cluster.node(node).wal_dir(u32::from(core));
    let settings = &cluster.settings;
    let bytes = usize::try_from(settings.batch_bytes_max()).expect("64-bit machine");
    let config = WalConfig {
        segment_bytes: settings.segment_bytes,
        batch_bytes_max: bytes,
        payload_bytes_max: bytes,
        ..WalConfig::new(node, core)
    };
    let recovered =
        files::recover(&dir, &config).expect("a node that was killed leaves a log that can be read");
    let log = Wal::new(config, recovered);
    let stream = StreamId(u64::from(shard));
    let first_index = log.first_index(stream);
    let (mut low, end) = (first_index, log.last_index(stream) + 1);
    let mut payloads = Vec::new();
    while low < end {
        let entries = match log.entries(stream, low, end, FETCH_BYTES_MAX) {
            Ok(entries) => entries,
            Err(ReadError::OnDisk) => {
                let plan = log
                    .plan_read(stream, low, end, FETCH_BYTES_MAX)
                    .expect("what is not in memory is on disk");
                let read = |extent: &wal::ReadExtent| {
                    files::read(&dir, extent.segment, extent.offset_bytes, extent.len_bytes)
                };
                let buffers: Result<Vec<_>, _> = plan.extents().iter().map(read).collect();
                plan.decode(&buffers.expect("the segments are there")).expect("the records are whole")
            }
            Err(error) => panic!("entry {low} of {stream} on node {node}: {error}"),
        };
        low += u64::try_from(entries.len()).expect("64-bit machine");
        payloads.extend(entries.into_iter().map(|entry| entry.payload));
    }
    Logged { first_index, payloads }
}
