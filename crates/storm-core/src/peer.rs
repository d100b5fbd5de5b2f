//! Who is at the other end of a connection, as its transport knows it.
//!
//! Owns: the peer's address, and what TLS found out about the peer. Filled in by whoever opened the transport, before
//! there is a session. Not here: the handshake itself (storm-transport).

use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use bytes::Bytes;

use crate::ip::canonical;

/// What is known of the peer before the session begins.
///
/// ```
/// use storm_core::Peer;
///
/// let peer = Peer::from("192.0.2.1:5000".parse::<std::net::SocketAddr>().ok());
/// assert_eq!(peer.addr.unwrap().port(), 5000);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Peer {
    /// Its address; `None` where the transport has none.
    pub addr: Option<SocketAddr>,
    /// What TLS agreed on; `None` without TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<TlsInfo>>,
}

impl From<Option<SocketAddr>> for Peer {
    /// Of an IPv4 address in IPv6 form, as sockets for both families and some proxies have it, the IPv4 address.
    fn from(addr: Option<SocketAddr>) -> Self {
        Self { addr: addr.map(canonical), ..Self::default() }
    }
}

/// A version of TLS. Older ones than these are not spoken.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// What a TLS handshake agreed on, and who the peer showed itself to be.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite, by its IANA name.
    pub cipher_suite: &'static str,
    /// The protocol that ALPN chose.
    pub alpn: Option<Bytes>,
    /// The host name the client asked for (SNI): what it sent, on a server; what was sent, on a client.
    pub server_name: Option<Box<str>>,
    /// The peer's certificates in DER, its own first. They were verified, unless verification was turned off. Empty if it
    /// sent none, as clients do that are not asked.
    pub peer_certificates: Vec<Bytes>,
    /// An earlier session was resumed: no certificate was sent, those above are from then.
    pub resumed: bool,
}

#[cfg(feature = "tls")]
impl TlsInfo {
    /// What was agreed, for a transport to fill in the rest.
    pub const fn new(version: TlsVersion, cipher_suite: &'static str) -> Self {
        Self {
            version,
            cipher_suite,
            alpn: None,
            server_name: None,
            peer_certificates: Vec::new(),
            resumed: false,
        }
    }
}
