//! Connecting sockets.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::{Path, PathBuf};

use tokio::net::TcpSocket;
#[cfg(unix)]
use tokio::net::UnixStream;

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

/// Connects to `addr`; a name's addresses are tried in turn. No deadline of its own.
///
/// # Cancel safety
/// Dropping the future gives up the attempt.
///
/// # Errors
/// The name does not resolve, or the last address that was tried refused.
pub async fn connect(
    addr: &ConnectAddr,
    options: &SocketOptions,
) -> io::Result<(Stream, Option<SocketAddr>)> {
    match addr {
        ConnectAddr::Ip(addr) => connect_tcp(*addr, options).await,
        ConnectAddr::Name(name) => {
            let mut failed = None;
            for addr in tokio::net::lookup_host(name).await? {
                match connect_tcp(addr, options).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => failed = Some(error),
                }
            }
            Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
        }
        #[cfg(unix)]
        ConnectAddr::Unix(path) => Ok((Stream::Unix(UnixStream::connect(path).await?), None)),
    }
}

async fn connect_tcp(addr: SocketAddr, options: &SocketOptions) -> io::Result<(Stream, Option<SocketAddr>)> {
    let socket = TcpSocket::from_std_stream(options.socket(addr)?.into());
    Ok((Stream::Tcp(socket.connect(addr).await?), Some(addr)))
}
