//! Connecting sockets.
//!
//! ```text
//!  name ── Resolver ──> addresses ── race (RFC 8305) ──> stream
//! ```

mod race;
mod resolve;

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpSocket, TcpStream};

pub use race::AddressesFailed;
pub use resolve::Resolver;

use crate::{SocketOptions, Stream};

/// Where a client connects: `host:port`, a [`SocketAddr`], or a unix socket path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectAddr {
    /// `host:port`, looked up for each attempt.
    Name(String),
    /// An address.
    Ip(SocketAddr),
    /// The path of a unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl From<&str> for ConnectAddr {
    fn from(name: &str) -> Self {
        name.parse().map_or_else(|_| Self::Name(name.to_owned()), Self::Ip)
    }
}

impl From<String> for ConnectAddr {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<SocketAddr> for ConnectAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

impl<A: Into<std::net::IpAddr>> From<(A, u16)> for ConnectAddr {
    fn from(addr: (A, u16)) -> Self {
        Self::Ip(addr.into())
    }
}

#[cfg(unix)]
impl From<PathBuf> for ConnectAddr {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

#[cfg(unix)]
impl From<&Path> for ConnectAddr {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

/// How a client connects.
#[derive(Debug, Clone, Copy)]
pub struct Dialer<'a> {
    /// Options of the socket.
    pub socket: &'a SocketOptions,
    /// Who looks up names.
    pub resolver: &'a Resolver,
    /// How long an attempt to one address of a name may take before the next address is tried beside it; `None` waits
    /// until it has failed.
    pub attempt_delay: Option<Duration>,
}

impl Dialer<'_> {
    /// Connects to `addr`; the addresses of a name are tried as RFC 8305 (Happy Eyeballs) has it. No deadline of its own.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempt.
    ///
    /// # Errors
    /// The name does not resolve, or no address took the connection: [`AddressesFailed`] is inside the error then.
    pub async fn dial(&self, addr: &ConnectAddr) -> io::Result<(Stream, Option<SocketAddr>)> {
        match addr {
            ConnectAddr::Ip(addr) => self.connect_ip(*addr).await.map(tcp),
            ConnectAddr::Name(name) => {
                let (host, port) = split_name(name)?;
                self.connect_name(host, port).await.map(tcp)
            }
            #[cfg(unix)]
            ConnectAddr::Unix(path) => Ok((Stream::Unix(UnixStream::connect(path).await?), None)),
        }
    }

    async fn connect_name(&self, host: &str, port: u16) -> io::Result<(TcpStream, SocketAddr)> {
        let addrs = self.resolver.lookup(host, port).await?;
        race::race(addrs, self.attempt_delay, |addr| self.connect_ip(addr)).await
    }

    async fn connect_ip(&self, addr: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
        let socket = TcpSocket::from_std_stream(self.socket.socket(addr)?.into());
        Ok((socket.connect(addr).await?, addr))
    }
}

fn tcp((stream, addr): (TcpStream, SocketAddr)) -> (Stream, Option<SocketAddr>) {
    (Stream::Tcp(stream), Some(addr))
}

/// Host and port of `host:port`.
fn split_name(name: &str) -> io::Result<(&str, u16)> {
    name.rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not of the form host:port"))
}
