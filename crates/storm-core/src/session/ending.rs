//! How a session ends: in an orderly way, at once, or because user code panicked.
//!
//! Not here: what still leaves (`outbox`), the transport's end (the connection task).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytestring::ByteString;

use super::Session;
use crate::error::PanicMessage;
use crate::outbox::{Encode, Outbox, Phase, Ticket};
use crate::{ConnectionState, DisconnectReason};

impl Session {
    /// Closes in an orderly way: what is queued leaves, then the end of the stream (on WebSocket a close frame
    /// first). Completes when the transport is gone, at the latest after the
    /// [close deadline](crate::SessionOptions::close_deadline), when the close becomes an abort.
    ///
    /// # Cancel safety
    /// The close begins with the first poll and goes on if the future is dropped.
    #[doc(alias("disconnect"))]
    pub async fn close(&self) {
        self.start_close(self.0.role.closed_by_us());
        self.closed().await;
    }

    /// Begins what [`close`](Self::close) does, for `reason`, and does not wait for the end.
    pub fn start_close(&self, reason: DisconnectReason) {
        self.start_close_with(reason, None);
    }

    /// [`start_close`](Self::start_close) with a close code and text for protocols that carry them.
    pub fn start_close_with(&self, reason: DisconnectReason, goodbye: Option<(u16, ByteString)>) {
        let mut outbox = self.outbox();
        if outbox.phase == Phase::Open {
            // First, since what it encodes may panic: then the session is as it was.
            outbox.begin_close(goodbye);
            self.0.reason.set(reason);
            self.0.state.advance(ConnectionState::Closing);
        }
    }

    /// Completes when the transport is gone. Ends nothing by itself.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub fn closed(&self) -> Closed<'_> {
        Closed { session: self, ticket: None }
    }

    /// Ends the connection at once: nothing queued is sent, a TCP peer sees a reset.
    pub fn abort(&self) {
        self.abort_for(DisconnectReason::Aborted);
    }

    /// [`abort`](Self::abort) for another reason. A reason that was there before stays.
    pub fn abort_for(&self, reason: DisconnectReason) {
        self.abort_if(reason, |_| true);
    }

    /// Aborts if `condition` holds; returns whether this call did.
    pub(crate) fn abort_if(
        &self,
        reason: DisconnectReason,
        condition: impl FnOnce(&Outbox<dyn Encode + 'static>) -> bool,
    ) -> bool {
        let mut outbox = self.outbox();
        let aborts = outbox.phase < Phase::Aborting && condition(&outbox);
        if !aborts {
            return false;
        }
        self.0.reason.set(reason);
        self.0.state.advance(ConnectionState::Closing);
        let remains = outbox.begin_abort();
        drop(outbox);
        drop(remains);
        true
    }

    /// Ends it because user code panicked: with what the protocol says then, or at once.
    pub(crate) fn end_after_panic(&self) {
        let goodbye = self.outbox().goodbye_after_panic();
        match goodbye {
            Some(goodbye) => self.start_close_with(DisconnectReason::Aborted, Some(goodbye)),
            None => self.abort(),
        }
    }

    /// As [`end_after_panic`](Self::end_after_panic), and leaves a note of the panic for the connection task.
    #[cold]
    pub(crate) fn end_after_hook_panic(&self, panic: PanicMessage) {
        self.with_extras(|extras| {
            extras.hook_panic.get_or_insert(panic);
        });
        self.end_after_panic();
    }

    pub(crate) fn take_hook_panic(&self) -> Option<PanicMessage> {
        self.0.extras.lock().as_mut()?.hook_panic.take()
    }
}

/// The future of [`Session::closed`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Closed<'a> {
    session: &'a Session,
    ticket: Option<Ticket>,
}

impl Future for Closed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut outbox = self.session.outbox();
        if outbox.phase == Phase::Closed {
            drop(outbox);
            self.ticket = None;
            return Poll::Ready(());
        }
        let ticket = outbox.wait_for_close(self.ticket, cx.waker());
        drop(outbox);
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.session.outbox().leave_close(ticket);
        }
    }
}
