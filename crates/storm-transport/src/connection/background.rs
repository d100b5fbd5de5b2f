//! What goes on while the foreground waits: writing, wishes, winding down, read-ahead.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use storm_core::DisconnectReason;
use storm_core::driver::Wish;
use storm_core::isolation::{catch_unwind_in, resume};
use storm_core::metrics::Ending;

use super::{Connection, Stage};
use crate::fault;
use crate::protocol::Protocol;
use crate::transport::Transport;

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// Everything that need not wait for the foreground. Registers the task for whatever comes next; ready when the
    /// transport is gone.
    pub(super) fn poll_background(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        loop {
            if self.stage == Stage::Over {
                return Poll::Ready(());
            }
            let idle = match self.poll_write_all(cx) {
                Ok(idle) => idle,
                Err(error) => {
                    self.lost(error);
                    return Poll::Ready(());
                }
            };
            let written = self.written();
            let wish = self.driver.park(&mut self.writing, written, cx.waker());
            if self.obey(wish).is_ready() {
                return Poll::Ready(());
            }
            if idle && !self.writing.is_empty() {
                continue; // Something was queued meanwhile.
            }
            if self.stage != Stage::Open {
                match self.poll_wind_down(cx, idle) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(error)) => {
                        self.lost(error);
                        return Poll::Ready(());
                    }
                    Poll::Pending => {}
                }
            } else if busy && let Poll::Ready(error) = self.poll_read_ahead(cx) {
                self.lost(error);
                return Poll::Ready(());
            }
            if self.poll_deadlines(cx, busy).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Writes what the last batch queued; ready when the transport is gone. Registers for nothing but room to write.
    pub(super) fn poll_flush_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let written = self.written();
        let wish = self.driver.sync(&mut self.writing, written);
        if self.obey(wish).is_ready() {
            return Poll::Ready(());
        }
        match self.poll_write_all(cx) {
            Ok(_) => Poll::Pending,
            Err(error) => {
                self.lost(error);
                Poll::Ready(())
            }
        }
    }

    /// Writes what the last batch queued and registers the task for whatever comes next, in an open session whose foreground waits
    /// for bytes. Pending when there is nothing more to do; else [`poll_background`](Self::poll_background) is to follow.
    #[inline]
    pub(super) fn poll_flush_and_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let nothing_in_flight = self.writing.is_empty() && self.given == 0 && !self.flush;
        if nothing_in_flight && self.driver.write_and_park(&mut self.writing, cx.waker()) == Some(Wish::Run) {
            self.poll_deadlines(cx, false)
        } else {
            Poll::Ready(())
        }
    }

    /// Bytes that have left and are to be accounted. What the transport keeps (TLS does) is not with the kernel yet, and still
    /// counts as pending.
    fn written(&mut self) -> usize {
        let held = match &self.transport {
            Some(transport) if self.flush => transport.held_back().min(self.given),
            _ => 0,
        };
        std::mem::replace(&mut self.given, held) - held
    }

    /// Does what the session's users want; ready when that is the end.
    fn obey(&mut self, wish: Wish) -> Poll<()> {
        match wish {
            Wish::Run => Poll::Pending,
            Wish::Close => {
                if self.stage == Stage::Open {
                    self.stage = Stage::Closing;
                    let within = self.session().server().close_within();
                    self.deadlines.closing(within);
                }
                Poll::Pending
            }
            Wish::Abort => {
                self.over(DisconnectReason::Aborted, true);
                Poll::Ready(())
            }
        }
    }

    /// Writes what was taken from the outbox, as far as the transport takes it; `true` if all of it.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(transport) = &mut self.transport else {
            return Ok(true);
        };
        let mut transport = Pin::new(transport);
        if self.writing.is_empty() && !self.flush {
            return Ok(true);
        }
        while !self.writing.is_empty() {
            let write = self.writing.with_slices(|slices| match slices {
                [slice] => transport.as_mut().poll_write(cx, slice),
                slices => transport.as_mut().poll_write_vectored(cx, slices),
            });
            match write {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.writing.advance(count);
                    self.given += count;
                    self.flush = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        match transport.poll_flush(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(flushed) => {
                self.flush = false;
                flushed.map(|()| true)
            }
        }
    }

    /// Ends our stream once everything has left, then waits for the end of theirs. Ready when a step was made.
    fn poll_wind_down(&mut self, cx: &mut Context<'_>, everything_left: bool) -> Poll<io::Result<()>> {
        if self.stage == Stage::Closing && everything_left && self.protocol.may_shut_down(self.peer_ended) {
            let Some(transport) = &mut self.transport else {
                return Poll::Pending;
            };
            ready!(Pin::new(transport).poll_shutdown(cx))?;
            self.stage = Stage::ShutDown;
            return Poll::Ready(Ok(()));
        }
        if self.peer_ended {
            if self.stage == Stage::ShutDown {
                self.over(DisconnectReason::Aborted, false);
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
        let may_shut_down = self.protocol.may_shut_down(false);
        let drained = self.poll_drain(cx);
        if drained.is_pending() && self.protocol.may_shut_down(false) == may_shut_down {
            return Poll::Pending;
        }
        // The peer's stream has ended, or it said what we were waiting for.
        match drained {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// The transport failed.
    pub(super) fn lost(&mut self, error: io::Error) {
        // Networks bring these about: they are a reason, not an error.
        if !fault::is_expected(&error) && self.transport.is_some() {
            self.rare.get_or_insert_default().fault = Some(error);
        }
        self.over(DisconnectReason::TransportError, true);
    }

    /// Drops the transport, as a reset if anything may be unsent, and tells the session.
    pub(super) fn over(&mut self, reason: DisconnectReason, reset: bool) {
        let written = self.written();
        if let Some(mut transport) = self.transport.take() {
            self.driver.wrote(written);
            if reset {
                transport.reset_on_drop();
            }
            self.stage = Stage::Over;
            // Both may run user code: of a stream from elsewhere, and of the owners of payloads. The session ends all the same.
            let dropped = catch_unwind_in(|| drop(transport));
            let dropped = dropped.and(catch_unwind_in(|| self.writing.clear()));
            let ending = match reason {
                _ if !reset => Ending::Orderly,
                DisconnectReason::TransportError => Ending::Lost,
                _ => Ending::Cut,
            };
            self.driver.transport_gone(reason, ending);
            if let Err(panic) = dropped {
                resume(&panic);
            }
        }
    }
}
