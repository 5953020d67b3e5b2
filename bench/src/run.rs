//! The run seen from the main thread: starts the threads, gives the signal, collects what they counted.
//!
//! Invariant: no thread begins its load before every thread is ready, and all measure the same window.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use glommio::GlommioError;
use thiserror::Error;

use crate::cli::Plan;
use crate::clock::{Control, Moment};
use crate::driver::{self, Event, Handle, ThreadError};
use crate::progress::Progress;
use crate::sample::Failure;
use crate::timeline::{Timeline, Totals};
use crate::{cpu, interrupt, limits};

/// How often the main thread looks at the clock and for a signal.
const TURN: Duration = Duration::from_millis(20);
/// From the last thread's readiness to the start: all see it in time.
const START_DELAY: Duration = Duration::from_millis(20);

/// What a run has found out.
#[derive(Debug)]
pub struct Outcome {
    /// What was asked for.
    pub plan: Arc<Plan>,
    /// Length of the window; shorter than planned after an interrupt.
    pub window: Duration,
    /// Everything that was counted.
    pub totals: Totals,
    /// Open loop: requests due in the window that were never sent.
    pub unsent: u64,
    /// An example of each kind of failure, in words.
    pub examples: BTreeMap<Failure, String>,
    /// Processor time the load generator used in the window.
    pub cpu: Duration,
}

/// Why a run has no outcome.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel refused a thread, an event descriptor or an io_uring, most likely for a limit.
    #[error(
        "cannot start a load thread: {reason} (see `ulimit -l` for locked memory, `ulimit -n` for files)"
    )]
    Executor {
        /// The executor's words: its error cannot be shared between threads, as an error source must be.
        reason: String,
    },
    /// A thread could not do its part.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// Ctrl-C before the window began.
    #[error("interrupted before anything was measured")]
    Interrupted,
    /// The kernel refused a signal handler.
    #[error("cannot listen for Ctrl-C")]
    Signal(#[source] std::io::Error),
}

impl From<GlommioError<()>> for RunError {
    fn from(error: GlommioError<()>) -> Self {
        Self::Executor { reason: error.to_string() }
    }
}

/// Runs a plan to its end.
///
/// # Errors
/// Nothing was measured, and why.
pub fn run(plan: Plan) -> Result<Outcome, RunError> {
    let plan = Arc::new(plan);
    let control = Arc::new(Control::new());
    limits::raise();
    let (events, inbox) = channel();
    let mut handles: Vec<Handle> = Vec::new();
    let masked = interrupt::Masked::new();
    for thread in 0..plan.threads {
        match driver::spawn(plan.clone(), control.clone(), thread, events.clone()) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                // Those already started would wait for a start that never comes.
                control.stop();
                return Err(RunError::from(error));
            }
        }
    }
    drop(events);
    interrupt::listen().map_err(RunError::Signal)?;
    drop(masked);

    let mut collector = Collector::new(&plan, &control);
    collector.collect(&inbox);
    let mut unsent = 0;
    for handle in handles {
        unsent += handle.join().map_err(RunError::from)??.unsent;
    }
    collector.into_outcome(plan.clone(), unsent).ok_or(RunError::Interrupted)
}

/// What the main thread has heard so far.
struct Collector<'run> {
    plan: &'run Plan,
    control: &'run Control,
    timeline: Timeline,
    progress: Progress,
    examples: BTreeMap<Failure, String>,
    ready: u32,
    cpu_at_start: Option<Duration>,
    cpu_at_end: Option<Duration>,
}

impl<'run> Collector<'run> {
    fn new(plan: &'run Plan, control: &'run Control) -> Self {
        Self {
            plan,
            control,
            timeline: Timeline::new(plan.threads),
            progress: Progress::new(plan.progress),
            examples: BTreeMap::new(),
            ready: 0,
            cpu_at_start: None,
            cpu_at_end: None,
        }
    }

    /// Hears the threads out, until all have ended.
    fn collect(&mut self, inbox: &Receiver<Event>) {
        loop {
            match inbox.recv_timeout(TURN) {
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.on_turn(self.control.now());
        }
        self.progress.close();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ready => {
                self.ready += 1;
                if self.ready == self.plan.threads {
                    let load = self.control.now().after(START_DELAY);
                    self.control.begin(load, self.plan.warmup, self.plan.window);
                }
            }
            Event::Sample(sample) => {
                if let Some(row) = self.timeline.add(&sample) {
                    self.progress.row(&row);
                }
            }
            Event::Example(failure, words) => {
                self.examples.entry(failure).or_insert(words);
            }
            // A thread that ends before the start has failed, and the others need not wait for it. One
            // that ends after the end has done its part, and stopping changes nothing.
            Event::Ended => self.control.stop(),
        }
    }

    fn on_turn(&mut self, now: Moment) {
        if interrupt::requested() && !self.control.is_stopped() {
            self.progress.note("interrupted: waiting for the requests in flight");
            self.control.stop();
        }
        match self.control.start() {
            None => {
                if self.plan.preload {
                    self.progress.loading(now, self.control.loaded(), self.plan.keys);
                }
            }
            Some(start) => {
                if now >= start.window && self.cpu_at_start.is_none() {
                    self.cpu_at_start = Some(cpu::used());
                }
                if now >= self.control.end() && self.cpu_at_end.is_none() {
                    self.cpu_at_end = Some(cpu::used());
                }
            }
        }
    }

    fn into_outcome(self, plan: Arc<Plan>, unsent: u64) -> Option<Outcome> {
        let start = self.control.start()?;
        let window = self.control.end().since(start.window);
        if window.is_zero() {
            return None;
        }
        let at_end = self.cpu_at_end.unwrap_or_else(cpu::used);
        Some(Outcome {
            plan,
            window,
            totals: self.timeline.finish(window),
            unsent,
            examples: self.examples,
            cpu: at_end.saturating_sub(self.cpu_at_start.unwrap_or(at_end)),
        })
    }
}
