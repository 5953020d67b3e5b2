//! One thread of load on a glommio executor: its clients, their requests in flight, its recorder.
//!
//! ```text
//!  connect --> load keys --> ready ...(all threads)... start --> warm-up, window --> drain --> done
//! ```
//!
//! Each client has `pipeline` places in flight; each place is a task that sends one request, waits for
//! its answer, and goes on. In a closed loop a place wants to send the moment its answer is in, and the
//! next latency counts from there; in an open loop requests come from the schedule.
//!
//! Invariant: no `RefCell` is borrowed across an await.

mod arrivals;
mod load;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement, Task};
use net::client::{ClientError, ConnectError};
use thiserror::Error;

pub use load::LOAD_IN_FLIGHT_MAX;

use crate::cli::Plan;
use crate::clock::{Control, Moment, Start};
use crate::keys::Keys;
use crate::sample::{Failure, Finished, Recorder, Sample};
use crate::schedule::Schedule;
use crate::target::{self, Target};
use crate::values::Values;
use crate::workload::{Action, Kind, Workload};
use arrivals::{Arrival, Arrivals};

/// How often a thread closes seconds and looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// How often a ready thread looks for the start.
const START_POLL: Duration = Duration::from_millis(1);
/// A closed-loop place rests this long after a failure: a cluster that refuses at once would otherwise
/// be asked as fast as a loop can turn, by a generator that takes the processor away from it.
const FAILURE_REST: Duration = Duration::from_millis(10);
/// How long past its own timeout a request is waited for.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// The executor does no disk I/O: the least memory glommio takes for it.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;

/// What a thread tells the main thread.
#[derive(Debug)]
pub enum Event {
    /// Connected and loaded; waiting for the start.
    Ready,
    /// A period is over.
    Sample(Box<Sample>),
    /// The first failure of its kind on this thread, in words.
    Example(Failure, String),
    /// The thread has ended, well or not: its result can be joined.
    Ended,
}

/// What a thread returns at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Open loop: requests due in the window that were never sent.
    pub unsent: u64,
}

/// Why a thread could not do its part.
#[derive(Debug, Error)]
pub enum ThreadError {
    /// Check the endpoints, and whether the cluster is up.
    #[error("cannot connect to the cluster")]
    Connect(#[source] ConnectError),
    /// The cluster does not take writes: the keys to read cannot be made.
    #[error("cannot load key number {key_number}")]
    Load {
        /// The key that could not be written.
        key_number: u64,
        /// Why not.
        #[source]
        source: ClientError,
    },
}

/// A running thread; joined by its [`ExecutorJoinHandle`].
pub type Handle = ExecutorJoinHandle<Result<Drained, ThreadError>>;

/// Starts thread number `thread` of the plan. It sends [`Event::Ready`] unless it fails before, and
/// [`Event::Ended`] in any case.
///
/// # Errors
/// The thread or its executor's event descriptor could not be made.
pub fn spawn(
    plan: Arc<Plan>,
    control: Arc<Control>,
    thread: u32,
    events: Sender<Event>,
) -> Result<Handle, GlommioError<()>> {
    let guard = SendEnded(events.clone());
    LocalExecutorBuilder::new(Placement::Unbound).name("ringkv-bench").io_memory(EXECUTOR_IO_BYTES).spawn(
        move || async move {
            let _guard = guard;
            Worker::new(plan, control, thread, events).run().await
        },
    )
}

/// Sends [`Event::Ended`] when it is dropped: also when the executor could not be made.
struct SendEnded(Sender<Event>);

impl Drop for SendEnded {
    fn drop(&mut self) {
        drop(self.0.send(Event::Ended));
    }
}

struct Worker {
    plan: Arc<Plan>,
    control: Arc<Control>,
    thread: u32,
    events: Sender<Event>,
    workload: RefCell<Workload>,
    keys: RefCell<Keys>,
    values: RefCell<Values>,
    /// Kinds of failure for which an example was sent, as bits.
    exemplified: Cell<u32>,
}

/// What the places in flight share while the load is on.
struct Measurement {
    worker: Rc<Worker>,
    start: Start,
    recorder: RefCell<Recorder>,
    arrivals: Option<Arrivals>,
    /// Requests in flight that were due in the window: reads, writes.
    in_flight: [Cell<u64>; 2],
}

impl Worker {
    fn new(plan: Arc<Plan>, control: Arc<Control>, thread: u32, events: Sender<Event>) -> Self {
        // Stamps of different threads must not repeat each other's counters.
        let first_counter = u64::from(thread) << 40;
        Self {
            workload: RefCell::new(Workload::new(&plan, thread)),
            keys: RefCell::default(),
            values: RefCell::new(Values::new(plan.value_bytes, first_counter)),
            exemplified: Cell::new(0),
            plan,
            control,
            thread,
            events,
        }
    }

    async fn run(self) -> Result<Drained, ThreadError> {
        let mut targets = Vec::new();
        let step = usize::try_from(self.plan.threads).expect("usize has 64 bits here");
        for index in (self.thread..self.plan.clients).step_by(step) {
            targets.push(Target::connect(&self.plan, index).await.map_err(ThreadError::Connect)?);
        }
        let worker = Rc::new(self);
        if worker.plan.preload {
            load::load(&worker, &targets).await?;
        }
        worker.send(Event::Ready);
        let Some(start) = worker.wait_for_start().await else {
            return Ok(Drained::default());
        };
        Ok(Measurement::new(worker, start).run(targets).await)
    }

    fn send(&self, event: Event) {
        // The receiver outlives every thread unless the main thread has given up: nobody to tell then.
        drop(self.events.send(event));
    }

    async fn wait_for_start(&self) -> Option<Start> {
        while !self.control.is_stopped() {
            if let Some(start) = self.control.start() {
                let wait = start.load.since(self.control.now());
                glommio::timer::sleep(wait).await;
                return Some(start);
            }
            glommio::timer::sleep(START_POLL).await;
        }
        None
    }

    /// Sends one request; returns the bytes of value moved.
    async fn perform(&self, target: &Target, action: Action) -> Result<u64, Failure> {
        let key = self.keys.borrow_mut().key(action.key_number);
        match action.kind {
            Kind::Write => {
                let value = self.value(action.key_number);
                let bytes = value.len() as u64;
                target.write(key, value).await.map_err(|error| self.failure(&error))?;
                Ok(bytes)
            }
            Kind::Read => {
                let value = target.read(key).await.map_err(|error| self.failure(&error))?;
                self.judge(action.key_number, value.as_deref())
            }
        }
    }

    fn value(&self, key_number: u64) -> bytes::Bytes {
        let mut workload = self.workload.borrow_mut();
        let mut values = self.values.borrow_mut();
        if self.plan.verify {
            values.stamped(key_number, workload.random())
        } else {
            values.plain(workload.random())
        }
    }

    fn judge(&self, key_number: u64, value: Option<&[u8]>) -> Result<u64, Failure> {
        let Some(value) = value else {
            if self.plan.allow_missing {
                return Ok(0);
            }
            self.exemplify(Failure::MissingKey, || format!("key number {key_number} does not exist"));
            return Err(Failure::MissingKey);
        };
        if self.plan.verify
            && let Err(mismatch) = self.values.borrow().check(key_number, value)
        {
            self.exemplify(Failure::WrongValue, || format!("key number {key_number}: {mismatch}"));
            return Err(Failure::WrongValue);
        }
        Ok(value.len() as u64)
    }

    fn failure(&self, error: &ClientError) -> Failure {
        let failure = target::classify(error);
        self.exemplify(failure, || error.to_string());
        failure
    }

    fn exemplify(&self, failure: Failure, words: impl FnOnce() -> String) {
        let bit = 1 << failure as u32;
        if self.exemplified.get() & bit == 0 {
            self.exemplified.set(self.exemplified.get() | bit);
            self.send(Event::Example(failure, words()));
        }
    }
}

impl Measurement {
    fn new(worker: Rc<Worker>, start: Start) -> Self {
        let arrivals = worker.plan.rate.map(|rate| {
            let schedule = Schedule::new(start.load, rate, worker.thread, worker.plan.threads);
            Arrivals::new(worker.control.clone(), schedule)
        });
        Self {
            recorder: RefCell::new(Recorder::new(start.window)),
            arrivals,
            in_flight: Default::default(),
            start,
            worker,
        }
    }

    async fn run(self, targets: Vec<Target>) -> Drained {
        let this = Rc::new(self);
        let mut places: Vec<Task<()>> = Vec::new();
        for target in &targets {
            for _ in 0..this.worker.plan.pipeline {
                places.push(glommio::spawn_local(this.clone().place(target.clone())));
            }
        }
        let pacer = this.clone();
        let pacer = glommio::spawn_local(async move {
            if let Some(arrivals) = &pacer.arrivals {
                arrivals.pace().await;
            }
        });
        this.tick_until_the_end().await;
        drop(pacer);
        this.arrivals.iter().for_each(Arrivals::wake_all);
        let all = async {
            for place in places {
                place.await;
            }
            Ok(())
        };
        // Dropping the tasks at the timeout cancels what is left of them; `close` counts it.
        let grace = this.worker.plan.request_timeout + DRAIN_GRACE;
        let drained: Result<(), GlommioError<()>> = glommio::timer::timeout(grace, all).await;
        this.close(drained.is_err())
    }

    /// One place in flight of one client.
    async fn place(self: Rc<Self>, target: Target) {
        let control = &self.worker.control;
        let mut due = control.now();
        loop {
            let mut sent = None;
            match &self.arrivals {
                Some(arrivals) => match arrivals.next().await {
                    Some(Arrival { due: scheduled, sent: now }) => (due, sent) = (scheduled, Some(now)),
                    None => return,
                },
                None if due >= control.end() => return,
                None => {}
            }
            let action = self.worker.workload.borrow_mut().next_action();
            let in_flight = (due >= self.start.window).then(|| &self.in_flight[action.kind as usize]);
            in_flight.inspect(|count| count.set(count.get() + 1));
            let outcome = self.worker.perform(&target, action).await;
            in_flight.inspect(|count| count.set(count.get() - 1));
            let at = control.now();
            let finished = Finished { kind: action.kind, due, sent, at, outcome };
            self.recorder.borrow_mut().record(finished, control.end());
            due = at;
            if outcome.is_err() && self.arrivals.is_none() {
                glommio::timer::sleep(FAILURE_REST).await;
                due = control.now();
            }
        }
    }

    /// Passes on the seconds as they end.
    async fn tick_until_the_end(&self) {
        loop {
            let (now, end) = (self.worker.control.now(), self.worker.control.end());
            if now >= end {
                return;
            }
            self.recorder.borrow_mut().roll(now);
            self.pass_on();
            glommio::timer::sleep(end.since(now).min(TICK)).await;
        }
    }

    fn pass_on(&self) {
        let ready = self.recorder.borrow_mut().take_ready();
        ready.for_each(|sample| self.worker.send(Event::Sample(Box::new(sample))));
    }

    fn close(&self, gave_up: bool) -> Drained {
        self.pass_on();
        let mut recorder = self.recorder.replace(Recorder::new(Moment::NEVER));
        if gave_up {
            for kind in [Kind::Read, Kind::Write] {
                recorder.record_unfinished(kind, self.in_flight[kind as usize].get());
            }
        }
        let samples = recorder.finish(self.worker.control.end());
        samples.for_each(|sample| self.worker.send(Event::Sample(Box::new(sample))));
        let unsent = self.arrivals.as_ref().map_or(0, |arrivals| arrivals.unsent(self.start.window));
        Drained { unsent }
    }
}
