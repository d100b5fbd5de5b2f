//! Connecting sockets.
//!
//! ```text
//!  target, or the proxy for it ── Resolver ──> addresses ── race (RFC 8305) ──> stream ── proxy leads on ──> target
//! ```
//!
//! What speaks over the stream (TLS, an upgrade) comes after it, and knows of none of this.

mod bypass;
mod proxy;
mod race;
mod resolve;

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::time::Duration;

use storm_proxy_proto::Target;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpSocket, TcpStream};

pub use proxy::{DialError, Proxy, ProxyError, Purpose};
pub use race::AddressesFailed;
pub use resolve::{LookupFailed, Resolver};
// What a `ProxyError` may hold.
pub use storm_proxy_proto::{HttpConnectError, Reply, Socks5Error, TargetError};

use crate::{SocketOptions, Stream};

/// Where a client connects: `host:port`, a [`SocketAddr`], or the [`std::path::Path`] of a unix socket.
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
    /// The way out; `None` goes directly. Unix sockets always do.
    pub proxy: Option<&'a Proxy>,
    /// What the connection is for.
    pub purpose: Purpose,
}

impl Dialer<'_> {
    /// Connects to `addr`; the addresses of a name are tried as RFC 8305 (Happy Eyeballs) has it. Says the address at the
    /// other end, which is the proxy's if there is one between. No deadline of its own.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempt.
    ///
    /// # Errors
    /// The name does not resolve ([`LookupFailed`] is inside the error then), or no address took the connection
    /// ([`AddressesFailed`]). Or the proxy does not lead on.
    pub async fn dial(&self, addr: &ConnectAddr) -> Result<(Stream, Option<SocketAddr>), DialError> {
        let (stream, addr) = match addr {
            ConnectAddr::Ip(addr) => match self.proxy_for(&addr.ip().to_string(), addr.port()) {
                Some(proxy) => self.through(proxy, Ok((*addr).into())).await?,
                None => self.connect_ip(*addr).await?,
            },
            ConnectAddr::Name(name) => {
                let (host, port) = split_name(name)?;
                match self.proxy_for(host, port) {
                    Some(proxy) => self.through(proxy, Target::new(host, port)).await?,
                    None => self.connect_name(host, port).await?,
                }
            }
            #[cfg(unix)]
            ConnectAddr::Unix(path) => return Ok((UnixStream::connect(path).await?.into(), None)),
        };
        Ok((Stream::Tcp(stream), Some(addr)))
    }

    fn proxy_for(&self, host: &str, port: u16) -> Option<&proxy::Server> {
        self.proxy?.server(self.purpose, host, port)
    }

    async fn through(
        &self,
        proxy: &proxy::Server,
        target: Result<Target, TargetError>,
    ) -> Result<(TcpStream, SocketAddr), ProxyError> {
        let target = target.map_err(ProxyError::Target)?;
        let connected = match proxy.host.parse() {
            Ok(ip) => self.connect_ip(SocketAddr::new(ip, proxy.port)).await,
            Err(_) => self.connect_name(&proxy.host, proxy.port).await,
        };
        let (mut stream, addr) = connected.map_err(ProxyError::Io)?;
        proxy.lead_on(&mut stream, &target).await?;
        Ok((stream, addr))
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

/// Host and port of `host:port`.
fn split_name(name: &str) -> io::Result<(&str, u16)> {
    name.rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not of the form host:port"))
}
