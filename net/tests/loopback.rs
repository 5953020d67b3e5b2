//! Connections and the client over real sockets of 127.0.0.1, against a small server of the test's own.

#[path = "scripted/operations.rs"]
mod operations;
#[allow(dead_code)] // each test file uses its own part
#[path = "scripted/server.rs"]
mod server;

use bytes::{Bytes, BytesMut};
use glommio::LocalExecutor;
use net::frame::{FrameKind, FrameWriter};
use net::protocol::{
    AdminAccepted, Answer, ClientHello, Encoder, ErrorCode, ErrorReport, Expected, Mutation, MutationOutcome,
    Op, PROTOCOL_VERSION, Refusal, Request, WriteConsistency, decode_error, decode_reply,
};
use net::transport::client::Swap;
use net::transport::{Connection, ConnectionConfig, Listener, ReadError};
use net::{Client, ClientConfig, ClientError, ConnectError, Limits, RequestId, Value};
use operations::{administration, every_operation};
use server::{Server, described};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

const TEST_TIME_MAX: Duration = Duration::from_secs(30);

/// Runs a test on an executor, and ends it if it hangs.
fn run<F: Future<Output = ()> + 'static>(test: F) {
    LocalExecutor::default().run(async move {
        let timeout = async {
            glommio::timer::Timer::new(TEST_TIME_MAX).await;
            panic!("the test hangs");
        };
        futures_lite::future::or(test, timeout).await;
    });
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn dial(address: SocketAddr) -> Connection {
    Connection::connect(address, Duration::from_secs(5), ConnectionConfig::default()).await.unwrap()
}

async fn accept(listener: &Listener) -> Connection {
    Connection::from_fd(listener.accept().await.unwrap(), ConnectionConfig::default()).unwrap()
}

fn append(out: &mut BytesMut, id: u64, payload: &[u8]) {
    let mut frame =
        FrameWriter::begin(out, FrameKind::Request, RequestId(id), b"m", payload.len(), u32::MAX).unwrap();
    frame.put(payload);
    frame.finish();
}

#[test]
fn a_port_in_use_is_an_error() {
    run(async {
        let first = Listener::bind(anywhere()).unwrap();
        assert_eq!(Listener::bind(first.local_addr()).unwrap_err().kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn many_and_large_frames_arrive_in_order_and_the_end_is_seen() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let address = listener.local_addr();
        let sizes =
            |id: u64| usize::try_from(id * 37 % 5000 + if id == 500 { 3_000_000 } else { 0 }).unwrap();
        let sender = glommio::spawn_local(async move {
            let (_reader, sender) = dial(address).await.split();
            for id in 0..1000 {
                sender.append(|out| append(out, id, &vec![0x5a; sizes(id)])).unwrap();
                if sender.is_full() {
                    sender.room().await.unwrap();
                    assert!(!sender.is_full());
                }
            }
            sender.flushed().await.unwrap();
            assert_eq!(sender.queued_bytes(), 0);
            sender.close();
            assert!(sender.append(|_| ()).is_err());
        });
        let mut connection = accept(&listener).await;
        for id in 0..1000 {
            let frame = connection.read_frame().await.unwrap().expect("a thousand frames");
            assert_eq!((frame.id, frame.payload.len()), (RequestId(id), sizes(id)));
        }
        assert!(connection.read_frame().await.unwrap().is_none());
        sender.await;
    });
}

#[test]
fn a_slow_reader_is_felt_as_backpressure() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let connection = dial(listener.local_addr()).await;
        let mut peer = accept(&listener).await;
        let (_reader, sender) = connection.split();
        let mut frames = 0u64;
        // The kernel's buffers take some, then the queue fills: 64 MiB are beyond both.
        while !sender.is_full() && frames < 64 {
            sender.append(|out| append(out, frames, &[1; 1024 * 1024])).unwrap();
            frames += 1;
            glommio::yield_if_needed().await;
        }
        assert!(sender.is_full(), "{} bytes queued after {frames} frames", sender.queued_bytes());
        let reading = glommio::spawn_local(async move {
            for id in 0..frames {
                assert_eq!(peer.read_frame().await.unwrap().unwrap().id, RequestId(id));
            }
        });
        sender.room().await.unwrap();
        sender.flushed().await.unwrap();
        reading.await;
    });
}

#[test]
fn a_connection_moves_to_another_executor_with_what_it_has_read() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let connection = dial(listener.local_addr()).await;
        let mut accepted = accept(&listener).await;
        let (mut reader, sender) = connection.split();
        sender
            .append(|out| {
                append(out, 1, b"hello");
                append(out, 2, b"read along with the hello");
            })
            .unwrap();
        assert_eq!(accepted.read_frame().await.unwrap().unwrap().id, RequestId(1));
        let handoff = accepted.into_handoff().unwrap();
        let other = std::thread::spawn(move || {
            run(async move {
                let connection = Connection::from_handoff(handoff, ConnectionConfig::default()).unwrap();
                let (mut reader, sender) = connection.split();
                for id in [2, 3] {
                    assert_eq!(reader.read_frame().await.unwrap().unwrap().id, RequestId(id));
                }
                sender.append(|out| append(out, 4, b"from the other core")).unwrap();
                sender.flushed().await.unwrap();
            });
        });
        sender.append(|out| append(out, 3, b"after the move")).unwrap();
        assert_eq!(reader.read_frame().await.unwrap().unwrap().id, RequestId(4));
        other.join().unwrap();
    });
}

#[test]
fn a_broken_stream_and_a_cut_frame_are_told_apart() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let mut frame = BytesMut::new();
        append(&mut frame, 1, b"payload");
        for damage in [false, true] {
            let (_reader, sender) = dial(listener.local_addr()).await.split();
            let mut accepted = accept(&listener).await;
            let mut bytes = frame.clone();
            if damage {
                bytes[39] ^= 1;
            } else {
                bytes.truncate(30);
            }
            sender.append(|out| out.extend_from_slice(&bytes)).unwrap();
            sender.close();
            match accepted.read_frame().await.unwrap_err() {
                ReadError::Truncated { buffered } => assert!(!damage && buffered == 30),
                ReadError::Frame(error) => assert!(damage && error.is_fatal(), "{error}"),
                ReadError::Io(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn an_aborted_connection_wakes_everyone() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let (mut reader, sender) = dial(listener.local_addr()).await.split();
        let _peer = accept(&listener).await;
        for _ in 0..64 {
            sender.append(|out| append(out, 0, &[1; 1024 * 1024])).unwrap();
        }
        let waiting = sender.clone();
        let waiter = glommio::spawn_local(async move { waiting.flushed().await });
        glommio::executor().yield_task_queue_now().await;
        sender.abort();
        assert!(waiter.await.is_err());
        assert_eq!(reader.fill().await.unwrap_or(0), 0);
        assert!(sender.is_closed());
    });
}

async fn client(server: &Server) -> Client {
    Client::connect(ClientConfig::new(server.endpoints())).await.unwrap()
}

#[test]
fn every_operation_reaches_the_server_and_returns() {
    run(async {
        let server = Server::start();
        let client = client(&server).await;
        every_operation!(client, server, [.await]);
        assert_eq!(server.connections(), 1, "one connection serves them all");
    });
}

#[test]
fn administrative_calls_reach_the_server_and_return() {
    run(async {
        let server = Server::start();
        let client = client(&server).await;
        administration!(client, [.await]);
    });
}

#[test]
fn frames_are_as_long_as_the_server_says_and_no_longer() {
    run(async {
        let server = Server::start();
        let endpoints = server.endpoints();
        let config = ClientConfig { frame_bytes_max: 10_000, ..ClientConfig::new(endpoints) };
        let client = Client::connect(config).await.unwrap();
        let large = Bytes::from(vec![7; 5_000_000]);
        client.put("large", large.clone()).await.unwrap();
        assert_eq!(client.get("large").await.unwrap().unwrap().data, large);
        let limit = u64::from(Limits::DEFAULT.frame_bytes_max);
        let put = |at: usize| Mutation::Put {
            key: format!("{{t}}{at}").into(),
            value: vec![1; 8 << 20].into(),
            ttl_ms: None,
        };
        let refused = client.batch((0..4).map(put).collect(), WriteConsistency::Strong).await.unwrap_err();
        assert!(matches!(refused, ClientError::TooLarge { limit: told, .. } if told == limit), "{refused}");
    });
}

#[test]
fn concurrent_requests_share_one_connection_and_travel_together() {
    run(async {
        let server = Server::start();
        let client = client(&server).await;
        let tasks: Vec<_> = (0..64)
            .map(|at| {
                let client = client.clone();
                glommio::spawn_local(async move {
                    for round in 0..20 {
                        let key = format!("key-{at}-{round}");
                        client.put(key.clone(), vec![b'v'; 4096]).await.unwrap();
                        assert_eq!(client.get(key).await.unwrap().unwrap().data.len(), 4096);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!((server.writes(), server.connections()), (64 * 20, 1));
        assert!(server.largest_batch() > 8, "largest batch read: {}", server.largest_batch());
    });
}

#[test]
fn a_write_whose_reply_is_lost_is_executed_once() {
    run(async {
        let server = Server::start();
        let client = client(&server).await;
        server.lose_replies(1);
        assert_eq!(client.put("a", "one").await, Ok(1));
        assert_eq!(server.writes(), 1);
        assert_eq!(server.connections(), 2);
    });
}

#[test]
fn a_dropped_future_gives_its_place_back() {
    run(async {
        let server = Server::start();
        let client = client(&server).await;
        for _ in 0..100 {
            let given_up = futures_lite::future::poll_once(client.put("a", "x")).await;
            assert!(given_up.is_none());
        }
        assert_eq!(client.get("b").await, Ok(None));
        drop(client);
    });
}

#[test]
fn nobody_at_home_is_an_error_in_time() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let address = listener.local_addr().to_string();
        drop(listener);
        let config =
            ClientConfig { request_timeout: Duration::from_millis(300), ..ClientConfig::new(vec![address]) };
        let error = Client::connect(config).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    });
}

#[test]
fn a_server_that_refuses_the_hello_is_quoted() {
    run(async {
        let listener = Listener::bind(anywhere()).unwrap();
        let address = listener.local_addr().to_string();
        glommio::spawn_local(async move {
            loop {
                let (mut reader, sender) = accept(&listener).await.split();
                let _hello = reader.read_frame().await;
                let report =
                    ErrorReport { code: ErrorCode::UnsupportedVersion, message: "speak version 7".into() };
                let mut encoder = Encoder::new(u32::MAX);
                sender.append(|out| encoder.error(&report, out)).unwrap().unwrap();
            }
        })
        .detach();
        let config =
            ClientConfig { request_timeout: Duration::from_millis(300), ..ClientConfig::new(vec![address]) };
        let error = Client::connect(config).await.unwrap_err().to_string();
        assert!(error.contains("speak version 7"), "{error}");
    });
}

#[test]
fn a_malformed_request_is_refused_and_the_connection_lives() {
    run(async {
        let server = Server::start();
        let (mut reader, sender) = dial(server.address).await.split();
        let mut encoder = Encoder::new(u32::MAX);
        let hello = ClientHello { version: PROTOCOL_VERSION, wants_core: None };
        sender
            .append(|out| {
                encoder.client_hello(&hello, out).unwrap();
                append(out, 42, b"this is not the metadata you expect");
                let ask = Request { id: RequestId(43), shard: 0, epoch: 0, namespace: 0, op: Op::ClusterMap };
                encoder.request(&ask, out).unwrap();
            })
            .unwrap();
        assert_eq!(reader.read_frame().await.unwrap().unwrap().kind, FrameKind::HelloReply);
        let mut replies = BTreeMap::new();
        for _ in 0..2 {
            let frame = reader.read_frame().await.unwrap().unwrap();
            assert!(decode_error(&frame).is_err());
            let reply = decode_reply(&frame).unwrap();
            replies.insert(reply.id, reply.result);
        }
        assert!(matches!(replies[&RequestId(42)], Err(Refusal::Invalid { .. })));
        assert!(matches!(replies[&RequestId(43)], Ok(Answer::ClusterMap(_))));
    });
}
