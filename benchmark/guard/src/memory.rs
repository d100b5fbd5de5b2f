//! A stream in memory that behaves as a socket does under load.
//!
//! Owns: what the peer sends, over and over; how much was written.
//! In:   what the connection writes, which is counted and forgotten.
//! Out:  one batch of bytes per wake-up, as much of it as one read takes; then the peer's end of stream.
//! Not here: what the bytes mean (`cases`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use storm_transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream.
#[derive(Debug)]
pub(crate) struct Memory {
    batch: Bytes,
    /// Batches still to come; `None` for a peer that says nothing and stays.
    rounds: Option<u64>,
    /// Bytes of the present batch that were read: `read < batch.len()`.
    read: usize,
    /// The task has slept since the last batch.
    rested: bool,
    written: Arc<AtomicU64>,
}

impl Memory {
    /// A peer that sends `batch` so many times and ends its stream. Adds what is written to `written`.
    pub(crate) fn sending(batch: Bytes, rounds: u64, written: &Arc<AtomicU64>) -> Self {
        Self { batch, rounds: Some(rounds), read: 0, rested: false, written: written.clone() }
    }

    /// A peer that only receives.
    pub(crate) fn silent(written: &Arc<AtomicU64>) -> Self {
        Self { batch: Bytes::new(), rounds: None, read: 0, rested: false, written: written.clone() }
    }

    fn take(&self, count: usize) -> Poll<io::Result<usize>> {
        // One thread, so a load and a store do.
        self.written.store(self.written.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }
}

impl Transport for Memory {}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(rounds) = &mut this.rounds else {
            return Poll::Pending;
        };
        if *rounds == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.read == 0 && !std::mem::replace(&mut this.rested, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = &this.batch[this.read..];
        let rest = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(rest);
        this.read += rest.len();
        if this.read == this.batch.len() {
            *rounds -= 1;
            this.read = 0;
            this.rested = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.take(slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
