//! The replicas of shards, as their leaders see them, and changes to them: by the calls that `ringkv admin` makes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net::protocol::{MemberRole, ShardDescription};
use net::{Client, ClientConfig, ClientError};

use super::deadline::until;
use super::library::{client_config, with_config};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Access to the groups of a cluster.
#[derive(Clone)]
pub struct Groups {
    endpoints: Vec<String>,
}

impl Groups {
    /// Those of the cluster at these addresses.
    pub fn at(endpoints: Vec<String>) -> Groups {
        Groups { endpoints }
    }

    /// Runs a request about a group.
    pub fn ask<T, F>(&self, request: F) -> Result<T, ClientError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Client) -> Result<T, ClientError> + Send + 'static,
    {
        let config = ClientConfig { request_timeout: ANSWER_MAX, ..client_config(self.endpoints.clone()) };
        with_config(config, request)
    }

    /// A shard, as its leader sees it.
    pub fn describe(&self, shard: u32) -> Result<ShardDescription, String> {
        self.ask(async move |client| client.describe_shard(shard).await)
            .map_err(|error| format!("shard {shard}: {error}"))
    }

    /// Waits until a look at a shard has an answer.
    pub fn wait<T>(
        &self,
        what: &str,
        shard: u32,
        limit: Duration,
        mut look: impl FnMut(&ShardDescription) -> Option<T>,
    ) -> T {
        until(what, limit, || {
            let description = self.describe(shard)?;
            look(&description).ok_or_else(|| format!("{description:?}"))
        })
    }

    /// Waits until the voters of a shard live on exactly these nodes, nobody learns, and no change is under way.
    pub fn wait_for_voters(&self, shard: u32, nodes: &BTreeSet<u64>, limit: Duration) -> BTreeMap<u64, u64> {
        self.wait(&format!("shard {shard} to have its voters on {nodes:?}"), shard, limit, |description| {
            let voters = voters(description);
            let settled = !description.joint
                && description.members.len() == voters.len()
                && voters.keys().copied().collect::<BTreeSet<u64>>() == *nodes;
            settled.then_some(voters)
        })
    }

    /// Waits until a node's replica votes, and all others do that the shard has then. Asks again and again for one: a wish
    /// is kept by the leader that heard it, and forgotten by the next.
    pub fn add_replica(&self, shard: u32, node: u64, limit: Duration) {
        until(&format!("shard {shard} to have a voter on node {node}"), limit, || {
            let description = self.describe(shard)?;
            let voters = voters(&description);
            if voters.contains_key(&node) && !description.joint && description.members.len() == voters.len() {
                return Ok(());
            }
            // Refused as long as it is a learner, and while another change is under way.
            let asked = self.ask(async move |client| client.add_replica(shard, node).await);
            Err(format!("{asked:?}; {description:?}"))
        });
    }

    /// Asks for a node's replica to be removed until it is begun.
    pub fn remove_replica(&self, shard: u32, node: u64, limit: Duration) {
        self.insist(&format!("shard {shard} to begin to leave node {node}"), limit, async move |client| {
            client.remove_replica(shard, node).await.map(drop)
        });
    }

    fn insist<F>(&self, what: &str, limit: Duration, request: F)
    where
        F: AsyncFnOnce(Client) -> Result<(), ClientError> + Clone + Send + 'static,
    {
        until(what, limit, || self.ask(request.clone()).map_err(|error| error.to_string()));
    }
}

/// The voters of a group: node to raft id.
pub fn voters(description: &ShardDescription) -> BTreeMap<u64, u64> {
    let voters = description.members.iter().filter(|member| member.role == MemberRole::Voter);
    voters.map(|member| (member.node, member.raft_id)).collect()
}
