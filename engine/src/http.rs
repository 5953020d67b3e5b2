//! The HTTP interface without its sockets: what a request asks for, and how answers and errors read.
//!
//! ```text
//!   query     parameters of an address or a form → bytes
//!   route     method, path, parameters and conditions → a Route, or what is wrong with them
//!   body      the JSON and form bodies → keys, values and options
//!   reply     status, headers and body; errors that say what to do
//!   redirect  to the node that leads a shard, for clients that go there themselves
//!   scan      items as JSON, cursors
//!   requests  counts and durations by route
//!   cluster   nodes, shards and leaders as JSON
//!   metrics   the account of a node as Prometheus text
//! ```
//!
//! Nothing here waits or looks at a clock: the driver reads the sockets and asks the shards.

pub mod body;
pub mod cluster;
pub mod metrics;
pub mod query;
pub mod redirect;
pub mod reply;
pub mod requests;
pub mod route;
pub mod scan;

/// The status page: one document, which loads nothing but what the nodes of the cluster tell.
pub const PAGE: &str = include_str!("http/page.html");
/// What this interface offers, as OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("http/openapi.json");

#[cfg(test)]
mod tests;
