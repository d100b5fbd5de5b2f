//! What the connection loop asks of a stream.

use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A stream the connection loop can run over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Has the coming drop end the connection as a reset, where the transport knows such a thing.
    fn reset_on_drop(&mut self) {}

    /// Pending if a read would be, and then the task is woken when it would not. Ready if it cannot be told without one.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// How many of the bytes it has taken it may not have passed on yet, at most.
    fn held_back(&self) -> usize {
        0
    }
}

impl Transport for TcpStream {
    fn reset_on_drop(&mut self) {
        reset_on_drop(self);
    }
}

pub(crate) fn reset_on_drop(tcp: &TcpStream) {
    // Best effort: a socket that refuses is gone already.
    drop(SockRef::from(tcp).set_linger(Some(Duration::ZERO)));
}
