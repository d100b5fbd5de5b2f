//! TCP echo server on StormSocket, with every limit at its default.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use stormsocket::{
    BoxError, DelimiterFramer, Handled, LengthPrefixFramer, MessageFramer, RawFramer, Session, TcpHandler,
    TcpServer, TlsOptions,
};
use stormsocket_benchmark::cli::{Framer, ServerArgs, TcpPort};
use stormsocket_benchmark::serve;

/// Echoes every message.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    /// Speak TLS, with a certificate made at start.
    #[arg(long)]
    tls: bool,

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
    let tls = serve::tls(flags.tls)?;
    flags.server.runtime()?.block_on(async {
        match flags.framer {
            Framer::Raw => echo(addr, tls, RawFramer).await,
            Framer::Length => echo(addr, tls, LengthPrefixFramer::new()).await,
            Framer::Line => echo(addr, tls, DelimiterFramer::default()).await,
        }
    })
}

/// Echoes small messages from where they lie, and large ones without a copy.
struct Echo;

impl TcpHandler for Echo {
    fn on_data_ref(&self, session: &Session, data: &[u8]) -> Handled {
        if data.len() >= serve::COPY_BELOW || session.try_send_ref(data).is_err() {
            return Handled::Pass;
        }
        Handled::Done
    }

    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        session.send(data).await?;
        Ok(())
    }
}

async fn echo(
    addr: SocketAddr,
    tls: Option<TlsOptions>,
    framer: impl MessageFramer + Clone + Sync,
) -> Result<(), BoxError> {
    let server =
        TcpServer::bind(addr).backlog(serve::BACKLOG).tls(tls).framer(framer).handler(Echo).start().await?;
    serve::announce(server.local_addr().ok_or("no address")?)?;
    server.stopped().await;
    Ok(())
}
