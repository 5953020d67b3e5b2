//! The HTTP door of real nodes: every route, through any node and through a change of leader; what clients get wrong,
//! and clients that are slow on purpose.

#[path = "http/client.rs"]
mod client;
#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::{Http, Response, percent_encode};
use harness::{Cluster, MIB, Settings, until};
use serde_json::{Value, json};

/// An answer on loopback comes within this, an election included.
const SOON: Duration = Duration::from_secs(20);

fn open(cluster: &Cluster, node: u64) -> Http {
    Http::connect(cluster.node(node).http, SOON)
}

/// Path below `/v1/kv/` of a key.
fn kv(key: &[u8]) -> String {
    format!("/v1/kv/{}", percent_encode(key))
}

#[track_caller]
fn expect(response: &Response, status: u16, words: &str) {
    let body = String::from_utf8_lossy(&response.body);
    assert!(
        response.status == status && body.contains(words),
        "{status} `{words}`: {} {body}",
        response.status
    );
}

#[test]
fn every_route_answers_as_its_document_says() {
    let cluster = Cluster::start(Settings { cores: 2, ..Settings::default() });
    let document = open(&cluster, 1).get("/openapi.json").json();
    let mut checked = client::Checked::new(&document);
    let mut http = open(&cluster, 2);
    let form = ("content-type", "application/x-www-form-urlencoded");
    // Each request may be answered by any node, so keys of all shards are written and read.
    for number in 0..20 {
        let (key, value) = (format!("key {number}"), format!("value {number}"));
        let set = json!({ "key": key, "value": value, "ttl": 500 });
        let stored = checked.request(&mut http, "POST", "/set", &[], set.to_string().as_bytes());
        expect(&stored, 200, "\"ok\":true");
        let read = checked.request(&mut http, "GET", &format!("/get?key=key+{number}"), &[], b"");
        assert_eq!(read.json()["value"], value);
        let body = format!("key=raft{number}&value=%ff{number}");
        expect(&checked.request(&mut http, "POST", "/raft/write", &[form], body.as_bytes()), 200, "true");
        let read = checked.request(&mut http, "GET", &format!("/raft/read?key=raft{number}"), &[], b"");
        assert!(read.json()["value_base64"].is_string(), "{read:?}");
    }
    expect(&checked.request(&mut http, "GET", "/get?key=nothing", &[], b""), 404, "no_key");
    let stale = checked.request(&mut http, "GET", "/get?key=key+1&consistency=stale", &[], b"").json();
    assert!(stale["freshness"]["applied_index"].as_u64().is_some_and(|index| index > 0), "{stale}");
    let deleted = checked.request(&mut http, "DELETE", "/delete?key=key+3", &[], b"").json();
    assert_eq!(deleted, json!({ "deleted": true }));
    let deleted = checked.request(&mut http, "DELETE", "/delete?key=key+3", &[], b"").json();
    assert_eq!(deleted, json!({ "deleted": false }));
    expect(&checked.request(&mut http, "GET", "/v1/cluster", &[], b""), 200, "\"cluster\":\"tested\"");
    expect(&checked.request(&mut http, "GET", "/health", &[], b""), 200, "\"node\":2");
    expect(&checked.request(&mut http, "GET", "/status", &[], b""), 200, "\"cores\"");
    expect(&checked.request(&mut http, "GET", "/", &[], b""), 200, "<!doctype html>");
    until("the node to be ready", SOON, || match http.get("/ready").status {
        200 => Ok(()),
        status => Err(format!("{status}")),
    });
    expect(&checked.request(&mut http, "GET", "/ready", &[], b""), 200, "true");
    let metrics = checked.request(&mut http, "GET", "/metrics", &[], b"");
    for name in [
        "ringkv_requests_total{core=\"1\"} ",
        "ringkv_shard_committed_index{core=\"0\",shard=\"2\"} ",
        "ringkv_http_requests_total{route=\"/delete\",status=\"2xx\"} ",
        "ringkv_http_request_seconds_count{route=\"/delete\"} ",
    ] {
        expect(&metrics, 200, name);
    }
    assert_eq!(checked.request(&mut http, "GET", "/openapi.json", &[], b"").json(), document);
    checked_kv(&mut checked, &mut http);
    checked.all_were_used(&["/v1/scan"]);
}

fn checked_kv(checked: &mut client::Checked, http: &mut Http) {
    let path = kv(b"a/b\xff");
    let stored = checked.request(http, "PUT", &path, &[], b"one\0\xff");
    let version = stored.header("etag").expect("a version").to_owned();
    let read = checked.request(http, "GET", &path, &[], b"");
    assert_eq!((read.status, &read.body[..], read.header("etag")), (200, &b"one\0\xff"[..], Some(&*version)));
    let known = checked.request(http, "GET", &path, &[("if-none-match", &version)], b"");
    assert_eq!((known.status, known.body.len()), (304, 0));
    // Compare-and-swap.
    expect(&checked.request(http, "PUT", &path, &[("if-none-match", "*")], b"two"), 412, "mismatch");
    let swapped = checked.request(http, "PUT", &path, &[("if-match", &version)], b"two");
    let newer = swapped.header("etag").expect("a version").to_owned();
    let late = checked.request(http, "PUT", &path, &[("if-match", &version)], b"three");
    assert_eq!((late.status, late.header("etag")), (412, Some(&*newer)));
    assert_eq!(checked.request(http, "PUT", &path, &[("if-match", "*")], b"four").status, 200);
    // With a time to live.
    let passing = format!("{path}?ttl=300");
    let late = checked.request(http, "PUT", &passing, &[("if-match", &version)], b"five");
    assert_eq!((late.status, late.header("etag").is_some()), (412, true));
    let current = late.header("etag").expect("a version").to_owned();
    let swapped = checked.request(http, "PUT", &passing, &[("if-match", &current)], b"five");
    assert_eq!((swapped.status, swapped.header("etag").is_some()), (200, true));
    let read = checked.request(http, "GET", &path, &[], b"");
    assert_eq!((&read.body[..], read.header("etag")), (&b"five"[..], swapped.header("etag")));
    expect(&checked.request(http, "PUT", &passing, &[("if-none-match", "*")], b"six"), 412, "mismatch");
    assert_eq!(checked.request(http, "PUT", &passing, &[("if-match", "*")], b"six").status, 200);
    expect(&checked.request(http, "DELETE", &path, &[("if-match", &newer)], b""), 412, "mismatch");
    assert_eq!(checked.request(http, "DELETE", &path, &[], b"").status, 204);
    assert_eq!(checked.request(http, "DELETE", &path, &[], b"").status, 404);
    expect(&checked.request(http, "PUT", &path, &[("if-match", "*")], b"five"), 412, "does not exist");
    assert_eq!(checked.request(http, "PUT", &path, &[("if-none-match", "*")], b"six").status, 200);
    assert_eq!(
        checked.request(http, "DELETE", &format!("{path}?consistency=eventual"), &[], b"").status,
        202
    );
    let passing = kv(b"passing");
    let first = format!("{passing}?ttl=0.2");
    assert_eq!(checked.request(http, "PUT", &first, &[("if-none-match", "*")], b"x").status, 200);
    until("the key to expire", SOON, || match http.get(&passing).status {
        404 => Ok(()),
        status => Err(format!("{status}")),
    });
    // Namespaces are apart, and what has a ttl goes.
    assert_eq!(checked.request(http, "PUT", "/v1/kv/n?namespace=3&ttl=0.2", &[], b"x").status, 200);
    assert_eq!(checked.request(http, "GET", "/v1/kv/n", &[], b"").status, 404);
    until("the key to expire", SOON, || match http.get("/v1/kv/n?namespace=3").status {
        404 => Ok(()),
        status => Err(format!("{status}")),
    });
    let head = http.request("HEAD", &path, &[], b"");
    assert!(head.body.is_empty(), "{head:?}");
    let options = http.request("OPTIONS", &path, &[], b"");
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, PUT, DELETE, HEAD, OPTIONS")));
}

#[test]
fn a_scan_sees_every_key_once_page_by_page() {
    let cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    let mut http = open(&cluster, 1);
    let document = http.get("/openapi.json").json();
    let mut checked = client::Checked::new(&document);
    for number in 0..150 {
        let prefix = if number % 3 == 0 { "third" } else { "other" };
        assert_eq!(http.request("PUT", &format!("/v1/kv/{prefix}:{number}"), &[], b"v").status, 200);
    }
    let mut pages = |query: &str| {
        let (mut keys, mut cursor) = (Vec::new(), String::new());
        loop {
            let page =
                checked.request(&mut http, "GET", &format!("/v1/scan?{query}{cursor}"), &[], b"").json();
            for item in page["items"].as_array().expect("items") {
                keys.push(item["key"].as_str().expect("text").to_owned());
            }
            match &page["cursor"] {
                Value::String(next) => cursor = format!("&cursor={next}"),
                _ => return keys,
            }
        }
    };
    let distinct = |mut keys: Vec<String>| {
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "a key came twice");
        all
    };
    assert_eq!(distinct(pages("limit=7")), 150);
    assert_eq!(distinct(pages("limit=1000&values=false")), 150);
    assert_eq!(distinct(pages("limit=3&prefix=third:")), 50);
    assert_eq!(distinct(pages("limit=10&namespace=1")), 0);
    let in_order = pages("limit=1000");
    assert_eq!(pages(&format!("limit=40&start={}", in_order[60])), in_order[60..]);
}

/// Makes a request that asks to be redirected, and goes where it is sent; the answer, and how often it was sent on.
fn follow(
    checked: &mut client::Checked,
    doors: &mut BTreeMap<String, Http>,
    first: &str,
    (method, target, body): (&str, &str, &[u8]),
) -> (Response, usize) {
    let mut address = first.to_owned();
    for hops in 0..5 {
        let door = doors.get_mut(&address).unwrap_or_else(|| panic!("{address} is no node's door"));
        let answer = checked.request(door, method, target, &[("ringkv-route", "redirect")], body);
        if answer.status != 307 {
            return (answer, hops);
        }
        let location = answer.header("location").expect("where to").to_owned();
        let rest = location.strip_prefix("http://").and_then(|rest| rest.strip_suffix(target));
        address = rest.unwrap_or_else(|| panic!("{location} is for another request")).to_owned();
        for name in ["ringkv-shard", "ringkv-leader", "ringkv-epoch"] {
            let number = answer.header(name).and_then(|text| text.parse::<u64>().ok());
            assert!(number.is_some_and(|number| number > 0), "{name}: {answer:?}");
        }
    }
    panic!("{method} {target} is sent around in circles");
}

#[test]
fn who_asks_for_it_is_sent_to_the_leader() {
    let cluster = Cluster::start(Settings { shards: 4, cores: 2, ..Settings::default() });
    cluster.wait_until_leaders_are_home();
    let mut http = open(&cluster, 1);
    let mut checked = client::Checked::new(&http.get("/openapi.json").json());
    // One connection to each node for everything: a body that was not wanted is not taken for the next request.
    let mut doors: BTreeMap<_, _> =
        [1, 2, 3].map(|node| (cluster.node(node).http.to_string(), open(&cluster, node))).into();
    let first = cluster.node(1).http.to_string();
    let (mut here, mut elsewhere) = (0, Vec::new());
    for number in 0..24 {
        let (path, value) = (format!("/v1/kv/r%ff{number}"), vec![b'v'; 100 + number]);
        let put = ("PUT", &*format!("{path}?ttl=500"), &*value);
        let (stored, hops) = follow(&mut checked, &mut doors, &first, put);
        assert_eq!(stored.status, 200, "{stored:?}");
        if hops == 0 {
            here += 1;
        } else {
            elsewhere.push(path.clone());
        }
        let (read, hops_again) = follow(&mut checked, &mut doors, &first, ("GET", &path, b""));
        assert_eq!((read.body, hops_again), (value.clone(), hops));
        // Any replica may answer this, and every node has one.
        let read =
            follow(&mut checked, &mut doors, &first, ("GET", &format!("{path}?consistency=follower"), b""));
        assert_eq!((read.0.body, read.1), (value, 0));
        // The key is in the body.
        let set = json!({ "key": format!("s{number}"), "value": "x" }).to_string();
        assert_eq!(follow(&mut checked, &mut doors, &first, ("POST", "/set", set.as_bytes())).0.status, 200);
        let form = format!("key=s{number}&value=y");
        let written = follow(&mut checked, &mut doors, &first, ("POST", "/raft/write", form.as_bytes()));
        assert_eq!(written.0.status, 200, "{:?}", written.0);
        let delete = ("DELETE", &*format!("/delete?key=s{number}"), &b""[..]);
        expect(&follow(&mut checked, &mut doors, &first, delete).0, 200, "\"deleted\":true");
    }
    assert!(here >= 2 && elsewhere.len() >= 8, "{here} led by node 1, {} by others", elsewhere.len());
    // Without the wish, and for what has no key, this node answers for all.
    assert_eq!(http.get(&elsewhere[0]).status, 200);
    let walk = http.request("GET", "/v1/scan?limit=1000", &[("ringkv-route", "redirect")], b"");
    assert_eq!(walk.json()["items"].as_array().map(Vec::len), Some(24));
    expect(&http.request("GET", "/health", &[("ringkv-route", "nearest")], b""), 400, "RingKV-Route");
    // A body that waits to be asked for is not asked for; one that is too long for any node is not read.
    for (header, length) in [("expect: 100-continue", 500_000), ("accept: */*", 1 << 30)] {
        let mut waiting = open(&cluster, 1);
        let head = format!("PUT {} HTTP/1.1\r\nhost: x\r\nringkv-route: redirect\r\n", elsewhere[0]);
        waiting.send(format!("{head}content-length: {length}\r\n{header}\r\n\r\n").as_bytes());
        let answer = waiting.receive(false).expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (307, Some("close")), "{header}");
    }
}

#[test]
fn writers_outlive_the_loss_of_leaders() {
    let mut cluster = Cluster::start(Settings { shards: 3, ..Settings::default() });
    let mut http = open(&cluster, 1);
    for number in 0..30 {
        assert_eq!(http.request("PUT", &format!("/v1/kv/before{number}"), &[], b"v").status, 200);
    }
    cluster.node_mut(2).kill();
    let mut stored = Vec::new();
    for number in 0..60 {
        let put = http.request("PUT", &format!("/v1/kv/after{number}"), &[], number.to_string().as_bytes());
        // 504: the leader died with the write. Nothing else is allowed: the door waits out the election.
        assert!(put.status == 200 || put.status == 504, "{put:?}");
        if put.status == 200 {
            stored.push(number);
        }
    }
    assert!(stored.len() >= 50, "only {} of 60 writes were acknowledged", stored.len());
    cluster.node_mut(2).start();
    let mut other = open(&cluster, 3);
    for number in stored {
        let read = other.get(&format!("/v1/kv/after{number}"));
        assert_eq!(read.body, number.to_string().as_bytes(), "{read:?}");
    }
    cluster.wait_until_all_shards_have_leaders();
    let mut back = until("node 2 to open its door", SOON, || {
        Http::try_connect(cluster.node(2).http, SOON).map_err(|error| error.to_string())
    });
    assert_eq!(back.get("/get?key=before7").json()["value"], "v");
}

#[test]
fn mistakes_are_told_and_harm_nobody() {
    let cluster = Cluster::start(Settings { nodes: 1, shards: 1, ..Settings::default() });
    let mut bystander = open(&cluster, 1);
    assert_eq!(bystander.request("PUT", "/v1/kv/k", &[], b"v").status, 200);
    let value_max = usize::try_from(MIB).unwrap();
    // Announced and never sent: refused before anything is read, or held.
    let mut announced = open(&cluster, 1);
    let before = cluster.node(1).resident_bytes();
    announced.send(b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n");
    expect(&announced.receive(false).expect("an answer"), 413, "limit of 1048576");
    // Not announced: refused when it has become too much.
    let mut chunked = open(&cluster, 1);
    chunked.send(b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    for _ in 0..=value_max / 65536 {
        chunked.send(&chunk);
    }
    expect(&chunked.receive(false).expect("an answer"), 413, "too_large");
    let growth = cluster.node(1).resident_bytes().saturating_sub(before);
    assert!(growth < 64 * MIB, "{growth} bytes for bodies that were refused");
    // The largest value there may be, and one byte more.
    assert_eq!(bystander.request("PUT", "/v1/kv/big", &[], &vec![7; value_max]).status, 200);
    assert_eq!(bystander.get("/v1/kv/big").body.len(), value_max);
    expect(&open(&cluster, 1).request("PUT", "/v1/kv/big", &[], &vec![7; value_max + 1]), 413, "too_large");
    expect(&open(&cluster, 1).request("POST", "/set", &[], b"{\"key\": 5}"), 400, "body");
    expect(&bystander.request("GET", "/v1/kv/k?constency=stale", &[], b""), 400, "constency");
    expect(&bystander.request("GET", "/get?key=k", &[("origin", "http://evil.example")], b""), 403, "evil");
    let open_to_all = bystander.request("GET", "/status", &[("origin", "http://evil.example")], b"");
    assert_eq!(open_to_all.header("access-control-allow-origin"), Some("*"));
    let long_key = format!("/get?key={}", "k".repeat(65_000));
    assert_eq!(bystander.get(&long_key).status, 404, "a key that is long and allowed");
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut wrong = open(&cluster, 1);
        wrong.send(garbage);
        assert_eq!(wrong.receive(false).expect("an answer").status, 400);
    }
    let mut long_head = open(&cluster, 1);
    long_head.send(format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "h".repeat(200_000)).as_bytes());
    assert_eq!(long_head.receive(false).expect("an answer").status, 431);
    assert_eq!(bystander.get("/v1/kv/k").body, b"v");
}

#[test]
fn pipelines_half_closed_sockets_and_many_connections_are_served() {
    let cluster = Cluster::start(Settings {
        nodes: 1,
        shards: 2,
        cores: 2,
        connections_max: 300,
        ..Settings::default()
    });
    let mut pipeline = open(&cluster, 1);
    let mut requests = Vec::new();
    for number in 0..200 {
        let body = format!("value {number}");
        requests.extend_from_slice(
            format!(
                "PUT /v1/kv/p{number} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        requests.extend_from_slice(format!("GET /v1/kv/p{number} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
    }
    pipeline.send(&requests);
    pipeline.finish_sending();
    for number in 0..200 {
        assert_eq!(pipeline.receive(false).expect("an answer").status, 200);
        let read = pipeline.receive(false).expect("answers come in order");
        assert_eq!(read.body, format!("value {number}").as_bytes());
    }
    // Those that are idle cost the others nothing, up to the limit; beyond it one is told.
    let idle: Vec<Http> = (0..290).map(|_| open(&cluster, 1)).collect();
    let mut more = Vec::new();
    let refused = until("a connection to be turned away", SOON, || {
        let mut one_more = open(&cluster, 1);
        one_more.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
        match one_more.receive(false) {
            Ok(response) if response.status == 503 => Ok(response),
            // Held on to, so that the limit is reached.
            other => {
                more.push(one_more);
                Err(format!("{other:?}"))
            }
        }
    });
    assert_eq!(refused.header("retry-after"), Some("1"));
    expect(&refused, 503, "limits.connections_max");
    drop((idle, more));
    until("the connections to be let go", SOON, || {
        let mut http = open(&cluster, 1);
        match http.try_get("/health") {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn who_is_slow_on_purpose_is_cut_off() {
    let cluster = Cluster::start(Settings { nodes: 1, shards: 1, ..Settings::default() });
    let begun = Instant::now();
    let mut half_head = open(&cluster, 1);
    half_head.send(b"GET /health HTTP/1.1\r\nhost:");
    // A client that never reads: the answers stop being made, and memory stays where it was.
    let mut deaf = open(&cluster, 1);
    let value = vec![7; usize::try_from(MIB).unwrap()];
    assert_eq!(deaf.request("PUT", "/v1/kv/big", &[], &value).status, 200);
    let before = cluster.node(1).resident_bytes();
    deaf.send(&b"GET /v1/kv/big HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500));
    expect(&half_head.receive(false).expect("an answer"), 408, "too_slow");
    assert!(begun.elapsed() >= Duration::from_secs(9), "cut off after {:?}", begun.elapsed());
    let growth = cluster.node(1).resident_bytes().saturating_sub(before);
    assert!(growth < 64 * MIB, "{growth} bytes for a client that reads nothing");
    until("the deaf client to be cut off", Duration::from_secs(60), || match deaf.is_reset() {
        true => Ok(()),
        false => Err("its connection is open".to_owned()),
    });
    assert_eq!(open(&cluster, 1).get("/health").status, 200);
}
