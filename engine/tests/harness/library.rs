//! The client library, which lives on an executor of its own, for tests that do not.

use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use net::{Client, ClientConfig};

/// A client's configuration: the library's defaults.
pub fn client_config(endpoints: Vec<String>) -> ClientConfig {
    ClientConfig::new(endpoints)
}

/// Runs `work` with a client of the cluster and returns what it returned.
///
/// # Panics
/// When `work` does, or no endpoint answers.
pub fn with_client<T, F>(endpoints: Vec<String>, work: F) -> T
where
    T: Send + 'static,
    F: AsyncFnOnce(Client) -> T + Send + 'static,
{
    with_config(ClientConfig { request_timeout: Duration::from_secs(20), ..client_config(endpoints) }, work)
}

/// As [`with_client`], with a configuration.
pub fn with_config<T, F>(config: ClientConfig, work: F) -> T
where
    T: Send + 'static,
    F: AsyncFnOnce(Client) -> T + Send + 'static,
{
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("test-client")
        .spawn(move || async move {
            let client = Client::connect(config).await.expect("an endpoint answers");
            work(client).await
        })
        .expect("an executor starts");
    executor.join().expect("the client's work ends without a panic")
}
