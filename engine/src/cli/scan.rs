//! `ringkv scan`, and the walk over all keys that `dump` makes, too.

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use net::Client;
use net::map::SlotRange;
use net::protocol::{ReadConsistency, ScanItem};
use net::slot::SLOT_COUNT;
use serde_json::Map;

use super::progress::{Unit, bar};
use super::{Data, Output, ReadLevel, bytes, text};

/// Items asked for at a time; the servers may send fewer, and bound the bytes.
const PAGE_ITEMS: u32 = 1000;

#[derive(Debug, Args)]
pub struct Scan {
    /// Only keys that begin with this. All keys are looked at: they are stored by slot.
    prefix: Option<OsString>,
    /// Print values, too.
    #[arg(long)]
    values: bool,
    /// Stop after so many keys.
    #[arg(long)]
    limit: Option<u64>,
    /// Who answers, and how fresh it must be.
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: ReadLevel,
    #[command(flatten)]
    data: Data,
}

impl Scan {
    pub(super) fn run(self) -> Result<ExitCode> {
        let Scan { prefix, values, limit, consistency, data } = self;
        let (prefix, output) = (bytes(prefix.unwrap_or_default()), data.output);
        data.with_client(async move |client| {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let bar = bar("looked at", None, Unit::Keys);
            let mut left = limit.unwrap_or(u64::MAX);
            let mut visit = async |items: Vec<ScanItem>| {
                bar.inc(u64::try_from(items.len())?);
                for item in items.iter().filter(|item| item.key.starts_with(&prefix)) {
                    if left == 0 {
                        return Ok(false);
                    }
                    left -= 1;
                    print(&mut out, item, values, output)?;
                }
                // Who reads sees what there is, page by page.
                out.flush()?;
                Ok(left > 0)
            };
            walk(&client, consistency.into(), !values, &mut visit).await?;
            bar.finish_and_clear();
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn print(out: &mut impl Write, item: &ScanItem, values: bool, output: Output) -> std::io::Result<()> {
    match output {
        Output::Text if values => {
            writeln!(out, "{}\t{}", text::printable(&item.key), text::printable(&item.value.data))
        }
        Output::Text => writeln!(out, "{}", text::printable(&item.key)),
        Output::Json => {
            let mut object = Map::new();
            text::insert(&mut object, "key", &item.key);
            if values {
                text::insert(&mut object, "value", &item.value.data);
            }
            object.insert("version".to_owned(), item.value.version.into());
            writeln!(out, "{}", serde_json::Value::from(object))
        }
    }
}

/// Goes through all keys of the client's namespace, shard by shard, a page in memory at a time, until `visit` says
/// that it has enough. A shard may be cut in two meanwhile: so the next one begins where this one ends by then.
pub(super) async fn walk(
    client: &Client,
    consistency: ReadConsistency,
    keys_only: bool,
    visit: &mut impl AsyncFnMut(Vec<ScanItem>) -> Result<bool>,
) -> Result<()> {
    let mut slot = Some(0);
    while let Some(first) = slot {
        let shard = shard_with(client, |slots| slots.contains(first)).context("a slot without a shard")?.0;
        let mut next = Some(Bytes::copy_from_slice(&first.to_be_bytes()));
        while let Some(start) = next {
            let page = if keys_only {
                client.scan_keys(shard, start, None, PAGE_ITEMS, consistency).await?
            } else {
                client.scan(shard, start, None, PAGE_ITEMS, consistency).await?
            };
            if !visit(page.items).await? {
                return Ok(());
            }
            next = page.next;
        }
        let (_, slots) =
            shard_with(client, |slots| slots.contains(first)).context("a slot without a shard")?;
        slot = (slots.last + 1 < SLOT_COUNT).then_some(slots.last + 1);
    }
    Ok(())
}

/// A shard by its slots, as the client knows them now.
fn shard_with(client: &Client, wanted: impl Fn(&SlotRange) -> bool) -> Option<(u32, SlotRange)> {
    let map = client.cluster_map();
    let mut shards = map.shards.iter().filter_map(|shard| Some((shard.id, shard.slots?)));
    shards.find(|(_, slots)| wanted(slots))
}
