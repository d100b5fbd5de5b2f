//! The kinds of stream a connection runs over.

use std::any::Any;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use crate::shared_tcp::{SharedTcp, TcpWriter};
use crate::transport::Transport;

/// A stream of any kind a server or client runs over.
pub type Stream = AnyStream<TcpStream>;

/// A [`Stream`] as its connection has it. Broadcasts may write to its socket, too, if it is plain TCP.
pub type Link = AnyStream<SharedTcp>;

/// A stream of any kind; `T` is its TCP socket. What is larger is boxed, so that plain TCP does not pay for it.
#[non_exhaustive]
pub enum AnyStream<T> {
    /// TCP.
    Tcp(T),
    /// A unix socket.
    #[cfg(unix)]
    Unix(Box<UnixStream>),
    /// TLS over any of these.
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::TlsStream>),
    /// Opened by somebody else: see [`Stream::of`].
    ///
    /// Boxed twice, so that the others are two words.
    Foreign(Box<Box<dyn Transport>>),
}

impl Stream {
    /// Any `AsyncRead + AsyncWrite`. A TCP or unix socket of tokio's, or a `Stream`, stays what it is; any other is dropped by an
    /// abort.
    pub fn of<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let mut stream = Some(stream);
        let any: &mut dyn Any = &mut stream;
        if let Some(Some(known)) = any.downcast_mut::<Option<Self>>().map(Option::take) {
            return known;
        }
        if let Some(Some(tcp)) = any.downcast_mut::<Option<TcpStream>>().map(Option::take) {
            return Self::Tcp(tcp);
        }
        #[cfg(unix)]
        if let Some(Some(unix)) = any.downcast_mut::<Option<UnixStream>>().map(Option::take) {
            return Self::Unix(Box::new(unix));
        }
        let foreign = Foreign(stream.expect("it is none of those it was taken for"));
        Self::Foreign(Box::new(Box::new(foreign)))
    }

    /// Has another runtime watch the socket, whose threads are then woken by it. TLS and what was opened elsewhere stay where they
    /// are: such a stream works anywhere, as long as its own runtime is there.
    ///
    /// # Errors
    /// What the system says; the runtime has been shut down. The stream is dropped.
    pub fn moved_to(self, runtime: &Handle) -> io::Result<Self> {
        let _inside = runtime.enter();
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(TcpStream::from_std(tcp.into_std()?)?),
            #[cfg(unix)]
            Self::Unix(unix) => UnixStream::from_std(unix.into_std()?)?.into(),
            other => other,
        })
    }

    /// The stream for a connection, and its socket for others to write to, where they may.
    pub fn share(self) -> (Link, Option<TcpWriter>) {
        let link = match self {
            Self::Tcp(tcp) => {
                let (tcp, writer) = SharedTcp::new(tcp);
                return (Link::Tcp(tcp), Some(writer));
            }
            #[cfg(unix)]
            Self::Unix(unix) => Link::Unix(unix),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Link::Tls(tls),
            Self::Foreign(stream) => Link::Foreign(stream),
        };
        (link, None)
    }

    /// The peer's address, where the stream has one to tell.
    pub fn peer_addr(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr().ok(),
            _ => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

#[cfg(unix)]
impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(Box::new(stream))
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for AnyStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(stream) => f.debug_tuple("Tcp").field(stream).finish(),
            #[cfg(unix)]
            Self::Unix(stream) => f.debug_tuple("Unix").field(stream).finish(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => f.debug_tuple("Tls").field(stream).finish(),
            Self::Foreign(_) => f.debug_tuple("Foreign").finish_non_exhaustive(),
        }
    }
}

/// Any `AsyncRead + AsyncWrite` as a [`Transport`]. An abort drops it.
#[derive(Debug)]
pub struct Foreign<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for Foreign<S> {}

impl<T: Transport> Transport for AnyStream<T> {
    fn reset_on_drop(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp.reset_on_drop(),
            #[cfg(unix)]
            Self::Unix(_) => {}
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.reset_on_drop(),
            Self::Foreign(stream) => stream.reset_on_drop(),
        }
    }

    #[inline]
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_readable(cx),
            _ => Poll::Ready(()),
        }
    }

    #[inline]
    fn held_back(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            #[cfg(unix)]
            Self::Unix(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.held_back(),
            Self::Foreign(stream) => stream.held_back(),
        }
    }
}

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            #[cfg(unix)]
            Self::Unix($stream) => $call,
            #[cfg(feature = "tls")]
            Self::Tls($stream) => $call,
            Self::Foreign($stream) => $call,
        }
    };
}

impl<T: AsyncRead + Unpin> AsyncRead for AnyStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AnyStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Foreign(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// The same for [`Foreign`], which has one kind only.
impl<S: AsyncRead + Unpin> AsyncRead for Foreign<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Foreign<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
