//! Echo and broadcast runs: one message for every reply, for the measured time.

use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::load::outcome::{Meter, Outcome};
use crate::load::peer::{Peer, READ, Streams};
use crate::load::{DRAIN, Mode, Plan, dial};
use crate::progress::Progress;

/// Connections looked at between two looks at the clock.
const EVENTS: usize = 1024;

/// Longest time without a look at the clock.
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    let mut run = Run::new(plan)?;
    run.connect(plan)?;
    let mut meter = Meter::new(plan.server_pid);
    let progress = bar(plan);

    // What is in flight first takes its time to be sent, in TLS above all: that is no warm-up.
    run.prime(plan);
    let begin = Instant::now();
    let warm = begin + plan.warmup;
    run.until(warm, || progress.at(begin.elapsed(), "warm-up"))?;
    meter.start(run.replies);
    run.measuring = true;
    run.until(warm + plan.measure, || progress.at(begin.elapsed(), "measuring"))?;
    meter.stop(run.replies, plan.size, &mut run.outcome);
    run.measuring = false;
    run.draining = true;
    progress.at(begin.elapsed(), "draining");
    run.until(Instant::now() + DRAIN, || {})?;
    progress.finish();
    run.missing();
    if run.outcome.messages == 0 {
        run.outcome.fail(|| "no reply in the measured time".into());
    }
    Ok(run.outcome)
}

pub(crate) fn bar(plan: &Plan) -> Progress {
    if plan.progress { Progress::over(plan.warmup + plan.measure) } else { Progress::hidden() }
}

/// All connections and what they share.
#[derive(Debug)]
pub(crate) struct Run {
    poll: Poll,
    events: Events,
    streams: Streams,
    /// `None` where a connection was lost.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
    broadcast: Option<Deliveries>,
    /// When the broadcast now in flight was sent, if it is the only one.
    published_at: Instant,
    in_flight: usize,
    pub(crate) replies: u64,
    /// Messages sent, counted as the replies they cause.
    pub(crate) wanted: u64,
    pub(crate) outcome: Outcome,
    measuring: bool,
    pub(crate) draining: bool,
}

impl Run {
    pub(crate) fn new(plan: &Plan) -> Result<Self, String> {
        Ok(Self {
            poll: Poll::new().map_err(|e| format!("cannot open an epoll instance: {e}"))?,
            events: Events::with_capacity(EVENTS),
            streams: Streams::new(plan.wire, plan.size, plan.in_flight),
            peers: Vec::with_capacity(plan.clients),
            buffer: vec![0; READ],
            broadcast: (plan.mode == Mode::Broadcast).then(|| Deliveries::new(plan.clients, plan.in_flight)),
            published_at: Instant::now(),
            in_flight: plan.in_flight,
            replies: 0,
            wanted: 0,
            outcome: Outcome::default(),
            measuring: false,
            draining: false,
        })
    }

    pub(crate) fn connect(&mut self, plan: &Plan) -> Result<(), String> {
        for index in 0..plan.clients {
            let mut link = dial::dial(plan, index)
                .map_err(|e| format!("connection {} of {}: {e}", index + 1, plan.clients))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            (self.poll.registry().register(&mut link, Token(index), interest))
                .map_err(|e| format!("cannot watch a socket: {e}"))?;
            let peer = Peer::new(link, &self.streams);
            self.peers.push(Some(peer));
        }
        Ok(())
    }

    /// Sends what is to be in flight.
    pub(crate) fn prime(&mut self, plan: &Plan) {
        let senders = if self.broadcast.is_some() { 1 } else { plan.clients };
        for index in 0..senders {
            self.send(index, plan.in_flight, Instant::now());
        }
    }

    fn send(&mut self, index: usize, messages: usize, now: Instant) {
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        let receivers = self.broadcast.as_ref().map_or(1, |b| b.clients);
        self.wanted += (messages * receivers) as u64;
        peer.queue(&self.streams, messages);
        self.published_at = now;
        if self.in_flight == 1 {
            peer.sent_at = Some(now);
        }
        if let Err(error) = peer.write(&self.streams) {
            self.lose(index, &error);
        }
    }

    fn lose(&mut self, index: usize, error: &str) {
        self.peers[index] = None;
        self.outcome.fail(|| format!("client {index}: {error}"));
    }

    /// Goes on until then, or until there is nothing left to wait for.
    pub(crate) fn until(&mut self, end: Instant, tick: impl Fn()) -> Result<(), String> {
        let mut ticked = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end || self.is_over() {
                return Ok(());
            }
            if now - ticked > TICK {
                ticked = now;
                tick();
            }
            match self.poll.poll(&mut self.events, Some((end - now).min(TICK))) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(|e| format!("waiting for sockets failed: {e}"))?,
            }
            // `events` is moved out so that a peer can be handled while they are walked through.
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            let mut publish = 0;
            for event in &events {
                publish += self.turn(event.token().0);
            }
            self.events = events;
            if publish > 0 {
                let now = Instant::now();
                if self.measuring && self.in_flight == 1 {
                    self.outcome.latency.record(now - self.published_at);
                }
                if !self.draining {
                    self.send(0, publish, now);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        // A broadcast cannot go on without one of its receivers, nor any run without all of them.
        let failed = self.outcome.errors > 0;
        failed && (self.broadcast.is_some() || self.peers.iter().all(Option::is_none))
            || (self.draining && self.replies >= self.wanted)
    }

    /// One connection is ready: reads what is there, and answers each reply. Gives what is to be published.
    fn turn(&mut self, index: usize) -> usize {
        let Some(peer) = &mut self.peers[index] else {
            return 0;
        };
        let now = if self.in_flight == 1 { Some(Instant::now()) } else { None };
        let mut publish = 0;
        loop {
            let before = peer.replies;
            let (replies, more) = match peer.read(&self.streams, &mut self.buffer) {
                Ok(read) => read,
                Err(error) => {
                    self.lose(index, &error);
                    return publish;
                }
            };
            self.replies += replies as u64;
            if replies > 0
                && self.broadcast.is_none()
                && let (true, Some(now), Some(sent)) = (self.measuring, now, peer.sent_at)
            {
                self.outcome.latency.record(now - sent);
            }
            if let Some(deliveries) = &mut self.broadcast {
                publish += deliveries.count(before, replies);
            } else if !self.draining && replies > 0 {
                self.wanted += replies as u64;
                peer.queue(&self.streams, replies);
                peer.sent_at = now;
            }
            if let Err(error) = peer.write(&self.streams) {
                self.lose(index, &error);
                return publish;
            }
            if !more {
                return publish;
            }
        }
    }

    /// Counts what never came as errors.
    pub(crate) fn missing(&mut self) {
        let missing = self.wanted.saturating_sub(self.replies);
        if missing > 0 {
            self.outcome.fail(|| format!("{missing} replies never came"));
        }
    }
}

/// How far a broadcast has got: which messages everyone has.
#[derive(Debug)]
struct Deliveries {
    clients: usize,
    /// Receivers still without message n, at n modulo the number in flight.
    missing: Vec<usize>,
}

impl Deliveries {
    fn new(clients: usize, in_flight: usize) -> Self {
        Self { clients, missing: vec![clients; in_flight] }
    }

    /// One client, which had `before` messages, got `more`. Gives how many messages now have reached everyone.
    fn count(&mut self, before: u64, more: usize) -> usize {
        let len = self.missing.len();
        let mut slot = usize::try_from(before % len as u64).unwrap_or(0);
        let mut done = 0;
        for _ in 0..more {
            self.missing[slot] -= 1;
            if self.missing[slot] == 0 {
                self.missing[slot] = self.clients;
                done += 1;
            }
            slot = if slot + 1 == len { 0 } else { slot + 1 };
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_delivered_when_everyone_has_it() {
        let mut d = Deliveries::new(3, 2);
        assert_eq!(d.count(0, 2), 0);
        assert_eq!(d.count(0, 2), 0);
        assert_eq!(d.count(0, 1), 1);
        assert_eq!(d.count(1, 1), 1);
        assert_eq!((d.count(2, 1), d.count(2, 1), d.count(2, 1)), (0, 0, 1));
    }
}
