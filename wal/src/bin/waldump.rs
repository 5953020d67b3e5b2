//! Prints what a WAL's folder holds, or verifies it. Reads only; works beside a running node and on
//! damaged files.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wal::disk::files::{self, FilesError};
use wal::inspect::{Found, FoundRecord, inspect};
use wal::{
    BLOCK_BYTES, Change, Damage, RecoveryMode, SegmentFile, SegmentHeader, SegmentHeaderError, StreamId, Wal,
    WalConfig, file_name,
};

const USAGE: &str = "usage: waldump [--records] [--streams] [--verify] FOLDER

  FOLDER      the folder of one core's log
  --records   print every record, not only segments and batches
  --streams   print how many records each stream has
  --verify    recover the log in memory and print its streams; exit status 1 if it is damaged";

struct Options {
    records: bool,
    streams: bool,
    verify: bool,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let result = if options.verify { verify(&options.folder, &mut out) } else { dump(&options, &mut out) };
    let flushed = out.flush().map_err(Failure::from);
    match result.and_then(|sound| flushed.map(|()| sound)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of a pipe has seen enough.
        Err(Failure::Output(err)) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("waldump: {failure}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{0}: no readable segment there")]
    Empty(PathBuf),
}

fn parse(args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { records: false, streams: false, verify: false, folder: PathBuf::new() };
    for arg in args {
        match arg.as_str() {
            "--records" => options.records = true,
            "--streams" => options.streams = true,
            "--verify" => options.verify = true,
            other if other.starts_with('-') => return None,
            folder if options.folder.as_os_str().is_empty() => options.folder = folder.into(),
            _ => return None,
        }
    }
    (!options.folder.as_os_str().is_empty()).then_some(options)
}

/// Prints every segment. Answers whether all was sound, leaving aside how the batches fit together.
fn dump(options: &Options, out: &mut impl Write) -> Result<bool, Failure> {
    let mut counts = BTreeMap::new();
    let mut sound = true;
    for file in files::list(&options.folder)? {
        let bytes =
            files::read(&options.folder, file.id, 0, usize::try_from(file.bytes).unwrap_or(usize::MAX))?;
        let name = file_name(file.id);
        let header = match SegmentHeader::decode(&bytes[..bytes.len().min(BLOCK_BYTES)]) {
            Ok(header) => header,
            Err(err) => {
                sound = false;
                match err {
                    SegmentHeaderError::Damaged => writeln!(out, "{name}: DAMAGED segment header")?,
                    SegmentHeaderError::Version(found) => writeln!(out, "{name}: format version {found}")?,
                }
                continue;
            }
        };
        writeln!(
            out,
            "{name}: {}, node {}, core {}, {} bytes of {}",
            header.id,
            header.node_id,
            header.core,
            bytes.len(),
            header.segment_bytes
        )?;
        for found in inspect(&header, &bytes) {
            sound &= print(options, &found, &mut counts, out)?;
        }
    }
    if options.streams {
        for (stream, records) in counts {
            writeln!(out, "{stream}: {records} records")?;
        }
    }
    Ok(sound)
}

fn print(
    options: &Options,
    found: &Found,
    counts: &mut BTreeMap<StreamId, u64>,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    match found {
        Found::Other { offset, bytes, zeros: true, .. } => {
            writeln!(out, "  {offset:>10}  {bytes} zero bytes")?
        }
        Found::Other { offset, bytes, why, .. } => {
            writeln!(out, "  {offset:>10}  {bytes} other bytes: {why}")?
        }
        Found::Batch { offset, header, records, damage } => {
            writeln!(
                out,
                "  {offset:>10}  {}, generation {} from {}, {}..{}, {} records, flushed {}, oldest {}",
                header.sequence,
                header.generation.0,
                header.generation_start,
                header.first_lsn,
                header.end_lsn().0,
                header.records,
                header.flushed_lsn.0,
                header.oldest_lsn.0
            )?;
            for record in records {
                *counts.entry(record.stream).or_insert(0) += 1;
                if options.records {
                    print_record(record, out)?;
                }
            }
            if let Some((offset, why)) = damage {
                writeln!(out, "  {offset:>10}  DAMAGED: {why}")?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn print_record(record: &FoundRecord, out: &mut impl Write) -> io::Result<()> {
    write!(out, "  {:>10}    {} #{} {}: ", record.offset, record.lsn, record.sequence, record.stream)?;
    match &record.change {
        Change::Append(entry) => {
            let (index, term, kind) = (entry.index, entry.term, entry.kind);
            writeln!(out, "append {index}, term {term}, kind {kind}, {} bytes", entry.payload.len())
        }
        Change::Truncate { from_index } => writeln!(out, "truncate from {from_index}"),
        Change::State(state) => {
            writeln!(out, "state term {}, vote {}, commit {}", state.term, state.vote, state.commit)
        }
        Change::Compact { index, term } => writeln!(out, "compact to {index}, term {term}"),
        Change::Remove => writeln!(out, "remove"),
        Change::Reset { index, term } => writeln!(out, "reset to {index}, term {term}"),
        Change::Mended { from, to } => writeln!(out, "mended {from} to {}", to.0),
    }
}

/// Recovers the log in memory and prints its streams. Answers whether it is whole.
fn verify(folder: &Path, out: &mut impl Write) -> Result<bool, Failure> {
    let files = files::list(folder)?;
    let Some(header) = files.iter().find_map(|file| header_of(folder, *file)) else {
        return Err(Failure::Empty(folder.to_owned()));
    };
    let config =
        WalConfig { recovery_mode: RecoveryMode::Quarantine, ..WalConfig::new(header.node_id, header.core) };
    let recovered = files::recover(folder, &config)?;
    for damage in &recovered.damage {
        print_damage(damage, out)?;
    }
    let sound = recovered.damage.is_empty();
    let verdict = if sound { "whole" } else { "DAMAGED" };
    writeln!(
        out,
        "node {}, core {}: {verdict}, ends at {}",
        header.node_id,
        header.core,
        recovered.end_lsn()
    )?;
    if let Some(tail) = &recovered.torn_tail {
        let (file, offset, lsn, why) = (&tail.file, tail.offset, tail.lsn, &tail.why);
        writeln!(out, "unacknowledged writes cut at {lsn} ({file}, offset {offset}: {why})")?;
    }
    let wal = Wal::new(config, recovered);
    for stream in wal.streams() {
        let (first, last) = (wal.first_index(stream), wal.last_index(stream));
        write!(out, "{stream}: entries {first}..={last}")?;
        match wal.state(stream) {
            Some(state) => {
                writeln!(out, ", term {}, vote {}, commit {}", state.term, state.vote, state.commit)?
            }
            None => writeln!(out, ", no state")?,
        }
    }
    for stream in wal.lost() {
        writeln!(out, "{stream}: LOST")?;
    }
    Ok(sound)
}

fn print_damage(damage: &Damage, out: &mut impl Write) -> io::Result<()> {
    let (file, offset, why) = (&damage.file, damage.offset, &damage.why);
    write!(out, "{file}: DAMAGED at offset {offset}: {why}; ")?;
    match damage.streams.as_slice() {
        [] => write!(out, "no stream that is left lost anything")?,
        streams => {
            let names: Vec<String> = streams.iter().map(StreamId::to_string).collect();
            write!(out, "records may be lost of {}", names.join(", "))?;
        }
    }
    let hides = if damage.may_hide_streams { ", and of streams that nothing else is left of" } else { "" };
    writeln!(out, "{hides}")
}

fn header_of(folder: &Path, file: SegmentFile) -> Option<SegmentHeader> {
    let block = files::read(folder, file.id, 0, BLOCK_BYTES).ok()?;
    SegmentHeader::decode(&block).ok()
}
