//! Starting glommio executors: one per core of a node, or one for a command-line client.

use std::future::Future;
use std::io;
use std::time::Duration;

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
