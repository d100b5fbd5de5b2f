//! Counts per key, each in a window of time that begins with its first message.
//!
//! Windows are all of one length, so the order in which they begin is the order in which they end: what has ended is at
//! the front of a queue, and so is what is forgotten when there is no room.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Tables a lock each, so that threads seldom meet.
const SHARDS: usize = 16;

/// What a message is to its sender's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Within,
    /// Above it, and the first one in this window.
    FirstAbove,
    Above,
}

pub(super) struct Windows<K> {
    shards: Box<[Mutex<Table<K>>]>,
    hasher: RandomState,
}

struct Table<K> {
    counts: HashMap<K, Window>,
    /// The windows in the order in which they began. `None`: they are forgotten one by one when told to.
    order: Option<VecDeque<(Instant, K)>>,
    most: usize,
}

#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    count: u32,
}

impl<K: Copy + Eq + Hash> Windows<K> {
    /// For keys that are [forgotten](Self::forget) one by one.
    pub(super) fn unbounded() -> Self {
        Self::new(None, usize::MAX)
    }

    /// For at most `most` keys, which are forgotten when their windows have ended, or when there is no room.
    pub(super) fn bounded(most: usize) -> Self {
        Self::new(Some(VecDeque::new()), (most / SHARDS).max(1))
    }

    fn new(order: Option<VecDeque<(Instant, K)>>, most: usize) -> Self {
        let table = || Mutex::new(Table { counts: HashMap::new(), order: order.clone(), most });
        Self { shards: (0..SHARDS).map(|_| table()).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, key: &K) -> &Mutex<Table<K>> {
        let hash = self.hasher.hash_one(key);
        // The remainder is less than the length.
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        &self.shards[hash as usize % SHARDS]
    }

    /// Counts one message of `key`.
    pub(super) fn count(&self, key: K, now: Instant, limit: u32, window: Duration) -> Verdict {
        self.shard(&key).lock().count(key, now, limit, window)
    }

    pub(super) fn forget(&self, key: &K) {
        self.shard(key).lock().counts.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().counts.len()).sum()
    }
}

impl<K: Copy + Eq + Hash> Table<K> {
    fn count(&mut self, key: K, now: Instant, limit: u32, window: Duration) -> Verdict {
        self.forget_ended(now, window);
        if let Some(current) = self.counts.get_mut(&key) {
            if now.saturating_duration_since(current.began) < window {
                current.count = current.count.saturating_add(1);
                return match current.count.cmp(&limit.saturating_add(1)) {
                    std::cmp::Ordering::Less => Verdict::Within,
                    std::cmp::Ordering::Equal => Verdict::FirstAbove,
                    std::cmp::Ordering::Greater => Verdict::Above,
                };
            }
        } else if self.counts.len() >= self.most {
            self.forget_oldest();
        }
        self.counts.insert(key, Window { began: now, count: 1 });
        if let Some(order) = &mut self.order {
            order.push_back((now, key));
        }
        Verdict::Within
    }

    fn forget_ended(&mut self, now: Instant, window: Duration) {
        let Some(order) = &mut self.order else { return };
        while let Some((_, key)) =
            order.pop_front_if(|(began, _)| now.saturating_duration_since(*began) >= window)
        {
            self.counts.remove(&key);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.as_mut().and_then(VecDeque::pop_front) {
            self.counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn counted<K: Copy + Eq + Hash>(windows: &Windows<K>, key: K, now: Instant, times: usize) -> usize {
        (0..times).filter(|_| windows.count(key, now, 3, WINDOW) == Verdict::Within).count()
    }

    #[test]
    fn a_window_begins_with_the_first_message_and_lasts_its_time() {
        for windows in [Windows::unbounded(), Windows::bounded(1000)] {
            let start = Instant::now();
            assert_eq!(windows.count(1, start, 3, WINDOW), Verdict::Within);
            let late = start + WINDOW - Duration::from_nanos(1);
            assert_eq!(counted(&windows, 1, late, 2), 2);
            assert_eq!(windows.count(1, late, 3, WINDOW), Verdict::FirstAbove);
            assert_eq!(windows.count(1, late, 3, WINDOW), Verdict::Above);
            assert_eq!(counted(&windows, 2, late, 5), 3, "another key has a count of its own");
            assert_eq!(counted(&windows, 1, start + WINDOW, 5), 3, "its window is over");
            assert_eq!(counted(&windows, 2, start + WINDOW, 5), 0, "and that one's is not");
        }
    }

    #[test]
    fn keys_are_forgotten_when_their_windows_are_over() {
        let windows = Windows::bounded(1 << 20);
        let start = Instant::now();
        for key in 0..10_000 {
            windows.count(key, start, 3, WINDOW);
        }
        assert_eq!(windows.len(), 10_000);
        for key in 0..1000 {
            windows.count(key, start + WINDOW, 3, WINDOW);
        }
        // Each table forgets when it is looked at.
        assert_eq!(windows.len(), 1000);
    }

    #[test]
    fn a_flood_of_keys_costs_no_more_than_there_is_room_and_forgets_the_oldest() {
        let most = 1600;
        let windows = Windows::bounded(most);
        let start = Instant::now();
        for key in 0..1_000_000_u32 {
            windows.count(key, start + Duration::from_micros(key.into()), 3, WINDOW);
        }
        assert!(windows.len() <= most);
        let queued: usize =
            windows.shards.iter().map(|shard| shard.lock().order.as_ref().map_or(0, VecDeque::len)).sum();
        assert_eq!(queued, windows.len(), "one entry each");
        let newest = 999_999;
        assert_eq!(counted(&windows, newest, start + Duration::from_secs(1), 5), 2, "it is remembered");
    }

    #[test]
    fn what_is_told_to_be_forgotten_is() {
        let windows = Windows::unbounded();
        for key in 0..100 {
            windows.count(key, Instant::now(), 3, WINDOW);
        }
        (0..100).for_each(|key| windows.forget(&key));
        assert_eq!(windows.len(), 0);
    }

    #[test]
    fn a_clock_that_stands_still_or_seems_to_go_back_ends_no_window() {
        let windows = Windows::bounded(100);
        let start = Instant::now() + WINDOW;
        assert_eq!(counted(&windows, 1, start, 3), 3);
        assert_eq!(counted(&windows, 1, start - WINDOW, 1), 0);
    }
}
