//! An encrypted stream, and the read-ahead under it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use storm_core::buffer_pool::BufferPool;
use storm_core::{TlsInfo, TlsVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::{Stream, Transport};

/// The most rustls keeps of what it was given: then it takes no more until it has written.
const MAX_HELD_BACK: usize = 64 * 1024;
/// Room for one read of ciphertext: what the connection loop reads of plaintext at once, and its overhead.
const CHUNK: usize = 68 * 1024;

/// TLS over another stream.
#[derive(Debug)]
pub struct TlsStream {
    tls: tokio_rustls::TlsStream<ReadAhead>,
    /// Our end has been announced.
    shut_down: bool,
}

impl TlsStream {
    pub(super) const fn new(tls: tokio_rustls::TlsStream<ReadAhead>) -> Self {
        Self { tls, shut_down: false }
    }

    fn tls(self: Pin<&mut Self>) -> Pin<&mut tokio_rustls::TlsStream<ReadAhead>> {
        Pin::new(&mut self.get_mut().tls)
    }
}

impl Transport for TlsStream {
    fn reset_on_drop(&mut self) {
        self.tls.get_mut().0.stream.reset_on_drop();
    }

    fn held_back(&self) -> usize {
        if self.tls.get_ref().1.wants_write() { MAX_HELD_BACK } else { 0 }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.as_mut().tls().poll_read(cx, buf);
        if self.tls.get_ref().1.wants_write() {
            // What was read may want an answer of TLS's own: a refused renegotiation does. A failure meets the next write, too.
            let _ = self.as_mut().tls().poll_flush(cx);
        }
        Poll::Ready(match ready!(read) {
            // A stream that ends without `close_notify` may have been cut short, which is an error (RFC 8446 §6.1); but once
            // our own end is announced, what else the peer says does not count, and many do not bother to.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.shut_down => Ok(()),
            read => read,
        })
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tls().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tls().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        self.tls().poll_shutdown(cx)
    }
}

/// A stream that is read in large pieces. rustls asks for 4 KiB at a time, which would be a system call each.
///
/// The buffer is the thread's, and is given back as soon as it is empty: while idle there is none.
#[derive(Debug)]
pub(super) struct ReadAhead {
    stream: Stream,
    ahead: BytesMut,
}

impl ReadAhead {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    fn give_back(&mut self) {
        BufferPool::with_read(|pool| pool.give(std::mem::take(&mut self.ahead)));
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            if buf.remaining() >= CHUNK {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            this.ahead = BufferPool::with_read(|pool| pool.take(CHUNK));
            let read = pin!(this.stream.read_buf(&mut this.ahead)).poll(cx);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                this.give_back();
                return read.map_ok(drop);
            }
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.ahead[..count]);
        this.ahead.advance(count);
        if this.ahead.is_empty() {
            this.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a finished handshake agreed on.
pub(super) fn info(connection: &CommonState, server_name: Option<Box<str>>) -> TlsInfo {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    let suite = connection.negotiated_cipher_suite().map_or("unknown", |suite| iana_name(suite.suite()));
    let mut info = TlsInfo::new(version, suite);
    info.alpn = connection.alpn_protocol().map(Bytes::copy_from_slice);
    info.server_name = server_name;
    info.peer_certificates = connection
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|certificate| Bytes::copy_from_slice(certificate))
        .collect();
    info.resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    info
}

/// rustls names the suites of TLS 1.3 in its own way.
fn iana_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
