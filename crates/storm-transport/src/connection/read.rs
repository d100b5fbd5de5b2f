//! Reading: into a pooled buffer, as much as one call brings, and ahead of a busy handler.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use storm_core::DisconnectReason;
use storm_core::isolation::catch_unwind_in;
use tokio::io::AsyncReadExt;

use super::{Connection, Stage};
use crate::protocol::{End, Parts, Protocol};
use crate::transport::Transport;

/// Room for one read. A kernel receive buffer of the default size fits in, and a message of 64 KiB with its head.
const CHUNK: usize = 65 * 1024;
/// How often that doubles while reads fill what they are given: up to 520 KiB.
const MOST_DOUBLED: u8 = 3;
/// A read of as much may have left more.
const LARGE: u32 = 32 * 1024;
/// Bytes one turn reads before the connection lets others run.
const TURN: u32 = 512 * 1024;
/// What one read brings, more or less, where bytes are not counted.
const READ: u32 = TURN / 8;

/// What the wait for bytes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// There are bytes in the inbox that the protocol has not seen.
    Bytes,
    /// The peer has ended its stream.
    End,
    /// The connection is closing or over; nothing more is to be dispatched.
    Closing,
}

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// Flushes what the last batch queued, then waits for the next bytes.
    pub(super) async fn fill(&mut self) -> Fill {
        if self.turn >= TURN {
            self.turn = 0;
            // A batch belongs to this thread, and the task may go on on another: it ends here.
            if poll_fn(|cx| Poll::Ready(self.poll_flush_batch(cx).is_ready())).await {
                return Fill::Closing;
            }
            tokio::task::yield_now().await;
        }
        // A large read has left more, most likely: what was answered leaves before that is read.
        let mut flush = self.turn >= LARGE;
        let mut batch = !flush;
        poll_fn(|cx| {
            if mem::take(&mut flush) && self.poll_flush_batch(cx).is_ready() {
                return Poll::Ready(Fill::Closing);
            }
            if self.stage != Stage::Open {
                return self.poll_background(cx, false).map(|()| Fill::Closing);
            }
            if self.peer_ended {
                return Poll::Ready(Fill::End);
            }
            let read = if batch { self.poll_read_late(cx) } else { self.poll_read(cx) };
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Fill::End),
                Poll::Ready(Ok(count)) => {
                    if mem::take(&mut batch) && self.poll_flush_batch(cx).is_ready() {
                        return Poll::Ready(Fill::Closing);
                    }
                    self.turn = self.turn.saturating_add(count.try_into().unwrap_or(TURN));
                    return Poll::Ready(Fill::Bytes);
                }
                Poll::Ready(Err(error)) => {
                    self.lost(error);
                    return Poll::Ready(Fill::Closing);
                }
                Poll::Pending => self.turn = 0,
            }
            if mem::take(&mut batch) && self.poll_flush_and_rest(cx).is_pending() {
                return Poll::Pending;
            }
            self.poll_background(cx, false).map(|()| Fill::Closing)
        })
        .await
    }

    /// As [`poll_read`](Self::poll_read), when there is probably nothing to read: that is found out without a buffer, where the
    /// transport knows how.
    #[inline]
    fn poll_read_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.is_empty()
            && let Some(transport) = &mut self.transport
            && transport.poll_readable(cx).is_pending()
        {
            self.inbox.give_back();
            return Poll::Pending;
        }
        self.poll_read(cx)
    }

    /// Reads once into the inbox; 0 is the end of the peer's stream.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(transport) = &mut self.transport else {
            return Poll::Ready(Ok(0));
        };
        let chunk = CHUNK << self.doubled;
        self.inbox.make_room(chunk, |wire| self.protocol.wanted(wire));
        let inbox = self.inbox.buffer();
        let room = inbox.capacity() - inbox.len();
        let read = pin!(transport.read_buf(inbox)).poll(cx);
        match read {
            Poll::Pending => {
                self.inbox.give_back();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.peer_ended = true;
                self.inbox.give_back();
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Ok(count)) => {
                // More was there than fitted: take more at once from now on, and less again when less comes. Not more than
                // comes, though: the fewer buffers are in use, the more of them are in cache.
                if count == room && count >= chunk / 2 {
                    self.doubled = MOST_DOUBLED.min(self.doubled + 1);
                } else if count < chunk / 2 && room > chunk / 2 {
                    self.doubled = self.doubled.saturating_sub(1);
                }
                self.driver.received(count as u64, 0);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Reads while a handler is busy, so that control frames are answered and the end of a dead connection is seen;
    /// as far as `max_pending_receive_bytes` allows. Ready when the transport has failed.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.inbox.is_empty() {
            // The read that brought the message being handled may have brought a ping behind it.
            self.receive_ahead();
        }
        // Control frames hold nothing: as many as come would be read, and the handler never polled.
        let mut turn = 0;
        while self.may_read_ahead() {
            if turn >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Pending,
                Ok(_) => self.receive_ahead(),
                Err(error) => return Poll::Ready(error),
            }
            turn += READ;
        }
        Poll::Pending
    }

    /// Whether reading goes on while a handler is busy.
    pub(super) fn may_read_ahead(&self) -> bool {
        let limit = self.session().server().options().max_pending_receive_bytes.unwrap_or(usize::MAX);
        let held = match &self.rare {
            Some(rare) if rare.end.is_some() => return false,
            Some(rare) if !rare.ahead.is_empty() => {
                rare.bytes + rare.ahead.len() * size_of::<P::Message>() + self.inbox.len()
            }
            _ => 0,
        };
        !self.peer_ended && held < limit
    }

    /// Nothing more is received.
    fn has_end(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.end.is_some())
    }

    /// The next message, of a protocol whose panic is to interrupt nothing else.
    fn receive_caught(&mut self) -> Result<Option<P::Message>, End> {
        let receive = || self.protocol.receive(self.inbox.buffer(), self.driver.session());
        catch_unwind_in(receive).unwrap_or_else(|panic| {
            self.protocol.is_to_blame();
            Err(End::violation(DisconnectReason::ProtocolError, panic, None))
        })
    }

    fn receive_ahead(&mut self) {
        while self.may_read_ahead() {
            match self.receive_caught() {
                Ok(Some(message)) => {
                    let rare = self.rare.get_or_insert_default();
                    rare.bytes += P::size(&message);
                    rare.ahead.push_back(message);
                }
                Ok(None) => break,
                // Nothing waits to be handled first: the busy handler is to see the end at once.
                Err(end) if self.rare.is_none() && end.is_goodbye() => {
                    let Parts { reason, goodbye, .. } = end.into_parts();
                    self.session().start_close_with(reason, goodbye);
                }
                Err(end) => self.rare.get_or_insert_default().end = Some(end),
            }
        }
    }

    /// Reads and forgets, until the peer's stream ends. What it says about the end itself the protocol still hears.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.peer_ended {
            if let Some(rare) = &mut self.rare {
                rare.ahead = VecDeque::new();
                rare.bytes = 0;
            }
            if !self.deaf && !self.has_end() {
                loop {
                    match self.receive_caught() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(end) => {
                            self.rare.get_or_insert_default().end = Some(end);
                            break;
                        }
                    }
                }
            }
            if self.deaf || self.has_end() {
                self.inbox.clear();
            }
            if ready!(self.poll_read(cx))? == 0 {
                break;
            }
            self.turn += READ;
            if self.turn >= TURN {
                self.turn = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}
