//! What the loops need of a connection, plain or with TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// TLS over a buffer: rustls reads 4 KiB at a time, and this makes one system call of many such reads.
pub(crate) type Tls = TlsStream<BufReader<TcpStream>>;

/// Bytes of that buffer: four full records and a little.
pub(crate) const READ_AHEAD: usize = 68 << 10;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes taken.
    pub(crate) taken: usize,
    /// The kernel has all of those.
    pub(crate) flushed: bool,
}

/// A connection.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Reads what is there; 0 at the end of the stream.
    fn fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes what can be written without waiting.
    fn send(&mut self, cx: &mut Context<'_>, slices: &mut [IoSlice<'_>]) -> io::Result<Sent>;
}

impl Socket for TcpStream {
    fn fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        // `poll_read` clears tokio's readiness on a short read, so no second read finds nothing.
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn send(&mut self, _: &mut Context<'_>, slices: &mut [IoSlice<'_>]) -> io::Result<Sent> {
        let taken = match slices {
            [] => 0,
            [one] => none_if_blocked(self.try_write(one))?,
            several => none_if_blocked(self.try_write_vectored(several))?,
        };
        Ok(Sent { taken, flushed: true })
    }
}

impl Socket for Tls {
    /// A read of TLS brings one record: more of them are answered together.
    fn fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut rest = ReadBuf::new(&mut buffer[filled..]);
            match Pin::new(&mut *self).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if rest.filled().is_empty() => break,
                Poll::Ready(Ok(())) => filled += rest.filled().len(),
                // The next call meets the error again, or waits again.
                _ if filled > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(filled))
    }

    fn send(&mut self, cx: &mut Context<'_>, mut slices: &mut [IoSlice<'_>]) -> io::Result<Sent> {
        let mut taken = 0;
        while !slices.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *self).poll_write_vectored(cx, slices)? else {
                return Ok(Sent { taken, flushed: false });
            };
            taken += written;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(Sent { taken, flushed: Pin::new(self).poll_flush(cx)?.is_ready() })
    }
}

/// A write which would block has written nothing.
pub(crate) fn none_if_blocked(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
