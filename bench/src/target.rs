//! The cluster as the load sees it: a write, a read, and what failed. The only file that knows `net`.

use std::time::Duration;

use bytes::Bytes;
use net::client::{ClientConfig, ClientError, ConnectError};
use net::protocol::{ReadConsistency, Refusal, WriteConsistency};
use net::{Client, PutOptions};

use crate::cli::{Plan, ReadLevel, WriteLevel};
use crate::keys::KEY_BYTES;
use crate::sample::Failure;

/// One client with connections of its own.
#[derive(Clone)]
pub struct Target {
    client: Client,
    put: PutOptions,
    read: ReadConsistency,
}

impl Target {
    /// Connects client number `index` of the run.
    ///
    /// # Errors
    /// No endpoint answered in time.
    pub async fn connect(plan: &Plan, index: u32) -> Result<Self, ConnectError> {
        let client = Client::connect(config(plan, index)).await?;
        let consistency = match plan.write_level {
            WriteLevel::Strong => WriteConsistency::Strong,
            WriteLevel::Leader => WriteConsistency::Leader,
            WriteLevel::Eventual => WriteConsistency::Eventual,
        };
        let read = match plan.read_level {
            ReadLevel::Linearizable => ReadConsistency::Linearizable,
            ReadLevel::Follower => ReadConsistency::Follower,
            ReadLevel::Stale => ReadConsistency::Stale,
        };
        Ok(Self { client, put: PutOptions { consistency, ..PutOptions::default() }, read })
    }

    /// Writes one value.
    ///
    /// # Errors
    /// As the client tells it.
    pub async fn write(&self, key: Bytes, value: Bytes) -> Result<(), ClientError> {
        self.client.put_with(key, value, self.put).await.map(drop)
    }

    /// Reads one value.
    ///
    /// # Errors
    /// As the client tells it.
    pub async fn read(&self, key: Bytes) -> Result<Option<Bytes>, ClientError> {
        Ok(self.client.get_with(key, self.read).await?.map(|value| value.data))
    }
}

fn config(plan: &Plan, index: u32) -> ClientConfig {
    let defaults = ClientConfig::new(endpoints_for(plan, index));
    let requests = usize::try_from(plan.pipeline).expect("usize has 64 bits here");
    // What this client may have unfinished at most, with room for what it adds to a request: the load,
    // not the client's own bound, decides how much is in flight.
    let queued_bytes =
        requests.max(crate::driver::LOAD_IN_FLIGHT_MAX) * (plan.value_bytes + KEY_BYTES + 1024);
    ClientConfig {
        request_timeout: plan.request_timeout,
        silence_timeout: defaults.silence_timeout.min(plan.request_timeout),
        inflight_bytes_max: defaults.inflight_bytes_max.max(queued_bytes),
        queued_bytes_max: defaults.queued_bytes_max.max(queued_bytes.saturating_mul(2)),
        connect_timeout: defaults.connect_timeout.max(Duration::from_secs(5)),
        ..defaults
    }
}

/// Clients begin with different endpoints, so that no node greets them all.
fn endpoints_for(plan: &Plan, index: u32) -> Vec<String> {
    let mut endpoints = plan.endpoints.clone();
    let first = usize::try_from(index).expect("usize has 64 bits here") % endpoints.len();
    endpoints.rotate_left(first);
    endpoints
}

/// What kind of failure this is in the report.
pub fn classify(error: &ClientError) -> Failure {
    match error {
        ClientError::Indeterminate { .. } => Failure::Indeterminate,
        ClientError::TimedOut { .. } => Failure::Timeout,
        ClientError::Overloaded { .. } => Failure::Busy,
        ClientError::Refused(refusal) => match refusal {
            Refusal::Busy { .. } => Failure::Busy,
            Refusal::NotLeader { .. } | Refusal::WrongShard { .. } | Refusal::Unavailable { .. } => {
                Failure::Unavailable
            }
            Refusal::Timeout => Failure::Timeout,
            Refusal::Invalid { .. }
            | Refusal::Conflict { .. }
            | Refusal::TooLarge { .. }
            | Refusal::SessionExpired => Failure::Rejected,
            Refusal::Internal { .. } => Failure::Internal,
        },
        ClientError::NoSuchShard => Failure::Unavailable,
        ClientError::TooLarge { .. } | ClientError::BatchSpansShards | ClientError::EmptyBatch => {
            Failure::Rejected
        }
        ClientError::UnexpectedAnswer | ClientError::Closed => Failure::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::plan;

    #[test]
    fn clients_begin_with_different_endpoints() {
        let plan = plan("write --endpoints a:1,b:2,c:3");
        assert_eq!(endpoints_for(&plan, 0), ["a:1", "b:2", "c:3"]);
        assert_eq!(endpoints_for(&plan, 4), ["b:2", "c:3", "a:1"]);
    }

    #[test]
    fn the_clients_own_bounds_never_bind() {
        let plan = plan("write --endpoints a:1 --pipeline 10000 --value-size 1048576");
        let config = config(&plan, 0);
        assert!(config.inflight_bytes_max > 10_000 * 1_048_576);
        assert!(config.queued_bytes_max > config.inflight_bytes_max);
    }

    #[test]
    fn the_timeout_of_the_command_line_reaches_the_client() {
        let config = config(&plan("write --endpoints a:1 --timeout-ms 250"), 0);
        assert_eq!(config.request_timeout, Duration::from_millis(250));
        assert!(config.silence_timeout <= config.request_timeout);
    }

    #[test]
    fn doubt_is_told_apart_from_refusal() {
        let doubt = ClientError::Indeterminate { cause: String::new() };
        assert_eq!(classify(&doubt), Failure::Indeterminate);
        let busy = ClientError::Refused(Refusal::Busy { retry_after_ms: 1 });
        assert_eq!(classify(&busy), Failure::Busy);
        let leaderless = ClientError::Refused(Refusal::NotLeader { leader: None, epoch: 0 });
        assert_eq!(classify(&leaderless), Failure::Unavailable);
    }
}
