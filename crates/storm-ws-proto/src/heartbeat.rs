//! When to ping, and when to give a silent peer up.
//!
//! Owns: the next tick, the count of unanswered ones, the payload of our last ping.
//! In:   instants and pongs.
//! Out:  a deadline; at it, a ping to send or the verdict that the peer is dead.
//! Not here: a clock, a timer, the pong we owe to the peer's pings (the connection loop).

use std::time::{Duration, Instant};

/// Keep-alive of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatOptions {
    /// Time between ticks; each sends a ping. `None` sends none and never gives up. Default 30 s.
    /// Shorter finds dead peers sooner and wakes idle radios more often; less than a millisecond
    /// counts as a millisecond.
    pub interval: Option<Duration>,
    /// Ticks without a pong that are still forgiven. Default 3: the fourth ends the session. 0 ends
    /// it at the first tick, before any ping.
    pub max_missed_pongs: u32,
    /// Answer the peer's pings by ourselves. Default on. Off, sessions of StormSocket neither answer them nor show them to
    /// anybody; a driver of one's own sees them as [`Incoming::Ping`](crate::Incoming::Ping).
    pub auto_pong: bool,
}

impl Default for HeartbeatOptions {
    fn default() -> Self {
        Self { interval: Some(Duration::from_secs(30)), max_missed_pongs: 3, auto_pong: true }
    }
}

impl HeartbeatOptions {
    /// Sets [`interval`](Self::interval).
    #[must_use]
    pub fn interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.interval = interval.into();
        self
    }

    /// Sets [`max_missed_pongs`](Self::max_missed_pongs).
    #[must_use]
    pub fn max_missed_pongs(mut self, pongs: u32) -> Self {
        self.max_missed_pongs = pongs;
        self
    }

    /// Sets [`auto_pong`](Self::auto_pong).
    #[must_use]
    pub fn auto_pong(mut self, on: bool) -> Self {
        self.auto_pong = on;
        self
    }
}

/// What a tick asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatAction {
    /// Nothing: it was not time yet.
    None,
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// The peer is dead. Abort; a dead peer answers no close frame.
    Dead,
}

/// The heartbeat of one connection.
///
/// One rule of use: when [`poll_timeout`](Self::poll_timeout) has passed, call
/// [`handle_timeout`](Self::handle_timeout) and ask for the new deadline.
///
/// ```
/// use std::time::{Duration, Instant};
/// use storm_ws_proto::{Heartbeat, HeartbeatAction, HeartbeatOptions};
///
/// let start = Instant::now();
/// let mut heartbeat = Heartbeat::new(HeartbeatOptions::default(), start);
/// let tick = heartbeat.poll_timeout().unwrap();
/// assert_eq!(tick, start + Duration::from_secs(30));
/// let HeartbeatAction::Ping(payload) = heartbeat.handle_timeout(tick, true) else { panic!() };
/// heartbeat.pong_received(tick + Duration::from_millis(7), &payload);
/// assert_eq!(heartbeat.round_trip(), Some(Duration::from_millis(7)));
/// ```
#[derive(Debug, Clone)]
pub struct Heartbeat {
    interval: Option<Duration>,
    max_missed: u32,
    next: Option<Instant>,
    missed: u32,
    pings: u64,
    /// When the newest ping left, until its pong comes or it can no longer be timed.
    timed: Option<Instant>,
    round_trip: Option<Duration>,
}

impl Heartbeat {
    /// A heartbeat whose first tick is one interval from `now`.
    #[must_use]
    pub fn new(options: HeartbeatOptions, now: Instant) -> Self {
        let interval = options.interval.map(|interval| interval.max(Duration::from_millis(1)));
        Self {
            interval,
            max_missed: options.max_missed_pongs,
            // An interval beyond what the clock can express never ticks.
            next: interval.and_then(|interval| now.checked_add(interval)),
            missed: 0,
            pings: 0,
            timed: None,
            round_trip: None,
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` for never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Ticks, if it is time. `reading` says whether bytes of the peer are being taken in: while our own
    /// handler keeps us from it, a pong cannot be seen, so the tick pings but does not count.
    pub fn handle_timeout(&mut self, now: Instant, reading: bool) -> HeartbeatAction {
        let (Some(interval), Some(due)) = (self.interval, self.next) else {
            return HeartbeatAction::None;
        };
        if now < due {
            return HeartbeatAction::None;
        }
        // On time, ticks keep their rhythm. After a suspend the ones slept through are one tick.
        self.next =
            due.checked_add(interval).filter(|&next| next > now).or_else(|| now.checked_add(interval));
        if reading {
            self.missed = self.missed.saturating_add(1);
            if self.missed > self.max_missed {
                self.next = None;
                return HeartbeatAction::Dead;
            }
        }
        self.pings += 1;
        self.timed = reading.then_some(now);
        HeartbeatAction::Ping(self.pings.to_be_bytes())
    }

    /// Notes a pong. Any pong proves life, asked for or not; only one with the payload of our newest
    /// ping measures the round trip.
    pub fn pong_received(&mut self, now: Instant, payload: &[u8]) {
        self.missed = 0;
        if payload == self.pings.to_be_bytes()
            && let Some(sent) = self.timed.take()
        {
            self.round_trip = Some(now.saturating_duration_since(sent));
        }
    }

    /// Ticks since the last pong.
    #[must_use]
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// The last measured time from ping to pong.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat(seconds: u64, max_missed: u32) -> (Heartbeat, Instant) {
        let start = Instant::now();
        let options = HeartbeatOptions::default().interval(SECOND * u32::try_from(seconds).unwrap());
        (Heartbeat::new(options.max_missed_pongs(max_missed), start), start)
    }

    fn run_until_dead(heartbeat: &mut Heartbeat, start: Instant) -> Duration {
        loop {
            let due = heartbeat.poll_timeout().expect("alive");
            if heartbeat.handle_timeout(due, true) == HeartbeatAction::Dead {
                return due - start;
            }
        }
    }

    #[test]
    fn fifteen_seconds_and_three_end_at_75_after_a_pong_at_17() {
        let (mut heartbeat, start) = heartbeat(15, 3);
        assert!(matches!(heartbeat.handle_timeout(start + 15 * SECOND, true), HeartbeatAction::Ping(_)));
        heartbeat.pong_received(start + 17 * SECOND, b"");
        assert_eq!(run_until_dead(&mut heartbeat, start), 75 * SECOND);
        assert_eq!(heartbeat.poll_timeout(), None);
    }

    #[test]
    fn a_peer_that_never_answers_ends_at_tick_max_plus_one() {
        let (mut heartbeat, start) = heartbeat(15, 3);
        assert_eq!(run_until_dead(&mut heartbeat, start), 60 * SECOND);
    }

    #[test]
    fn early_calls_do_nothing() {
        let (mut heartbeat, start) = heartbeat(15, 3);
        assert_eq!(heartbeat.handle_timeout(start + 14 * SECOND, true), HeartbeatAction::None);
        assert_eq!(heartbeat.poll_timeout(), Some(start + 15 * SECOND));
    }

    #[test]
    fn ticks_while_not_reading_ping_but_do_not_count() {
        let (mut heartbeat, start) = heartbeat(10, 1);
        for tick in 1..=5 {
            let action = heartbeat.handle_timeout(start + tick * 10 * SECOND, false);
            assert!(matches!(action, HeartbeatAction::Ping(_)));
        }
        assert_eq!(heartbeat.missed(), 0);
        assert_eq!(run_until_dead(&mut heartbeat, start), 70 * SECOND);
    }

    #[test]
    fn an_hour_of_suspend_counts_once() {
        let (mut heartbeat, start) = heartbeat(30, 3);
        let late = start + 3600 * SECOND;
        assert!(matches!(heartbeat.handle_timeout(late, true), HeartbeatAction::Ping(_)));
        assert_eq!((heartbeat.missed(), heartbeat.poll_timeout()), (1, Some(late + 30 * SECOND)));
        assert_eq!(heartbeat.handle_timeout(late, true), HeartbeatAction::None);
    }

    #[test]
    fn slightly_late_ticks_keep_the_rhythm() {
        let (mut heartbeat, start) = heartbeat(30, 3);
        heartbeat.handle_timeout(start + 31 * SECOND, true);
        assert_eq!(heartbeat.poll_timeout(), Some(start + 60 * SECOND));
    }

    #[test]
    fn late_by_a_whole_interval_is_one_tick() {
        let (mut heartbeat, start) = heartbeat(30, 3);
        let late = start + 60 * SECOND;
        assert!(matches!(heartbeat.handle_timeout(late, true), HeartbeatAction::Ping(_)));
        assert_eq!(heartbeat.poll_timeout(), Some(late + 30 * SECOND));
        assert_eq!(heartbeat.handle_timeout(late, true), HeartbeatAction::None);
    }

    #[test]
    fn only_the_newest_ping_is_timed() {
        let (mut heartbeat, start) = heartbeat(10, 3);
        let HeartbeatAction::Ping(old) = heartbeat.handle_timeout(start + 10 * SECOND, true) else {
            panic!()
        };
        let HeartbeatAction::Ping(new) = heartbeat.handle_timeout(start + 20 * SECOND, true) else {
            panic!()
        };
        heartbeat.pong_received(start + 21 * SECOND, &old);
        assert_eq!((heartbeat.round_trip(), heartbeat.missed()), (None, 0));
        heartbeat.pong_received(start + 22 * SECOND, &new);
        assert_eq!(heartbeat.round_trip(), Some(2 * SECOND));
        heartbeat.pong_received(start + 29 * SECOND, &new);
        assert_eq!(heartbeat.round_trip(), Some(2 * SECOND), "a repeated pong is not timed again");
    }

    #[test]
    fn a_ping_whose_pong_could_not_be_seen_is_not_timed() {
        let (mut heartbeat, start) = heartbeat(10, 3);
        for (tick, reading, timed) in [(1, false, None), (2, true, Some(SECOND)), (3, false, Some(SECOND))] {
            let HeartbeatAction::Ping(ping) = heartbeat.handle_timeout(start + tick * 10 * SECOND, reading)
            else {
                panic!()
            };
            let delay = if reading { 1 } else { 5 };
            heartbeat.pong_received(start + (tick * 10 + delay) * SECOND, &ping);
            assert_eq!(heartbeat.round_trip(), timed);
        }
    }

    #[test]
    fn off_never_ticks() {
        let options = HeartbeatOptions::default().interval(None);
        let mut heartbeat = Heartbeat::new(options, Instant::now());
        assert_eq!(heartbeat.poll_timeout(), None);
        assert_eq!(heartbeat.handle_timeout(Instant::now() + 900 * SECOND, true), HeartbeatAction::None);
    }

    #[test]
    fn extreme_intervals_do_not_panic_or_spin() {
        let now = Instant::now();
        let long = Heartbeat::new(HeartbeatOptions::default().interval(Duration::MAX), now);
        assert_eq!(long.poll_timeout(), None);
        let zero = Heartbeat::new(HeartbeatOptions::default().interval(Duration::ZERO), now);
        assert_eq!(zero.poll_timeout(), Some(now + Duration::from_millis(1)));
    }
}
