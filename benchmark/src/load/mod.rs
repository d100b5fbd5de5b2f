//! The load generator: one thread, many connections, nothing per message but comparing bytes.
//!
//! ```text
//!  Plan ── dial ──> peers ──┬─ echo ────┐
//!                           ├─ broadcast│
//!                           ├─ open ────┼──> Outcome
//!                           ├─ burst ───┤
//!                           ├─ idle ────┤
//!        (no dialling) ─────┴─ connect ─┘
//! ```
//!
//! It follows NetCoreServer's method: each client sends its messages in flight at once, then one for every
//! reply. Replies are not decoded but compared with the stream they must be, in chunks as large as they come.
//! Sockets are non-blocking over edge-triggered epoll, so that a message costs one read and one write and a
//! batch costs the same.

use std::net::SocketAddr;
use std::time::Duration;

#[cfg(target_os = "linux")]
mod burst;
mod connect;
mod deflate;
mod dial;
mod echo;
mod idle;
mod latency;
mod link;
mod open;
mod outcome;
mod pattern;
mod peer;
mod wire;

pub use latency::Latency;
pub use outcome::{Idle, Outcome};
pub use pattern::Pattern;
pub use wire::{MASK, Wire, masked_frame};

use crate::cli::ClientArgs;

/// Longest time for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// Most bytes of a burst on one connection: less than the kernel's window, so that it all fits while nobody reads.
const BURST: usize = 48 << 10;

/// Longest time for the replies still in flight when the measured time is over.
const DRAIN: Duration = Duration::from_secs(10);

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each client's messages come back to it.
    Echo,
    /// Messages are sent when they are due, whatever has come back.
    Open,
    /// The first client's messages come back to everyone; the next is sent when everyone has one.
    Broadcast,
    /// All messages are sent while the server is held, and nothing is done until all replies are there.
    Burst,
    /// One echo each, then nothing.
    Idle,
    /// Connect, shake hands, close, again.
    Connect,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// What its messages look like.
    pub wire: Wire,
    /// Speak TLS.
    pub tls: bool,
    /// What the clients do.
    pub mode: Mode,
    /// The server sends each message to everyone.
    pub to_everyone: bool,
    /// How many of them.
    pub clients: usize,
    /// Messages in flight per client.
    pub in_flight: usize,
    /// Bytes of one message.
    pub size: usize,
    /// Messages per second of all clients together, in an open loop; 0 in the others.
    pub rate: u32,
    /// Load before measuring.
    pub warmup: Duration,
    /// Measured time.
    pub measure: Duration,
    /// The server's process, to read its CPU time and memory.
    pub server_pid: Option<u32>,
    /// Show a bar on stderr, if that is a terminal.
    pub progress: bool,
}

impl Plan {
    /// The run these flags describe.
    ///
    /// # Errors
    /// A sentence for the person who typed them.
    pub fn from_flags(args: &ClientArgs, port: u16, wire: Wire, broadcast: bool) -> Result<Self, String> {
        let mode = match (args.idle, args.connect, broadcast) {
            (false, false, _) if args.burst => Mode::Burst,
            (false, false, false) if args.rate.is_some() => Mode::Open,
            (false, false, false) => Mode::Echo,
            (false, false, true) if args.rate.is_none() => Mode::Broadcast,
            (true, _, false) => Mode::Idle,
            (_, true, false) => Mode::Connect,
            _ => return Err("--broadcast cannot be combined with --idle, --connect or --rate".into()),
        };
        let most = args.messages as usize * (args.size as usize + 14);
        if mode == Mode::Burst && most > BURST {
            return Err(format!(
                "a burst of {} messages of {} bytes is more than the {} KiB that fit into a connection; give less",
                args.messages,
                args.size,
                BURST >> 10
            ));
        }
        Ok(Self {
            target: args.target(port)?,
            wire,
            tls: args.tls,
            mode,
            to_everyone: broadcast,
            clients: args.clients as usize,
            in_flight: if mode == Mode::Open { 1 } else { args.messages as usize },
            rate: args.rate.unwrap_or(0),
            size: args.size as usize,
            warmup: args.warmup,
            measure: args.seconds,
            server_pid: args.server_pid,
            progress: !args.json,
        })
    }

    /// Runs it. Bounded in time: connecting, the run itself and the drain after it each have a deadline.
    ///
    /// # Errors
    /// There was nothing to measure: no server, or not enough of what the operating system gives. What goes
    /// wrong later is counted in the outcome.
    pub fn run(&self) -> Result<Outcome, String> {
        crate::serve::raise_file_limit();
        match self.mode {
            Mode::Echo | Mode::Broadcast => echo::run(self),
            Mode::Open => open::run(self),
            #[cfg(target_os = "linux")]
            Mode::Burst => burst::run(self),
            #[cfg(not(target_os = "linux"))]
            Mode::Burst => Err("bursts need Linux".into()),
            Mode::Idle => idle::run(self),
            Mode::Connect => connect::run(self),
        }
    }
}
