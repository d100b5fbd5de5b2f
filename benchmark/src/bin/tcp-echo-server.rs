//! TCP echo server on StormSocket, with every limit at its default.

use std::net::SocketAddr;

use clap::Parser;
use stormsocket::{BoxError, DelimiterFramer, LengthPrefixFramer, MessageFramer, RawFramer, TcpServer};
use stormsocket_benchmark::cli::{Framer, ServerArgs, TcpPort};
use stormsocket_benchmark::serve;

/// Echoes every message.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: TcpPort,

    /// How messages are cut out of the stream.
    #[arg(long, value_enum, default_value_t = Framer::Raw)]
    framer: Framer,
}

fn main() -> Result<(), BoxError> {
    let flags = Flags::parse();
    serve::raise_file_limit();
    let addr = SocketAddr::new(flags.server.address, flags.port.port);
    flags.server.runtime()?.block_on(async {
        match flags.framer {
            Framer::Raw => echo(addr, RawFramer).await,
            Framer::Length => echo(addr, LengthPrefixFramer::new()).await,
            Framer::Line => echo(addr, DelimiterFramer::default()).await,
        }
    })
}

async fn echo(addr: SocketAddr, framer: impl MessageFramer + Clone + Sync) -> Result<(), BoxError> {
    let server = TcpServer::bind(addr)
        .backlog(serve::BACKLOG)
        .framer(framer)
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await?;
    serve::announce(server.local_addr().ok_or("no address")?)?;
    server.stopped().await;
    Ok(())
}
