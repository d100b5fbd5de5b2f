//! How many connections there are, exactly.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

use crate::per_ip::IpSlot;
use crate::worker::Assigned;

/// Counts connections from accept to the end of their task, and says when there are none.
#[derive(Debug)]
pub(crate) struct Slots {
    used: AtomicUsize,
    max: usize,
    freed: Notify,
}

/// One connection's slot, free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// Its place among the connections of its address, where those are limited.
    of_ip: Option<Box<IpSlot>>,
    /// Its place among the connections of its worker, if there are any.
    of_worker: Option<Assigned>,
}

impl Slots {
    pub(crate) fn new(max: Option<usize>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max: max.unwrap_or(usize::MAX), freed: Notify::new() })
    }

    /// A slot, unless all are taken. Exact under races: the count never exceeds the maximum.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let take = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Slot { slots: self.clone(), of_ip: None, of_worker: None })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Waits until no slot is taken.
    pub(crate) async fn all_free(&self) {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // Registered before the count is read, so that no release falls in between.
            freed.as_mut().enable();
            if self.used() == 0 {
                return;
            }
            freed.await;
        }
    }
}

pin_project! {
    /// A connection and the slot it holds. A struct, because an async block would keep the connection twice.
    pub(crate) struct Holding<F> {
        #[pin]
        connection: F,
        slot: Slot,
    }
}

impl Slot {
    /// Counts among the connections of an address, too.
    pub(crate) fn set_ip(&mut self, slot: IpSlot) {
        self.of_ip = Some(Box::new(slot));
    }

    /// Counts among the connections of a worker, too.
    pub(crate) fn set_worker(&mut self, assigned: Assigned) {
        self.of_worker = Some(assigned);
    }

    pub(crate) fn has_ip(&self) -> bool {
        self.of_ip.is_some()
    }

    /// The connection's handshake is over.
    pub(crate) fn established(&mut self) {
        if let Some(of_ip) = &mut self.of_ip {
            of_ip.established();
        }
    }

    /// The future of a connection that holds this slot.
    pub(crate) fn held_by<F: Future>(self, connection: F) -> Holding<F> {
        Holding { connection, slot: self }
    }
}

impl<F: Future> Future for Holding<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().connection.poll(cx).map(drop)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the last slot is seen to be free.
        self.of_ip = None;
        self.of_worker = None;
        if self.slots.used.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.slots.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_never_take_more_than_there_are() {
        let slots = Slots::new(Some(10));
        let taken: Vec<Slot> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).filter_map(|_| slots.take()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(taken.len(), 10);
        drop(taken);
        assert_eq!(slots.used(), 0);
    }

    #[tokio::test]
    async fn all_free_comes_with_the_last_release() {
        let slots = Slots::new(None);
        let (first, second) = (slots.take(), slots.take());
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.all_free().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.expect("no panic");
    }
}
