//! Tasks that wait on one outbox: senders for room, closers for the end.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

/// Who waits. Bounded by the futures that wait on the session: each has one place, and gives it up when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// In the order of their tickets.
    senders: VecDeque<(Ticket, Waker)>,
    closers: BTreeMap<Ticket, Waker>,
    next: u64,
}

/// A place among those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Waiters {
    pub(super) fn has_senders(&self) -> bool {
        !self.senders.is_empty()
    }

    pub(super) fn enqueue(&mut self, waker: &Waker) -> Ticket {
        let ticket = self.ticket();
        self.senders.push_back((ticket, waker.clone()));
        ticket
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    fn place_of(&self, ticket: Ticket) -> Option<usize> {
        self.senders.binary_search_by_key(&ticket, |(at, _)| *at).ok()
    }

    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.senders.front().is_some_and(|(first, _)| *first == ticket)
    }

    pub(super) fn update(&mut self, ticket: Ticket, waker: &Waker) {
        if let Some(place) = self.place_of(ticket) {
            self.senders[place].1.clone_from(waker);
        }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        if let Some(place) = self.place_of(ticket) {
            self.senders.remove(place);
        }
    }

    pub(super) fn wake_first(&self) {
        if let Some((_, waker)) = self.senders.front() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wait_for_close(&mut self, ticket: Option<Ticket>, waker: &Waker) -> Ticket {
        let ticket = ticket.unwrap_or_else(|| self.ticket());
        match self.closers.entry(ticket) {
            Entry::Occupied(mut stored) => stored.get_mut().clone_from(waker),
            Entry::Vacant(place) => {
                place.insert(waker.clone());
            }
        }
        ticket
    }

    pub(super) fn leave_close(&mut self, ticket: Ticket) {
        self.closers.remove(&ticket);
    }

    /// Senders keep their place: they look at the outbox again and find it closed.
    pub(super) fn wake_senders(&self) {
        for (_, waker) in &self.senders {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake_senders();
        for waker in std::mem::take(&mut self.closers).into_values() {
            waker.wake();
        }
    }
}
