//! Heads, parameters and bodies; and that the OpenAPI document lists the routes there are.

use std::time::Duration;

use bytes::Bytes;
use net::protocol::{ReadConsistency, Refusal, WriteConsistency};

use super::body::{set_of_form, set_of_json};
use super::redirect::Elsewhere;
use super::reply::Problem;
use super::requests::Requests;
use super::route::{self, Condition, Head, Read, Route, Routed};
use super::{OPENAPI, PAGE, cluster, metrics, scan};
use crate::http;

fn head<'a>(method: &'a str, target: &'a str) -> Head<'a> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Head { method, path, query, ..Head::default() }
}

fn routed(method: &str, target: &str) -> Result<Route, Problem> {
    route::route(&head(method, target)).map(|Routed { route, .. }| route)
}

/// Status and message of what is refused.
fn refusal(method: &str, target: &str) -> (u16, String) {
    let reply = routed(method, target).expect_err("must be refused").into_reply();
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    (reply.status, body["message"].as_str().unwrap().to_owned())
}

#[test]
fn keys_of_an_address_are_bytes() {
    let key = |target| match routed("GET", target) {
        Ok(Route::GetJson(Read { key, .. }) | Route::GetRaw(Read { key, .. }, _)) => key,
        other => panic!("{target}: {other:?}"),
    };
    assert_eq!(key("/get?key=a%20b+c%ff%00"), Bytes::from_static(b"a b c\xff\0"));
    assert_eq!(key("/raft/read?key="), Bytes::new());
    assert_eq!(key("/v1/kv/a/b%2Fc+d%ff"), Bytes::from_static(b"a/b/c+d\xff"));
    assert_eq!(key("/get?&key=%zz%4"), Bytes::from_static(b"%zz%4"));
}

#[test]
fn what_does_not_fit_a_route_is_refused_with_what_does() {
    let cases = [
        ("GET", "/nowhere", 404, "/openapi.json"),
        ("POST", "/get?key=a", 405, "use GET"),
        ("GET", "/v1/kv/", 400, "/v1/kv/KEY"),
        ("GET", "/get", 400, "`key` is missing"),
        ("GET", "/get?key=a&key=b", 400, "twice"),
        ("GET", "/get?key=a&ttl=5", 400, "consistency"),
        ("GET", "/get?key=a&consistency=strong", 400, "linearizable"),
        ("GET", "/get?key=a&namespace=16", 400, "0 to 15"),
        ("PUT", "/v1/kv/a?consistency=stale", 400, "eventual"),
        ("PUT", "/v1/kv/a?ttl=0", 400, "seconds"),
        ("PUT", "/v1/kv/a?ttl=NaN", 400, "seconds"),
        ("PUT", "/v1/kv/a?ttl=1e300", 400, "seconds"),
        ("GET", "/v1/scan?limit=1001", 400, "1 to 1000"),
        ("GET", "/v1/scan?cursor=!!", 400, "begin again"),
        ("GET", "/v1/scan?cursor=__8&start=a", 400, "begin again"),
        ("GET", "/health?verbose=1", 400, "takes none"),
    ];
    for (method, target, status, words) in cases {
        let (actual, message) = refusal(method, target);
        assert!(actual == status && message.contains(words), "{target}: {actual} {message}");
    }
}

#[test]
fn conditions_are_versions() {
    let put = |if_match, if_none_match| match route::route(&Head {
        if_match,
        if_none_match,
        ..head("PUT", "/v1/kv/a")
    }) {
        Ok(Routed { route: Route::PutRaw(_, options), .. }) => Some(options.condition),
        _ => None,
    };
    assert_eq!(put(None, None), Some(Condition::None));
    assert_eq!(put(Some("\"7\""), None), Some(Condition::Version(7)));
    assert_eq!(put(Some("*"), None), Some(Condition::Present));
    assert_eq!(put(None, Some("*")), Some(Condition::Absent));
    for (if_match, if_none_match) in
        [(Some("7"), None), (Some("\"a\""), None), (None, Some("\"7\"")), (Some("*"), Some("*"))]
    {
        assert_eq!(put(if_match, if_none_match), None, "{if_match:?} {if_none_match:?}");
    }
    let with_ttl = Head { if_match: Some("*"), ..head("PUT", "/v1/kv/a?ttl=5") };
    let Ok(Routed { route: Route::PutRaw(_, options), .. }) = route::route(&with_ttl) else { panic!() };
    assert_eq!((options.ttl_ms, options.condition), (Some(5000), Condition::Present));
    let known = Head { if_none_match: Some("\"9\""), ..head("GET", "/v1/kv/a?consistency=stale") };
    let Ok(Routed { route: Route::GetRaw(read, Some(9)), .. }) = route::route(&known) else { panic!() };
    assert_eq!(read.consistency, ReadConsistency::Stale);
}

#[test]
fn clients_may_wish_to_be_sent_to_the_leader() {
    let wish = |ringkv_route| {
        let asked = Head { ringkv_route, ..head("PUT", "/v1/kv/a") };
        route::route(&asked).map(|routed| routed.redirect).map_err(|problem| problem.into_reply().status)
    };
    assert_eq!([None, Some("proxy"), Some("redirect")].map(wish), [Ok(false), Ok(false), Ok(true)]);
    assert_eq!(wish(Some("nearest")), Err(400));
    // Which key, and who may answer, is known without the body.
    let key = |method, target| {
        let route = routed(method, target).unwrap();
        route.key().map(|(key, consistency)| (key.clone(), consistency))
    };
    let a = Bytes::from("a");
    assert_eq!(key("GET", "/v1/kv/a?consistency=stale"), Some((a.clone(), ReadConsistency::Stale)));
    assert_eq!(key("PUT", "/v1/kv/a?consistency=eventual"), Some((a.clone(), ReadConsistency::Linearizable)));
    assert_eq!(key("DELETE", "/delete?key=a"), Some((a, ReadConsistency::Linearizable)));
    assert_eq!(key("GET", "/v1/scan"), None);
}

#[test]
fn a_redirection_keeps_the_address_and_is_a_header_whatever_it_holds() {
    let elsewhere = Elsewhere { shard: 7, epoch: 12, leader: 3, address: "10.0.0.3:8080" };
    let reply = elsewhere.redirection("/v1/kv/a%20b/\u{e9}\r\n?ttl=5").into_reply();
    assert_eq!(reply.status, 307);
    let expected = [
        ("location", "http://10.0.0.3:8080/v1/kv/a%20b/%C3%A9%0D%0A?ttl=5"),
        ("ringkv-shard", "7"),
        ("ringkv-leader", "3"),
        ("ringkv-epoch", "12"),
    ];
    assert_eq!(reply.headers, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn pages_from_elsewhere_read_accounts_and_no_data() {
    let from = |origin, target| {
        route::route(&Head { origin: Some(origin), host: Some("127.0.0.1:8081"), ..head("GET", target) })
    };
    assert!(from("http://evil.example", "/status").is_ok_and(|it| it.open));
    assert!(from("http://127.0.0.1:8081", "/get?key=a").is_ok_and(|it| !it.open));
    for origin in ["http://evil.example", "null", "http://127.0.0.1:8082"] {
        let refused = from(origin, "/get?key=a").expect_err("data are not for pages from elsewhere");
        assert_eq!(refused.into_reply().status, 403);
    }
}

#[test]
fn bodies_name_a_key_and_a_value() {
    let set =
        set_of_json(br#"{"key": "k\u00e9", "value_base64": "/wA=", "ttl": 1.5, "consistency": "leader"}"#);
    let set = set.unwrap();
    assert_eq!((set.key, set.value), (Bytes::from("k\u{e9}"), Bytes::from_static(b"\xff\0")));
    assert_eq!((set.options.ttl_ms, set.options.consistency), (Some(1500), WriteConsistency::Leader));
    let wrong: [&[u8]; 7] = [
        b"",
        b"[]",
        br#"{"key": "a"}"#,
        br#"{"key": "a", "value": 5}"#,
        br#"{"key": "a", "value": "b", "value_base64": ""}"#,
        br#"{"key": "a", "value": "b", "tll": 5}"#,
        br#"{"key": "a", "value": "b", "namespace": 16}"#,
    ];
    for body in wrong {
        assert!(set_of_json(body).is_err(), "{}", String::from_utf8_lossy(body));
    }
    let form = set_of_form(b"key=a%3Db&value=1+2").unwrap();
    assert_eq!((form.key, form.value), (Bytes::from("a=b"), Bytes::from("1 2")));
    assert!(set_of_form(b"key=a").is_err());
}

#[test]
fn cursors_lead_back_to_where_they_were_made() {
    let position = scan::position_after(b"key\xff");
    let (slot, key) = scan::position_of(scan::cursor_of(&position).as_bytes()).unwrap();
    assert_eq!((slot, key), (net::slot::slot_of(b"key\xff"), Bytes::from_static(b"key\xff\0")));
    // Slot 65535 does not exist.
    assert!(scan::position_of(scan::cursor_of(&[255, 255]).as_bytes()).is_err());
}

#[test]
fn refusals_say_whether_to_try_again() {
    let busy = Problem::refused(&Refusal::Busy { retry_after_ms: 5 }).into_reply();
    assert!(busy.status == 503 && busy.headers.iter().any(|(name, _)| *name == "retry-after"));
    let unknown = Problem::outcome_unknown("the leader fell silent").into_reply();
    assert!(unknown.status == 504 && !unknown.headers.iter().any(|(name, _)| *name == "retry-after"));
}

#[test]
fn the_openapi_document_lists_the_routes_there_are() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let listed: Vec<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(|method| (path.replace("{key}", ""), method.to_uppercase()))
        })
        .collect();
    let mut known = 0;
    for (path, methods) in route::all() {
        for method in methods {
            known += 1;
            assert!(
                listed.contains(&(path.to_owned(), (*method).to_owned())),
                "{method} {path} is not listed"
            );
        }
    }
    assert_eq!(listed.len(), known, "the document lists what is not there");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn metrics_are_one_family_after_the_other() {
    let core = crate::core::CoreStatus { core: 1, inflight_bytes: 77, ..Default::default() };
    let facts = metrics::NodeFacts { node: 3, ..Default::default() };
    let requests = Requests::default();
    for (path, status, ms) in [("/get", 200, 3), ("/get", 404, 5), ("/v1/kv/a", 200, 1), ("/nowhere", 404, 1)]
    {
        requests.record(path, status, Duration::from_millis(ms));
    }
    let stores = [(5, crate::store::StoreStats::default())].into();
    let text = metrics::render(&facts, &[core], &stores, &requests);
    for line in [
        "ringkv_http_requests_total{route=\"/get\",status=\"2xx\"} 1",
        "ringkv_http_requests_total{route=\"/get\",status=\"4xx\"} 1",
        "ringkv_http_requests_total{route=\"/v1/kv/\",status=\"2xx\"} 1",
        "ringkv_http_requests_total{route=\"other\",status=\"4xx\"} 1",
        "ringkv_http_request_seconds_bucket{route=\"/get\",le=\"0.002048\"} 0",
        "ringkv_http_request_seconds_bucket{route=\"/get\",le=\"0.004096\"} 1",
        "ringkv_http_request_seconds_bucket{route=\"/get\",le=\"+Inf\"} 2",
        "ringkv_http_request_seconds_sum{route=\"/get\"} 0.008",
        "ringkv_http_request_seconds_count{route=\"/get\"} 2",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    assert!(!text.contains("route=\"/set\""), "what nobody asked takes no room");
    assert!(text.contains("\nringkv_inflight_bytes{core=\"1\"} 77\n"), "{text}");
    assert!(text.contains("\nringkv_store_table_bytes{shard=\"5\"} 0\n"), "{text}");
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_family =
                ["", "_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"));
            assert!(of_family, "{line} is not of the family {family}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    for word in ["src=\"http", "href=\"http", "@import", "url(http", "//cdn"] {
        assert!(!PAGE.contains(word), "{word}");
    }
    assert!(PAGE.starts_with("<!doctype html>"));
}

#[test]
fn shards_without_a_leader_are_named() {
    let shard = |id, leader| net::map::ShardInfo {
        id,
        slots: None,
        replicas: Vec::new(),
        leader,
        ..Default::default()
    };
    let map =
        net::map::ClusterMap { epoch: 1, nodes: Vec::new(), shards: vec![shard(0, Some(1)), shard(1, None)] };
    assert_eq!(cluster::leaderless(&map), [1]);
    assert_eq!(cluster::describe(&map, "c", 1)["shards"][1]["leader"], serde_json::Value::Null);
}

#[path = "../../../net/fuzz/http_target.rs"]
mod http_target;

/// The inputs the fuzzer has found worth keeping, and those that once broke something (tools/fuzz).
#[test]
fn what_the_fuzzer_kept_does_no_harm() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../net/fuzz/corpus/http_requests");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        eprintln!("{}", path.display());
        http_target::http_requests(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 5, "the corpus is as good as empty");
}
