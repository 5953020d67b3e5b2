//! The client library on glommio: `cargo run --release -p ringkv-net --example glommio [ENDPOINTS]`.

use net::protocol::{Expected, Mutation, ReadConsistency, WriteConsistency};
use net::{Client, ClientConfig, PutOptions, Swap};
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7051".into());
    let endpoints = endpoints.split(',').map(str::to_owned).collect();
    glommio::LocalExecutor::default().run(async {
        let client = Client::connect(ClientConfig::new(endpoints)).await?;

        // Durable on a majority when it returns; a linearizable read sees it.
        let version = client.put("greeting", "hello").await?;
        let value = client.get("greeting").await?.ok_or("it was just written")?;
        println!("greeting = {:?}, version {version}", value.data);

        // Only if nobody changed it since: the version is what compare-and-swap compares.
        match client.compare_and_swap("greeting", Expected::Version(version), Some("hi".into())).await? {
            Swap::Done { version } => println!("swapped, version {version}"),
            Swap::Mismatch { current } => println!("somebody was faster: {current:?}"),
        }

        // Requests started together are pipelined on one connection per node and core.
        let puts: Vec<_> = (0..100)
            .map(|at| {
                let client = client.clone();
                glommio::spawn_local(async move { client.put(format!("key-{at}"), "value").await })
            })
            .collect();
        for put in puts {
            put.await?;
        }

        // A short-lived key, acknowledged by the leader alone, in a key space of its own.
        let sessions = client.with_namespace(3);
        let options =
            PutOptions { ttl: Some(Duration::from_secs(60)), consistency: WriteConsistency::Leader };
        sessions.put_with("session", "alice", options).await?;

        // Any replica answers at once, and says how old its answer may be.
        let (value, freshness) = client.get_stale("greeting").await?;
        println!("perhaps stale: {:?}, {freshness:?}", value.map(|value| value.data));
        let follower = client.get_with("greeting", ReadConsistency::Follower).await?;
        println!("from a follower, and linearizable: {:?}", follower.map(|value| value.data));

        // All or nothing, within one shard: a common {hash tag} puts keys there.
        let transfer = [("{account}alice", "90"), ("{account}bob", "110")]
            .map(|(key, value)| Mutation::Put { key: key.into(), value: value.into(), ttl_ms: None });
        client.batch(transfer.to_vec(), WriteConsistency::Strong).await?;
        Ok(())
    })
}
