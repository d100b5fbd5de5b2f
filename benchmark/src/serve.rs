//! What the echo servers share: the listener, the line that says it is ready, room for many connections.
//!
//! None of the echo servers sets `TCP_NODELAY`: that is the system's and our own default, and the cheaper one for
//! libraries that write once per message. A broadcast needs it, since its receivers send nothing that could
//! carry an acknowledgement.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{Receiver, Sender};

use crate::cli::{ServerArgs, WsPort};

/// Connections waiting to be accepted: a load generator opens thousands at once.
pub const BACKLOG: u32 = 4096;

/// Payloads from here on are echoed as they are, shorter ones copied: what our servers and the yardsticks agree on.
pub const COPY_BELOW: usize = 4096;

/// A listener for a tokio server. Must be called inside a runtime. Several on one port share its connections
/// if all of them say so.
///
/// # Errors
/// The address cannot be had.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    raise_file_limit();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG as i32)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Prints the one line by which a server says that it is ready, and where: port 0 became a real one.
///
/// # Errors
/// Standard output is closed.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// A certificate for this machine, made now, and its key; both PEM.
///
/// # Errors
/// No randomness.
pub fn certificate() -> Result<(String, String), rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

/// TLS with such a certificate, if it is wanted; nothing is resumed, so that handshakes are full ones.
///
/// # Errors
/// As [`certificate`].
pub fn tls(wanted: bool) -> Result<Option<stormsocket::TlsOptions>, rcgen::Error> {
    if !wanted {
        return Ok(None);
    }
    let (chain, key) = certificate()?;
    let identity = stormsocket::Identity::from_pem(chain, key);
    Ok(Some(stormsocket::TlsOptions::new(identity).resumption(false)))
}

/// Raises the limit of open files as far as it goes without asking anyone.
pub fn raise_file_limit() {
    // Where this fails the limit stays, and the connection which goes beyond it says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}

/// Flags of a server on another library.
#[derive(Debug, Clone, Copy, clap::Parser)]
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

/// Runs a server on another library: a task per connection, as these libraries' own benchmarks do it.
///
/// # Errors
/// The address cannot be had.
pub fn peer<M, F>(flags: PeerFlags, serve: impl Fn(TcpStream, Member<M>) -> F) -> io::Result<()>
where
    M: Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let everyone = Sender::new(if flags.broadcast { BEHIND } else { 1 });
    flags.server.runtime()?.block_on(async {
        let listener = listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            if flags.broadcast {
                stream.set_nodelay(true)?;
            }
            let published = everyone.subscribe();
            let member = Member { flags, everyone: everyone.clone(), published };
            tokio::spawn(tokio::task::unconstrained(serve(stream, member)));
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
