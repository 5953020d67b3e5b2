//! Listening sockets. The standard library binds them, because glommio's own bind sets `SO_REUSEPORT`,
//! with which a second server on the same port steals connections instead of failing to start.

use glommio::net::TcpListener;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// A bound, listening socket of this executor.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens. Call on the executor that will accept.
    ///
    /// # Errors
    /// Those of bind(2); a port in use is [`io::ErrorKind::AddrInUse`].
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Listener::from_std(std::net::TcpListener::bind(address)?)
    }

    /// Takes over a socket that was bound earlier. Call on the executor that will accept.
    ///
    /// # Errors
    /// Those of getsockname(2): it is no bound socket.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        // SAFETY: the descriptor comes straight out of a listening socket that gives up its ownership.
        let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        Ok(Listener { listener, address })
    }

    /// The address bound, with the port the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, bound to no executor yet: give it to
    /// [`Connection::from_fd`](super::Connection::from_fd) on whichever core should own it.
    ///
    /// # Errors
    /// Those of accept(2). `EMFILE` and the like pass: pause, then accept again.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        let accepted = self.listener.accept().await.map_err(io::Error::from)?;
        // glommio lets no descriptor go: take a duplicate, the original closes with the stream.
        duplicate(&accepted)
    }
}

/// A second descriptor of the same socket.
pub(super) fn duplicate(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `socket` is borrowed for the whole call and keeps its descriptor open meanwhile.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }.try_clone_to_owned()
}
