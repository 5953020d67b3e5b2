//! From the head of a request to what it asks for.

use bytes::Bytes;
use net::protocol::{ReadConsistency, WriteConsistency};
use percent_encoding::percent_decode_str;

use super::query::Query;
use super::reply::Problem;

/// The parts of a request's head that matter here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// `GET`, ….
    pub method: &'a str,
    /// The path, as sent.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: &'a str,
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `Origin`: the page that makes the request.
    pub origin: Option<&'a str>,
    /// `Host`.
    pub host: Option<&'a str>,
    /// `RingKV-Route`: what to do with a key that another node leads.
    pub ringkv_route: Option<&'a str>,
}

/// What is known of a route.
struct Entry {
    path: &'static str,
    /// Beside `OPTIONS`, and `HEAD` wherever there is `GET`.
    methods: &'static [&'static str],
    /// Whether pages of other nodes, or of anybody, may read it. Data are not for them.
    open: bool,
}

const ENTRIES: &[Entry] = &[
    Entry { path: "/", methods: &["GET"], open: true },
    Entry { path: "/openapi.json", methods: &["GET"], open: true },
    Entry { path: "/health", methods: &["GET"], open: true },
    Entry { path: "/ready", methods: &["GET"], open: true },
    Entry { path: "/status", methods: &["GET"], open: true },
    Entry { path: "/metrics", methods: &["GET"], open: true },
    Entry { path: "/v1/cluster", methods: &["GET"], open: true },
    Entry { path: "/get", methods: &["GET"], open: false },
    Entry { path: "/set", methods: &["POST"], open: false },
    Entry { path: "/delete", methods: &["DELETE"], open: false },
    Entry { path: "/raft/read", methods: &["GET"], open: false },
    Entry { path: "/raft/write", methods: &["POST"], open: false },
    Entry { path: "/v1/scan", methods: &["GET"], open: false },
    Entry { path: KV, methods: &["GET", "PUT", "DELETE"], open: false },
];

/// What follows is the key.
const KV: &str = "/v1/kv/";
/// Namespaces there are.
const NAMESPACES: u32 = 16;
/// Keys of a scan when nothing is said, and at most.
const SCAN_LIMIT: u32 = 100;
const SCAN_LIMIT_MAX: u32 = 1000;

/// A key to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its key space.
    pub namespace: u8,
    /// The key.
    pub key: Bytes,
    /// How fresh the answer must be.
    pub consistency: ReadConsistency,
}

/// What a change requires of the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key has this version.
    Version(u64),
}

/// How a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The key space.
    pub namespace: u8,
    /// When it counts as done.
    pub consistency: WriteConsistency,
    /// Milliseconds until the key expires.
    pub ttl_ms: Option<u64>,
    /// What must hold.
    pub condition: Condition,
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The key space.
    pub namespace: u8,
    /// What wanted keys begin with.
    pub prefix: Bytes,
    /// Where to begin, in the cluster's order: the slot and the key.
    pub from: Option<(u16, Bytes)>,
    /// Most keys of the answer.
    pub limit: u32,
    /// Whether values are wanted.
    pub values: bool,
    /// How fresh the answer must be.
    pub consistency: ReadConsistency,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Page,
    /// `/openapi.json`
    OpenApi,
    /// `/health`
    Health,
    /// `/ready`
    Ready,
    /// `/status`
    Status,
    /// `/metrics`
    Metrics,
    /// `/v1/cluster`
    Cluster,
    /// `/get` and `/raft/read`: a value as JSON.
    GetJson(Read),
    /// `/v1/kv/…`: a value as it is; the version the client has already.
    GetRaw(Read, Option<u64>),
    /// `/set`: the body says what.
    SetJson,
    /// `/raft/write`: the body says what.
    SetForm,
    /// `/v1/kv/…`: the body is the value.
    PutRaw(Bytes, WriteOptions),
    /// `/delete`
    DeleteJson(Bytes, WriteOptions),
    /// `/v1/kv/…`
    DeleteRaw(Bytes, WriteOptions),
    /// `/v1/scan`
    Scan(Scan),
    /// What may be done there.
    Options(String),
}

impl Route {
    /// The key, and how fresh it must be, where the head of the request names one. Changes are for the leader.
    pub fn key(&self) -> Option<(&Bytes, ReadConsistency)> {
        match self {
            Route::GetJson(read) | Route::GetRaw(read, _) => Some((&read.key, read.consistency)),
            Route::PutRaw(key, _) | Route::DeleteJson(key, _) | Route::DeleteRaw(key, _) => {
                Some((key, ReadConsistency::Linearizable))
            }
            _ => None,
        }
    }
}

/// A route, and who may read the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// What is asked for.
    pub route: Route,
    /// Whether pages from elsewhere may read the answer.
    pub open: bool,
    /// Whether the client goes to the node that leads a key by itself, when told which.
    pub redirect: bool,
}

/// Finds out what a request asks for.
pub fn route(head: &Head<'_>) -> Result<Routed, Problem> {
    let Some(entry) = number_of(head.path).map(|number| &ENTRIES[number]) else {
        let message = format!("there is nothing at {}; /openapi.json lists what there is", head.path);
        return Err(Problem::new(404, "no_route", message));
    };
    let open = entry.open;
    if !open && let Some(origin) = head.origin.filter(|origin| !is_own(origin, head.host)) {
        let message = format!("pages of {origin} may not touch the data; make the request from elsewhere");
        return Err(Problem::new(403, "foreign_origin", message));
    }
    let redirect = match head.ringkv_route {
        None | Some("proxy") => false,
        Some("redirect") => true,
        Some(_) => return Err(Problem::invalid("`RingKV-Route` is one of: proxy, redirect")),
    };
    if head.method == "OPTIONS" {
        return Ok(Routed { route: Route::Options(allowed(entry)), open, redirect });
    }
    let method = if head.method == "HEAD" { "GET" } else { head.method };
    if !entry.methods.contains(&method) {
        let message = format!("{} is not for {}; use {}", head.method, entry.path, entry.methods.join(", "));
        return Err(Problem::new(405, "wrong_method", message).with("allow", allowed(entry)));
    }
    Ok(Routed { route: routed(entry.path, method, head)?, open, redirect })
}

/// Whether a page was loaded from this very door.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == host
}

fn allowed(entry: &Entry) -> String {
    let head = if entry.methods.contains(&"GET") { ", HEAD" } else { "" };
    format!("{}{head}, OPTIONS", entry.methods.join(", "))
}

fn routed(path: &'static str, method: &str, head: &Head<'_>) -> Result<Route, Problem> {
    let nothing = |route: Route| Query::parse(head.query.as_bytes(), &[]).map(|_| route);
    match path {
        // Addresses of pages get decorated on their way.
        "/" => Ok(Route::Page),
        "/openapi.json" => nothing(Route::OpenApi),
        "/health" => nothing(Route::Health),
        "/ready" => nothing(Route::Ready),
        "/status" => nothing(Route::Status),
        "/metrics" => nothing(Route::Metrics),
        "/v1/cluster" => nothing(Route::Cluster),
        "/set" => nothing(Route::SetJson),
        "/raft/write" => nothing(Route::SetForm),
        "/get" => {
            let query = Query::parse(head.query.as_bytes(), &["key", "consistency", "namespace"])?;
            read_of(query.need("key")?.clone(), &query).map(Route::GetJson)
        }
        "/raft/read" => {
            let query = Query::parse(head.query.as_bytes(), &["key"])?;
            read_of(query.need("key")?.clone(), &query).map(Route::GetJson)
        }
        "/delete" => {
            let query = Query::parse(head.query.as_bytes(), &["key", "consistency", "namespace"])?;
            let options = write_of(&query, Condition::None)?;
            Ok(Route::DeleteJson(query.need("key")?.clone(), options))
        }
        "/v1/scan" => scan_of(head.query).map(Route::Scan),
        _ => kv_of(method, head),
    }
}

fn kv_of(method: &str, head: &Head<'_>) -> Result<Route, Problem> {
    let key: Bytes = percent_decode_str(&head.path[KV.len()..]).collect::<Vec<u8>>().into();
    if key.is_empty() {
        return Err(Problem::invalid("the key is missing: /v1/kv/KEY, percent-encoded"));
    }
    if method == "GET" {
        let query = Query::parse(head.query.as_bytes(), &["consistency", "namespace"])?;
        if head.if_match.is_some() {
            return Err(Problem::invalid("If-Match is for PUT and DELETE; reads take If-None-Match"));
        }
        // A tag that is none of ours matches nothing.
        let known = head.if_none_match.and_then(version_of);
        return Ok(Route::GetRaw(read_of(key, &query)?, known));
    }
    let condition = condition_of(head)?;
    if method == "DELETE" {
        let query = Query::parse(head.query.as_bytes(), &["consistency", "namespace"])?;
        return Ok(Route::DeleteRaw(key, write_of(&query, condition)?));
    }
    let query = Query::parse(head.query.as_bytes(), &["consistency", "namespace", "ttl"])?;
    Ok(Route::PutRaw(key, write_of(&query, condition)?))
}

fn condition_of(head: &Head<'_>) -> Result<Condition, Problem> {
    match (head.if_match, head.if_none_match) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Present),
        (Some(tag), None) => version_of(tag).map(Condition::Version).ok_or_else(|| {
            Problem::invalid(
                "If-Match takes one entity tag as this server gives them, such as \"42\", or * for any",
            )
        }),
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => {
            Err(Problem::invalid("If-None-Match of a change takes only *: the key must not exist"))
        }
        (Some(_), Some(_)) => Err(Problem::invalid("give If-Match or If-None-Match, not both")),
    }
}

fn version_of(tag: &str) -> Option<u64> {
    tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

fn read_of(key: Bytes, query: &Query) -> Result<Read, Problem> {
    Ok(Read { namespace: namespace(query)?, key, consistency: read_consistency(query)? })
}

fn write_of(query: &Query, condition: Condition) -> Result<WriteOptions, Problem> {
    let ttl = query.text("ttl")?.map(|text| text.parse::<f64>().unwrap_or(f64::NAN));
    write_options(namespace(query)?, query.text("consistency")?, ttl, condition)
}

/// The options of a change, checked against each other. `ttl` is in seconds.
pub fn write_options(
    namespace: u8,
    consistency: Option<&str>,
    ttl: Option<f64>,
    condition: Condition,
) -> Result<WriteOptions, Problem> {
    let consistency = match consistency {
        None | Some("strong") => WriteConsistency::Strong,
        Some("leader") => WriteConsistency::Leader,
        Some("eventual") => WriteConsistency::Eventual,
        Some(_) => {
            return Err(Problem::invalid("`consistency` of a write is one of: strong, leader, eventual"));
        }
    };
    if condition != Condition::None && consistency != WriteConsistency::Strong {
        return Err(Problem::invalid("a conditional change is strong: leave `consistency` out"));
    }
    let ttl_ms = ttl.map(ttl_ms).transpose()?;
    Ok(WriteOptions { namespace, consistency, ttl_ms, condition })
}

/// A thousand years: what lives longer needs no ttl.
const TTL_SECONDS_MAX: f64 = 31_556_952_000.0;

fn ttl_ms(seconds: f64) -> Result<u64, Problem> {
    if !(0.001..=TTL_SECONDS_MAX).contains(&seconds) {
        return Err(Problem::invalid("`ttl` is in seconds, from 0.001 to a thousand years"));
    }
    let ttl = std::time::Duration::from_secs_f64(seconds);
    Ok(u64::try_from(ttl.as_millis()).expect("at most a thousand years").max(1))
}

fn namespace(query: &Query) -> Result<u8, Problem> {
    let number = query.number("namespace", 0..=NAMESPACES - 1)?.unwrap_or(0);
    Ok(u8::try_from(number).expect("below 16"))
}

fn read_consistency(query: &Query) -> Result<ReadConsistency, Problem> {
    match query.text("consistency")? {
        None | Some("linearizable") => Ok(ReadConsistency::Linearizable),
        Some("follower") => Ok(ReadConsistency::Follower),
        Some("stale") => Ok(ReadConsistency::Stale),
        Some(_) => Err(Problem::invalid("`consistency` of a read is one of: linearizable, follower, stale")),
    }
}

fn scan_of(query: &str) -> Result<Scan, Problem> {
    let known = ["prefix", "start", "limit", "cursor", "values", "consistency", "namespace"];
    let query = Query::parse(query.as_bytes(), &known)?;
    // The query of the first page, with a cursor added, asks for the next.
    let from = match (query.get("cursor"), query.get("start")) {
        (Some(cursor), _) => Some(super::scan::position_of(cursor)?),
        (None, Some(start)) => Some((net::slot::slot_of(start), start.clone())),
        (None, None) => None,
    };
    let values = match query.text("values")? {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(Problem::invalid("`values` is true or false")),
    };
    Ok(Scan {
        namespace: namespace(&query)?,
        prefix: query.get("prefix").cloned().unwrap_or_default(),
        from,
        limit: query.number("limit", 1..=SCAN_LIMIT_MAX)?.unwrap_or(SCAN_LIMIT),
        values,
        consistency: read_consistency(&query)?,
    })
}

/// The paths of all routes; each counts for itself in the metrics.
pub fn paths() -> impl ExactSizeIterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.path)
}

/// Which of [`paths`] a path belongs to.
pub fn number_of(path: &str) -> Option<usize> {
    ENTRIES.iter().position(|entry| match entry.path {
        KV => path.starts_with(KV),
        known => path == known,
    })
}

/// All routes and their methods, for the test that compares them with the OpenAPI document.
#[cfg(test)]
pub fn all() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    ENTRIES.iter().map(|entry| (entry.path, entry.methods))
}
