//! Yardstick: length-prefixed echo with the codec of tokio-util.

use std::io;
use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use futures_util::{FutureExt, SinkExt, StreamExt};
use stormsocket_benchmark::cli::{ServerArgs, TcpPort};
use stormsocket_benchmark::serve;
use tokio::net::TcpStream;
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Echoes messages behind a length of four bytes, big-endian, by `LengthDelimitedCodec`.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: TcpPort,

    /// How replies are written.
    #[arg(long, value_enum, default_value_t = Mode::Batched)]
    mode: Mode,

    /// Bytes the read buffer starts with and the write buffer flushes at; tokio-util's own default is 8192.
    #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    buffer: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// All messages decoded from a read are fed, then flushed once.
    Batched,
    /// One `send`, and so one write, per message: the usual use.
    Send,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    flags.server.runtime()?.block_on(async {
        let listener = serve::listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        serve::announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let mut framed =
                Framed::with_capacity(stream, LengthDelimitedCodec::new(), flags.buffer as usize);
            framed.set_backpressure_boundary(flags.buffer as usize);
            match flags.mode {
                Mode::Batched => tokio::spawn(batched(framed)),
                Mode::Send => tokio::spawn(send(framed)),
            };
        }
    })
}

async fn batched(mut framed: Framed<TcpStream, LengthDelimitedCodec>) -> io::Result<()> {
    while let Some(message) = framed.next().await {
        framed.feed(message?.freeze()).await?;
        // What else is decoded already; after the last of it, one look at the socket.
        while let Some(Some(message)) = framed.next().now_or_never() {
            framed.feed(message?.freeze()).await?;
        }
        SinkExt::<Bytes>::flush(&mut framed).await?;
    }
    Ok(())
}

async fn send(mut framed: Framed<TcpStream, LengthDelimitedCodec>) -> io::Result<()> {
    while let Some(message) = framed.next().await {
        framed.send(message?.freeze()).await?;
    }
    Ok(())
}
