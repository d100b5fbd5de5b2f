//! What the servers on other libraries share: flags, the listener, and the two loops most of them can be driven by.
//!
//! Owns: how such a library is driven: one `send` per message, or all that is there before one flush.
//! In:   a library, as a way to make a WebSocket of a stream.
//! Out:  a server.
//! Not here: the libraries themselves (`src/bin/peer-*`).

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use stormsocket::BoxError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::{Receiver, Sender};
use tokio::task::unconstrained;

use crate::cli::{ServerArgs, WsPort};
use crate::{report, serve};

/// Flags of a server on another library.
#[derive(Debug, Clone, Copy, Parser)]
pub struct PeerFlags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: WsPort,

    /// Answer all messages that are there before flushing once, where the library can.
    #[arg(long)]
    pub batched: bool,

    /// Send each message to everyone, its sender too.
    #[arg(long)]
    pub broadcast: bool,

    /// Agree on permessage-deflate, and compress messages of any size. Not every library can.
    #[arg(long, conflicts_with = "broadcast")]
    pub deflate: bool,

    /// Speak TLS, with a certificate made at start.
    #[arg(long)]
    pub tls: bool,
}

/// A byte stream these libraries can be put on: TCP, or TLS over it.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// A library.
pub trait Peer: 'static {
    /// Its messages.
    type Message: Clone + Send + 'static;

    /// Whether it has permessage-deflate.
    const DEFLATE: bool = false;

    /// Serves one connection, from the handshake to its end. How that comes is for the client to judge.
    fn connection<S: Socket>(
        stream: S,
        member: Member<Self::Message>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Messages a receiver of a broadcast may be behind; a load generator has far less in flight.
const BEHIND: usize = 4096;

/// A connection of a server on another library: what it shares with the others.
#[derive(Debug)]
pub struct Member<M> {
    /// How the server was started.
    pub flags: PeerFlags,
    everyone: Sender<M>,
    /// What is published, from before the client knows of the connection. Nothing is in an echo.
    published: Receiver<M>,
}

impl<M: Clone + Send + 'static> Member<M> {
    /// The two ends of the broadcast: to publish, and what is published.
    pub fn into_broadcast(self) -> (Sender<M>, Receiver<M>) {
        (self.everyone, self.published)
    }

    /// Runs the connection to its end: an echo, or a member of the broadcast. `reply` leaves out what is neither.
    ///
    /// # Errors
    /// What the library says.
    pub async fn serve<S, E>(self, socket: S, reply: impl Fn(M) -> Option<M>) -> Result<(), E>
    where
        S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    {
        if self.flags.broadcast {
            self.broadcast(socket, reply).await
        } else {
            echo(socket, self.flags.batched, reply).await
        }
    }

    /// Publishes what the socket brings, and sends it what is published; batched, all that is there before one flush.
    async fn broadcast<S, E>(mut self, mut socket: S, reply: impl Fn(M) -> Option<M>) -> Result<(), E>
    where
        S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    {
        loop {
            tokio::select! {
                // A message received is one to publish before more is sent.
                biased;
                message = socket.next() => match message {
                    Some(message) => if let Some(message) = reply(message?) {
                        // There is at least one receiver: this one.
                        let _ = self.everyone.send(message);
                    },
                    None => return Ok(()),
                },
                // Fallen too far behind to have got everything: its client must not take that for a result.
                message = self.published.recv() => {
                    let Ok(message) = message else { return Ok(()) };
                    socket.feed(message).await?;
                    while self.flags.batched && let Ok(message) = self.published.try_recv() {
                        socket.feed(message).await?;
                    }
                    socket.flush().await?;
                }
            }
        }
    }
}

/// Runs a server on another library, as the command line wants it: a task per connection, as these libraries' own
/// benchmarks do it.
pub fn main<P: Peer>() -> ExitCode {
    let flags = PeerFlags::parse();
    if flags.deflate && !P::DEFLATE {
        return report::refuse("this library has no permessage-deflate");
    }
    match run::<P>(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::fail(&error.to_string()),
    }
}

fn run<P: Peer>(flags: PeerFlags) -> Result<(), BoxError> {
    let everyone = Sender::new(if flags.broadcast { BEHIND } else { 1 });
    let tls = if flags.tls { Some(serve::tls_acceptor()?) } else { None };
    flags.server.runtime()?.block_on(async {
        let listener = serve::listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        serve::announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            if flags.broadcast {
                stream.set_nodelay(true)?;
            }
            let published = everyone.subscribe();
            let member = Member { flags, everyone: everyone.clone(), published };
            match &tls {
                None => drop(tokio::spawn(unconstrained(P::connection(stream, member)))),
                Some(tls) => {
                    let accept = tls.accept(stream);
                    tokio::spawn(unconstrained(async move {
                        if let Ok(stream) = accept.await {
                            P::connection(stream, member).await;
                        }
                    }));
                }
            }
        }
    })
}

/// Echoes the messages of a WebSocket until it ends: one `send` for each or, batched, a `feed` for each that is
/// there and then one flush.
async fn echo<S, M, E>(mut socket: S, batched: bool, reply: impl Fn(M) -> Option<M>) -> Result<(), E>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
{
    while let Some(message) = socket.next().await {
        let Some(message) = reply(message?) else { continue };
        if !batched {
            socket.send(message).await?;
            continue;
        }
        socket.feed(message).await?;
        while let Some(Some(message)) = socket.next().now_or_never() {
            if let Some(message) = reply(message?) {
                socket.feed(message).await?;
            }
        }
        socket.flush().await?;
    }
    Ok(())
}
