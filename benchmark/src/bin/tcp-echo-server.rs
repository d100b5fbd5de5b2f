//! TCP echo server on StormSocket, with every limit at its default but the backlog, which is for thousands of clients at once.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use stormsocket::{
    BoxError, DelimiterFramer, Handled, LengthPrefixFramer, MessageFramer, RawFramer, Session, TcpHandler,
    TcpServer,
};
use stormsocket_benchmark::cli::{Framer, PerCore, ServerArgs, TcpPort};
use stormsocket_benchmark::serve;

/// Echoes every message.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    cores: PerCore,

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
    flags.cores.runtime(&flags.server)?.block_on(async {
        match flags.framer {
            Framer::Raw => echo(&flags, RawFramer).await,
            Framer::Length => echo(&flags, LengthPrefixFramer::new()).await,
            Framer::Line => echo(&flags, DelimiterFramer::default()).await,
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

async fn echo(flags: &Flags, framer: impl MessageFramer + Clone + Sync) -> Result<(), BoxError> {
    let server = TcpServer::bind(SocketAddr::new(flags.server.address, flags.port.port))
        .backlog(serve::BACKLOG)
        .tls(serve::tls(flags.tls)?)
        .worker_threads(flags.cores.worker_threads(&flags.server))
        .reuse_port(flags.cores.reuse_port)
        .framer(framer)
        .handler(Echo)
        .start()
        .await?;
    serve::announce(server.local_addr().ok_or("no address")?)?;
    server.stopped().await;
    Ok(())
}
