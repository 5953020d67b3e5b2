//! The client library on tokio: `cargo run --release -p ringkv-net --features tokio --example tokio [ENDPOINTS]`.

use net::ClientConfig;
use net::client::ClientError;
use net::tokio::Client;
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7051".into());
    let client =
        Client::connect(ClientConfig::new(endpoints.split(',').map(str::to_owned).collect())).await?;

    // The handle is Send + Sync: clone it into any task. Requests of all tasks are pipelined together.
    let tasks: Vec<_> = (0..100)
        .map(|at| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("key-{at}"), at.to_string()).await })
        })
        .collect();
    for task in tasks {
        match task.await? {
            Ok(_version) => {}
            // The only error after which a write may have taken effect.
            Err(ClientError::Indeterminate { cause }) => println!("perhaps written: {cause}"),
            Err(error) => return Err(error.into()),
        }
    }
    let value = client.get("key-42").await?;
    println!("key-42 = {:?}", value.map(|value| value.data));
    Ok(())
}
