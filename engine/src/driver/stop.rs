//! The end of a core that was asked to stop: it hands its leaderships over, makes what it has applied durable, so that
//! the next start has nothing to replay, and lets the log come to rest. Each step is bounded: whatever is not done by
//! then is done by the next start, as after a crash.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Driver;
use crate::core::Event;

/// How long the hand-over of leaderships may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// How long flushing the state machines may take.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How long the log may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(1);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

impl Driver {
    /// Begins to stop.
    pub(super) fn stop(self: &Rc<Self>) {
        self.inbox.push(Event::Shutdown);
        let this = self.clone();
        glommio::spawn_local(async move {
            glommio::timer::sleep(HAND_OVER_MAX).await;
            this.finish().await;
        })
        .detach();
    }

    /// Goes on stopping once nothing is led here any more, or nobody takes it over.
    pub(super) async fn finish(self: Rc<Self>) {
        if self.finishing.replace(true) {
            return;
        }
        let wait = self.store.flush();
        let flushed = glommio::timer::timeout(FLUSH_MAX, async { Ok(wait.recv_async().await) }).await;
        if flushed.is_err() {
            tracing::warn!(core = self.mesh.core, "flushing takes too long; the next start replays the log");
        }
        let begun = Instant::now();
        while self.disk.is_writing() && begun.elapsed() < REST_MAX {
            glommio::timer::sleep(LOOK).await;
        }
        self.stopped.set(true);
        self.inbox.tick();
    }
}
