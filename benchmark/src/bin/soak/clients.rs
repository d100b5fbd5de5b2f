//! The clients, in a process of their own. They know nothing of the library: bytes in, frames counted.
//!
//! What they have to say is a line each on standard output: `ready`, `all K` when every reader has had K messages, and at
//! the end `received N`, the messages of all of them together.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Failure;

/// Attempts to connect at once: fewer than a backlog holds.
const AT_ONCE: usize = 200;
const REQUEST: &str = " HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// What those who read nothing ask for.
pub(crate) const STALLED: &str = "/stalled";
/// A masked close frame with code 1000 (mask zero).
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Connections.
    #[arg(long)]
    pub(crate) count: usize,
    /// How many of them read nothing.
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// Instead of staying, connect and leave this many times in all.
    #[arg(long)]
    pub(crate) cycles: Option<u64>,
    /// Wait this long before anything is read, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub(crate) idle: u64,
}

/// A running process of clients.
pub(crate) struct Clients {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    pub(crate) fn start(args: &Args) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("clients")
            .args(["--target", &args.target.to_string()])
            .args(["--count", &args.count.to_string()])
            .args(["--stalled", &args.stalled.to_string()])
            .args(["--idle", &args.idle.to_string()])
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(cycles) = args.cycles {
            command.args(["--cycles", &cycles.to_string()]);
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("no pipe")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// The next line that begins with `word`: the number behind it.
    pub(crate) async fn say(&mut self, word: &str) -> Result<u64, Failure> {
        loop {
            let line = self.lines.next_line().await?.ok_or("the clients ended early")?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim().parse().unwrap_or(0));
            }
        }
    }

    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        drop(self.lines);
        self.child.kill().await?;
        Ok(())
    }
}

fn tell(line: &str) {
    // Whoever started us may be gone, and we end with it.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

struct Progress {
    readers: usize,
    /// How many readers have had their K-th message, by K.
    had: Vec<AtomicUsize>,
    received: AtomicU64,
}

impl Progress {
    fn note(&self, nth: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if let Some(had) = self.had.get(nth)
            && had.fetch_add(1, Ordering::AcqRel) + 1 == self.readers
        {
            tell(&format!("all {nth}"));
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if let Some(cycles) = args.cycles {
        return churn(&args, cycles).await;
    }
    let progress = Arc::new(Progress {
        readers: args.count - args.stalled,
        had: (0..10_000).map(|_| AtomicUsize::new(0)).collect(),
        received: AtomicU64::new(0),
    });
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut connecting = JoinSet::new();
    for index in 0..args.count {
        let permits = permits.clone();
        connecting.spawn(async move {
            let _permit = permits.acquire().await?;
            let path = if index < args.stalled { STALLED } else { "/" };
            Ok::<_, Failure>((index, connect(args.target, path).await?))
        });
    }
    let (mut reading, mut stalled) = (JoinSet::new(), Vec::new());
    while let Some(connected) = connecting.join_next().await {
        let (index, stream) = connected??;
        if index < args.stalled {
            stalled.push(stream);
        } else {
            let progress = progress.clone();
            reading.spawn(async move {
                tokio::time::sleep(Duration::from_millis(args.idle)).await;
                read(stream, &progress).await
            });
        }
    }
    tell("ready");
    while let Some(read) = reading.join_next().await {
        read??;
    }
    tell(&format!("received {}", progress.received.load(Ordering::Relaxed)));
    Ok(())
}

async fn connect(target: SocketAddr, path: &str) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    if path == STALLED {
        socket.set_recv_buffer_size(1)?;
    }
    let mut stream = socket.connect(target).await?;
    stream.write_all(format!("GET {path}{REQUEST}").as_bytes()).await?;
    // Byte by byte at the end of the head: frames may follow at once.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(String::from_utf8_lossy(&head).into_owned().into());
    }
    Ok(stream)
}

/// Reads to the end, counts messages, and answers the close.
async fn read(stream: TcpStream, progress: &Progress) -> Result<(), Failure> {
    let mut stream = BufReader::with_capacity(4096, stream);
    let (mut nth, mut payload) = (0, Vec::new());
    loop {
        let first = stream.read_u8().await?;
        let len = match stream.read_u8().await? {
            126 => stream.read_u16().await?.into(),
            127 => usize::try_from(stream.read_u64().await?)?,
            len => len.into(),
        };
        payload.resize(len, 0);
        stream.read_exact(&mut payload).await?;
        match first {
            0x81 | 0x82 => {
                nth += 1;
                progress.note(nth);
            }
            0x88 => break,
            // A ping: nothing here lasts long enough to be missed.
            _ => {}
        }
    }
    stream.get_mut().write_all(&CLOSE).await?;
    let rest = stream.read_to_end(&mut payload).await?;
    if rest == 0 { Ok(()) } else { Err(format!("{rest} bytes behind the close frame").into()) }
}

/// Connects and leaves: politely, by just ending the stream, and by a reset, in turn.
async fn churn(args: &Args, cycles: u64) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..args.count {
        let (next, target) = (next.clone(), args.target);
        workers.spawn(async move {
            loop {
                let cycle = next.fetch_add(1, Ordering::Relaxed);
                if cycle >= cycles {
                    return Ok::<_, Failure>(());
                }
                let mut stream = connect(target, "/").await?;
                // A text message, masked with zeros, and its echo.
                stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await?;
                let mut echo = [0; 4];
                stream.read_exact(&mut echo).await?;
                if cycle % 3 == 0 {
                    stream.write_all(&CLOSE).await?;
                    stream.read_to_end(&mut Vec::new()).await?;
                }
                if cycle % 3 != 1 {
                    // No port is left behind waiting.
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
            }
        });
    }
    tell("ready");
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    tell(&format!("received {cycles}"));
    Ok(())
}
