//! `ringkv load`: writes the keys of a dump into the cluster.
//!
//! A block of the dump is in memory at a time. After each one it is noted beside the file how far the load has come, so
//! that an interrupted one goes on there with `--resume`; the keys of a block that was not finished are written again,
//! which changes nothing. Keys that have expired since are left out.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use engine::driver::executor;
use indicatif::ProgressBar;
use net::{Client, ClientError, PutOptions};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::dump::format::{Header, Reader, Record};
use super::dump::now_ms;
use super::progress::{Unit, bar};
use super::{Cluster, Output, WriteLevel};

#[derive(Debug, Args)]
pub struct Load {
    /// The dump; standard input when not given, or `-`.
    file: Option<PathBuf>,
    /// Go on where an interrupted load of this file has stopped.
    #[arg(long, requires = "file")]
    resume: bool,
    /// Put all keys into this namespace, not into those they were dumped from.
    #[arg(long)]
    namespace: Option<u8>,
    /// When a write counts as done.
    #[arg(long, value_enum, default_value = "strong")]
    consistency: WriteLevel,
    #[command(flatten)]
    cluster: Cluster,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Of the dump that is loaded: tells it from another of the same name.
    created_ms: u64,
    file_bytes: u64,
    /// Where the next block begins.
    offset: u64,
    /// Records before it.
    records: u64,
}

impl Load {
    pub(super) fn run(self) -> Result<ExitCode> {
        let Load { file, resume, namespace, consistency, cluster, output } = self;
        let path = file.filter(|path| path != Path::new("-"));
        if resume && path.is_none() {
            bail!("standard input cannot be resumed: name the file");
        }
        super::on_executor(async move || {
            let client = cluster.connect().await?;
            let target = Target { client, namespace, level: consistency };
            let done = match path {
                None => target.load(Reader::new(std::io::stdin().lock())?, &Notes::none(), None).await?,
                Some(path) => {
                    let file =
                        File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    let length = file.metadata()?.len();
                    let mut reader = Reader::new(BufReader::new(file))?;
                    let notes = Notes::beside(&path, reader.header(), length);
                    if resume {
                        let Progress { offset, records, .. } = notes.read()?;
                        reader.go_on((offset, records), |input, to| {
                            input.seek(SeekFrom::Start(to)).map(drop)
                        })?;
                    }
                    target.load(reader, &notes, Some(length)).await?
                }
            };
            match output {
                Output::Text => println!("{} keys loaded, {} had expired", done.loaded, done.expired),
                Output::Json => println!("{}", json!({"loaded": done.loaded, "expired": done.expired})),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    loaded: u64,
    expired: u64,
}

struct Target {
    client: Client,
    namespace: Option<u8>,
    level: WriteLevel,
}

impl Target {
    async fn load<R: Read>(&self, mut reader: Reader<R>, notes: &Notes, length: Option<u64>) -> Result<Done> {
        let bar: ProgressBar = bar("loaded", length, Unit::Bytes);
        let mut done = Done::default();
        while let Some(block) = reader.next_block()? {
            let count = u64::try_from(block.len())?;
            let now = now_ms();
            let alive = move |record: &Record| record.expiry_ms == 0 || record.expiry_ms > now;
            let writes = block.into_iter().filter(alive).map(|record| self.write(record, now));
            let results = executor::together(writes).await;
            let loaded = u64::try_from(results.len())?;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return Err(notes.explain(error.into()));
            }
            done.loaded += loaded;
            done.expired += count - loaded;
            notes.write(reader.position())?;
            bar.set_position(reader.position().0);
        }
        notes.remove()?;
        bar.finish_and_clear();
        Ok(done)
    }

    fn write(&self, record: Record, now_ms: u64) -> impl Future<Output = Result<u64, ClientError>> + 'static {
        let client = self.client.with_namespace(self.namespace.unwrap_or(record.namespace));
        let ttl = (record.expiry_ms != 0).then(|| Duration::from_millis(record.expiry_ms - now_ms));
        let options = PutOptions { ttl, consistency: self.level.into() };
        async move { client.put_with(record.key, record.value, options).await }
    }
}

/// The file that remembers how far a load has come; none for standard input.
struct Notes {
    path: Option<PathBuf>,
    fresh: Progress,
}

impl Notes {
    fn none() -> Notes {
        Notes { path: None, fresh: Progress::default() }
    }

    fn beside(dump: &Path, header: Header, file_bytes: u64) -> Notes {
        let mut path = dump.to_path_buf().into_os_string();
        path.push(".progress");
        let fresh = Progress { created_ms: header.created_ms, file_bytes, ..Progress::default() };
        Notes { path: Some(path.into()), fresh }
    }

    fn read(&self) -> Result<Progress> {
        let path = self.path.as_ref().context("there is nothing to resume")?;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot resume: {} cannot be read", path.display()))?;
        let progress: Progress = serde_json::from_str(&text)
            .with_context(|| format!("cannot resume: {} is damaged", path.display()))?;
        let same = progress.created_ms == self.fresh.created_ms
            && progress.file_bytes == self.fresh.file_bytes
            && progress.offset <= progress.file_bytes;
        if !same {
            bail!("cannot resume: {} is about another dump", path.display());
        }
        Ok(progress)
    }

    /// Replaced by rename: whatever happens, there is the old note or the new one.
    fn write(&self, (offset, records): (u64, u64)) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_string(&Progress { offset, records, ..self.fresh })?;
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn remove(&self) -> Result<()> {
        match &self.path {
            Some(path) if path.exists() => {
                std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.path {
            Some(path) if path.exists() => error.context("the load stopped; it goes on with --resume"),
            _ => error.context("the load stopped; it is safe to begin it again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_for_one_dump() {
        let folder = tempfile::tempdir().unwrap();
        let dump = folder.path().join("dump");
        let header = |created_ms| Header { created_ms, keeps_expiry: true };
        let notes = Notes::beside(&dump, header(5), 1000);
        assert!(notes.read().is_err(), "nothing was begun");
        notes.write((500, 7)).unwrap();
        let expected = Progress { created_ms: 5, file_bytes: 1000, offset: 500, records: 7 };
        assert_eq!(notes.read().unwrap(), expected);
        assert!(Notes::beside(&dump, header(6), 1000).read().is_err());
        assert!(Notes::beside(&dump, header(5), 1001).read().is_err());
        notes.remove().unwrap();
        assert!(notes.read().is_err());
    }
}
