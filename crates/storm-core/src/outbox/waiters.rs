//! Tasks that wait on one outbox: senders for room, closers for the end.

use std::collections::VecDeque;
use std::task::Waker;

/// Who waits. Bounded by the tasks that use the session: each waits once.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    senders: VecDeque<(Ticket, Waker)>,
    next: u64,
    closers: Vec<Waker>,
}

/// A place in the queue of senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Waiters {
    pub(super) fn has_senders(&self) -> bool {
        !self.senders.is_empty()
    }

    pub(super) fn enqueue(&mut self, waker: &Waker) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.senders.push_back((ticket, waker.clone()));
        ticket
    }

    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.senders.front().is_some_and(|(first, _)| *first == ticket)
    }

    pub(super) fn update(&mut self, ticket: Ticket, waker: &Waker) {
        if let Some((_, stored)) = self.senders.iter_mut().find(|(at, _)| *at == ticket) {
            stored.clone_from(waker);
        }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.senders.retain(|(at, _)| *at != ticket);
    }

    pub(super) fn wake_first(&self) {
        if let Some((_, waker)) = self.senders.front() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wait_for_close(&mut self, waker: &Waker) {
        if !self.closers.iter().any(|stored| stored.will_wake(waker)) {
            self.closers.push(waker.clone());
        }
    }

    /// Senders keep their place: they look at the outbox again and find it closed.
    pub(super) fn wake_senders(&self) {
        for (_, waker) in &self.senders {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake_senders();
        for waker in self.closers.drain(..) {
            waker.wake();
        }
    }
}
