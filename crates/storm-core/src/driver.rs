//! The connection task's side of a session. One driver per session; users never meet it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::outbox::{Encode, Phase, SendQueue};
use crate::{ConnectionState, DisconnectReason, Hub, Role, Session};

/// What the session's users want of the connection task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Let leave what is queued, then end.
    Close,
    /// Reset the transport now.
    Abort,
}

/// The one owner of a session's outgoing bytes and counters.
///
/// Rules of use: [`sync`](Self::sync) before sleeping and after each write; [`park`](Self::park) right before sleeping,
/// [`unpark`](Self::unpark) when there is work again; [`transport_gone`](Self::transport_gone) when the transport is
/// gone. Dropping the driver does that, too, and takes the session out of its hub: no session outlives its task.
#[derive(Debug)]
pub struct Driver {
    session: Session,
}

impl Driver {
    /// A session for a transport that is ready, registered with `hub` from here on.
    pub fn register(
        hub: &Arc<Hub>,
        role: Role,
        remote_addr: Option<SocketAddr>,
        encoder: impl Encode,
    ) -> Self {
        let session = Session::new(hub.clone(), role, remote_addr, encoder);
        session.0.state.advance(ConnectionState::Connected);
        hub.enter(&session);
        Self { session }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Accounts `written` bytes, hands out what is queued if `writing` is empty, and tells what users want.
    pub fn sync(&self, writing: &mut SendQueue, written: usize) -> Wish {
        let mut outbox = self.session.0.outbox.lock();
        outbox.sync(writing, written);
        wish(outbox.phase)
    }

    /// As [`sync`](Self::sync); if nothing came out, the next message wakes `task`. A wish wakes it in any case.
    pub fn park(&self, writing: &mut SendQueue, written: usize, task: &Waker) -> Wish {
        let mut outbox = self.session.0.outbox.lock();
        outbox.sync(writing, written);
        outbox.park(task, writing.is_empty());
        wish(outbox.phase)
    }

    /// The task is at work: messages queued now need not wake it.
    pub fn unpark(&self) {
        self.session.0.outbox.lock().unpark();
    }

    /// Counts what a batch brought.
    pub fn received(&self, bytes: u64, messages: u64) {
        // The connection task is the only writer, so a load and a store do.
        let add = |counter: &std::sync::atomic::AtomicU64, count: u64| {
            counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        };
        add(&self.session.0.bytes_received, bytes);
        add(&self.session.0.messages_received, messages);
    }

    /// The transport is gone, for `reason` unless another was there first: sends fail, closers are woken.
    pub fn transport_gone(&self, reason: DisconnectReason) -> DisconnectReason {
        self.session.0.reason.set(reason);
        self.session.0.state.advance(ConnectionState::Closed);
        self.session.0.outbox.lock().finish();
        self.session.disconnect_reason().unwrap_or(reason)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Reached without `transport_gone` only when the runtime drops the task.
        self.transport_gone(DisconnectReason::Aborted);
        self.session.0.hub.leave(&self.session);
    }
}

const fn wish(phase: Phase) -> Wish {
    match phase {
        Phase::Open => Wish::Run,
        Phase::Closing => Wish::Close,
        Phase::Aborting | Phase::Closed => Wish::Abort,
    }
}
