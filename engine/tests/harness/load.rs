//! Clients that work, and record what they did and saw.
//!
//! Three kinds run side by side on one executor: *workers* do all operations on a few shared keys, which makes the
//! history that is checked; now and then a worker writes a key of its own, once, which must never be missing again;
//! *probes* write to one shard each, all the time, which shows when a shard takes no writes.
//!
//! Half of the workers send no session stamps, so that their writes end in doubt when a leader dies; the others retry.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use net::protocol::{Expected, ReadConsistency};
use net::transport::client::Swap;
use net::types::Value;
use net::{Client, ClientConfig, ClientError};

use super::deadline::until;
use super::library::{client_config, with_client};
use super::register::{token_of, value_of};
use super::wire::key_in;
use engine::sim::history::{Action, Answer, End, History, Nanos, Record};

/// Reads under way at once when everything written is read back.
const READERS: usize = 32;

/// What load a test wants.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Workers.
    pub workers: u32,
    /// Keys they share.
    pub keys: u64,
    /// Pause of a worker between two operations.
    pub pause: Duration,
    /// Makes all random choices.
    pub seed: u64,
}

impl Default for LoadConfig {
    fn default() -> LoadConfig {
        LoadConfig { workers: 8, keys: 12, pause: Duration::from_millis(3), seed: 1 }
    }
}

/// What the load did.
#[derive(Default)]
pub struct LoadResult {
    /// Operations on the shared keys.
    pub history: History,
    /// Keys written once and acknowledged, and the number of their value.
    pub written: Vec<(Bytes, u64)>,
}

/// How long a shard took no write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outage {
    /// The longest time without an acknowledged write.
    pub longest: Duration,
    /// The shard.
    pub shard: u32,
}

/// Acknowledged probes by shard: when each was invoked and when it was acknowledged.
type Probes = BTreeMap<u32, Vec<(Nanos, Nanos)>>;

/// Clients at work.
pub struct Load {
    started: Instant,
    stop: Arc<AtomicBool>,
    probes: Arc<Mutex<Probes>>,
    acknowledged: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    surprises: Arc<Mutex<Vec<String>>>,
    executor: Option<ExecutorJoinHandle<LoadResult>>,
}

impl Load {
    /// Starts the clients on an executor of their own.
    pub fn start(endpoints: Vec<String>, config: LoadConfig) -> Load {
        let started = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let probes = Arc::new(Mutex::new(Probes::new()));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let surprises = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared {
            started,
            stop: Arc::clone(&stop),
            probes: Arc::clone(&probes),
            acknowledged: Arc::clone(&acknowledged),
            failed: Arc::clone(&failed),
            surprises: Arc::clone(&surprises),
            config,
        };
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name("test-load")
            .spawn(move || run(shared, endpoints))
            .expect("an executor starts");
        Load { started, stop, probes, acknowledged, failed, surprises, executor: Some(executor) }
    }

    /// Writes with a session that failed although the library tried again for as long as it may; each is told for people.
    pub fn failed(&self) -> Vec<String> {
        self.failed.lock().expect("the load has not panicked").clone()
    }

    /// Errors of workers after which trying again would not have helped; each is told for people.
    pub fn surprises(&self) -> Vec<String> {
        self.surprises.lock().expect("the load has not panicked").clone()
    }

    /// How long the writes of the probes that were acknowledged within a time took, sorted.
    pub fn latencies(&self, from: Nanos, to: Nanos) -> Vec<Duration> {
        let mut latencies: Vec<Duration> = self
            .acknowledged_within(from, to)
            .iter()
            .map(|(invoked, at)| Duration::from_nanos(at - invoked))
            .collect();
        latencies.sort_unstable();
        latencies
    }

    /// The longest time, between these two, in which no probe of any shard was acknowledged.
    pub fn longest_silence(&self, from: Nanos, to: Nanos) -> Duration {
        let mut times: Vec<Nanos> = self.acknowledged_within(from, to).iter().map(|(_, at)| *at).collect();
        times.extend([from, to]);
        times.sort_unstable();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two at least");
        Duration::from_nanos(longest)
    }

    /// The longest time, between these two, in which a shard acknowledged no probe; for the shard that was the worst off.
    pub fn worst_outage(&self, from: Nanos, to: Nanos) -> Outage {
        let probes = self.probes.lock().expect("the load has not panicked");
        let outages = probes.iter().map(|(shard, acknowledged)| {
            let times = acknowledged.iter().map(|(_, at)| *at).filter(|at| (from..=to).contains(at));
            let times: Vec<Nanos> = std::iter::once(from).chain(times).chain([to]).collect();
            let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two at least");
            Outage { longest: Duration::from_nanos(longest), shard: *shard }
        });
        outages.max().expect("there are shards")
    }

    fn acknowledged_within(&self, from: Nanos, to: Nanos) -> Vec<(Nanos, Nanos)> {
        let probes = self.probes.lock().expect("the load has not panicked");
        let all = probes.values().flatten().copied();
        all.filter(|(_, at)| (from..=to).contains(at)).collect()
    }

    /// The time of the history.
    pub fn now(&self) -> Nanos {
        since(self.started)
    }

    /// Waits until every shard has acknowledged a write begun after `from`, and tells how long each took none.
    pub fn wait_until_writes_flow(&self, from: Nanos, limit: Duration) -> Vec<Outage> {
        until("every shard to take writes", limit, || {
            let probes = self.probes.lock().expect("the load has not panicked");
            if probes.is_empty() {
                return Err("the clients are not connected yet".to_owned());
            }
            probes.iter().map(|(shard, acknowledged)| outage(*shard, acknowledged, from)).collect()
        })
    }

    /// Waits until the workers have had so many more operations acknowledged.
    pub fn wait_for_operations(&self, count: u64, limit: Duration) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        until("the clients to get work done", limit, || match self.acknowledged.load(Ordering::Relaxed) {
            now if now >= goal => Ok(()),
            now => Err(format!("{} of {count} operations are missing", goal - now)),
        });
    }

    /// Ends the clients; what they did.
    ///
    /// # Panics
    /// When one of them did.
    pub fn finish(mut self) -> LoadResult {
        self.stop.store(true, Ordering::Relaxed);
        let executor = self.executor.take().expect("a load is finished once");
        executor.join().expect("the clients end without a panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that failed must not leave clients behind that retry for ever.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The longest time after `from` in which no write was acknowledged, if one begun after it has been by now.
fn outage(shard: u32, acknowledged: &[(Nanos, Nanos)], from: Nanos) -> Result<Outage, String> {
    if !acknowledged.iter().any(|(invoked, _)| *invoked >= from) {
        return Err(format!("shard {shard} takes no writes"));
    }
    let mut longest = 0;
    let mut last = from;
    for &(_, at) in acknowledged.iter().filter(|(_, at)| *at >= from) {
        longest = longest.max(at - last);
        last = at;
    }
    Ok(Outage { longest: Duration::from_nanos(longest), shard })
}

/// Reads every key and compares; what is wrong, for people.
pub fn read_back(endpoints: Vec<String>, written: Vec<(Bytes, u64)>) -> Vec<String> {
    with_client(endpoints, async move |client| {
        let written = Rc::new(written);
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (client, written) = (client.clone(), Rc::clone(&written));
                glommio::spawn_local(async move {
                    let mut wrong = Vec::new();
                    for (key, token) in written.iter().skip(reader).step_by(READERS) {
                        let found = client.get(key.clone()).await;
                        match &found {
                            Ok(Some(value)) if value.data == value_of(*token) => {}
                            other => {
                                wrong.push(format!("{key:?} should hold number {token}, and is {other:?}"))
                            }
                        }
                    }
                    wrong
                })
            })
            .collect();
        let mut wrong = Vec::new();
        for reader in readers {
            wrong.extend(reader.await);
        }
        wrong
    })
}

/// What all clients of a load share.
struct Shared {
    started: Instant,
    stop: Arc<AtomicBool>,
    probes: Arc<Mutex<Probes>>,
    acknowledged: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    surprises: Arc<Mutex<Vec<String>>>,
    config: LoadConfig,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn now(&self) -> Nanos {
        since(self.started)
    }
}

fn since(started: Instant) -> Nanos {
    u64::try_from(started.elapsed().as_nanos()).expect("a test ends within centuries")
}

async fn run(shared: Shared, endpoints: Vec<String>) -> LoadResult {
    let shared = Rc::new(shared);
    let result = Rc::new(RefCell::new(LoadResult::default()));
    let connect = async |sessions| {
        let config = ClientConfig { sessions, ..client_config(endpoints.clone()) };
        Client::connect(config).await.expect("an endpoint answers")
    };
    let mut tasks = Vec::new();
    let prober = connect(true).await;
    let map = prober.cluster_map();
    for shard in map.shards.iter().filter(|shard| shard.slots.is_some()) {
        let key = key_in(&map, shard.id, "probe-");
        shared.probes.lock().expect("not poisoned").insert(shard.id, Vec::new());
        tasks.push(glommio::spawn_local(probe(Rc::clone(&shared), prober.clone(), shard.id, key)));
    }
    for number in 0..shared.config.workers {
        let worker = Worker {
            client: connect(number % 2 == 0).await,
            number,
            random: Random(shared.config.seed.wrapping_mul(1_000_003) ^ u64::from(number)),
            known: HashMap::new(),
            next_token: (u64::from(number) + 1) << 32,
            shared: Rc::clone(&shared),
            result: Rc::clone(&result),
        };
        tasks.push(glommio::spawn_local(worker.work()));
    }
    for task in tasks {
        task.await;
    }
    Rc::try_unwrap(result).map(RefCell::into_inner).unwrap_or_else(|_| unreachable!("all workers have ended"))
}

async fn probe(shared: Rc<Shared>, client: Client, shard: u32, key: Bytes) {
    while shared.goes_on() {
        let invoked = shared.now();
        match client.put(key.clone(), "probe").await {
            Ok(_) => {
                let at = shared.now();
                let mut probes = shared.probes.lock().expect("not poisoned");
                probes.get_mut(&shard).expect("entered at the start").push((invoked, at));
            }
            Err(error) => shared.failed.lock().expect("not poisoned").push(format!("shard {shard}: {error}")),
        }
        glommio::timer::sleep(Duration::from_millis(10)).await;
    }
}

struct Worker {
    client: Client,
    number: u32,
    random: Random,
    /// What this worker last saw of each key.
    known: HashMap<u64, Option<u64>>,
    next_token: u64,
    shared: Rc<Shared>,
    result: Rc<RefCell<LoadResult>>,
}

impl Worker {
    async fn work(mut self) {
        while self.shared.goes_on() {
            if self.random.below(5) == 0 {
                self.write_once().await;
            } else {
                self.operate().await;
            }
            glommio::timer::sleep(self.shared.config.pause).await;
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    async fn write_once(&mut self) {
        let token = self.token();
        let key = Bytes::from(format!("once-{token:x}"));
        if self.client.put(key.clone(), value_of(token)).await.is_ok() {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            self.result.borrow_mut().written.push((key, token));
        }
    }

    async fn operate(&mut self) {
        let number = self.random.below(self.shared.config.keys);
        let key = format!("register-{number}");
        let token = self.token();
        let action = match self.random.below(20) {
            0..7 => Action::Put(token),
            7..14 => Action::Get,
            14 => Action::Delete,
            _ => {
                let expected = self.known.get(&number).copied().flatten();
                let new = (self.random.below(8) != 0).then_some(token);
                Action::Swap { expected, new }
            }
        };
        let invoked = self.shared.now();
        let result = self.perform(&key, action).await;
        let end = match result {
            Ok((answer, version)) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.learn(number, action, answer);
                End::Ok { at: self.shared.now(), answer, version }
            }
            Err(error) => {
                if !is_retriable(&error) {
                    let surprise = format!("{action:?} of {key}: {error}");
                    self.shared.surprises.lock().expect("not poisoned").push(surprise);
                }
                end_of(&error)
            }
        };
        let record = Record { key, client: self.number, invoked, action, end };
        self.result.borrow_mut().history.extend([record]);
    }

    async fn perform(&mut self, key: &str, action: Action) -> Result<(Answer, Option<u64>), ClientError> {
        let client = &self.client;
        let key = Bytes::copy_from_slice(key.as_bytes());
        Ok(match action {
            Action::Get => {
                let consistency = match self.random.below(3) {
                    0 => ReadConsistency::Follower,
                    _ => ReadConsistency::Linearizable,
                };
                let found: Option<Value> = client.get_with(key, consistency).await?;
                let version = found.as_ref().map(|value| value.version);
                (Answer::Found(found.map(|value| token_of(&value.data))), version)
            }
            Action::Put(token) => (Answer::Stored, Some(client.put(key, value_of(token)).await?)),
            Action::Delete => (Answer::Deleted(client.delete(key).await?), None),
            Action::Swap { expected, new } => {
                let expected = expected.map_or(Expected::Absent, |token| Expected::Value(value_of(token)));
                match client.compare_and_swap(key, expected, new.map(value_of)).await? {
                    Swap::Done { version } => (Answer::Swapped(true), Some(version)),
                    Swap::Mismatch { .. } => (Answer::Swapped(false), None),
                }
            }
        })
    }

    fn learn(&mut self, number: u64, action: Action, answer: Answer) {
        let content = match (action, answer) {
            (_, Answer::Found(found)) => found,
            (Action::Put(token), _) => Some(token),
            (Action::Swap { new, .. }, Answer::Swapped(true)) => new,
            // What is there is not known: the next swap expects nothing, which is as good as any guess.
            _ => None,
        };
        self.known.insert(number, content);
    }
}

/// What the library says an error means for the operation; that it is right is part of what is tested.
fn end_of(error: &ClientError) -> End {
    match error {
        ClientError::Indeterminate { .. } => End::Indeterminate,
        ClientError::UnexpectedAnswer | ClientError::TooLarge { .. } => panic!("{error}"),
        _ => End::Failed,
    }
}

/// Whether it passes: another attempt may succeed, or the outcome is in doubt.
fn is_retriable(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Indeterminate { .. } | ClientError::TimedOut { .. } | ClientError::Overloaded { .. }
    )
}

/// SplitMix64: small, seeded, good enough to choose operations.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
