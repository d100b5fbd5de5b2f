//! Yardstick: a bare WebSocket echo and broadcast loop on tokio.
//!
//! What a server without sessions, handlers, limits or options costs: one read buffer per thread, frames
//! decoded in place and encoded again at once, one write per read. It checks nothing it does not need.
//!
//! `frame` reads and writes frames, `echo` and `broadcast` move bytes.

mod broadcast;
mod echo;
mod frame;
mod shared;
mod upgrade;

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use stormsocket_benchmark::cli::{ServerArgs, WsPort};
use stormsocket_benchmark::serve;
use tokio::net::TcpListener;

/// Echoes WebSocket frames, or sends each to everyone.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: WsPort,

    /// Send each message to everyone, its sender too; one thread only.
    #[arg(long)]
    broadcast: bool,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let threads = flags.server.threads();
    if flags.broadcast && flags.server.threads.is_some_and(|n| n > 1) {
        return Err(io::Error::other("--broadcast runs on one thread: give --threads 1 or leave it out"));
    }
    let threads = if flags.broadcast { 1 } else { threads };
    // A runtime per thread, each with its own listener on the one port: connections stay where they were accepted.
    let first = Worker::listen(SocketAddr::new(flags.server.address, flags.port.port), threads > 1)?;
    let address = first.listener.local_addr()?;
    for _ in 1..threads {
        let worker = Worker::listen(address, true)?;
        std::thread::spawn(move || worker.run(flags.broadcast));
    }
    serve::announce(address)?;
    first.run(flags.broadcast)
}

/// One thread's runtime and listener.
#[derive(Debug)]
struct Worker {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

impl Worker {
    fn listen(address: SocketAddr, shared: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listener = runtime.block_on(async { serve::listen(address, shared) })?;
        Ok(Self { runtime, listener })
    }

    fn run(self, broadcast: bool) -> io::Result<()> {
        let Self { runtime, listener } = self;
        runtime.block_on(async {
            loop {
                let (stream, _) = listener.accept().await?;
                if broadcast {
                    // Receivers send nothing, so a second small write would wait for a delayed acknowledgement.
                    stream.set_nodelay(true)?;
                    tokio::spawn(broadcast::serve(stream));
                } else {
                    tokio::spawn(echo::serve(stream));
                }
            }
        })
    }
}
