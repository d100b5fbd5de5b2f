//! A TCP socket that its connection reads and writes, and that broadcasts write to meanwhile.
//!
//! Who may write when is the outbox's concern (`storm_core::outbox`); the socket is closed when both ends are dropped.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use storm_core::outbox::TryWrite;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::transport::{Transport, reset_on_drop};

/// The connection's end.
#[derive(Debug)]
pub struct SharedTcp(OwnedReadHalf);

impl SharedTcp {
    /// Both ends of `tcp`.
    pub fn new(tcp: TcpStream) -> (Self, TcpWriter) {
        let (read, write) = tcp.into_split();
        (Self(read), TcpWriter(Some(write)))
    }

    fn tcp(&self) -> &TcpStream {
        self.0.as_ref()
    }

    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self.tcp()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
            ready!(self.tcp().poll_write_ready(cx))?;
        }
    }
}

impl Transport for SharedTcp {
    fn reset_on_drop(&mut self) {
        reset_on_drop(self.tcp());
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is the read's to find.
        self.tcp().poll_read_ready(cx).map(drop)
    }
}

impl AsyncRead for SharedTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |tcp| tcp.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |tcp| tcp.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.tcp()).shutdown(Shutdown::Write))
    }
}

/// The other end. Dropping it ends nothing but its hold on the socket.
#[derive(Debug)]
pub struct TcpWriter(Option<OwnedWriteHalf>);

impl TcpWriter {
    fn half(&self) -> &OwnedWriteHalf {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl TryWrite for TcpWriter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.half().try_write(bytes)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.half().try_write_vectored(slices)
    }
}

impl Drop for TcpWriter {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            // Else it would end our side of the stream.
            half.forget();
        }
    }
}
