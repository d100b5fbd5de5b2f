//! A stream that fails on cue.
//!
//! Owns: the cues.
//! In:   a stream that works, and calls of a [`Faults`] from the test.
//! Out:  the same stream to the program under test, stalled, in pieces, ended or reset.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that works until its [`Faults`] say otherwise. The program under test gets this one.
///
/// ```
/// use std::io::ErrorKind;
/// use storm_testing::{Faulty, Peer};
/// use tokio::io::AsyncReadExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (ours, theirs) = tokio::io::duplex(64);
/// let (mut stream, faults) = Faulty::new(ours);
/// faults.reset_after_reading(3);
///
/// Peer(theirs).send(b"hello").await;
/// let mut read = Vec::new();
/// let ended = stream.read_to_end(&mut read).await.unwrap_err();
/// assert_eq!((&read[..], ended.kind()), (&b"hel"[..], ErrorKind::ConnectionReset));
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<S> {
    stream: S,
    faults: Faults,
}

/// What is wrong with a [`Faulty`] stream. Every fault may come at any time, and those that can be taken back at once wake
/// whoever waits.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    reads_stall: bool,
    writes_stall: bool,
    read_piece: Option<usize>,
    write_piece: Option<usize>,
    /// Bytes that may still be read until the stream ends, or is reset.
    until_end: Option<usize>,
    until_reset: Option<usize>,
    /// Bytes that may still be written until the stream is reset.
    until_write_reset: Option<usize>,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl<S> Faulty<S> {
    /// `stream` without a fault, and the means to change that.
    pub fn new(stream: S) -> (Self, Faults) {
        let faults = Faults::default();
        (Self { stream, faults: faults.clone() }, faults)
    }
}

impl Faults {
    /// Reads wait from now on, whatever has arrived: a peer that is silent. `false` lets them go on.
    pub fn stall_reads(&self, stall: bool) {
        self.change(|state| state.reads_stall = stall);
    }

    /// Writes, and the end of what is written, wait from now on: a peer that does not read, and a kernel without room.
    /// `false` lets them go on.
    pub fn stall_writes(&self, stall: bool) {
        self.change(|state| state.writes_stall = stall);
    }

    /// A read brings at most `bytes`; `None` as much as there is.
    ///
    /// # Panics
    /// `bytes` is zero, which would be the end of the stream.
    pub fn read_in_pieces(&self, bytes: impl Into<Option<usize>>) {
        let bytes = bytes.into();
        assert_ne!(bytes, Some(0), "a read of no bytes is the end of the stream");
        self.change(|state| state.read_piece = bytes);
    }

    /// A write takes at most `bytes`; `None` as much as there is room for.
    ///
    /// # Panics
    /// `bytes` is zero, which no working stream does.
    pub fn write_in_pieces(&self, bytes: impl Into<Option<usize>>) {
        let bytes = bytes.into();
        assert_ne!(bytes, Some(0), "a write takes a byte or waits");
        self.change(|state| state.write_piece = bytes);
    }

    /// Ends the peer's stream when `bytes` more have been read: a half close, after which writes still work.
    pub fn end_after_reading(&self, bytes: usize) {
        self.change(|state| state.until_end = Some(bytes));
    }

    /// Resets the connection when `bytes` more have been read.
    pub fn reset_after_reading(&self, bytes: usize) {
        self.change(|state| state.until_reset = Some(bytes));
    }

    /// Resets the connection when `bytes` more have been written.
    pub fn reset_after_writing(&self, bytes: usize) {
        self.change(|state| state.until_write_reset = Some(bytes));
    }

    /// Resets the connection: everything fails from now on.
    pub fn reset(&self) {
        self.change(|state| state.reset = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_reset(&self) -> io::Result<()> {
        if self.reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// How much of `room` may be read now; `None` at the end of the stream.
    fn readable(&mut self, room: usize) -> io::Result<Option<usize>> {
        if self.until_reset == Some(0) {
            self.reset = true;
        }
        self.check_reset()?;
        if self.until_end == Some(0) {
            return Ok(None);
        }
        let limits = [self.read_piece, self.until_reset, self.until_end];
        Ok(Some(limits.into_iter().flatten().fold(room, usize::min)))
    }

    /// How much of `len` may be written now.
    fn writable(&mut self, len: usize) -> io::Result<usize> {
        if self.until_write_reset == Some(0) {
            self.reset = true;
        }
        self.check_reset()?;
        Ok([self.write_piece, self.until_write_reset].into_iter().flatten().fold(len, usize::min))
    }
}

fn count_down(left: &mut Option<usize>, bytes: usize) {
    if let Some(left) = left {
        *left -= bytes;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Faulty<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.faults.state();
        // Noted on every way out: a change of the faults concerns whoever waits for the stream, too.
        state.reader = Some(cx.waker().clone());
        let Some(room) = state.readable(buf.remaining())? else { return Poll::Ready(Ok(())) };
        if state.reads_stall {
            return Poll::Pending;
        }
        let mut bytes = vec![0; room];
        let mut part = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        let read = part.filled().len();
        count_down(&mut state.until_end, read);
        count_down(&mut state.until_reset, read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Faulty<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut state = this.faults.state();
        state.writer = Some(cx.waker().clone());
        let room = state.writable(buf.len())?;
        if state.writes_stall {
            return Poll::Pending;
        }
        let written = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, &buf[..room]))?;
        count_down(&mut state.until_write_reset, written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut state = this.faults.state();
        let is_limited = state.write_piece.is_some() || state.until_write_reset.is_some();
        if is_limited {
            drop(state);
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return Pin::new(this).poll_write(cx, first);
        }
        state.writer = Some(cx.waker().clone());
        state.check_reset()?;
        if state.writes_stall {
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.faults.state();
        state.writer = Some(cx.waker().clone());
        state.check_reset()?;
        if state.writes_stall {
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.faults.state();
        state.writer = Some(cx.waker().clone());
        state.check_reset()?;
        if state.writes_stall {
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{Peer, soon, splits, until};

    #[tokio::test]
    async fn pieces_are_small_and_lose_nothing() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (mut stream, faults) = Faulty::new(ours);
        let mut peer = Peer(theirs);
        faults.read_in_pieces(2);
        faults.write_in_pieces(3);
        peer.send(b"hello").await;
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(stream.write(b"hello").await.unwrap(), 3);
        faults.read_in_pieces(None);
        faults.write_in_pieces(None);
        assert_eq!(stream.read(&mut buffer[2..]).await.unwrap(), 3);
        stream.write_all(b"lo").await.unwrap();
        assert_eq!(&buffer[..5], b"hello");
        peer.expect(b"hello").await;
    }

    #[tokio::test]
    async fn a_stall_ends_when_it_is_taken_back() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (mut stream, faults) = Faulty::new(ours);
        let mut peer = Peer(theirs);
        faults.stall_reads(true);
        faults.stall_writes(true);
        let program = tokio::spawn(async move {
            let mut read = [0; 2];
            stream.read_exact(&mut read).await?;
            stream.write_all(&read).await?;
            stream.shutdown().await
        });
        peer.send(b"hi").await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!program.is_finished());
        faults.stall_reads(false);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!program.is_finished());
        faults.stall_writes(false);
        peer.expect(b"hi").await;
        peer.expect_end().await;
        soon(program).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn ends_and_resets_come_after_each_byte() {
        for (before, after) in splits(b"hello") {
            for ends in [true, false] {
                let (ours, theirs) = tokio::io::duplex(64);
                let (mut stream, faults) = Faulty::new(ours);
                let mut peer = Peer(theirs);
                if ends {
                    faults.end_after_reading(before.len());
                } else {
                    faults.reset_after_reading(before.len());
                }
                peer.send(&[before, after].concat()).await;
                let mut read = Vec::new();
                let ended = stream.read_to_end(&mut read).await;
                assert_eq!((read.as_slice(), ended.is_ok()), (before, ends));
                assert_eq!(stream.write(b"x").await.is_ok(), ends);
            }
        }
    }

    #[tokio::test]
    async fn a_reset_reaches_who_waits_and_who_writes() {
        let (ours, theirs) = tokio::io::duplex(4);
        let (mut stream, faults) = Faulty::new(ours);
        faults.reset_after_writing(2);
        assert_eq!(stream.write(b"hello").await.unwrap(), 2);
        assert_eq!(stream.write(b"llo").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let (ours, _theirs) = tokio::io::duplex(4);
        let (mut stream, faults) = Faulty::new(ours);
        let waiting = tokio::spawn(async move { stream.read(&mut [0; 4]).await });
        until(|| faults.state().reader.is_some()).await;
        faults.reset();
        assert_eq!(soon(waiting).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(theirs);
    }
}
