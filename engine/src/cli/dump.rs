//! `ringkv dump`: all keys of a namespace, or of all, in one file. See [`mod@format`] for what it looks like.
//!
//! Keys are read page by page, each page at the consistency asked for; the whole is not one moment of the cluster. A key
//! that changes meanwhile is dumped as it was when its page was read; its expiry time is asked for just after.

pub mod format;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use engine::driver::executor;
use indicatif::ProgressBar;
use net::map::SlotRange;
use net::protocol::{Access, Program, ProgramCommand, ReadConsistency, Refusal, ScanItem};
use net::resp::{self, Value};
use net::slot::slot_of;
use net::{Client, ClientError};
use serde_json::json;

use super::progress::{Unit, bar};
use super::{Data, Output, ReadLevel, scan};
use format::{Header, Record, Writer};

/// There is no namespace beyond.
const NAMESPACES: u8 = 16;

#[derive(Debug, Args)]
pub struct Dump {
    /// Where to; standard output when not given, or `-`.
    file: Option<PathBuf>,
    /// All namespaces, not only the one given.
    #[arg(long, conflicts_with = "namespace")]
    all: bool,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    /// Do not ask for expiry times: the keys of the dump do not expire.
    #[arg(long)]
    without_expiry: bool,
    /// Who answers, and how fresh it must be.
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: ReadLevel,
    #[command(flatten)]
    data: Data,
}

impl Dump {
    pub(super) fn run(self) -> Result<ExitCode> {
        let Dump { file, all, force, without_expiry, consistency, data } = self;
        let namespaces = if all { 0..NAMESPACES } else { data.namespace..data.namespace.saturating_add(1) };
        let namespaces: Vec<u8> = namespaces.collect();
        let output = data.output;
        let sink = Sink::open(file, force)?;
        data.with_client(async move |client| {
            let keeps_expiry = !without_expiry && tells_expiry(&client).await?;
            if !keeps_expiry && !without_expiry {
                eprintln!(
                    "ringkv: this cluster does not tell expiry times: the keys of the dump do not expire"
                );
            }
            let total = count(&client, &namespaces).await;
            let header = Header { created_ms: now_ms(), keeps_expiry };
            let mut dumping = Dumping {
                writer: Writer::new(BufWriter::new(sink.writer()?), header)?,
                keeps_expiry,
                bar: bar("dumped", total, Unit::Keys),
            };
            for namespace in &namespaces {
                let client = client.with_namespace(*namespace);
                let page =
                    &mut async |items: Vec<ScanItem>| dumping.page(&client, items).await.map(|()| true);
                scan::walk(&client, consistency.into(), false, page).await?;
            }
            dumping.bar.finish_and_clear();
            let (records, out) = dumping.writer.finish()?;
            drop(out);
            let told = sink.finish()?;
            match output {
                Output::Json => eprintln!("{}", json!({"keys": records, "keeps_expiry": keeps_expiry})),
                Output::Text => eprintln!("{records} keys dumped to {told}"),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

struct Dumping {
    writer: Writer<BufWriter<Box<dyn Write>>>,
    keeps_expiry: bool,
    bar: ProgressBar,
}

impl Dumping {
    async fn page(&mut self, client: &Client, items: Vec<ScanItem>) -> Result<()> {
        let expiries =
            if self.keeps_expiry { expiries(client, &items).await? } else { vec![Some(0); items.len()] };
        self.bar.inc(u64::try_from(items.len())?);
        for (item, expiry_ms) in items.into_iter().zip(expiries) {
            // Without one the key is gone since its page was read.
            let Some(expiry_ms) = expiry_ms else { continue };
            let (namespace, key, value) = (client.namespace(), item.key, item.value.data);
            self.writer.push(&Record { namespace, expiry_ms, key, value })?;
        }
        Ok(())
    }
}

/// When each key expires (0: never); `None` for a key that is gone. Keys of one slot are asked for together.
async fn expiries(client: &Client, items: &[ScanItem]) -> Result<Vec<Option<u64>>> {
    let groups = items.chunk_by(|one, other| slot_of(&one.key) == slot_of(&other.key));
    let asked = groups.map(|group| {
        let (client, program) = (client.clone(), expiry_program(client.namespace(), group));
        async move { client.execute(program, Access::Read(ReadConsistency::Linearizable)).await }
    });
    let mut expiries = Vec::with_capacity(items.len());
    for replies in executor::together(asked).await {
        let mut replies = replies?.context("the cluster answered nothing")?;
        while let Some(value) = resp::decode_value(&mut replies)? {
            expiries.push(match value {
                Value::Integer(-2) => None,
                Value::Integer(-1) => Some(0),
                Value::Integer(at) => Some(u64::try_from(at)?),
                other => bail!("the cluster's answer to PEXPIRETIME cannot be read: {other:?}"),
            });
        }
    }
    if expiries.len() != items.len() {
        bail!("the cluster told {} expiry times of {} keys", expiries.len(), items.len());
    }
    Ok(expiries)
}

fn expiry_program(namespace: u8, items: &[ScanItem]) -> Program {
    let command = |item: &ScanItem| ProgramCommand {
        namespace,
        args: vec![Bytes::from_static(b"PEXPIRETIME"), owned(&item.key)],
    };
    let slot = items.first().map_or(0, |item| slot_of(&item.key));
    Program { slot, watched: Vec::new(), commands: items.iter().map(command).collect() }
}

/// A copy that does not hold the whole page in memory.
fn owned(bytes: &Bytes) -> Bytes {
    BytesMut::from(&bytes[..]).freeze()
}

/// Whether the nodes execute programs that tell expiry times.
async fn tells_expiry(client: &Client) -> Result<bool> {
    let args = vec![Bytes::from_static(b"PEXPIRETIME"), Bytes::from_static(b"x")];
    let probe = Program::single(slot_of(b"x"), client.namespace(), args);
    match client.execute(probe, Access::Read(ReadConsistency::Linearizable)).await {
        Ok(Some(mut replies)) => Ok(matches!(resp::decode_value(&mut replies), Ok(Some(Value::Integer(_))))),
        Ok(None) | Err(ClientError::Refused(Refusal::Invalid { .. })) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How many keys there are, about; `None` where it cannot be told: it only serves the progress bar.
async fn count(client: &Client, namespaces: &[u8]) -> Option<u64> {
    let map = client.cluster_map();
    let mut total = 0;
    for namespace in namespaces {
        let client = client.with_namespace(*namespace);
        for shard in &map.shards {
            let Some(SlotRange { first, last }) = shard.slots else { continue };
            total += client.count(shard.id, (first, last), ReadConsistency::Stale).await.ok()?;
        }
    }
    Some(total)
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Where a dump goes: a file appears under its name only when it is whole.
enum Sink {
    Stdout,
    File { path: PathBuf, partial: PathBuf },
}

impl Sink {
    fn open(file: Option<PathBuf>, force: bool) -> Result<Sink> {
        let Some(path) = file.filter(|path| path != Path::new("-")) else {
            if std::io::stdout().is_terminal() {
                bail!("a dump is no text for a terminal: name a file, or pipe it somewhere");
            }
            return Ok(Sink::Stdout);
        };
        if path.exists() && !force {
            bail!("{} exists; give --force to replace it", path.display());
        }
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        Ok(Sink::File { path, partial: partial.into() })
    }

    fn writer(&self) -> Result<Box<dyn Write>> {
        match self {
            Sink::Stdout => Ok(Box::new(std::io::stdout())),
            Sink::File { partial, .. } => {
                let file =
                    File::create(partial).with_context(|| format!("cannot write {}", partial.display()))?;
                Ok(Box::new(file))
            }
        }
    }

    /// Makes the file durable and gives it its name; returns that, for people.
    fn finish(self) -> Result<String> {
        match self {
            Sink::Stdout => Ok("standard output".to_owned()),
            Sink::File { path, partial } => {
                let place = || format!("cannot write {}", path.display());
                File::open(&partial).and_then(|file| file.sync_all()).with_context(place)?;
                std::fs::rename(&partial, &path).with_context(place)?;
                Ok(path.display().to_string())
            }
        }
    }
}
