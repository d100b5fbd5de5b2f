//! The open loop: messages arrive at a fixed rate, as from many independent users, and wait for no reply.
//!
//! ```text
//!  due:    0 ── 1 ── 2 ── 3 ── 4 ── ...     message n is due n / rate seconds after the start, on client n % clients
//!  reply k of client c  is  message c + k * clients
//!  latency  =  arrival of the reply - when the message was due
//! ```
//!
//! A closed loop sends less while the server is slow, and so asks least when answers take longest. Here a stall of
//! the server, or of this generator, is in the latency of every message that was due meanwhile.

use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::load::echo::bar;
use crate::load::outcome::{Meter, Outcome};
use crate::load::peer::{Peer, READ, Streams};
use crate::load::{DRAIN, Plan, dial};

/// Messages without a reply at which a run is given up: the server does not keep the rate.
const MOST_UNANSWERED: u64 = 1 << 20;

/// Longest time without a look at the clock for the progress bar.
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    let mut run = Open::new(plan)?;
    let mut meter = Meter::new(plan.server_pid);
    let progress = bar(plan);
    let begin = Instant::now();
    run.schedule.begin = begin;
    let warm = begin + plan.warmup;
    run.until(warm, || progress.at(begin.elapsed(), "warm-up"))?;
    meter.start(run.replies);
    let end = warm + plan.measure;
    run.schedule.measured = (warm, end);
    run.until(end, || progress.at(begin.elapsed(), "measuring"))?;
    meter.stop(run.replies, plan.size, &mut run.outcome);
    // What was due in the measured time counts, however late its reply.
    run.draining = true;
    run.until(Instant::now() + DRAIN, || {})?;
    progress.finish();
    let missing = run.sent.saturating_sub(run.replies);
    if missing > 0 {
        run.outcome.fail(|| format!("{missing} replies never came"));
    }
    if run.outcome.messages == 0 {
        run.outcome.fail(|| "no reply in the measured time".into());
    }
    Ok(run.outcome)
}

/// When messages are due.
#[derive(Debug)]
struct Schedule {
    begin: Instant,
    /// Messages per second.
    rate: u64,
    clients: u64,
    /// Latencies of what is due from the first to before the second are recorded.
    measured: (Instant, Instant),
}

impl Schedule {
    /// When message `number` is due.
    fn due(&self, number: u64) -> Instant {
        let (seconds, rest) = (number / self.rate, number % self.rate);
        self.begin + Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / self.rate)
    }

    /// How many messages are due at this time.
    fn due_by(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.begin).as_nanos();
        u64::try_from(since * u128::from(self.rate) / 1_000_000_000).unwrap_or(u64::MAX) + 1
    }

    /// When the message behind this reply of this client was due, if it is one to be measured.
    fn measured(&self, client: usize, reply: u64) -> Option<Instant> {
        let due = self.due(client as u64 + reply * self.clients);
        (self.measured.0 <= due && due < self.measured.1).then_some(due)
    }
}

#[derive(Debug)]
struct Open {
    schedule: Schedule,
    poll: Poll,
    events: Events,
    streams: Streams,
    /// `None` where a connection was lost.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
    sent: u64,
    replies: u64,
    outcome: Outcome,
    draining: bool,
}

impl Open {
    fn new(plan: &Plan) -> Result<Self, String> {
        let now = Instant::now();
        let mut run = Self {
            schedule: Schedule {
                begin: now,
                rate: u64::from(plan.rate.max(1)),
                clients: plan.clients as u64,
                measured: (now, now),
            },
            poll: Poll::new().map_err(|e| format!("cannot open an epoll instance: {e}"))?,
            events: Events::with_capacity(1024),
            streams: Streams::new(plan.wire, plan.size, 1),
            peers: Vec::with_capacity(plan.clients),
            buffer: vec![0; READ],
            sent: 0,
            replies: 0,
            outcome: Outcome::default(),
            draining: false,
        };
        for index in 0..plan.clients {
            let mut link = dial::dial(plan, index)
                .map_err(|e| format!("connection {} of {}: {e}", index + 1, plan.clients))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            (run.poll.registry().register(&mut link, Token(index), interest))
                .map_err(|e| format!("cannot watch a socket: {e}"))?;
            let peer = Peer::new(link, &run.streams);
            run.peers.push(Some(peer));
        }
        Ok(run)
    }

    /// Goes on until then, or until there is nothing left to wait for. Never sleeps before that: a timer of the
    /// system would be late by more than a reply takes.
    fn until(&mut self, end: Instant, tick: impl Fn()) -> Result<(), String> {
        let mut ticked = Instant::now();
        loop {
            let now = Instant::now();
            let over = self.draining && self.replies >= self.sent || self.outcome.errors > 0;
            if now >= end || over {
                return Ok(());
            }
            if now - ticked > TICK {
                ticked = now;
                tick();
            }
            if !self.draining {
                self.send_due(now.min(end));
            }
            match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(|e| format!("waiting for sockets failed: {e}"))?,
            }
            // `events` is moved out so that a peer can be handled while they are walked through.
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                self.turn(event.token().0);
            }
            self.events = events;
        }
    }

    fn send_due(&mut self, now: Instant) {
        let due = self.schedule.due_by(now);
        while self.sent < due && self.outcome.errors == 0 {
            if self.sent - self.replies >= MOST_UNANSWERED {
                self.outcome.fail(|| format!("{MOST_UNANSWERED} messages are unanswered at this rate"));
                return;
            }
            let index = usize::try_from(self.sent % self.schedule.clients).unwrap_or(0);
            let Some(peer) = &mut self.peers[index] else { return };
            let due = self.schedule.due(self.sent);
            if self.schedule.measured.0 <= due && due < self.schedule.measured.1 {
                self.outcome.lateness.record(Instant::now().saturating_duration_since(due));
            }
            peer.queue(&self.streams, 1);
            self.sent += 1;
            if let Err(error) = peer.write(&self.streams) {
                self.lose(index, &error);
            }
        }
    }

    fn lose(&mut self, index: usize, error: &str) {
        self.peers[index] = None;
        self.outcome.fail(|| format!("client {index}: {error}"));
    }

    /// One connection is ready: reads what is there.
    fn turn(&mut self, index: usize) {
        loop {
            let Some(peer) = &mut self.peers[index] else { return };
            let before = peer.replies;
            let read = peer.read(&self.streams, &mut self.buffer);
            let (replies, more) = match read.and_then(|read| peer.write(&self.streams).map(|()| read)) {
                Ok(read) => read,
                Err(error) => return self.lose(index, &error),
            };
            let now = Instant::now();
            self.replies += replies as u64;
            for reply in before..before + replies as u64 {
                if let Some(due) = self.schedule.measured(index, reply) {
                    self.outcome.latency.record(now.saturating_duration_since(due));
                }
            }
            if !more {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u64, clients: u64) -> Schedule {
        let begin = Instant::now();
        Schedule { begin, rate, clients, measured: (begin, begin + Duration::from_secs(1)) }
    }

    #[test]
    fn messages_are_due_at_even_distances() {
        let s = schedule(1000, 3);
        assert_eq!(s.due(0), s.begin);
        assert_eq!(s.due(1) - s.begin, Duration::from_millis(1));
        assert_eq!(s.due(12_345) - s.begin, Duration::from_millis(12_345));
        for number in [0, 1, 999, 1000, 123_456] {
            let due = s.due(number);
            assert_eq!(s.due_by(due), number + 1);
            assert_eq!(s.due_by(due + Duration::from_micros(999)), number + 1);
        }
    }

    #[test]
    fn uneven_rates_lose_nothing() {
        let s = schedule(7_777_777, 1);
        assert_eq!(s.due(7_777_777) - s.begin, Duration::from_secs(1));
        assert!(s.due_by(s.begin + Duration::from_secs(100)) == 777_777_701);
    }

    #[test]
    fn a_reply_is_matched_with_its_message_and_only_measured_ones_count() {
        let s = schedule(10, 3);
        // Client 2's second reply is message 5, due after half a second.
        assert_eq!(s.measured(2, 1), Some(s.begin + Duration::from_millis(500)));
        assert_eq!(s.measured(1, 3), None);
    }
}
