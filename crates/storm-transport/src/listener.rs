//! Listening sockets, opened here or handed over, and the addresses they bind.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use storm_core::ip::canonical;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::{SocketOptions, Stream};

/// Where a server listens: `host:port`, a [`SocketAddr`], the [`std::path::Path`] of a unix socket, or a listener that is
/// open already (socket activation, say), of the standard library or of tokio.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindAddr {
    /// `host:port`, looked up when the server starts; every address it resolves to is tried until one binds.
    Name(String),
    /// An address.
    Ip(SocketAddr),
    /// The path of a unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
    /// A listener that is open already.
    Open(OpenListener),
}

impl From<&str> for BindAddr {
    fn from(name: &str) -> Self {
        name.parse().map_or_else(|_| Self::Name(name.to_owned()), Self::Ip)
    }
}

impl From<String> for BindAddr {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<SocketAddr> for BindAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

impl<A: Into<std::net::IpAddr>> From<(A, u16)> for BindAddr {
    fn from(addr: (A, u16)) -> Self {
        Self::Ip(addr.into())
    }
}

#[cfg(unix)]
impl From<PathBuf> for BindAddr {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

#[cfg(unix)]
impl From<&Path> for BindAddr {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(addr) => addr.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
            Self::Open(_) => f.write_str("a listener that is open already"),
        }
    }
}

/// A listener somebody else has opened, to be used once.
#[derive(Debug, Clone)]
pub struct OpenListener(Arc<Mutex<Option<Handed>>>);

#[derive(Debug)]
enum Handed {
    Std(std::net::TcpListener),
    Tokio(TcpListener),
    #[cfg(unix)]
    StdUnix(std::os::unix::net::UnixListener),
    #[cfg(unix)]
    TokioUnix(UnixListener),
}

impl OpenListener {
    fn new(listener: Handed) -> Self {
        Self(Arc::new(Mutex::new(Some(listener))))
    }

    fn open(&self, options: &SocketOptions) -> io::Result<Listener> {
        let handed = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match handed {
            Some(Handed::Std(listener)) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Handed(TcpListener::from_std(listener)?, options.clone()))
            }
            Some(Handed::Tokio(listener)) => Ok(Listener::Handed(listener, options.clone())),
            #[cfg(unix)]
            Some(Handed::StdUnix(listener)) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::HandedUnix(UnixListener::from_std(listener)?))
            }
            #[cfg(unix)]
            Some(Handed::TokioUnix(listener)) => Ok(Listener::HandedUnix(listener)),
            None => Err(io::Error::new(io::ErrorKind::AddrInUse, "the listener is in use already")),
        }
    }
}

/// The same listener, not one of the same address.
impl PartialEq for OpenListener {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OpenListener {}

impl From<std::net::TcpListener> for BindAddr {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Open(OpenListener::new(Handed::Std(listener)))
    }
}

impl From<TcpListener> for BindAddr {
    fn from(listener: TcpListener) -> Self {
        Self::Open(OpenListener::new(Handed::Tokio(listener)))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for BindAddr {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self::Open(OpenListener::new(Handed::StdUnix(listener)))
    }
}

#[cfg(unix)]
impl From<UnixListener> for BindAddr {
    fn from(listener: UnixListener) -> Self {
        Self::Open(OpenListener::new(Handed::TokioUnix(listener)))
    }
}

/// A listening socket. Dropping it stops listening and removes the file of a unix socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener, SocketOptions),
    /// A unix socket.
    #[cfg(unix)]
    Unix(UnixListener, SocketFile),
    /// TCP, opened by somebody else.
    Handed(TcpListener, SocketOptions),
    /// A unix socket, opened by somebody else; so its file is somebody else's.
    #[cfg(unix)]
    HandedUnix(UnixListener),
}

/// Which connections a listener on an IPv6 address takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// On `[::]`, those of IPv4, too.
    Both,
    /// Those of IPv6: another listener has the same port of IPv4.
    V6Only,
}

/// How to listen.
#[derive(Debug, Clone, Copy)]
pub struct Listening<'a> {
    /// Which connections an IPv6 address takes.
    pub families: Families,
    /// Connections the kernel completes before they are accepted.
    pub backlog: u32,
    /// Lets other sockets that ask for it as well listen on the same address (`SO_REUSEPORT`), where the system then spreads
    /// connections over them ([`SPREADS_CONNECTIONS`]). No effect elsewhere.
    pub reuse_port: bool,
    /// Options of the sockets.
    pub socket: &'a SocketOptions,
}

/// Whether this system spreads connections over all sockets that listen on one address with `SO_REUSEPORT`. Others let one of
/// them have all, have no such option, or have it by another name.
pub const SPREADS_CONNECTIONS: bool = cfg!(any(target_os = "linux", target_os = "android"));

impl Listener {
    /// Binds and listens, or takes over what is open already. `[::]` takes connections of IPv4, too, unless `families` says
    /// otherwise, whatever the system's default is.
    ///
    /// # Errors
    /// The name does not resolve, or no address of it can be bound. A unix path that holds anything but a socket nobody
    /// listens on is refused and left alone.
    pub async fn bind(addr: &BindAddr, how: Listening<'_>) -> io::Result<Self> {
        match addr {
            BindAddr::Ip(addr) => Self::bind_tcp(*addr, how),
            BindAddr::Name(name) => {
                let mut failed = None;
                for addr in tokio::net::lookup_host(name).await? {
                    match Self::bind_tcp(addr, how) {
                        Ok(listener) => return Ok(listener),
                        Err(error) => failed = Some(error),
                    }
                }
                Err(failed
                    .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
            }
            #[cfg(unix)]
            BindAddr::Unix(path) => Self::bind_unix(path, how.backlog),
            BindAddr::Open(listener) => listener.open(how.socket),
        }
    }

    /// Whether the system spreads connections over this socket and its [siblings](Self::sibling): not without
    /// [`Listening::reuse_port`], not everywhere ([`SPREADS_CONNECTIONS`]), not over what was opened elsewhere or is a unix socket.
    pub fn spreads_connections(&self, how: Listening<'_>) -> bool {
        matches!(self, Self::Tcp(..)) && how.reuse_port && SPREADS_CONNECTIONS
    }

    /// One more socket that listens on the same address, in the runtime this is called in.
    ///
    /// # Errors
    /// What the system says: at the latest, if it does not [spread connections](Self::spreads_connections), that the address is in
    /// use. Unix sockets have no siblings.
    pub fn sibling(&self, how: Listening<'_>) -> io::Result<Self> {
        Self::bind_tcp(self.local_addr().ok_or(io::ErrorKind::Unsupported)?, how)
    }

    /// Has another runtime watch the socket.
    ///
    /// # Errors
    /// What the system says; the runtime has been shut down.
    pub fn moved_to(self, runtime: &Handle) -> io::Result<Self> {
        let _inside = runtime.enter();
        let tcp = |listener: TcpListener| TcpListener::from_std(listener.into_std()?);
        #[cfg(unix)]
        let unix = |listener: UnixListener| UnixListener::from_std(listener.into_std()?);
        Ok(match self {
            Self::Tcp(listener, options) => Self::Tcp(tcp(listener)?, options),
            Self::Handed(listener, options) => Self::Handed(tcp(listener)?, options),
            #[cfg(unix)]
            Self::Unix(listener, file) => Self::Unix(unix(listener)?, file),
            #[cfg(unix)]
            Self::HandedUnix(listener) => Self::HandedUnix(unix(listener)?),
        })
    }

    fn bind_tcp(addr: SocketAddr, how: Listening<'_>) -> io::Result<Self> {
        // Accepted sockets inherit the options on Linux; buffer sizes must be set before `listen` everywhere.
        let socket = how.socket.socket(addr)?;
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if how.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(how.families == Families::V6Only)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(how.backlog).unwrap_or(i32::MAX))?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?, how.socket.clone()))
    }

    #[cfg(unix)]
    fn bind_unix(path: &Path, backlog: u32) -> io::Result<Self> {
        use socket2::{Domain, SockAddr, Socket, Type};
        remove_stale_socket(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::of(path)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Self::Unix(UnixListener::from_std(socket.into())?, file))
    }

    /// The address it listens on, with the port the system chose if 0 was asked for; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) | Self::Handed(listener, _) => listener.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(..) | Self::HandedUnix(_) => None,
        }
    }

    /// Waits for the next connection.
    ///
    /// # Cancel safety
    /// No connection is lost if the future is dropped.
    ///
    /// # Errors
    /// What the system says; accepting again may succeed.
    pub async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener, options) => {
                let (stream, addr) = listener.accept().await?;
                if cfg!(not(target_os = "linux")) {
                    options.apply(&(&stream).into()).map_err(|error| of_one(&stream, error))?;
                }
                // A peer of IPv4 by its own address, though it came by a listener on `[::]`.
                Ok((Stream::Tcp(stream), Some(canonical(addr))))
            }
            Self::Handed(listener, options) => {
                let (stream, addr) = listener.accept().await?;
                // What its opener set stays where our options leave it to the system.
                options.apply_late(&(&stream).into()).map_err(|error| of_one(&stream, error))?;
                Ok((Stream::Tcp(stream), Some(canonical(addr))))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) | Self::HandedUnix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.into(), None))
            }
        }
    }
}

/// An option could not be set on an accepted socket: some systems take none for a connection that was reset meanwhile, which is then
/// that connection's end and nothing else.
fn of_one(stream: &TcpStream, error: io::Error) -> io::Error {
    match stream.peer_addr() {
        Ok(_) => error,
        Err(_) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
    }
}

/// Removes the file of a socket nobody listens on.
#[cfg(unix)]
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let in_use = |what| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            in_use("the path holds a file that is no socket")
        }
        Ok(_) => {
            // Not blocking: a live server with a full backlog would hold us up, and is as live as any.
            let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            probe.set_nonblocking(true)?;
            match probe.connect(&socket2::SockAddr::unix(path)?) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => in_use("another server listens on the socket"),
            }
        }
    }
}

/// The file of a listening unix socket, removed on drop if it is still ours.
#[cfg(unix)]
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

#[cfg(unix)]
impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Self::identity_of(path)? })
    }

    fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have replaced it meanwhile.
        if Self::identity_of(&self.path).is_ok_and(|now| now == self.identity) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_option_that_a_reset_connection_does_not_take_is_that_connections_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connecting = TcpStream::connect(listener.local_addr().expect("an address"));
        let (peer, accepted) = tokio::join!(connecting, listener.accept());
        let (mut peer, (stream, _)) = (peer.expect("a connection"), accepted.expect("a connection"));
        let kind = || of_one(&stream, io::ErrorKind::InvalidInput.into()).kind();
        assert_eq!(kind(), io::ErrorKind::InvalidInput, "the option's fault");
        crate::Transport::reset_on_drop(&mut peer);
        drop(peer);
        let reset = tokio::time::timeout(std::time::Duration::from_secs(10), stream.readable()).await;
        reset.expect("soon").expect("it is readable");
        assert_eq!(kind(), io::ErrorKind::ConnectionAborted);
    }
}
