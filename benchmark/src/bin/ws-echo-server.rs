//! WebSocket echo and broadcast server on StormSocket, with every limit at its default unless a flag says otherwise,
//! but the backlog, which is for thousands of clients at once.

use std::net::SocketAddr;

use clap::Parser;
use stormsocket::{
    BoxError, DeflateOptions, Handled, Limits, Message, MessageRef, SocketOptions, WsHandler, WsOptions,
    WsServer, WsSession,
};
use stormsocket_benchmark::cli::{PerCore, ServerArgs, WsPort};
use stormsocket_benchmark::serve;

/// Echoes every message, text as text and binary as binary.
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
    port: WsPort,

    /// Send each message to everyone, its sender too.
    #[arg(long)]
    broadcast: bool,

    /// Compress for clients that offer it, messages of any size.
    #[arg(long)]
    deflate: bool,

    /// Most bytes of a frame, or `none`.
    #[arg(long, value_parser = limit::<u64>)]
    max_frame_size: Option<Limit<u64>>,

    /// Most bytes of a message, or `none`.
    #[arg(long, value_parser = limit::<u64>)]
    max_message_size: Option<Limit<u64>>,

    /// Most fragments of a message, or `none`.
    #[arg(long, value_parser = limit::<u32>)]
    max_fragments: Option<Limit<u32>>,

    /// Bytes of the kernel's buffers for each socket, or `none` for the kernel's own choice.
    #[arg(long, value_parser = limit::<usize>)]
    socket_buffers: Option<Limit<usize>>,
}

/// A number, or no limit: for socket buffers, the kernel's choice.
#[derive(Debug, Clone, Copy)]
struct Limit<T>(Option<T>);

fn limit<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Limit<T>, String> {
    match text {
        "none" => Ok(Limit(None)),
        number => {
            number.parse().map(|number| Limit(Some(number))).map_err(|error| format!("{error}, nor `none`"))
        }
    }
}

impl Flags {
    fn options(&self) -> WsOptions {
        let mut limits = Limits::default();
        if let Some(Limit(bytes)) = self.max_frame_size {
            limits = limits.max_frame_size(bytes);
        }
        if let Some(Limit(bytes)) = self.max_message_size {
            limits = limits.max_message_size(bytes);
        }
        if let Some(Limit(frames)) = self.max_fragments {
            limits = limits.max_fragments(frames);
        }
        let deflate = self.deflate.then(|| DeflateOptions::default().min_size(0));
        WsOptions::default().limits(limits).deflate(deflate)
    }
}

/// Echoes small messages from where they lie, and large ones without a copy.
struct Echo;

impl WsHandler for Echo {
    fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        if message.len() >= serve::COPY_BELOW || session.try_send_ref(message).is_err() {
            return Handled::Pass;
        }
        Handled::Done
    }

    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

/// Sends every message to everyone.
struct Broadcast;

impl WsHandler for Broadcast {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.server().broadcast(message).await;
        Ok(())
    }
}

fn main() -> Result<(), BoxError> {
    let flags = Flags::parse();
    serve::raise_file_limit();
    let tls = serve::tls(flags.tls)?;
    let mut socket = SocketOptions::default();
    if let Some(Limit(bytes)) = flags.socket_buffers {
        socket = socket.recv_buffer_size(bytes).send_buffer_size(bytes);
    }
    flags.cores.runtime(&flags.server)?.block_on(async {
        let server = WsServer::bind(SocketAddr::new(flags.server.address, flags.port.port))
            .backlog(serve::BACKLOG)
            .tls(tls)
            .worker_threads(flags.cores.worker_threads(&flags.server))
            .reuse_port(flags.cores.reuse_port)
            .socket(socket)
            // A broadcast's receivers send nothing that could carry an acknowledgement.
            .no_delay(flags.broadcast)
            .ws(flags.options());
        let server = match flags.broadcast {
            true => server.handler(Broadcast).start().await?,
            false => server.handler(Echo).start().await?,
        };
        serve::announce(server.local_addr().ok_or("no address")?)?;
        server.stopped().await;
        Ok(())
    })
}
