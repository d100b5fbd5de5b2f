//! The OpenTelemetry instruments of meter `StormSocket`.
//!
//! Counters are observed: a callback reads the numbers that are kept anyway, when the exporter collects. Only the two
//! histograms are pushed, once per connection. Instruments are made when the first hub is: set the global meter
//! provider before that. With several servers in a process each instrument shows their sum.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::{KeyValue, global};
use parking_lot::Mutex;

use super::{Kind, MetricsState, ServerMetrics, Tally};
use crate::{DisconnectReason, Hub, Sessions};

static OBSERVED: Mutex<Observed> = Mutex::new(Observed { live: Vec::new(), gone: ServerMetrics::ZERO });
static INSTRUMENTS: OnceLock<()> = OnceLock::new();
static ROUND: Mutex<Option<Round>> = Mutex::new(None);

/// A sum older than that is shown by no instrument.
const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// All hubs of the process, and what those that are gone counted: counters must not fall.
struct Observed {
    live: Vec<Live>,
    gone: ServerMetrics,
}

/// A hub, until what it counted is among what those counted that are gone.
struct Live {
    hub: Weak<Hub>,
    counted: Arc<MetricsState>,
}

/// One sum for all instruments of a collection: with one for each, every session would be visited for each, and each would
/// show another moment.
struct Round {
    sum: ServerMetrics,
    taken: Instant,
    /// The instruments that have shown it, a bit each: the first to be asked again begins another round.
    shown_by: u32,
}

impl ServerMetrics {
    const ZERO: Self = Self {
        active_connections: 0,
        total_connections: 0,
        messages_sent: 0,
        messages_received: 0,
        messages_dropped: 0,
        messages_replaced: 0,
        bytes_sent_total: 0,
        bytes_received_total: 0,
        error_count: 0,
        refused: Tally::ZERO,
        disconnects: Tally::ZERO,
        handshake_failures: 0,
        handshake_timeouts: 0,
        handshake_failures_by: Tally::ZERO,
    };

    fn merge(&mut self, other: &Self) {
        self.active_connections += other.active_connections;
        self.total_connections += other.total_connections;
        self.messages_sent += other.messages_sent;
        self.messages_received += other.messages_received;
        self.messages_dropped += other.messages_dropped;
        self.messages_replaced += other.messages_replaced;
        self.bytes_sent_total += other.bytes_sent_total;
        self.bytes_received_total += other.bytes_received_total;
        self.error_count += other.error_count;
        self.refused.merge(&other.refused);
        self.disconnects.merge(&other.disconnects);
        self.handshake_failures += other.handshake_failures;
        self.handshake_failures_by.merge(&other.handshake_failures_by);
        self.handshake_timeouts += other.handshake_timeouts;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let mut observed = OBSERVED.lock();
        observed.gone.merge(&self.metrics.read(&Sessions::new()));
        observed.live.retain(|live| !Arc::ptr_eq(&live.counted, &self.metrics));
    }
}

/// Has the instruments show `hub` from now on.
pub(crate) fn observe(hub: &Arc<Hub>) {
    OBSERVED.lock().live.push(Live { hub: Arc::downgrade(hub), counted: hub.metrics.clone() });
    INSTRUMENTS.get_or_init(|| make_counters(&global::meter("StormSocket")));
}

fn total() -> ServerMetrics {
    // Upgraded handles may be the last ones: they are dropped after the lock is.
    let mut hubs = Vec::new();
    let observed = OBSERVED.lock();
    let mut sum = observed.gone;
    for live in &observed.live {
        match live.hub.upgrade() {
            Some(hub) => hubs.push(hub),
            // It is being dropped, has no session any more, and is not among those that are gone yet.
            None => sum.merge(&live.counted.read(&Sessions::new())),
        }
    }
    drop(observed);
    for hub in &hubs {
        sum.merge(&hub.metrics());
    }
    sum
}

impl Round {
    /// The sum, if the instrument of this number is still to show it.
    fn show(&mut self, instrument: u32, now: Instant) -> Option<ServerMetrics> {
        let bit = 1 << instrument;
        let shows = self.shown_by & bit == 0 && now.saturating_duration_since(self.taken) < LONGEST_ROUND;
        self.shown_by |= bit;
        shows.then_some(self.sum)
    }
}

/// What the instrument of this number is to show.
fn total_for(instrument: u32) -> ServerMetrics {
    let shown = ROUND.lock().as_mut().and_then(|round| round.show(instrument, Instant::now()));
    shown.unwrap_or_else(|| {
        let sum = total();
        *ROUND.lock() = Some(Round { sum, taken: Instant::now(), shown_by: 1 << instrument });
        sum
    })
}

fn make_counters(meter: &Meter) {
    type Read = fn(&ServerMetrics) -> u64;
    let counters: [(&str, &str, Read); 9] = [
        ("stormsocket.connections.total", "{connection}", |m| m.total_connections),
        ("stormsocket.messages.sent", "{message}", |m| m.messages_sent),
        ("stormsocket.messages.received", "{message}", |m| m.messages_received),
        ("stormsocket.bytes.sent", "By", |m| m.bytes_sent_total),
        ("stormsocket.bytes.received", "By", |m| m.bytes_received_total),
        ("stormsocket.errors", "{error}", |m| m.error_count),
        ("stormsocket.messages.dropped", "{message}", |m| m.messages_dropped),
        ("stormsocket.messages.replaced", "{message}", |m| m.messages_replaced),
        ("stormsocket.slow_consumers", "{connection}", ServerMetrics::slow_consumers),
    ];
    let mut numbers = 0_u32..;
    let mut number = move || numbers.next().expect("it has no end");
    for (name, unit, read) in counters {
        let instrument = number();
        let _registered = meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_callback(move |observer| observer.observe(read(&total_for(instrument)), &[]))
            .build();
    }
    make_tally(meter, number(), "stormsocket.connections.refused", "{connection}", "limit", |m| m.refused);
    make_tally(meter, number(), "stormsocket.disconnects", "{connection}", "reason", |m| m.disconnects);
    make_tally(meter, number(), "stormsocket.handshake.failures", "{handshake}", "kind", |m| {
        m.handshake_failures_by
    });
    let instrument = number();
    let _registered = meter
        .i64_observable_up_down_counter("stormsocket.connections.active")
        .with_unit("{connection}")
        .with_callback(move |observer| {
            observer
                .observe(i64::try_from(total_for(instrument).active_connections).unwrap_or(i64::MAX), &[]);
        })
        .build();
}

/// A counter with an attribute that tells kinds apart. Kinds that have not been seen are not shown.
fn make_tally<K: Kind + Send + Sync>(
    meter: &Meter,
    instrument: u32,
    name: &'static str,
    unit: &'static str,
    attribute: &'static str,
    read: fn(&ServerMetrics) -> Tally<K>,
) {
    let _registered = meter
        .u64_observable_counter(name)
        .with_unit(unit)
        .with_callback(move |observer| {
            for (kind, count) in read(&total_for(instrument)).iter().filter(|(_, count)| *count > 0) {
                observer.observe(count, &[KeyValue::new(attribute, kind.label())]);
            }
        })
        .build();
}

/// The two histograms.
#[derive(Debug)]
pub(crate) struct Durations {
    connection: Histogram<f64>,
    handshake: Histogram<f64>,
}

impl Default for Durations {
    fn default() -> Self {
        let meter = global::meter("StormSocket");
        Self {
            connection: meter.f64_histogram("stormsocket.connection.duration").with_unit("ms").build(),
            handshake: meter.f64_histogram("stormsocket.handshake.duration").with_unit("ms").build(),
        }
    }
}

impl Durations {
    pub(crate) fn record_connection(&self, lasted: Duration, reason: Option<DisconnectReason>) {
        let reason = reason.map_or("none", DisconnectReason::as_str);
        self.connection.record(lasted.as_secs_f64() * 1000.0, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn record_handshake(&self, took: Duration) {
        self.handshake.record(took.as_secs_f64() * 1000.0, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionOptions;
    use crate::middleware::MiddlewareChain;

    #[test]
    fn a_sum_is_shown_once_by_each_instrument_and_not_for_long() {
        let taken = Instant::now();
        let mut round = Round { sum: ServerMetrics::ZERO, taken, shown_by: 1 << 3 };
        assert_eq!(round.show(3, taken), None);
        assert!(round.show(0, taken).is_some());
        assert_eq!(round.show(0, taken), None);
        assert!(round.show(12, taken + LONGEST_ROUND / 2).is_some());
        assert_eq!(round.show(5, taken + LONGEST_ROUND), None);
    }

    #[test]
    fn counters_never_fall_while_a_hub_goes() {
        for _ in 0..500 {
            let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
            hub.metrics.count_error();
            let before = total().error_count;
            let going = std::thread::spawn(move || drop(hub));
            while !going.is_finished() {
                assert!(total().error_count >= before);
            }
            going.join().expect("no panic");
            assert!(total().error_count >= before);
        }
    }
}
