//! Sockets: the only async code of this crate. On glommio, for servers and clients:
//!
//! - [`listener`]: bind (a port in use is an error) and accept raw descriptors.
//! - [`connection`]: frames over one TCP connection, one receive per wake-up and one send per turn; a
//!   connection can move to another core's executor with what it has already read.
//! - [`client`]: the client library's driver.
//!
//! For clients alone: [`tokio`], and [`blocking`] on top of it. A client is its driver plus the methods that all of them
//! share (`client::methods`); what drivers share of a connection is in `link`, of waiting requests in `slots`.

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "glommio")]
pub mod client;
#[cfg(feature = "glommio")]
pub mod connection;
#[cfg(any(feature = "glommio", feature = "tokio"))]
mod link;
#[cfg(feature = "glommio")]
pub mod listener;
#[cfg(feature = "glommio")]
mod signal;
#[cfg(any(feature = "glommio", feature = "tokio"))]
mod slots;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(feature = "glommio")]
pub use connection::{
    Connection, ConnectionConfig, FrameReader, FrameSender, Handoff, ReadError, SenderClosed,
};
#[cfg(feature = "glommio")]
pub use listener::Listener;
