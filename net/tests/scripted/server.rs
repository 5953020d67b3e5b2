//! A small server of the tests' own, on glommio: one node that leads everything, keeps values in memory, and
//! misbehaves on demand. Clients of any runtime talk to it.

use bytes::Bytes;
use glommio::LocalExecutor;
use net::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
use net::protocol::{
    Access, AdminAccepted, AdminOp, Answer, ClientHello, ClusterAccount, Encoder, Expected, HelloReply,
    Mutation, MutationOutcome, Op, PROTOCOL_VERSION, Refusal, Reply, Request, ShardDescription,
    decode_client_hello, decode_request,
};
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender, Listener};
use net::{Limits, Value};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// What the server says of its shard.
pub fn described() -> ShardDescription {
    ShardDescription {
        shard: 1,
        node: 1,
        term: 4,
        members: Vec::new(),
        joint: false,
        first_index: 1,
        last_index: 9,
        committed: 9,
        applied: 8,
        applied_durable: 5,
        log_bytes: 100,
        snapshot: None,
    }
}

/// Values and misdeeds.
pub struct Server {
    pub address: SocketAddr,
    values: Mutex<BTreeMap<(u8, Bytes), Value>>,
    writes: AtomicU64,
    connections: AtomicUsize,
    largest_batch: AtomicUsize,
    /// Execute this many writes without answering, then break the connection.
    lose_replies: AtomicUsize,
    /// Read, but answer nothing.
    silent: AtomicBool,
    sessions: Mutex<BTreeMap<(u64, u64), Answer>>,
    stopping: AtomicBool,
}

/// A server on a thread of its own, until dropped.
pub struct OnThread {
    pub server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for OnThread {
    fn drop(&mut self) {
        self.server.stopping.store(true, SeqCst);
        // Wakes the accepting task.
        let _ = TcpStream::connect(self.server.address);
        let ended = self.thread.take().expect("dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
    }
}

impl Server {
    /// Starts it on the present executor.
    pub fn start() -> Arc<Server> {
        let (server, accepting) = Server::bind();
        glommio::spawn_local(accepting).detach();
        server
    }

    /// Starts it for clients of other runtimes.
    pub fn start_on_thread() -> OnThread {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            LocalExecutor::default().run(async move {
                let (server, accepting) = Server::bind();
                sender.send(server).expect("the test waits");
                accepting.await;
            });
        });
        OnThread { server: receiver.recv().expect("it starts"), thread: Some(thread) }
    }

    fn bind() -> (Arc<Server>, impl Future<Output = ()>) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = Arc::new(Server {
            address: listener.local_addr(),
            values: Mutex::default(),
            writes: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            largest_batch: AtomicUsize::new(0),
            lose_replies: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            sessions: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let this = Arc::clone(&server);
        let accepting = async move {
            while !this.stopping.load(SeqCst) {
                let accepted = listener.accept().await.unwrap();
                let connection = Connection::from_fd(accepted, ConnectionConfig::default()).unwrap();
                this.connections.fetch_add(1, SeqCst);
                glommio::spawn_local(Arc::clone(&this).serve(connection)).detach();
            }
        };
        (server, accepting)
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub fn largest_batch(&self) -> usize {
        self.largest_batch.load(SeqCst)
    }

    pub fn lose_replies(&self, count: usize) {
        self.lose_replies.store(count, SeqCst);
    }

    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, SeqCst);
    }

    pub fn endpoints(&self) -> Vec<String> {
        vec![self.address.to_string()]
    }

    pub fn map(&self) -> ClusterMap {
        let node = NodeInfo {
            id: 1,
            binary_addr: self.address.to_string(),
            peer_addr: "127.0.0.1:1".into(),
            cores: 1,
            ..NodeInfo::default()
        };
        let shard = |id, slots| ShardInfo {
            id,
            slots,
            replicas: vec![ReplicaInfo { node: 1, core: 0 }],
            leader: Some(1),
            ..ShardInfo::default()
        };
        let all = SlotRange { first: 0, last: 16383 };
        ClusterMap { epoch: 1, nodes: vec![node], shards: vec![shard(0, None), shard(1, Some(all))] }
    }

    async fn serve(self: Arc<Self>, mut connection: Connection) {
        let mut encoder = Encoder::new(Limits::DEFAULT.frame_bytes_max);
        let Ok(Some(hello)) = connection.read_frame().await else { return };
        let (mut reader, sender) = connection.split();
        let ClientHello { version, .. } = decode_client_hello(&hello).unwrap();
        assert_eq!(version, PROTOCOL_VERSION);
        let hello = HelloReply {
            version,
            node: 1,
            core: 0,
            key_bytes_max: Limits::DEFAULT.key_bytes_max,
            value_bytes_max: Limits::DEFAULT.value_bytes_max,
            frame_bytes_max: Some(Limits::DEFAULT.frame_bytes_max),
            map: self.map(),
        };
        sender.append(|out| encoder.hello_reply(&hello, out)).unwrap().unwrap();
        while self.turn(&mut reader, &sender, &mut encoder) {
            if reader.fill().await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// Answers what has been read, last first.
    fn turn(&self, reader: &mut FrameReader, sender: &FrameSender, encoder: &mut Encoder) -> bool {
        let mut batch = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            batch.push(frame);
        }
        self.largest_batch.fetch_max(batch.len(), SeqCst);
        if self.silent.load(SeqCst) {
            return true;
        }
        for frame in batch.iter().rev() {
            let result = match decode_request(frame, &Limits::DEFAULT) {
                Ok(request) => self.execute(&request),
                Err(error) => Err(error.refusal()),
            };
            if self.lose_replies.load(SeqCst) > 0 && matches!(result, Ok(Answer::Written { .. })) {
                self.lose_replies.fetch_sub(1, SeqCst);
                sender.abort();
                return false;
            }
            let reply = Reply { id: frame.id, result };
            if sender.append(|out| encoder.reply(&reply, out)).is_err() {
                return false;
            }
        }
        true
    }

    fn execute(&self, request: &Request) -> Result<Answer, Refusal> {
        match &request.op {
            Op::Get { key, .. } => {
                let value = self.values.lock().unwrap().get(&(request.namespace, key.clone())).cloned();
                Ok(Answer::Value { value, freshness: None })
            }
            Op::Exists { key, .. } => {
                let exists = self.values.lock().unwrap().contains_key(&(request.namespace, key.clone()));
                Ok(Answer::Exists { exists, freshness: None })
            }
            Op::Write { session, mutations, .. } => {
                let stamp = session.map(|stamp| (stamp.client, stamp.sequence)).expect("writes are stamped");
                if let Some(answer) = self.sessions.lock().unwrap().get(&stamp) {
                    return Ok(answer.clone());
                }
                let outcomes =
                    mutations.iter().map(|mutation| self.mutate(request.namespace, mutation)).collect();
                let answer = Answer::Written { index: self.writes(), outcomes };
                self.sessions.lock().unwrap().insert(stamp, answer.clone());
                Ok(answer)
            }
            Op::ClusterMap => Ok(Answer::ClusterMap(self.map())),
            Op::Status => Ok(Answer::Status(Bytes::from_static(b"{}"))),
            Op::Admin(op) => self.administrate(*op),
            Op::Cluster(_) => {
                let account = ClusterAccount { epoch: 1, map: Some(self.map()), ..ClusterAccount::default() };
                Ok(Answer::Cluster(Box::new(account)))
            }
            Op::Execute { program, consistency: Access::Write(_) } => {
                let replies = Some(program.commands[0].args.concat().into());
                Ok(Answer::Executed { index: 1, replies, freshness: None })
            }
            Op::Execute { .. } => Ok(Answer::Executed { index: 1, replies: None, freshness: None }),
            Op::Count { first_slot, last_slot, .. } => {
                Ok(Answer::Counted { count: u64::from(last_slot - first_slot) })
            }
            Op::Scan { keys_only: true, .. } => {
                Ok(Answer::Scan { items: vec![], next: Some("b".into()), freshness: None })
            }
            Op::Scan { .. } => Err(Refusal::Invalid { why: "no scans here".into() }),
        }
    }

    fn administrate(&self, op: AdminOp) -> Result<Answer, Refusal> {
        match op {
            AdminOp::Describe => Ok(Answer::Shard(described())),
            AdminOp::TransferLeader { node } => {
                Ok(Answer::AdminAccepted(AdminAccepted { index: None, node: node.or(Some(3)) }))
            }
            AdminOp::AddReplica { node } => {
                Err(Refusal::Conflict { why: format!("node {node} has a replica already") })
            }
            _ => Ok(Answer::AdminAccepted(AdminAccepted { index: Some(7), node: None })),
        }
    }

    fn mutate(&self, namespace: u8, mutation: &Mutation) -> MutationOutcome {
        let version = self.writes.fetch_add(1, SeqCst) + 1;
        let mut values = self.values.lock().unwrap();
        let at = (namespace, mutation.key().clone());
        match mutation {
            Mutation::Put { value, .. } => {
                values.insert(at, Value { data: value.clone(), version });
                MutationOutcome::Put { version }
            }
            Mutation::Delete { .. } => MutationOutcome::Deleted { existed: values.remove(&at).is_some() },
            Mutation::CompareAndSwap { expected, new, .. } => {
                let current = values.get(&at).map(|value| value.version);
                let holds = match expected {
                    Expected::Absent => current.is_none(),
                    Expected::Version(version) => current == Some(*version),
                    Expected::Value(data) => values.get(&at).is_some_and(|value| value.data == *data),
                };
                if !holds {
                    return MutationOutcome::NotSwapped { current };
                }
                match new {
                    Some(data) => values.insert(at, Value { data: data.clone(), version }),
                    None => values.remove(&at),
                };
                MutationOutcome::Swapped { version }
            }
        }
    }
}
