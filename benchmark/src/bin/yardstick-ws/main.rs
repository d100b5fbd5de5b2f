//! Yardstick: a bare WebSocket echo and broadcast loop on tokio.
//!
//! What a server without sessions, handlers, limits or options costs: one read buffer per thread, frames
//! decoded in place and encoded again at once, one write per read. It checks nothing it does not need.
//!
//! `frame` reads and writes frames, `echo`, `deflate` and `broadcast` move bytes.

mod broadcast;
mod deflate;
mod echo;
mod frame;
mod shared;
mod socket;
mod upgrade;

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use socket2::SockRef;
use stormsocket::BoxError;
use stormsocket_benchmark::cli::{ServerArgs, WsPort};
use stormsocket_benchmark::serve;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use socket::READ_AHEAD;

/// Echoes WebSocket frames, or sends each to everyone.
#[derive(Debug, Clone, Copy, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: WsPort,

    /// Send each message to everyone, its sender too; one thread only.
    #[arg(long, conflicts_with_all = ["deflate", "tls"])]
    broadcast: bool,

    /// Bytes of the kernel's buffers for each socket, instead of the kernel's own choice.
    #[arg(long, conflicts_with = "broadcast")]
    socket_buffers: Option<usize>,

    /// Inflate messages and compress the replies, with a window that is kept.
    #[arg(long)]
    deflate: bool,

    /// Speak TLS, with a certificate made at start.
    #[arg(long)]
    tls: bool,
}

fn main() -> Result<(), BoxError> {
    let flags = Flags::parse();
    let threads = flags.server.threads();
    if flags.broadcast && flags.server.threads.is_some_and(|n| n > 1) {
        return Err("--broadcast runs on one thread: give --threads 1 or leave it out".into());
    }
    let tls = if flags.tls { Some(serve::tls_acceptor()?) } else { None };
    let threads = if flags.broadcast { 1 } else { threads };
    // A runtime per thread, each with its own listener on the one port: connections stay where they were accepted.
    let first = Worker::listen(SocketAddr::new(flags.server.address, flags.port.port), threads > 1)?;
    let address = first.listener.local_addr()?;
    for _ in 1..threads {
        let worker = Worker::listen(address, true)?;
        let tls = tls.clone();
        std::thread::spawn(move || worker.run(flags, tls));
    }
    serve::announce(address)?;
    Ok(first.run(flags, tls)?)
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

    fn run(self, flags: Flags, tls: Option<TlsAcceptor>) -> io::Result<()> {
        let Self { runtime, listener } = self;
        runtime.block_on(async {
            loop {
                let (stream, _) = listener.accept().await?;
                if let Some(bytes) = flags.socket_buffers {
                    SockRef::from(&stream).set_recv_buffer_size(bytes)?;
                    SockRef::from(&stream).set_send_buffer_size(bytes)?;
                }
                if flags.broadcast {
                    // Receivers send nothing, so a second small write would wait for a delayed acknowledgement.
                    stream.set_nodelay(true)?;
                    tokio::spawn(broadcast::serve(stream));
                } else if let Some(tls) = &tls {
                    tokio::spawn(secure(tls.clone(), stream, flags.deflate));
                } else if flags.deflate {
                    tokio::spawn(deflate::serve(stream));
                } else {
                    tokio::spawn(echo::serve(stream));
                }
            }
        })
    }
}

async fn secure(tls: TlsAcceptor, stream: TcpStream, deflate: bool) -> io::Result<()> {
    let stream: socket::Tls = tls.accept(BufReader::with_capacity(READ_AHEAD, stream)).await?;
    if deflate { deflate::serve(stream).await } else { echo::serve(stream).await }
}
