//! Which of the members a broadcast waits for may have room again, so that one of them does not have all tried again.
//!
//! In:   wake-ups, each for one member.
//! Out:  their numbers, each once; one wake-up of the broadcast's task.
//! Not here: whether there really is room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// The calls of all members.
#[derive(Debug, Default)]
pub(super) struct Calls {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bounded by the members: each is here once.
    called: Vec<Arc<Call>>,
    /// Who is to look at them.
    task: Option<Waker>,
}

/// One member's way to call.
#[derive(Debug)]
struct Call {
    member: usize,
    is_listed: AtomicBool,
    /// Nobody is called any more once the broadcast is over.
    to: Weak<Mutex<Shared>>,
}

impl Calls {
    /// What `member` is woken by.
    pub(super) fn waker(&self, member: usize) -> Waker {
        let to = Arc::downgrade(&self.shared);
        Waker::from(Arc::new(Call { member, is_listed: AtomicBool::new(false), to }))
    }

    /// Those who have called; from here on a call wakes `task`.
    pub(super) fn take(&self, task: &Waker) -> Vec<usize> {
        let mut shared = self.shared.lock();
        let called = std::mem::take(&mut shared.called);
        let before = match &mut shared.task {
            Some(before) if before.will_wake(task) => None,
            before => before.replace(task.clone()),
        };
        drop(shared);
        drop(before);
        let number = |call: Arc<Call>| {
            // Before it is tried: whoever has room from now on calls again. A swap, so that what was seen of a call that found
            // itself listed is seen here, too.
            call.is_listed.swap(false, Ordering::AcqRel);
            call.member
        };
        called.into_iter().map(number).collect()
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        if self.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(to) = self.to.upgrade() else { return };
        let mut shared = to.lock();
        shared.called.push(self);
        let task = shared.task.clone();
        drop(shared);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.clone().wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn those_who_called_are_told_once_and_again_when_they_call_again() {
        let (calls, wakes) = (Calls::default(), Arc::new(Wakes::default()));
        let task = Waker::from(wakes.clone());
        let members: Vec<_> = (0..4).map(|member| calls.waker(member)).collect();
        members[3].wake_by_ref();
        assert_eq!(calls.take(&task), [3], "before anyone listened");
        assert_eq!(calls.take(&task), [0; 0]);
        members[2].wake_by_ref();
        members[2].wake_by_ref();
        members[0].wake_by_ref();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2, "one each");
        assert_eq!(calls.take(&task), [2, 0]);
        members[2].wake_by_ref();
        assert_eq!(calls.take(&task), [2]);
    }

    #[test]
    fn the_task_that_looked_last_is_woken() {
        let calls = Calls::default();
        let (first, second) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let member = calls.waker(0);
        calls.take(&Waker::from(first.clone()));
        calls.take(&Waker::from(second.clone()));
        member.wake();
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
    }

    /// Calls come under the lock of an outbox, from any thread.
    #[test]
    fn no_call_is_lost() {
        let (calls, wakes) = (Calls::default(), Arc::new(Wakes::default()));
        let task = Waker::from(wakes);
        let member = calls.waker(7);
        let room = Arc::new(AtomicUsize::new(0));
        let caller = std::thread::spawn({
            let room = room.clone();
            move || {
                for _ in 0..10_000 {
                    room.fetch_add(1, Ordering::SeqCst);
                    member.wake_by_ref();
                }
            }
        });
        let mut seen = 0;
        while seen < 10_000 {
            let finished = caller.is_finished();
            for member in calls.take(&task) {
                assert_eq!(member, 7);
                seen = room.load(Ordering::SeqCst);
            }
            assert!(!finished || seen == 10_000, "{seen}");
        }
        caller.join().unwrap();
    }
}
