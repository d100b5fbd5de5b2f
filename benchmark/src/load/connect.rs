//! Connections per second: connect, shake hands (or have one message echoed), close, again.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::load::echo::bar;
use crate::load::link::{self, Link};
use crate::load::outcome::{Meter, Outcome};
use crate::load::{CONNECT, DRAIN, Pattern, Plan, Wire, dial};

/// Longest time between two looks for connections that hang.
const TICK: Duration = Duration::from_millis(100);

/// Consecutive failures after which the server is taken for dead.
const DEAD: u64 = 100;

/// One connection on its way.
#[derive(Debug)]
struct Attempt {
    stream: Link,
    since: Instant,
    sent: usize,
    answer: Vec<u8>,
}

#[derive(Debug)]
struct Connects<'a> {
    plan: &'a Plan,
    poll: Poll,
    /// What each connection sends first.
    hello: Vec<u8>,
    /// The answer of a TCP server; a WebSocket server's is checked as HTTP.
    echo: Pattern,
    attempts: Vec<Option<Attempt>>,
    done: u64,
    failed_in_a_row: u64,
    outcome: Outcome,
}

pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    // A server that is not there at all is no run.
    drop(dial::dial(plan, 0)?);
    let hello = match plan.wire {
        Wire::WebSocket { .. } | Wire::Deflate => dial::upgrade_request(plan.target, plan.wire),
        Wire::Tcp(_) => {
            let sent = plan.wire.sent(plan.size, 1);
            sent.slice(0, sent.message_len()).to_vec()
        }
    };
    let mut run = Connects {
        plan,
        poll: Poll::new().map_err(|e| format!("cannot open an epoll instance: {e}"))?,
        hello,
        echo: plan.wire.expected(plan.size),
        attempts: (0..plan.clients).map(|_| None).collect(),
        done: 0,
        failed_in_a_row: 0,
        outcome: Outcome::default(),
    };
    let mut meter = Meter::new(plan.server_pid);
    let progress = bar(plan);
    let begin = Instant::now();
    for index in 0..plan.clients {
        run.start(index);
    }
    let warm = begin + plan.warmup;
    run.until(warm, true, || progress.at(begin.elapsed(), "warm-up"))?;
    meter.start(run.done);
    run.until(warm + plan.measure, true, || {
        progress.at(begin.elapsed(), "measuring");
    })?;
    meter.stop(run.done, 0, &mut run.outcome);
    run.until(Instant::now() + DRAIN, false, || {})?;
    progress.finish();
    let hanging = run.attempts.iter().flatten().count();
    if hanging > 0 {
        run.outcome.fail(|| format!("{hanging} connections never got through"));
    }
    if run.outcome.messages == 0 {
        run.outcome.fail(|| "no connection in the measured time".into());
    }
    Ok(run.outcome)
}

impl Connects<'_> {
    fn start(&mut self, index: usize) {
        let attempt = TcpStream::connect(self.plan.target).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            let tls = self.plan.tls.then(|| link::connection(self.plan.target));
            let stream = Link::new(stream, tls);
            Ok(Attempt { stream, since: Instant::now(), sent: 0, answer: Vec::new() })
        });
        match attempt {
            Ok(attempt) => self.attempts[index] = Some(attempt),
            Err(e) => self.fail(index, &format!("cannot connect: {e}")),
        }
    }

    fn fail(&mut self, index: usize, error: &str) {
        self.attempts[index] = None;
        self.failed_in_a_row += 1;
        self.outcome.fail(|| error.to_owned());
    }

    fn until(&mut self, end: Instant, again: bool, tick: impl Fn()) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let mut ticked = Instant::now();
        loop {
            let now = Instant::now();
            let over = self.failed_in_a_row >= DEAD || (!again && self.attempts.iter().all(Option::is_none));
            if now >= end || over {
                return Ok(());
            }
            if now - ticked > TICK {
                ticked = now;
                tick();
                self.give_up_hanging(now, again);
            }
            match self.poll.poll(&mut events, Some((end - now).min(TICK))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(|e| format!("waiting for sockets failed: {e}"))?,
            }
            for event in &events {
                let index = event.token().0;
                match self.turn(index) {
                    Ok(false) => continue,
                    Ok(true) => {
                        self.done += 1;
                        self.failed_in_a_row = 0;
                        self.attempts[index] = None;
                    }
                    Err(error) => self.fail(index, &error),
                }
                if again {
                    self.start(index);
                }
            }
        }
    }

    fn give_up_hanging(&mut self, now: Instant, again: bool) {
        for index in 0..self.attempts.len() {
            let hangs = self.attempts[index].as_ref().is_some_and(|a| now - a.since > CONNECT);
            if hangs {
                self.fail(index, "connection timed out");
            }
            if again && self.attempts[index].is_none() {
                self.start(index);
            }
        }
    }

    /// Moves one connection on; true when it has got through.
    fn turn(&mut self, index: usize) -> Result<bool, String> {
        let Some(attempt) = &mut self.attempts[index] else {
            return Ok(false);
        };
        let lost = |e: io::Error| format!("connection lost: {e}");
        if attempt.sent < self.hello.len() {
            match attempt.stream.write(&self.hello[attempt.sent..]) {
                Ok(written) => attempt.sent += written,
                // Not connected yet is NotConnected on some systems, WouldBlock on others.
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(false);
                }
                Err(e) => return Err(lost(e)),
            }
            // The answer cannot be here yet, and its arrival is another event.
            return Ok(false);
        }
        let mut chunk = [0; 4096];
        let read = match attempt.stream.read(&mut chunk) {
            Ok(0) => return Err("server closed the connection before it answered".into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(lost(e)),
        };
        attempt.answer.extend_from_slice(&chunk[..read]);
        match self.plan.wire {
            Wire::WebSocket { .. } | Wire::Deflate => {
                Ok(dial::check_answer(&attempt.answer, self.plan.wire)?.is_some())
            }
            Wire::Tcp(_) if self.echo.matching(0, &attempt.answer) < attempt.answer.len() => {
                Err("echo differs from what was sent".into())
            }
            Wire::Tcp(_) => Ok(attempt.answer.len() >= self.echo.message_len()),
        }
    }
}
