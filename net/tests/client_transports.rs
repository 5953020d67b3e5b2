//! The clients of tokio and of programs without a runtime, over real sockets of 127.0.0.1, against the server that the
//! glommio client is tested with.

#[path = "scripted/operations.rs"]
mod operations;
#[allow(dead_code)] // each test file uses its own part
#[path = "scripted/server.rs"]
mod server;

use bytes::Bytes;
use net::protocol::{AdminAccepted, Expected, Mutation, MutationOutcome, Refusal, WriteConsistency};
use net::{ClientConfig, ClientError, ConnectError, Swap, Value, blocking, tokio as on_tokio};
use operations::{administration, every_operation};
use server::{OnThread, Server, described};
use std::net::TcpListener;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const TEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs a test on several threads, and ends it if it hangs.
fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TEST_TIME_MAX, test).await.expect("the test hangs") });
}

async fn on_tokio(server: &OnThread) -> on_tokio::Client {
    on_tokio::Client::connect(ClientConfig::new(server.server.endpoints())).await.unwrap()
}

fn blocking(server: &OnThread) -> blocking::Client {
    blocking::Client::connect(ClientConfig::new(server.server.endpoints())).unwrap()
}

/// An address where nobody listens.
fn nobody() -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    vec![listener.local_addr().unwrap().to_string()]
}

#[test]
fn handles_may_go_to_any_thread() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    fn check_future<T: Send>(_: &T) {}
    check::<on_tokio::Client>();
    check::<blocking::Client>();
    run(async {
        let server = Server::start_on_thread();
        let client = on_tokio(&server).await;
        let (put, get) = (client.put("a", "b"), client.get("a"));
        check_future(&put);
        check_future(&get);
        assert_eq!(put.await, Ok(1));
        assert_eq!(get.await.unwrap().unwrap().data, "b");
    });
}

#[test]
fn every_operation_on_tokio() {
    run(async {
        let running = Server::start_on_thread();
        let (client, server) = (on_tokio(&running).await, &running.server);
        every_operation!(client, server, [.await]);
        administration!(client, [.await]);
        assert_eq!(server.connections(), 1, "one connection serves them all");
    });
}

#[test]
fn every_operation_without_a_runtime() {
    let running = Server::start_on_thread();
    let (client, server) = (blocking(&running), &running.server);
    every_operation!(client, server, []);
    administration!(client, []);
    assert_eq!(server.connections(), 1, "one connection serves them all");
}

#[test]
fn tasks_share_one_connection_and_travel_together() {
    run(async {
        let running = Server::start_on_thread();
        let client = on_tokio(&running).await;
        let tasks: Vec<_> = (0..64)
            .map(|at| {
                let client = client.clone();
                tokio::spawn(async move {
                    for round in 0..20 {
                        let key = format!("key-{at}-{round}");
                        client.put(key.clone(), vec![b'v'; 4096]).await.unwrap();
                        assert_eq!(client.get(key).await.unwrap().unwrap().data.len(), 4096);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let server = &running.server;
        assert_eq!((server.writes(), server.connections()), (64 * 20, 1));
        assert!(server.largest_batch() > 8, "largest batch read: {}", server.largest_batch());
    });
}

#[test]
fn threads_share_one_connection() {
    let running = Server::start_on_thread();
    let client = blocking(&running);
    std::thread::scope(|scope| {
        for at in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50 {
                    let key = format!("key-{at}-{round}");
                    client.put(key.clone(), key.clone()).unwrap();
                    assert_eq!(client.get(key.clone()).unwrap().unwrap().data, key);
                }
            });
        }
    });
    assert_eq!((running.server.writes(), running.server.connections()), (8 * 50, 1));
}

#[test]
fn a_write_whose_reply_is_lost_is_executed_once() {
    run(async {
        let running = Server::start_on_thread();
        let client = on_tokio(&running).await;
        running.server.lose_replies(1);
        assert_eq!(client.put("a", "one").await, Ok(1));
        assert_eq!((running.server.writes(), running.server.connections()), (1, 2));
    });
    let running = Server::start_on_thread();
    let client = blocking(&running);
    running.server.lose_replies(1);
    assert_eq!(client.put("a", "one"), Ok(1));
    assert_eq!((running.server.writes(), running.server.connections()), (1, 2));
}

#[test]
fn dropped_futures_give_their_place_back() {
    run(async {
        let running = Server::start_on_thread();
        let endpoints = running.server.endpoints();
        // Room for one of these at a time: were one forgotten, the next would be refused.
        let config = ClientConfig { queued_bytes_max: 1_500_000, ..ClientConfig::new(endpoints) };
        let client = on_tokio::Client::connect(config).await.unwrap();
        running.server.be_silent(true);
        for _ in 0..20 {
            let mut put = pin!(client.put("a", vec![0; 1_000_000]));
            let given_up = futures_lite::future::poll_once(put.as_mut()).await;
            assert!(given_up.is_none(), "{given_up:?}");
            let full = client.put("b", vec![0; 1_000_000]).await;
            assert!(matches!(full, Err(ClientError::Overloaded { .. })), "{full:?}");
        }
        running.server.be_silent(false);
        assert_eq!(client.get("c").await, Ok(None));
    });
}

#[test]
fn nobody_at_home_is_an_error_in_time() {
    let config =
        || ClientConfig { request_timeout: Duration::from_millis(300), ..ClientConfig::new(nobody()) };
    run(async move {
        let error = on_tokio::Client::connect(config()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    });
    let error = blocking::Client::connect(config()).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    let none = blocking::Client::connect(ClientConfig::new(Vec::new())).unwrap_err();
    assert_eq!(none, ConnectError::NoEndpoints);
}

#[test]
fn a_silent_server_is_an_error_in_time_and_no_longer_once_it_speaks() {
    let running = Server::start_on_thread();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(600),
        silence_timeout: Duration::from_millis(100),
        ..ClientConfig::new(running.server.endpoints())
    };
    let client = blocking::Client::connect(config).unwrap();
    running.server.be_silent(true);
    let error = client.get("a").unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    let error = client.put("a", "1").unwrap_err();
    assert!(matches!(error, ClientError::Indeterminate { .. }), "{error}");
    running.server.be_silent(false);
    assert_eq!(client.put("b", "2").map(drop), Ok(()));
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let running = Server::start_on_thread();
    let runtime: Runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(on_tokio(&running));
    running.server.be_silent(true);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || futures_lite::future::block_on(client.get("a")))
    };
    let before = client.clone();
    // Until the request is on its way.
    while running.server.largest_batch() == 0 {
        std::thread::yield_now();
    }
    runtime.shutdown_background();
    assert_eq!(waiting.join().unwrap(), Err(ClientError::Closed));
    assert_eq!(futures_lite::future::block_on(before.get("a")), Err(ClientError::Closed));
}
