//! Sockets on glommio: the only async code of this crate.
//!
//! - [`listener`]: bind (a port in use is an error) and accept raw descriptors.
//! - [`connection`]: frames over one TCP connection, one receive per wake-up and one send per turn; a
//!   connection can move to another core's executor with what it has already read.
//! - [`client`]: the client library's driver.

pub mod client;
pub mod connection;
pub mod listener;
mod signal;

pub use connection::{
    Connection, ConnectionConfig, FrameReader, FrameSender, Handoff, ReadError, SenderClosed,
};
pub use listener::Listener;
