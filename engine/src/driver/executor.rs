//! Starting glommio executors: one per core of a node, or one for a command-line client.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};

/// Submission queue of a core's executor: many connections and log writes at once.
const RING_DEPTH: usize = 1024;
/// How long runnable tasks may keep the executor from looking at its rings.
const PREEMPT: Duration = Duration::from_millis(5);
/// The shortest of the [`Alarms`].
const ALARM_MIN: Duration = Duration::from_millis(100);
/// Memory a core's executor registers with the kernel for direct I/O.
const IO_MEMORY_BYTES: usize = 32 << 20;

/// Starts the executor of a core, pinned to `cpu` if one is given; `spin` is how long it polls before it sleeps.
pub fn start_core<F, W>(core: u32, cpu: Option<usize>, spin: Duration, work: F) -> io::Result<()>
where
    F: FnOnce() -> W + Send + 'static,
    W: Future + 'static,
    W::Output: Send + 'static,
{
    LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .name(&format!("core-{core}"))
        .spin_before_park(spin)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT)
        .io_memory(IO_MEMORY_BYTES)
        .spawn(|| awake(work()))
        .map(drop)
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Lets some time pass, on an executor.
pub async fn pause(length: Duration) {
    glommio::timer::sleep(length).await;
}

/// Does work on an executor, or drops it when it takes longer than `limit`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    glommio::timer::timeout(limit, async { Ok(work.await) }).await.ok()
}

/// Does all of it at the same time, on this executor; the results come in the order given.
pub async fn together<T: 'static>(work: impl Iterator<Item = impl Future<Output = T> + 'static>) -> Vec<T> {
    let tasks: Vec<_> = work.map(glommio::spawn_local).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await);
    }
    results
}

/// Runs a client's work on an executor of its own, and waits for it.
pub fn run_client<F, W>(work: F) -> io::Result<W::Output>
where
    F: FnOnce() -> W + Send + 'static,
    W: Future + 'static,
    W::Output: Send + 'static,
{
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("ringkv-client")
        .spawn(|| awake(work()))
        .and_then(|executor| executor.join())
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Does work on an executor that never sleeps through it.
async fn awake<T>(work: impl Future<Output = T>) -> T {
    let mut alarms = Alarms::set();
    let keep = glommio::spawn_local(async move {
        loop {
            glommio::timer::sleep(ALARM_MIN / 4).await;
            alarms.set_again();
        }
    });
    let result = work.await;
    keep.cancel().await;
    result
}

/// Timers that always lie ahead.
///
/// When the preemption timer runs out before the first runnable task was run, because the thread or the whole host
/// stood still just then, glommio takes it that nothing is runnable and sleeps. What wakes it then is the next timer, or
/// I/O asked for before; when all that has come, too, it would sleep for ever. One of these lies beyond any standstill
/// shorter than itself, so a core sleeps too long by the length of the shortest such at most.
struct Alarms(Vec<Alarm>);

struct Alarm {
    length: Duration,
    set: Instant,
    /// Given up when it is dropped.
    _timer: Timer,
}

impl Alarms {
    /// Sets them.
    fn set() -> Alarms {
        let lengths = [1, 10, 100, 1_000, 10_000].map(|factor| factor * ALARM_MIN);
        Alarms(lengths.into_iter().map(Alarm::set).collect())
    }

    /// Sets those again that have come halfway. To be called often.
    fn set_again(&mut self) {
        for alarm in self.0.iter_mut().filter(|alarm| alarm.set.elapsed() >= alarm.length / 2) {
            *alarm = Alarm::set(alarm.length);
        }
    }
}

impl Alarm {
    fn set(length: Duration) -> Alarm {
        let mut timer = Timer::new(length);
        // A timer runs from its first poll on. Nobody waits for it: that the executor wakes is all it is for.
        let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
        Alarm { length, set: Instant::now(), _timer: timer }
    }
}
