//! A real Redis (Debian's) as a child process, to compare answers with.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use net::resp::{Value, decode_value};

/// Starting takes some ten milliseconds; on a machine that is busy, longer.
const START_MAX: Duration = Duration::from_secs(30);

/// A server of one's own, ended when dropped, and one connection to it.
pub struct RealRedis {
    child: Child,
    connection: TcpStream,
    received: BytesMut,
    _folder: tempfile::TempDir,
}

impl RealRedis {
    /// Starts one on a free loopback port that keeps nothing on disk, with further options of its command line.
    pub fn start(options: &[&str]) -> RealRedis {
        let deadline = Instant::now() + START_MAX;
        loop {
            let folder = tempfile::tempdir().expect("a folder for the server");
            let port = free_port();
            let mut child = spawn(port, folder.path(), options);
            // Another process may have taken the port in between: then the server ends, and another port is tried.
            while child.try_wait().expect("the server can be asked for").is_none() {
                assert!(Instant::now() < deadline, "redis-server does not answer");
                if let Some(connection) = connect(port) {
                    let mut server =
                        RealRedis { child, connection, received: BytesMut::new(), _folder: folder };
                    if server.is_mine() {
                        return server;
                    }
                    break;
                }
                std::thread::yield_now();
            }
            assert!(Instant::now() < deadline, "redis-server ends at once; run it by hand to see why");
        }
    }

    /// Is it this child that answers, and no other server on its port?
    fn is_mine(&mut self) -> bool {
        let info = self.raw(&[Bytes::from_static(b"INFO"), Bytes::from_static(b"server")]);
        String::from_utf8_lossy(&info).contains(&format!("process_id:{}\r\n", self.child.id()))
    }

    /// The bytes of the answer to one command.
    pub fn raw(&mut self, args: &[Bytes]) -> Bytes {
        self.connection.write_all(&request(args)).expect("the server takes a command");
        loop {
            let mut rest = Bytes::copy_from_slice(&self.received);
            let length = rest.len();
            if decode_value(&mut rest).expect("the server speaks the protocol").is_some() {
                assert!(rest.is_empty(), "one command has one answer");
                return self.received.split_to(length).freeze();
            }
            let mut piece = vec![0; (self.received.len()).clamp(1 << 14, 1 << 22)];
            let bytes = self.connection.read(&mut piece).expect("the server answers");
            assert!(bytes > 0, "the server has closed the connection after {args:?}");
            self.received.extend_from_slice(&piece[..bytes]);
        }
    }

    /// The answer to one command.
    pub fn call(&mut self, args: &[Bytes]) -> Value {
        decode_value(&mut self.raw(args)).expect("a reply").expect("a whole one")
    }

    /// The answer to a command that is one line of words.
    pub fn line(&mut self, line: &str) -> Value {
        self.call(&words(line))
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        // It may have ended by itself; that was noticed elsewhere.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line cut at its spaces.
pub fn words(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn request(args: &[Bytes]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
    request
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn spawn(port: u16, folder: &std::path::Path, options: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is needed to compare with (tools/setup installs it)")
}

fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connection = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    connection.set_nodelay(true).expect("a TCP connection");
    connection.set_read_timeout(Some(START_MAX)).expect("a TCP connection");
    Some(connection)
}
