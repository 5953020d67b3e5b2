//! Clients of the Redis port that do what no good client does: memory stays bounded, others are unharmed, errors are clear.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Cluster, MIB, Node, Settings, until};

/// An answer to somebody who does nothing wrong comes within this, whatever the others do.
const SOON: Duration = Duration::from_secs(10);
/// What one flood may cost a node, beside what it has in use anyway: its queues, and what the allocator keeps.
const GROWTH_MAX: u64 = 160 * MIB;

/// One connection.
struct Redis {
    reader: BufReader<TcpStream>,
}

impl Redis {
    fn connect(address: SocketAddr) -> Redis {
        let stream = TcpStream::connect(address).expect("the node takes connections");
        stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Redis { reader: BufReader::new(stream) }
    }

    fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    fn send(&self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).expect("the node reads");
    }

    /// The next line without its end; empty when the node has closed.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("an answer comes soon");
        line.trim_end().to_owned()
    }

    /// Everything until the node closes.
    fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            // The node closed before it had read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the node neither answers nor closes: {error}"),
        }
        String::from_utf8_lossy(&rest).into_owned()
    }

    #[track_caller]
    fn expect(&mut self, request: &str, answer: &[&str]) {
        self.send(format!("{request}\r\n"));
        for line in answer {
            assert_eq!(self.line(), *line, "{request}");
        }
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Somebody else is served, quickly, and in every shard.
#[track_caller]
fn others_are_unharmed(node: &Node) {
    let mut other = Redis::connect(node.resp);
    let began = Instant::now();
    for number in 0..20 {
        other.expect(&format!("SET bystander{number} {number}"), &["+OK"]);
        other.expect(
            &format!("GET bystander{number}"),
            &[&format!("${}", number.to_string().len()), &number.to_string()],
        );
    }
    let took = began.elapsed();
    assert!(took < SOON, "a bystander's 40 commands took {took:?}");
}

#[track_caller]
fn stays_small(cluster: &Cluster, before: &[u64]) {
    for (node, before) in cluster.nodes().iter().zip(before) {
        let grown = node.resident_bytes().saturating_sub(*before);
        println!("node {}: {} MiB more than before", node.id, grown / MIB);
        assert!(grown < GROWTH_MAX, "node {} has {} MiB more in use", node.id, grown / MIB);
    }
}

fn resident(cluster: &Cluster) -> Vec<u64> {
    cluster.nodes().iter().map(Node::resident_bytes).collect()
}

fn started() -> Cluster {
    let cluster = Cluster::start(Settings::default());
    cluster.wait_until_leaders_are_home();
    others_are_unharmed(cluster.node(1));
    cluster
}

#[test]
fn what_is_announced_and_never_sent_costs_nothing() {
    let cluster = started();
    let node = cluster.node(1);
    let before = resident(&cluster);
    let mut greedy = Redis::connect(node.resp);
    greedy.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1073741824\r\n");
    assert_eq!(
        greedy.rest(),
        "-ERR Protocol error: invalid bulk length\r\n",
        "a gigabyte is refused, and told"
    );
    let mut greedy = Redis::connect(node.resp);
    greedy.send("*2147483647\r\n");
    assert_eq!(greedy.rest(), "-ERR Protocol error: invalid multibulk length\r\n");
    // What is allowed is waited for, without room being made for it.
    let waiting: Vec<Redis> = (0..500)
        .map(|_| {
            let connection = Redis::connect(node.resp);
            connection.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\nonly the beginning");
            connection
        })
        .collect();
    others_are_unharmed(node);
    stays_small(&cluster, &before);
    drop(waiting);
    others_are_unharmed(node);
}

#[test]
fn a_hundred_thousand_commands_in_one_pipeline_are_answered_in_order() {
    const COUNT: usize = 100_000;
    let cluster = started();
    let before = resident(&cluster);
    let mut client = Redis::connect(cluster.node(1).resp);
    let sender = client.stream().try_clone().expect("a descriptor to spare");
    // Sent without waiting for any answer; the node may stop reading meanwhile.
    let sending = thread::spawn(move || {
        let increment = command(&[b"INCR", b"pipelined"]);
        let all = increment.repeat(COUNT);
        (&sender).write_all(&all).expect("the node reads in the end");
    });
    for number in 1..=COUNT {
        assert_eq!(client.line(), format!(":{number}"));
    }
    sending.join().expect("the sender does not panic");
    stays_small(&cluster, &before);
    others_are_unharmed(cluster.node(2));
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_but_itself() {
    let cluster = started();
    let node = cluster.node(1);
    let value = vec![b'x'; 512 << 10];
    let mut client = Redis::connect(node.resp);
    client.send(command(&[b"SET", b"large", &value]));
    assert_eq!(client.line(), "+OK");
    let before = resident(&cluster);
    // Ten gigabytes of answers asked for by five connections.
    let request = command(&[b"GET", b"large"]).repeat(4000);
    let deaf: Vec<Redis> = (0..5).map(|_| Redis::connect(node.resp)).collect();
    for connection in &deaf {
        connection.stream().set_nonblocking(true).expect("an option can be set");
        // The node may have stopped reading already.
        let _ = connection.stream().write(&request);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        others_are_unharmed(node);
        stays_small(&cluster, &before);
    }
    drop(deaf);
    others_are_unharmed(node);
}

/// Lets this process have as many descriptors as it may.
fn many_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write the one struct, which outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    limit.rlim_max
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    const COUNT: usize = 10_000;
    let allowed = many_descriptors();
    assert!(allowed > 12_000, "only {allowed} descriptors are allowed here: ulimit -n");
    let cluster = started();
    let node = cluster.node(1);
    let before = resident(&cluster);
    let mut idle: Vec<Redis> = Vec::with_capacity(COUNT);
    for number in 0..COUNT {
        let mut connection = Redis::connect(node.resp);
        if number % 10 == 0 {
            connection.expect("PING", &["+PONG"]);
        }
        idle.push(connection);
    }
    others_are_unharmed(node);
    stays_small(&cluster, &before);
    // They are idle, not forgotten.
    for connection in idle.iter_mut().step_by(500) {
        connection.expect("PING", &["+PONG"]);
    }
    drop(idle);
    until("the connections to be gone", SOON, || {
        others_are_unharmed(node);
        let open = node.open_files(|path| path.to_string_lossy().starts_with("socket:")).len();
        if open < 500 { Ok(()) } else { Err(format!("{open} sockets are open")) }
    });
}

#[test]
fn half_closed_sockets_and_typed_commands_are_answered() {
    let cluster = started();
    let node = cluster.node(1);
    let mut client = Redis::connect(node.resp);
    client.send("SET typed \"a b\\x21\"\r\nGET typed\r\n\r\nNOSUCH x\r\nPING\r\n");
    client.stream().shutdown(Shutdown::Write).expect("a socket can be half closed");
    let answers =
        "+OK\r\n$4\r\na b!\r\n-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n+PONG\r\n";
    assert_eq!(client.rest(), answers, "everything is answered, then the node closes");
    // Closed in the middle of a command, and at once.
    for bytes in ["*2\r\n$3\r\nGET\r\n$10\r\nabc", "*1\r\n", "\"never ends", ""] {
        let mut client = Redis::connect(node.resp);
        client.send(bytes);
        client.stream().shutdown(Shutdown::Write).expect("a socket can be half closed");
        assert_eq!(client.rest(), "", "{bytes:?}");
    }
    // Somebody who leaves without waiting.
    for _ in 0..200 {
        Redis::connect(node.resp).send(command(&[b"INCR", b"left"]).repeat(20));
    }
    others_are_unharmed(node);
}
