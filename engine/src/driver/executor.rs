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
        .spawn(work)
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

/// Runs a client's work on an executor of its own, and waits for it.
pub fn run_client<F, W>(work: F) -> io::Result<W::Output>
where
    F: FnOnce() -> W + Send + 'static,
    W: Future + 'static,
    W::Output: Send + 'static,
{
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("ringkv-client")
        .spawn(work)
        .and_then(|executor| executor.join())
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Timers that always lie ahead.
///
/// When the preemption timer runs out before the first runnable task was run, because the thread or the whole host
/// stood still just then, glommio takes it that nothing is runnable and sleeps. What wakes it then is the next timer, or
/// I/O asked for before; when all that has come, too, it would sleep for ever. One of these lies beyond any standstill
/// shorter than itself, so a core sleeps too long by the length of the shortest such at most.
#[derive(Debug)]
pub struct Alarms(Vec<Alarm>);

#[derive(Debug)]
struct Alarm {
    length: Duration,
    set: Instant,
    /// Runs as long as it is held.
    _timer: Timer,
}

impl Alarms {
    /// Sets them.
    pub fn set() -> Alarms {
        const LENGTHS_MS: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];
        Alarms(LENGTHS_MS.iter().map(|length| Alarm::set(Duration::from_millis(*length))).collect())
    }

    /// Sets those again that have come halfway. To be called often.
    pub fn set_again(&mut self) {
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
