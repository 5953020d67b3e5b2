//! Snapshots between nodes, each on a connection of its own.
//!
//! ```text
//!   leader's core                                             follower's core
//!     Effect::SendSnapshot                                      peer door: purpose Snapshot
//!       thread: take or pin, read ──chunks──▶ task ══TCP══▶ task ──chunks──▶ thread: write, verify
//!     Event::SnapshotSent  ◀───────────────── end ◀═══════════ end    Event::SnapshotReceived
//! ```
//!
//! The files are read and written on a thread that lives as long as the transfer, with a few chunks between it and the
//! executor; so memory is bounded, and nothing blocks. A transfer that breaks off leaves what was received on disk, and
//! the next one goes on from there. Until all is there and verified nobody but the library knows of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use net::frame::Frame;
use net::peer::{
    PeerEncoder, PeerHello, Purpose, SnapshotAnswer, SnapshotEnd, SnapshotHeader, decode_snapshot_answer,
    decode_snapshot_chunk, decode_snapshot_end, decode_snapshot_header,
};
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender, Handoff};
use raft::Index;

use super::{Driver, Transfers, greet};
use crate::convert;
use crate::core::{Engine, Event, ReceivedSnapshot, ReplicaId, SnapshotOffer, Transfer};
use crate::host::background;
use crate::replica_id;
use crate::store::files::forget_pages;
use crate::store::snapshot::{Library, Manifest, PinnedSnapshot, TakenTo};

/// Length of a chunk: long enough to cost little, short enough not to hold others up.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks between a thread and its executor.
const CHUNKS_QUEUED_MAX: usize = 16;
/// Bytes of a snapshot that wait for the network: what is sent at the node's rate is to leave at that rate.
const SEND_QUEUE_BYTES_MAX: usize = 1 << 20;
/// A transfer that stands still for so long is given up; it is resumed later.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the receiver may take to sync and verify what it got.
const VERIFY_MAX: Duration = Duration::from_secs(300);
/// How long a snapshot that is offered waits for its turn before it is refused, and offered again later.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Room for what a chunk has beside its bytes, and for a header that names many files.
const FRAME_BYTES_MAX: u32 = 16 << 20;

/// A piece of a file on its way from the disk.
struct Piece {
    file: u32,
    offset: u64,
    data: Vec<u8>,
}

/// What was transferred, for the log.
struct Transferred {
    index: u64,
    bytes: u64,
    resumed_bytes: u64,
}

/// Why a snapshot was not sent.
struct NotSent {
    why: String,
    outcome: Transfer,
}

impl<T: Into<String>> From<T> for NotSent {
    fn from(why: T) -> NotSent {
        NotSent { why: why.into(), outcome: Transfer::Refused }
    }
}

// ---- Sending ----------------------------------------------------------------------------------------------------

impl Driver {
    /// Sends a snapshot and tells the core how that ended.
    pub(super) async fn send_snapshot(
        self: Rc<Self>,
        replica: ReplicaId,
        engine: Engine,
        offer: SnapshotOffer,
    ) {
        let slot = self.transfers.send_slot().await;
        let begun = Instant::now();
        let result = self.send(engine, offer).await;
        drop(slot);
        let SnapshotOffer { shard, node, to, .. } = offer;
        match &result {
            Ok(done) => tracing::info!(
                shard,
                node,
                to,
                index = done.index,
                bytes = done.bytes,
                resumed_bytes = done.resumed_bytes,
                seconds = begun.elapsed().as_secs_f64(),
                "sent a snapshot"
            ),
            Err(NotSent { why, .. }) => tracing::warn!(shard, node, to, why, "a snapshot was not sent"),
        }
        let outcome = result.map_or_else(|not| not.outcome, |_| Transfer::Complete);
        self.inbox.push(Event::SnapshotSent { replica, to, outcome });
    }

    async fn send(&self, engine: Engine, offer: SnapshotOffer) -> Result<Transferred, NotSent> {
        let (_, library) = self.store.libraries().get(offer.shard).ok_or("the replica is gone")?;
        let founders = self.map.founders(offer.shard);
        let (manifests, manifest) = flume::bounded(1);
        let (have, haves) = flume::bounded::<Vec<u64>>(1);
        let (pieces, chunks) = flume::bounded(CHUNKS_QUEUED_MAX);
        let (doubt, doubts) = flume::bounded::<()>(1);
        let keep = usize::try_from(self.config.snapshot.keep).expect("64-bit machine");
        let transfers = self.transfers.clone();
        spawn(format!("send-{}", offer.shard), move || {
            let pace = |bytes| transfers.pace_reading(bytes);
            let result = pick(&library, &engine, &founders, offer.index_min, &pace);
            drop(engine);
            match result {
                Ok(snapshot) => {
                    if manifests.send(Ok(snapshot.manifest().clone())).is_ok()
                        && let Ok(held) = haves.recv()
                    {
                        read_files(&snapshot, &held, pieces);
                        if doubts.recv().is_ok() {
                            discard_if_damaged(&library, &snapshot);
                        }
                    }
                }
                // Nobody listens when the connection is gone already.
                Err(why) => drop(manifests.send(Err(why))),
            }
            if let Err(error) = library.prune(keep) {
                tracing::warn!(shard = offer.shard, %error, "cannot remove an old snapshot");
            }
        })?;
        let manifest: Manifest = manifest.recv_async().await.map_err(|_| "the thread that sends ended")??;
        let address = self.map.node(offer.node).ok_or("no such node")?.peer_addr;
        let hello = self.peers.hello(offer.core, Purpose::Snapshot);
        let (mut reader, sender, _) =
            greet::dial(&hello, offer.node, &address, self.snapshot_connection()).await?;
        let held = propose(&manifest, offer, &mut reader, &sender).await?;
        let resumed_bytes = held.iter().sum();
        let _ = have.send(held);
        let streamed = self.stream(&chunks, &sender).await;
        // A receiver that gives up says why before it closes.
        let end = read(&mut reader, if streamed.is_ok() { VERIFY_MAX } else { STALL_MAX }).await;
        match end.and_then(|frame| decode_snapshot_end(&frame).map_err(|error| error.to_string())) {
            Ok(SnapshotEnd { result: Ok(()) }) => {
                Ok(Transferred { index: manifest.meta.index.0, bytes: manifest.bytes(), resumed_bytes })
            }
            Ok(SnapshotEnd { result: Err(why) }) => {
                let _ = doubt.send(());
                Err(format!("the receiver: {why}").into())
            }
            Err(why) => Err(NotSent { why: streamed.err().unwrap_or(why), outcome: Transfer::Broken }),
        }
    }

    fn snapshot_connection(&self) -> ConnectionConfig {
        ConnectionConfig { write_queue_bytes_max: SEND_QUEUE_BYTES_MAX, ..self.peers.connection }
    }

    /// Sends the chunks as they come from the thread, as fast as the node's limit and the receiver let it.
    async fn stream(
        &self,
        chunks: &flume::Receiver<io::Result<Piece>>,
        sender: &FrameSender,
    ) -> Result<(), String> {
        let mut encoder = PeerEncoder::new(0, FRAME_BYTES_MAX);
        while let Ok(piece) = chunks.recv_async().await {
            let Piece { file, offset, data } = piece.map_err(|error| error.to_string())?;
            let pause = self.transfers.pause_sending(data.len());
            if !pause.is_zero() {
                glommio::timer::sleep(pause).await;
            }
            within(STALL_MAX, sender.room()).await?.map_err(|error| error.to_string())?;
            sender
                .append(|buffer| encoder.snapshot_chunk(file, offset, &data, buffer))
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            // Chunks may be ready one after the other: requests come in between.
            glommio::yield_if_needed().await;
        }
        Ok(())
    }
}

/// A snapshot that reaches far enough: one that is there, or a new one. Blocks.
fn pick(
    library: &Library,
    engine: &Engine,
    founders: &raft::ConfState,
    index_min: u64,
    pace: &dyn Fn(usize),
) -> Result<PinnedSnapshot, String> {
    let snapshot = match library.pin(Index(index_min)) {
        Some(snapshot) => snapshot,
        None => library
            .take(engine.0.as_ref(), founders, TakenTo::Send, pace)
            .map_err(|error| error.to_string())?,
    };
    match snapshot.manifest().meta.index {
        index if index.0 >= index_min => Ok(snapshot),
        index => Err(format!("the state machine is at {}, and the log begins at {index_min}", index.0)),
    }
}

/// Reads what the receiver lacks, in the order of the files, until it is done or nobody wants it. Blocks.
fn read_files(snapshot: &PinnedSnapshot, held: &[u64], pieces: flume::Sender<io::Result<Piece>>) {
    for (number, file) in snapshot.manifest().files.iter().enumerate() {
        let mut offset = held.get(number).copied().unwrap_or(0);
        if offset >= file.bytes {
            continue;
        }
        let open = match File::open(snapshot.path(number)) {
            Ok(open) => open,
            Err(error) => return drop(pieces.send(Err(error))),
        };
        while offset < file.bytes {
            let left = usize::try_from(file.bytes - offset).expect("64-bit machine");
            let mut data = vec![0; left.min(CHUNK_BYTES)];
            if let Err(error) = open.read_exact_at(&mut data, offset) {
                return drop(pieces.send(Err(error)));
            }
            let length = u64::try_from(data.len()).expect("64-bit machine");
            forget_pages(&open, offset, length);
            let piece = Piece { file: u32::try_from(number).expect("few files"), offset, data };
            if pieces.send(Ok(piece)).is_err() {
                return;
            }
            offset += length;
        }
    }
}

/// The receiver did not take what it got: if that is because this disk has changed it, no other receiver gets it. Blocks.
fn discard_if_damaged(library: &Library, snapshot: &PinnedSnapshot) {
    let sum = |number: usize| -> io::Result<u32> {
        let (mut open, mut sum) = (File::open(snapshot.path(number))?, 0);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match open.read(&mut buffer)? {
                0 => return Ok(sum),
                length => sum = crc32c::crc32c_append(sum, &buffer[..length]),
            }
        }
    };
    let files = snapshot.manifest().files.iter().enumerate();
    for (number, file) in files {
        if sum(number).is_ok_and(|sum| sum == file.crc32c) {
            continue;
        }
        tracing::error!(path = %snapshot.path(number).display(), "a snapshot is damaged and is removed; check the disk");
        if let Err(error) = library.discard(snapshot) {
            tracing::warn!(%error, "cannot remove a damaged snapshot");
        }
        return;
    }
}

/// Says what is to come; what the receiver holds of it already.
async fn propose(
    manifest: &Manifest,
    offer: SnapshotOffer,
    reader: &mut FrameReader,
    sender: &FrameSender,
) -> Result<Vec<u64>, String> {
    let header = convert::snapshot_header(manifest, offer.from, offer.to, offer.term);
    sender
        .append(|buffer| PeerEncoder::new(0, FRAME_BYTES_MAX).snapshot_header(&header, buffer))
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    // The receiver may wait for its turn, and reads what it holds of a file already.
    let frame = read(reader, VERIFY_MAX).await?;
    match decode_snapshot_answer(&frame).map_err(|error| error.to_string())? {
        SnapshotAnswer::Accept { have } if fits(&have, manifest) => Ok(have),
        SnapshotAnswer::Accept { .. } => Err("the receiver answered for other files".to_owned()),
        SnapshotAnswer::Refuse { reason } => Err(format!("refused: {reason}")),
    }
}

/// Whether an answer speaks of the files offered: of each, and of no more of it than there is.
fn fits(have: &[u64], manifest: &Manifest) -> bool {
    let files = &manifest.files;
    have.len() == files.len() && have.iter().zip(files).all(|(held, file)| *held <= file.bytes)
}

// ---- Receiving --------------------------------------------------------------------------------------------------

/// What the thread that writes tells.
enum Written {
    /// It is ready, and holds so much of each file.
    Held(Vec<u64>),
    /// All is on disk and verified.
    Complete(std::path::PathBuf),
    /// It gave up.
    Failed(String),
}

impl Driver {
    /// Takes a snapshot in that another node sends on a connection of its own.
    pub(super) async fn receive_snapshot(self: Rc<Self>, handoff: Handoff, hello: PeerHello) {
        let Ok(connection) = Connection::from_handoff(handoff, self.snapshot_connection()) else { return };
        let (mut reader, sender) = connection.split();
        let reply = self.peers.hello_reply();
        let greeted =
            sender.append(|buffer| PeerEncoder::new(0, FRAME_BYTES_MAX).hello_reply(&reply, buffer));
        if !matches!(greeted, Ok(Ok(()))) {
            return;
        }
        if let Err(why) = self.receive(hello.node, &mut reader, &sender).await {
            tracing::warn!(node = hello.node, why, "a snapshot was not received");
        }
        sender.close();
        let _ = within(STALL_MAX, sender.flushed()).await;
    }

    async fn receive(&self, node: u64, reader: &mut FrameReader, sender: &FrameSender) -> Result<(), String> {
        let frame = read(reader, STALL_MAX).await?;
        let header = decode_snapshot_header(&frame).map_err(|error| error.to_string())?;
        let answer = |answer: &SnapshotAnswer| {
            let sent =
                sender.append(|buffer| PeerEncoder::new(0, FRAME_BYTES_MAX).snapshot_answer(answer, buffer));
            sent.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        };
        let refuse = |reason: String| {
            answer(&SnapshotAnswer::Refuse { reason: reason.clone() })?;
            Err(reason)
        };
        let library = match self.wanted(&header) {
            Ok(library) => library,
            Err(reason) => return refuse(reason),
        };
        let Ok(_slot) = within(SLOT_WAIT_MAX, self.transfers.receive_slot()).await else {
            return refuse("this node receives as many snapshots as it may".to_owned());
        };
        let begun = Instant::now();
        let (chunks, incoming) = flume::bounded(CHUNKS_QUEUED_MAX);
        let (tell, written) = flume::unbounded();
        let manifest = convert::manifest(&header);
        let (index, bytes) = (manifest.meta.index.0, manifest.bytes());
        let writing = manifest.clone();
        let reserve = self.transfers.reserve_bytes();
        spawn(format!("receive-{}", header.shard), move || {
            write_files(&library, (writing, reserve), &incoming, &tell);
        })?;
        let held = match next(&written).await {
            Written::Held(held) => held,
            Written::Failed(reason) => return refuse(reason),
            Written::Complete(_) => unreachable!("it tells first what it holds"),
        };
        let resumed_bytes: u64 = held.iter().sum();
        answer(&SnapshotAnswer::Accept { have: held })?;
        let fed = feed(bytes.saturating_sub(resumed_bytes), reader, chunks, &self.transfers).await;
        let end = |result: Result<(), String>| {
            let end = SnapshotEnd { result };
            // The sender may be gone; then it asks again.
            let _ = sender.append(|buffer| PeerEncoder::new(0, FRAME_BYTES_MAX).snapshot_end(&end, buffer));
        };
        let outcome = match next(&written).await {
            Written::Complete(place) => Ok(place),
            Written::Failed(why) => Err(fed.err().unwrap_or(why)),
            Written::Held(_) => unreachable!("it told before"),
        };
        match outcome {
            Ok(place) => {
                let SnapshotHeader { shard, from, to, term, .. } = header;
                tracing::info!(
                    shard,
                    node,
                    index,
                    bytes,
                    resumed_bytes,
                    seconds = begun.elapsed().as_secs_f64(),
                    "received a snapshot"
                );
                let snapshot = ReceivedSnapshot { shard, meta: manifest.meta, place };
                self.inbox.push(Event::SnapshotReceived { from, to, term, snapshot });
                end(Ok(()));
                Ok(())
            }
            Err(why) => {
                end(Err(why.clone()));
                Err(why)
            }
        }
    }

    /// Whether a snapshot is for a replica of this core.
    fn wanted(&self, header: &SnapshotHeader) -> Result<Library, String> {
        let found = self.store.libraries().get(header.shard);
        let own = |generation| replica_id::raft_id(self.config.node.id, generation) == header.to;
        match found {
            Some((generation, library)) if own(generation) => Ok(library),
            _ => Err(format!("there is no replica {} of shard {} here", header.to, header.shard)),
        }
    }
}

/// Hands chunks to the thread until so many bytes have come. The thread learns of the end when the channel closes.
async fn feed(
    mut missing: u64,
    reader: &mut FrameReader,
    chunks: flume::Sender<(u32, u64, Bytes)>,
    transfers: &Transfers,
) -> Result<(), String> {
    while missing > 0 {
        let frame = read(reader, STALL_MAX).await?;
        let chunk = decode_snapshot_chunk(&frame).map_err(|error| error.to_string())?;
        let bytes = chunk.data.len();
        missing = missing.saturating_sub(u64::try_from(bytes).expect("64-bit machine"));
        if chunks.send_async((chunk.file, chunk.offset, chunk.data)).await.is_err() {
            return Err("the thread that writes gave up".to_owned());
        }
        // What is not read yet holds the sender up.
        let pause = transfers.pause_receiving(bytes);
        if !pause.is_zero() {
            glommio::timer::sleep(pause).await;
        }
    }
    Ok(())
}

/// Writes chunks as they come, and verifies all when no more do. Blocks.
fn write_files(
    library: &Library,
    (manifest, reserve): (Manifest, u64),
    chunks: &flume::Receiver<(u32, u64, Bytes)>,
    tell: &flume::Sender<Written>,
) {
    let write = || -> Result<std::path::PathBuf, String> {
        let mut incoming = library.receive(manifest, reserve).map_err(|error| error.to_string())?;
        let _ = tell.send(Written::Held(incoming.held()));
        while let Ok((file, offset, data)) = chunks.recv() {
            let file = usize::try_from(file).expect("64-bit machine");
            incoming.write(file, offset, &data).map_err(|error| error.to_string())?;
        }
        incoming.finish().map_err(|error| error.to_string())
    };
    let told = match write() {
        Ok(place) => Written::Complete(place),
        Err(why) => Written::Failed(why),
    };
    if let Err(flume::SendError(Written::Complete(place))) = tell.send(told) {
        library.drop_received(&place);
    }
}

async fn next(written: &flume::Receiver<Written>) -> Written {
    let told = written.recv_async().await;
    told.unwrap_or_else(|_| Written::Failed("the thread that writes ended".to_owned()))
}

// ---- Both -------------------------------------------------------------------------------------------------------

async fn read(reader: &mut FrameReader, limit: Duration) -> Result<Frame, String> {
    match within(limit, reader.read_frame()).await? {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err("the connection was closed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    glommio::timer::timeout(limit, async { Ok(work.await) })
        .await
        .map_err(|_| format!("nothing moved for {} s", limit.as_secs()))
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    background::spawn(name, run).map_err(|error| error.to_string())
}
