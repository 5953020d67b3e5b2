//! The client library without a runtime:
//! `cargo run --release -p ringkv-net --features blocking --example blocking [ENDPOINTS]`.

use net::ClientConfig;
use net::blocking::Client;
use net::protocol::ReadConsistency;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7051".into());
    let client = Client::connect(ClientConfig::new(endpoints.split(',').map(str::to_owned).collect()))?;

    // Requests of several threads share the connections.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for at in 0..25 {
                    if let Err(error) = client.put(format!("key-{thread}-{at}"), "value") {
                        eprintln!("key-{thread}-{at}: {error}");
                    }
                }
            });
        }
    });

    // Every key of the cluster, page by page. Shard 0 holds none: it is the cluster's own.
    let mut keys = 0;
    for shard in client.cluster_map().shards.iter().filter(|shard| shard.slots.is_some()) {
        let mut start = Some(Default::default());
        while let Some(from) = start {
            let page = client.scan(shard.id, from, None, 1000, ReadConsistency::Linearizable)?;
            keys += page.items.len();
            start = page.next;
        }
    }
    println!("{keys} keys");
    Ok(())
}
