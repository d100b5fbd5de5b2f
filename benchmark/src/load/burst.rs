//! Bursts: the server answers messages that are there already, while this generator sleeps.
//!
//! ```text
//!  server:      held ................. runs ........................ held .......
//!  generator:   sends all messages     sleeps until all replies are  reads and compares them
//!                                   |<-- the time that is counted ->|
//! ```
//!
//! A server on two cores of a machine with two would else share them with its load, and no rate would tell what the second
//! core is worth. Holding is the system's: the process is stopped and goes on by signals. What is in flight has to fit into
//! the kernel's buffers on both ways, since nobody reads.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::load::deflate::Frame;
use crate::load::echo::bar;
use crate::load::link::Link;
use crate::load::outcome::Outcome;
use crate::load::peer::{Peer, READ, Streams};
use crate::load::{DRAIN, Plan, Wire, dial};
use crate::proc::Process;

/// Longest time for the kernel to take a burst, and for a process to be held.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) fn run(plan: &Plan) -> Result<Outcome, String> {
    let server = plan.server_pid.ok_or("bursts need the process of the server to hold")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("cannot handle signals: {e}"))?;
    }
    let mut run = Run::new(plan)?;
    let progress = bar(plan);
    let mut held = Held::new(server)?;
    let begin = Instant::now();
    let (warm, end) = (begin + plan.warmup, begin + plan.warmup + plan.measure);
    loop {
        let now = Instant::now();
        let measured = now >= warm;
        progress.at(begin.elapsed(), if measured { "measuring" } else { "warm-up" });
        // An interrupted one leaves a server that goes on.
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        if let Err(error) = run.burst(&mut held, measured) {
            run.outcome.fail(|| error);
            break;
        }
        if measured && Instant::now() >= end {
            break;
        }
    }
    progress.finish();
    let outcome = &mut run.outcome;
    outcome.bytes = outcome.messages * plan.size as u64;
    outcome.server_memory = held.process.resident();
    Ok(run.outcome)
}

/// A process that is stopped until it is let go, and goes on when this is gone.
#[derive(Debug)]
struct Held {
    pid: Pid,
    process: Process,
}

impl Held {
    fn new(server: u32) -> Result<Self, String> {
        let pid = i32::try_from(server).ok().and_then(Pid::from_raw).ok_or("that is no process id")?;
        let mut held = Self { pid, process: Process::with_id(server) };
        held.hold()?;
        Ok(held)
    }

    /// Stops it, and waits until it has.
    fn hold(&mut self) -> Result<(), String> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + AT_ONCE;
        while !self.process.is_stopped().ok_or("the server's process has ended")? {
            if Instant::now() > deadline {
                return Err("the server cannot be stopped".into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn release(&self) -> Result<(), String> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(self.pid, signal).map_err(|e| format!("cannot hold the server: {e}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.release();
    }
}

/// One connection.
#[derive(Debug)]
struct Member {
    /// Its socket blocks.
    peer: Peer,
    /// Received and not compared yet.
    received: Vec<u8>,
    /// Frames in `received`, and where the one after them begins.
    frames: usize,
    next: usize,
}

#[derive(Debug)]
struct Run {
    streams: Streams,
    members: Vec<Member>,
    /// Messages each client sends in a burst; a broadcast's come from the first.
    in_flight: usize,
    senders: usize,
    /// The order in which connections are waited for: not the one they are served in, or each of them would wake us.
    order: Vec<usize>,
    /// Bytes of all replies to one connection, if they can be told beforehand.
    replies: Option<usize>,
    buffer: Vec<u8>,
    outcome: Outcome,
}

impl Run {
    fn new(plan: &Plan) -> Result<Self, String> {
        let streams = Streams::new(plan.wire, plan.size, plan.in_flight);
        let mut members = Vec::with_capacity(plan.clients);
        for index in 0..plan.clients {
            let failed = |e: String| format!("connection {} of {}: {e}", index + 1, plan.clients);
            let prepare = |e: std::io::Error| failed(format!("cannot prepare a socket: {e}"));
            let (stream, _) = dial::connect(plan, index).map_err(failed)?;
            stream.set_read_timeout(Some(DRAIN)).map_err(prepare)?;
            stream.set_write_timeout(Some(AT_ONCE)).map_err(prepare)?;
            let link = Link::new(mio::net::TcpStream::from_std(stream), None);
            let peer = Peer::new(link, &streams);
            members.push(Member { peer, received: Vec::new(), frames: 0, next: 0 });
        }
        Ok(Self {
            in_flight: plan.in_flight,
            senders: if plan.to_everyone { 1 } else { plan.clients },
            replies: (plan.wire != Wire::Deflate).then(|| streams.expected.span(0, plan.in_flight)),
            order: shuffled(members.len()),
            streams,
            members,
            buffer: vec![0; READ],
            outcome: Outcome::default(),
        })
    }

    /// One burst, from a server that is held to one that is held again.
    fn burst(&mut self, held: &mut Held, measured: bool) -> Result<(), String> {
        for (index, member) in self.members[..self.senders].iter_mut().enumerate() {
            member.peer.queue(&self.streams, self.in_flight);
            member.peer.write(&self.streams).map_err(|e| format!("client {index}: {e}"))?;
            if member.peer.has_unsent() {
                return Err(format!("client {index}: the kernel does not take so much at once"));
            }
        }
        let me = Process::this();
        let before = (me.cpu(), held.process.cpu());
        let begin = Instant::now();
        held.release()?;
        // The last reply is there when a wait ends that had to sleep, and no later one has to.
        let mut after = (begin, me.cpu());
        for &index in &self.order {
            let member = &mut self.members[index];
            let slept = match self.replies {
                Some(bytes) => wait_for(member.peer.socket(), bytes, &mut self.buffer),
                None => member.collect(self.in_flight, &mut self.buffer),
            };
            if slept.map_err(|e| format!("client {index}: {e}"))? {
                after = (Instant::now(), me.cpu());
            }
        }
        let (elapsed, own) = (after.0 - begin, after.1);
        held.hold()?;
        let server = held.process.cpu();
        for (index, member) in self.members.iter_mut().enumerate() {
            member
                .compare(&self.streams, self.in_flight, &mut self.buffer)
                .map_err(|e| format!("client {index}: {e}"))?;
        }
        if measured {
            let outcome = &mut self.outcome;
            outcome.elapsed += elapsed;
            outcome.messages += (self.members.len() * self.in_flight) as u64;
            let add = |sum: &mut Option<Duration>, from: Option<Duration>, to: Option<Duration>| {
                let spent = from.zip(to).and_then(|(from, to)| to.checked_sub(from));
                *sum = spent.map(|spent| sum.unwrap_or_default() + spent);
            };
            add(&mut outcome.own_cpu, before.0, own);
            add(&mut outcome.server_cpu, before.1, server);
        }
        Ok(())
    }
}

impl Member {
    /// Waits until so many replies are there, and takes them without a look at what is in them; whether it slept.
    fn collect(&mut self, replies: usize, buffer: &mut [u8]) -> Result<bool, String> {
        let mut slept = false;
        while self.frames < replies {
            let read = match rustix::net::recv(self.peer.socket(), &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => {
                    slept = true;
                    received(rustix::net::recv(self.peer.socket(), &mut *buffer, RecvFlags::empty()))?
                }
                read => received(read)?,
            };
            self.received.extend_from_slice(&buffer[..read]);
            while let Some(frame) = Frame::read(&self.received[self.next..]) {
                self.next += frame.len;
                self.frames += usize::from(frame.first & 0x08 == 0);
            }
        }
        Ok(slept)
    }

    /// Compares the replies to one burst, after it.
    fn compare(&mut self, streams: &Streams, replies: usize, buffer: &mut [u8]) -> Result<(), String> {
        let mut count = self.peer.receive(streams, &self.received)?;
        self.received.clear();
        (self.frames, self.next) = (0, 0);
        while count < replies {
            count += self.peer.read(streams, buffer)?.0;
        }
        if count > replies { Err("more replies than messages".into()) } else { Ok(()) }
    }
}

/// Waits until so many bytes are there, and leaves them there; whether it slept.
fn wait_for(socket: BorrowedFd<'_>, bytes: usize, buffer: &mut [u8]) -> Result<bool, String> {
    // With TRUNC the kernel copies nothing, and tells how much it would have been.
    let look = RecvFlags::PEEK | RecvFlags::TRUNC;
    match rustix::net::recv(socket, &mut buffer[..bytes], look | RecvFlags::DONTWAIT) {
        Ok((_, there)) if there == bytes => return Ok(false),
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(failed) => drop(received(Err(failed))?),
    }
    let there = received(rustix::net::recv(socket, &mut buffer[..bytes], look | RecvFlags::WAITALL))?;
    if there < bytes { Err("replies never came".into()) } else { Ok(true) }
}

/// The numbers up to this one, in an order that is no order and always the same.
fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    let mut state = 1_u64;
    for last in (1..count).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (state >> 33) as usize % (last + 1));
    }
    order
}

fn received(result: rustix::io::Result<(usize, usize)>) -> Result<usize, String> {
    match result {
        Ok((_, 0)) => Err("server closed the connection".into()),
        Ok((_, there)) => Ok(there),
        Err(Errno::AGAIN) => Err("replies never came".into()),
        Err(e) => Err(format!("connection lost while receiving: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_waited_for_once() {
        let order = shuffled(1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..1000));
        // Where they are served in order, few of them are later than all before.
        let (mut latest, mut waits) = (0, 0);
        for index in order {
            waits += usize::from(index > latest);
            latest = latest.max(index);
        }
        assert!(waits < 20, "{waits}");
    }
}
