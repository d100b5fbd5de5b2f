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

/// Flags of an echo server on another library.
#[derive(Debug, Clone, clap::Parser)]
pub struct PeerFlags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: WsPort,

    /// Answer all messages that are there before flushing once, where the library can.
    #[arg(long)]
    pub batched: bool,
}

/// Runs a server on another library: a task per connection, as these libraries' own benchmarks do it.
///
/// # Errors
/// The address cannot be had.
pub fn peer<F>(flags: &PeerFlags, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    flags.server.runtime()?.block_on(async {
        let listener = listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(tokio::task::unconstrained(serve(stream)));
        }
    })
}

/// Echoes the messages of a WebSocket until it ends: one `send` for each or, batched, a `feed` for each that is
/// there and then one flush. `reply` leaves out what is not to be echoed.
///
/// # Errors
/// What the library says.
pub async fn echo<S, M, E>(mut socket: S, batched: bool, reply: impl Fn(M) -> Option<M>) -> Result<(), E>
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
