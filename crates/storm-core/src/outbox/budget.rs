//! What an outbox has to do with the budget it shares with others, if it does.
//!
//! Not here: the sum, and who is to go ([`send_budget`](crate::send_budget)).

use super::{ACCOUNTED, Backlog, Encode, Outbox};

impl<E: Encode + ?Sized> Outbox<E> {
    /// Tells the budget what waits now. Returns whether too much does, in all sessions.
    #[cold]
    #[inline(never)]
    pub(super) fn settle(&mut self) -> bool {
        let pending = self.pending_bytes();
        self.account.as_mut().is_some_and(|account| account.settle(pending))
    }

    /// Nothing waits any more.
    pub(super) fn close_account(&mut self) {
        self.account = None;
        self.room &= !ACCOUNTED;
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.is_over())
    }

    /// What the budget has been told.
    pub(crate) fn accounted_bytes(&self) -> usize {
        self.account.as_ref().map_or(0, |account| account.accounted())
    }

    /// Takes out all that may go again, and counts it as dropped. That is for the caller to do, without the lock: it may run
    /// code of the payloads' owners.
    pub(crate) fn shed_backlog(&mut self) -> Backlog {
        let Some(aside) = &mut self.aside else { return Backlog::default() };
        let backlog = std::mem::take(&mut aside.backlog);
        self.drop_empty_aside();
        if !backlog.is_empty() {
            self.count_dropped(backlog.len());
        }
        self.settle();
        self.relieve();
        backlog
    }
}
