//! What the server measures of itself, once a second.
//!
//! In:  the counters of the library, which cost nothing until they are read.
//! Out: samples with rates, the last two minutes of them; rows about sessions.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stormsocket::{Hub, ServerMetrics, Session, WsSession};

use crate::names::name_of;
use crate::rooms;

/// Samples that are kept.
const HISTORY: usize = 120;
/// Rows of a list, at most: what it is cut to does not depend on how many there are.
pub(crate) const MAX_ROWS: usize = 200;

/// One second of the server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    /// Milliseconds since 1970.
    time: u64,
    online: u64,
    /// Per second, as the next five.
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    dropped: u64,
    errors: u64,
    /// Sessions whose outbox is full at this moment.
    slow: u64,
}

/// Since the server was started.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    sessions: u64,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    dropped: u64,
    errors: u64,
}

/// One session, as lists show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionRow {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Seconds.
    pub(crate) uptime: u64,
    pub(crate) rooms: Vec<String>,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    /// Messages it did not get because it read too slowly.
    pub(crate) dropped: u64,
    /// Bytes that wait for it.
    pub(crate) pending: usize,
    pub(crate) slow: bool,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip: Option<f64>,
    /// For admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
}

/// The samples of the last two minutes, and what the next one is compared with.
#[derive(Debug)]
pub(crate) struct Stats(Mutex<State>);

#[derive(Debug)]
struct State {
    before: ServerMetrics,
    at: Instant,
    history: VecDeque<Sample>,
}

impl Default for Stats {
    fn default() -> Self {
        let history = VecDeque::with_capacity(HISTORY);
        Self(Mutex::new(State { before: ServerMetrics::default(), at: Instant::now(), history }))
    }
}

impl Stats {
    /// Takes the next sample.
    pub(crate) fn sample(&self, hub: &Hub) -> (Sample, Totals) {
        let now = hub.metrics();
        let slow = hub.sessions().iter().filter(Session::is_backpressured).count() as u64;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = between(&state.before, &now, state.at.elapsed(), slow);
        state.before = now;
        state.at = Instant::now();
        if state.history.len() == HISTORY {
            state.history.pop_front();
        }
        state.history.push_back(sample);
        (sample, totals(&now))
    }

    /// The samples so far, oldest first.
    pub(crate) fn history(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).history.iter().copied().collect()
    }
}

/// Milliseconds since 1970.
pub(crate) fn timestamp() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The sessions, slow ones first, `most` of them, and how many there are.
pub(crate) fn sessions(hub: &Hub, most: usize) -> (Vec<SessionRow>, usize) {
    let mut all: Vec<_> =
        hub.sessions().iter().map(|session| (!session.is_backpressured(), session.id(), session)).collect();
    let total = all.len();
    all.sort_unstable_by_key(|(fast, id, _)| (*fast, *id));
    (all.iter().take(most).map(|(_, _, session)| row(session)).collect(), total)
}

/// What lists show of a session. Its address is not for everyone.
pub(crate) fn row(session: &Session) -> SessionRow {
    let metrics = session.metrics();
    let round_trip = WsSession::of(session).and_then(|session| session.round_trip());
    SessionRow {
        id: session.id().get(),
        name: name_of(session).to_string(),
        uptime: metrics.uptime.as_secs(),
        rooms: rooms::of(session),
        messages_in: metrics.messages_received,
        messages_out: metrics.messages_sent,
        dropped: metrics.messages_dropped,
        pending: session.pending_send_bytes(),
        slow: session.is_backpressured(),
        round_trip: round_trip.map(|time| time.as_secs_f64() * 1_000.0),
        address: None,
    }
}

fn totals(metrics: &ServerMetrics) -> Totals {
    Totals {
        sessions: metrics.total_connections,
        messages_in: metrics.messages_received,
        messages_out: metrics.messages_sent,
        bytes_in: metrics.bytes_received_total,
        bytes_out: metrics.bytes_sent_total,
        dropped: metrics.messages_dropped,
        errors: metrics.error_count,
    }
}

fn between(before: &ServerMetrics, now: &ServerMetrics, took: Duration, slow: u64) -> Sample {
    let rate = |before: u64, now: u64| {
        let millis = took.as_millis().max(1);
        u64::try_from(u128::from(now.saturating_sub(before)) * 1_000 / millis).unwrap_or(u64::MAX)
    };
    Sample {
        time: timestamp(),
        online: now.active_connections,
        messages_in: rate(before.messages_received, now.messages_received),
        messages_out: rate(before.messages_sent, now.messages_sent),
        bytes_in: rate(before.bytes_received_total, now.bytes_received_total),
        bytes_out: rate(before.bytes_sent_total, now.bytes_sent_total),
        dropped: rate(before.messages_dropped, now.messages_dropped),
        errors: rate(before.error_count, now.error_count),
        slow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_whatever_the_time_between() {
        let before = ServerMetrics::default();
        let mut now = before;
        now.messages_received = 500;
        now.bytes_sent_total = 3;
        let sample = between(&before, &now, Duration::from_millis(2_500), 4);
        assert_eq!((sample.messages_in, sample.bytes_out, sample.slow), (200, 1, 4));
        // Neither a clock that stands still nor counters that went back may break it.
        assert_eq!(between(&now, &before, Duration::ZERO, 0).messages_in, 0);
        assert_eq!(between(&before, &now, Duration::ZERO, 0).messages_in, 500_000);
    }
}
