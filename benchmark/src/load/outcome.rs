//! What a run counted.

use std::time::{Duration, Instant};

use crate::load::Latency;
use crate::proc::Process;

/// What a run counted.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Connections lost, replies wrong or missing.
    pub errors: u64,
    /// The first of them in words.
    pub first_error: Option<String>,
    /// Measured time.
    pub elapsed: Duration,
    /// Replies in that time; connections, if those were counted.
    pub messages: u64,
    /// Payload bytes of these replies.
    pub bytes: u64,
    /// From sending to reply, recorded with one message in flight: in a broadcast to the last delivery of it, in an open
    /// loop from when it was due.
    pub latency: Latency,
    /// How late messages of an open loop were sent.
    pub lateness: Latency,
    /// CPU time of the load generator.
    pub own_cpu: Option<Duration>,
    /// CPU time of the server.
    pub server_cpu: Option<Duration>,
    /// Memory of the server at the end of the measured time, in bytes.
    pub server_memory: Option<u64>,
    /// What idle connections cost.
    pub idle: Option<Idle>,
}

/// What idle connections cost the server.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Idle {
    /// How many there were.
    pub connections: usize,
    /// Bytes resident before the first.
    pub before: u64,
    /// Bytes resident with all of them open, each having echoed one message.
    pub held: u64,
}

impl Idle {
    /// Bytes per connection.
    pub fn each(&self) -> f64 {
        self.held.saturating_sub(self.before) as f64 / self.connections.max(1) as f64
    }
}

impl Outcome {
    /// Counts an error; the first is kept in words.
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(what);
    }

    /// Whether this is a result: something was counted, and nothing went wrong.
    pub fn is_result(&self) -> bool {
        self.errors == 0 && self.messages > 0
    }

    /// Replies, or connections, per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Server CPU per reply, in nanoseconds.
    pub fn server_cpu_per_message(&self) -> Option<f64> {
        let cpu = self.server_cpu?;
        (self.messages > 0).then(|| cpu.as_nanos() as f64 / self.messages as f64)
    }

    /// Share of one core the generator was busy.
    pub fn own_share(&self) -> Option<f64> {
        Some(self.own_cpu?.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9))
    }

    /// Cores the server was busy.
    pub fn server_share(&self) -> Option<f64> {
        Some(self.server_cpu?.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9))
    }

    /// Whether the generator held the server back: its thread was busy and the server's core was not. In an open loop it
    /// is always busy, looking for what is due; there its own lateness must not be most of the latency.
    pub fn generator_was_bottleneck(&self) -> bool {
        if let (Some(late), Some(all)) = (self.lateness.percentile(0.99), self.latency.percentile(0.99)) {
            return late * 2 > all;
        }
        self.own_share().is_some_and(|own| own >= 0.9) && self.server_share().is_none_or(|share| share < 0.9)
    }
}

/// Takes the readings at both ends of the measured time.
#[derive(Debug)]
pub(crate) struct Meter {
    own: Process,
    server: Option<Process>,
    start: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    messages: u64,
    own: Option<Duration>,
    server: Option<Duration>,
}

impl Meter {
    pub(crate) fn new(server_pid: Option<u32>) -> Self {
        Self { own: Process::this(), server: server_pid.map(Process::with_id), start: None }
    }

    pub(crate) fn server_memory(&self) -> Option<u64> {
        self.server.as_ref().and_then(Process::resident)
    }

    fn read(&self, messages: u64) -> Reading {
        Reading {
            at: Instant::now(),
            messages,
            own: self.own.cpu(),
            server: self.server.as_ref().and_then(Process::cpu),
        }
    }

    pub(crate) fn start(&mut self, messages: u64) {
        self.start = Some(self.read(messages));
    }

    /// Fills in what was counted since `start`; `size` is the payload of one message.
    pub(crate) fn stop(&self, messages: u64, size: usize, outcome: &mut Outcome) {
        let Some(start) = self.start else { return };
        let end = self.read(messages);
        outcome.elapsed = end.at - start.at;
        outcome.messages = end.messages - start.messages;
        outcome.bytes = outcome.messages * size as u64;
        outcome.own_cpu = spent(start.own, end.own);
        outcome.server_cpu = spent(start.server, end.server);
        outcome.server_memory = self.server_memory();
    }
}

fn spent(start: Option<Duration>, end: Option<Duration>) -> Option<Duration> {
    end?.checked_sub(start?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(own: u64, server: Option<u64>) -> Outcome {
        Outcome {
            elapsed: Duration::from_millis(1000),
            messages: 10,
            own_cpu: Some(Duration::from_millis(own)),
            server_cpu: server.map(Duration::from_millis),
            ..Outcome::default()
        }
    }

    #[test]
    fn the_bottleneck_is_whoever_has_no_time_left() {
        assert!(outcome(950, Some(600)).generator_was_bottleneck());
        assert!(outcome(950, None).generator_was_bottleneck());
        assert!(!outcome(950, Some(990)).generator_was_bottleneck());
        assert!(!outcome(700, Some(600)).generator_was_bottleneck());
    }

    #[test]
    fn in_an_open_loop_lateness_makes_the_bottleneck() {
        let mut open = outcome(1000, Some(200));
        for _ in 0..100 {
            open.latency.record(Duration::from_micros(100));
            open.lateness.record(Duration::from_micros(10));
        }
        assert!(!open.generator_was_bottleneck());
        for _ in 0..10 {
            open.latency.record(Duration::from_micros(1000));
            open.lateness.record(Duration::from_micros(900));
        }
        assert!(open.generator_was_bottleneck());
    }

    #[test]
    fn errors_and_silence_are_no_result() {
        assert!(outcome(1, None).is_result());
        let mut failed = outcome(1, None);
        failed.fail(|| "first".into());
        failed.fail(|| "second".into());
        assert!(!failed.is_result());
        assert_eq!((failed.errors, failed.first_error.as_deref()), (2, Some("first")));
        assert!(!Outcome::default().is_result());
    }

    #[test]
    fn cpu_per_message() {
        assert_eq!(outcome(1, Some(1)).server_cpu_per_message(), Some(100_000.0));
        assert_eq!(Idle { connections: 10, before: 1000, held: 3000 }.each(), 200.0);
    }
}
