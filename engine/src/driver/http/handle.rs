//! From a route to an answer: asks the shards through the gateway and puts what they say into words.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use net::protocol::{
    Access, Answer, Expected, Freshness, Mutation, MutationOutcome, Op, Program, ProgramCommand,
    ReadConsistency, ScanItem, Watched, WriteConsistency,
};
use net::slot::slot_of;
use net::types::Value;
use serde_json::{Map, json};

use super::super::gateway::{Gateway, GatewayError, Mode};
use super::Door;
use super::payload;
use super::redirect::Wish;
use crate::http::body::{self, Set};
use crate::http::metrics::{self, NodeFacts};
use crate::http::reply::{self, Problem, Reply, etag};
use crate::http::route::{Condition, Read, Route, Scan, WriteOptions};
use crate::http::{OPENAPI, PAGE, cluster, scan};

/// Attempts of a change that requires the key to exist, whatever its version.
const PRESENT_ATTEMPTS_MAX: u32 = 8;
/// Keys asked of a shard at a time.
const SCAN_PAGE: u32 = 1000;
/// A scan answers with what it has found by then.
const SCAN_TIME: Duration = Duration::from_millis(500);
const SCAN_BYTES: usize = 4 << 20;

/// What all bodies of a core may hold.
pub(super) fn held_max(gateway: &Gateway) -> usize {
    usize::try_from(gateway.config().limits.inflight_bytes_max).expect("64-bit machine")
}

/// Answers a request.
pub(super) async fn handle(
    gateway: &Gateway,
    door: &Rc<Door>,
    route: Route,
    body: Incoming,
    wish: Wish<'_>,
) -> Result<Reply, Problem> {
    let limits = &gateway.config().limits;
    let body_of = |bytes_max| payload::read(body, bytes_max, &door.held_bytes, held_max(gateway));
    match route {
        Route::Page => Ok(Reply::new(200, "text/html; charset=utf-8", PAGE)
            .with("content-security-policy", PAGE_POLICY)
            .with("x-content-type-options", "nosniff")),
        Route::OpenApi => Ok(Reply::new(200, reply::JSON, OPENAPI)),
        Route::Health => Ok(Reply::json(200, &json!({ "status": "ok", "node": gateway.config().node.id }))),
        Route::Ready => Ok(ready(gateway)),
        Route::Status => Ok(Reply::new(200, reply::JSON, gateway.status_json())),
        Route::Metrics => Ok(Reply::new(200, metrics::CONTENT_TYPE, metrics_of(gateway, door))),
        Route::Cluster => {
            let config = gateway.config();
            Ok(Reply::json(200, &cluster::describe(&gateway.map(), &config.cluster.id, config.node.id)))
        }
        Route::Options(methods) => {
            Ok(Reply::empty(204).with("allow", methods.clone()).with("access-control-allow-methods", methods))
        }
        Route::GetJson(read) => get_json(gateway, read).await,
        Route::GetRaw(read, known) => get_raw(gateway, read, known).await,
        Route::SetJson => {
            let bytes_max = body::json_bytes_max(limits.key_bytes_max, limits.value_bytes_max);
            let (body, _held) = body_of(bytes_max).await?;
            set(gateway, body::set_of_json(&body)?, wish).await
        }
        Route::SetForm => {
            let bytes_max = body::form_bytes_max(limits.key_bytes_max, limits.value_bytes_max);
            let (body, _held) = body_of(bytes_max).await?;
            set(gateway, body::set_of_form(&body)?, wish).await
        }
        Route::PutRaw(key, options) => {
            let (value, _held) = body_of(limits.value_bytes_max).await?;
            let version = write(gateway, &key, Some(value), options).await?.version()?;
            Ok(Reply::json(200, &json!({ "version": version })).with("etag", etag(version)))
        }
        Route::DeleteJson(key, options) => {
            let deleted = match write(gateway, &key, None, options).await? {
                Done::Removed(existed) => Some(existed),
                _ => None,
            };
            Ok(Reply::json(200, &json!({ "deleted": deleted })))
        }
        Route::DeleteRaw(key, options) => match write(gateway, &key, None, options).await? {
            Done::Removed(true) | Done::Stored(_) => Ok(Reply::empty(204)),
            Done::Removed(false) => Err(Problem::no_key()),
            Done::Accepted => Ok(Reply::json(202, &json!({ "accepted": true }))),
        },
        Route::Scan(wanted) => scan_pages(gateway, wanted).await,
    }
}

/// The page loads nothing, and asks only nodes for their accounts.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
    connect-src http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Ready is a node that knows a leader for every shard.
fn ready(gateway: &Gateway) -> Reply {
    let missing = cluster::leaderless(&gateway.map());
    match missing.is_empty() {
        true => Reply::json(200, &json!({ "ready": true })),
        false => Reply::json(503, &json!({ "ready": false, "shards_without_leader": missing }))
            .with("retry-after", "1"),
    }
}

fn metrics_of(gateway: &Gateway, door: &Door) -> String {
    let facts = NodeFacts {
        node: gateway.config().node.id,
        connections: gateway.connections(),
        resident_bytes: resident_bytes().unwrap_or(0),
        uptime_seconds: door.started.elapsed().as_secs_f64(),
    };
    metrics::render(&facts, &gateway.statuses(), &door.stores.borrow(), gateway.http_requests())
}

fn resident_bytes() -> Option<u64> {
    // A file of the kernel's memory: reading it does not wait.
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

async fn call(gateway: &Gateway, namespace: u8, shard: u32, op: Op) -> Result<Answer, Problem> {
    gateway.call(Mode::Proxy, namespace, shard, op).await.map_err(|error| problem_of(&error))
}

fn problem_of(error: &GatewayError) -> Problem {
    match error {
        GatewayError::Refused(refusal) => Problem::refused(refusal),
        GatewayError::Indeterminate { cause } => Problem::outcome_unknown(cause),
        GatewayError::TimedOut { last } => Problem::timed_out(last),
        GatewayError::NotHere { .. } => unexpected(),
    }
}

fn unexpected() -> Problem {
    Problem::new(500, "internal", "the answer of the shard does not fit the request; this is a bug")
}

async fn get(gateway: &Gateway, read: &Read) -> Result<(Option<Value>, Option<Freshness>), Problem> {
    let op = Op::Get { key: read.key.clone(), consistency: read.consistency };
    match call(gateway, read.namespace, gateway.shard_of_key(&read.key), op).await? {
        Answer::Value { value, freshness } => Ok((value, freshness)),
        _ => Err(unexpected()),
    }
}

async fn get_json(gateway: &Gateway, read: Read) -> Result<Reply, Problem> {
    let (value, freshness) = get(gateway, &read).await?;
    let value = value.ok_or_else(Problem::no_key)?;
    let mut fields = Map::new();
    scan::put_bytes(&mut fields, "key", &read.key);
    scan::put_bytes(&mut fields, "value", &value.data);
    fields.insert("version".to_owned(), value.version.into());
    if let Some(Freshness { applied_index, lag_ms }) = freshness {
        let lag_ms = (lag_ms != u64::MAX).then_some(lag_ms);
        fields.insert("freshness".to_owned(), json!({ "applied_index": applied_index, "lag_ms": lag_ms }));
    }
    Ok(Reply::json(200, &serde_json::Value::Object(fields)))
}

async fn get_raw(gateway: &Gateway, read: Read, known: Option<u64>) -> Result<Reply, Problem> {
    let (value, freshness) = get(gateway, &read).await?;
    let value = value.ok_or_else(Problem::no_key)?;
    let reply = match known == Some(value.version) {
        true => Reply::empty(304),
        false => Reply::new(200, reply::BINARY, value.data),
    };
    let mut reply = reply.with("etag", etag(value.version)).with("x-content-type-options", "nosniff");
    if let Some(Freshness { applied_index, lag_ms }) = freshness {
        reply = reply.with("ringkv-applied-index", applied_index.to_string());
        if lag_ms != u64::MAX {
            reply = reply.with("ringkv-lag-ms", lag_ms.to_string());
        }
    }
    Ok(reply)
}

async fn set(gateway: &Gateway, set: Set, wish: Wish<'_>) -> Result<Reply, Problem> {
    wish.redirect(gateway, &set.key, ReadConsistency::Linearizable)?;
    let version = write(gateway, &set.key, Some(set.value), set.options).await?.version()?;
    Ok(Reply::json(200, &json!({ "ok": true, "version": version })))
}

/// What a change did.
enum Done {
    /// The value, or the removal that a condition asked for, has this version.
    Stored(u64),
    /// Whether the key existed.
    Removed(bool),
    /// In the log; what it does there is not known yet.
    Accepted,
}

impl Done {
    fn version(&self) -> Result<u64, Problem> {
        match self {
            Done::Stored(version) => Ok(*version),
            _ => Err(unexpected()),
        }
    }
}

/// Stores a value, or removes the key.
async fn write(
    gateway: &Gateway,
    key: &Bytes,
    value: Option<Bytes>,
    options: WriteOptions,
) -> Result<Done, Problem> {
    let swap = |expected| swap(gateway, key, value.clone(), options, expected);
    let mutation = match (options.condition, value.clone()) {
        (Condition::None, Some(value)) => Mutation::Put { key: key.clone(), value, ttl_ms: options.ttl_ms },
        (Condition::None, None) => Mutation::Delete { key: key.clone() },
        (Condition::Absent, _) => return swap(Expected::Absent).await?.map_err(Problem::mismatch),
        (Condition::Version(version), _) => {
            return swap(Expected::Version(version)).await?.map_err(Problem::mismatch);
        }
        (Condition::Present, _) => {
            for _ in 0..PRESENT_ATTEMPTS_MAX {
                let consistency = ReadConsistency::Linearizable;
                let read = Read { namespace: options.namespace, key: key.clone(), consistency };
                let version = get(gateway, &read).await?.0.ok_or_else(|| Problem::mismatch(None))?.version;
                match swap(Expected::Version(version)).await? {
                    Ok(done) => return Ok(done),
                    Err(_changed_meanwhile) => {}
                }
            }
            let message = "other writers change the key all the time; try again";
            return Err(Problem::new(409, "conflict", message));
        }
    };
    mutate(gateway, key, options, mutation).await?.map_err(Problem::mismatch)
}

/// Makes a change if the key is as expected; else the version found.
async fn swap(
    gateway: &Gateway,
    key: &Bytes,
    new: Option<Bytes>,
    options: WriteOptions,
    expected: Expected,
) -> Result<Result<Done, Option<u64>>, Problem> {
    let (Some(value), Some(ttl_ms)) = (&new, options.ttl_ms) else {
        let swap = Mutation::CompareAndSwap { key: key.clone(), expected, new };
        return mutate(gateway, key, options, swap).await;
    };
    // A compare-and-swap knows no time to live, but a program that watches the version does.
    let version = if let Expected::Version(version) = expected { version } else { 0 };
    let namespace = options.namespace;
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let args = vec![word("SET"), key.clone(), value.clone(), word("PX"), ttl_ms.to_string().into()];
    let program = Program {
        slot: slot_of(key),
        watched: vec![Watched { namespace, key: key.clone(), version }],
        commands: vec![ProgramCommand { namespace, args }],
    };
    let op = Op::Execute { program, consistency: Access::Write(WriteConsistency::Strong) };
    match call(gateway, namespace, gateway.shard_of_key(key), op).await? {
        Answer::Executed { index, replies: Some(replies), .. } if replies.starts_with(b"+") => {
            Ok(Ok(Done::Stored(index)))
        }
        Answer::Executed { replies: None, .. } => {
            let read = Read { namespace, key: key.clone(), consistency: ReadConsistency::Linearizable };
            Ok(Err(get(gateway, &read).await?.0.map(|found| found.version)))
        }
        _ => Err(unexpected()),
    }
}

/// Makes one change; the version found when its condition does not hold.
async fn mutate(
    gateway: &Gateway,
    key: &Bytes,
    options: WriteOptions,
    mutation: Mutation,
) -> Result<Result<Done, Option<u64>>, Problem> {
    let is_put = matches!(mutation, Mutation::Put { .. });
    let WriteOptions { namespace, consistency, .. } = options;
    let op = Op::Write { session: None, consistency, mutations: vec![mutation] };
    let answer = call(gateway, namespace, gateway.shard_of_key(key), op).await?;
    let Answer::Written { index, outcomes } = answer else { return Err(unexpected()) };
    Ok(Ok(match outcomes[..] {
        [MutationOutcome::Put { version } | MutationOutcome::Swapped { version }] => Done::Stored(version),
        [MutationOutcome::Deleted { existed }] => Done::Removed(existed),
        [MutationOutcome::NotSwapped { current }] => return Ok(Err(current)),
        // The version of a blind write is its place in the log.
        [MutationOutcome::Accepted] if is_put => Done::Stored(index),
        [MutationOutcome::Accepted] if consistency != WriteConsistency::Strong => Done::Accepted,
        _ => return Err(unexpected()),
    }))
}

/// Walks over the shards until there is a page, or time is up; says where to go on.
async fn scan_pages(gateway: &Gateway, wanted: Scan) -> Result<Reply, Problem> {
    let begun = Instant::now();
    let (mut slot, mut key) = wanted.from.clone().unwrap_or_default();
    let (mut items, mut bytes) = (Vec::new(), 0);
    let limit = usize::try_from(wanted.limit).expect("64-bit machine");
    let next = loop {
        let shard = gateway.shard_of_slot(slot);
        let page = if wanted.prefix.is_empty() {
            wanted.limit - u32::try_from(items.len()).expect("at most the limit")
        } else {
            SCAN_PAGE
        };
        let start = scan::wire_position(slot, &key);
        let op = Op::Scan {
            start: start.clone(),
            end: None,
            limit: page,
            consistency: wanted.consistency,
            keys_only: !wanted.values,
        };
        let answer = call(gateway, wanted.namespace, shard, op).await?;
        let Answer::Scan { items: found, next, .. } = answer else { return Err(unexpected()) };
        let position =
            next.or_else(|| gateway.behind_shard(shard, &start, found.last().map(|item| &item.key)));
        for item in found.into_iter().filter(|item| item.key.starts_with(&wanted.prefix)) {
            bytes += item.key.len() + item.value.data.len();
            items.push(item);
            if items.len() == limit {
                break;
            }
        }
        if items.len() == limit {
            let last: &ScanItem = items.last().expect("limits are at least 1");
            break Some(scan::position_after(&last.key));
        }
        let Some(position) = position else { break None };
        if bytes >= SCAN_BYTES || begun.elapsed() >= SCAN_TIME {
            break Some(position);
        }
        let (head, rest) = position.split_first_chunk::<2>().ok_or_else(unexpected)?;
        (slot, key) = (u16::from_be_bytes(*head), Bytes::copy_from_slice(rest));
    };
    let items: Vec<_> = items.iter().map(|item| scan::item(item, wanted.values)).collect();
    let cursor = next.map(|position| scan::cursor_of(&position));
    Ok(Reply::json(200, &json!({ "items": items, "cursor": cursor })))
}
