//! The PROXY protocol between accept and everything else: whose connection it is that a proxy passes on.
//!
//! Owns: the list of peers that must begin with a header, and are believed.
//! In:   an accepted stream and its peer. Out: the same, nothing but the header read; or what it counts as that there is no session
//! to be. Not here: what a header looks like (`storm-proxy-proto`), the time it may take (`budget`).

use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;
use storm_core::ConfigError;
use storm_core::metrics::HandshakeFailure;
use storm_proxy_proto::{ProxyHeader, ProxyHeaderError, ProxyHeaderReader};
use storm_transport::Stream;
use storm_transport::net::parse_net;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// Bytes looked at in one go: nearly every header is shorter.
const PEEK: usize = 256;

/// Peers whose connections begin with a PROXY header.
#[derive(Debug, Default)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    /// The list as configured: addresses and networks.
    pub(crate) fn parse(list: &[String]) -> Result<Self, ConfigError> {
        let invalid =
            ConfigError::new("proxy_protocol_from", "an entry is an address or a network (10.0.0.0/8)");
        list.iter().map(|entry| parse_net(entry)).collect::<Option<_>>().map(Self).ok_or(invalid)
    }

    pub(crate) fn contains(&self, peer: Option<SocketAddr>) -> bool {
        // A socket for both families says IPv4 addresses in IPv6 form.
        let ip = peer.map(|peer| peer.ip().to_canonical());
        ip.is_some_and(|ip| self.0.iter().any(|net| net.contains(&ip)))
    }
}

/// Reads the header a listed peer begins with: the client's address, or the peer's own if the header names none. Of the others,
/// nothing is read.
pub(crate) async fn client_of(
    stream: &mut Stream,
    remote: Option<SocketAddr>,
    proxies: &Proxies,
) -> Result<Option<SocketAddr>, HandshakeFailure> {
    if !proxies.contains(remote) {
        return Ok(remote);
    }
    let header = match stream {
        Stream::Tcp(tcp) => peek(tcp).await,
        other => read(other).await,
    };
    match header {
        Ok(ProxyHeader::Client { source, .. }) => Ok(Some(source)),
        Ok(_) => Ok(remote),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(HandshakeFailure::Malformed),
        Err(_) => Err(HandshakeFailure::Disconnected),
    }
}

/// Reads a header and not a byte more.
async fn peek(stream: &mut TcpStream) -> io::Result<ProxyHeader> {
    let (mut reader, mut bytes) = (ProxyHeaderReader::default(), [0; PEEK]);
    loop {
        // Only looked at, until it is known how much of it is the header's.
        let seen = stream.peek(&mut bytes).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (taken, header) = reader.receive(&bytes[..seen]).map_err(malformed)?;
        stream.read_exact(&mut bytes[..taken]).await?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// The same from a stream that cannot be looked into: at a time what is sure to be the header's.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<ProxyHeader> {
    let (mut reader, mut bytes) = (ProxyHeaderReader::default(), [0; PEEK]);
    loop {
        let most = reader.at_least().min(PEEK);
        let read = stream.read(&mut bytes[..most]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let (_, Some(header)) = reader.receive(&bytes[..read]).map_err(malformed)? {
            return Ok(header);
        }
    }
}

fn malformed(error: ProxyHeaderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// What has arrived, and how often it was read from.
    struct Counted<'a> {
        wire: &'a [u8],
        reads: usize,
    }

    impl AsyncRead for Counted<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.wire).poll_read(cx, into)
        }
    }

    #[tokio::test]
    async fn a_header_is_read_in_few_pieces_and_nothing_behind_it() {
        let tlvs = [0; 600];
        let binary = [b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x02\x58", &tlvs[..]].concat();
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n".to_vec();
        for (header, most_reads) in [(binary, 5), (line, 16)] {
            let wire = [&header[..], b"data"].concat();
            let mut stream = Counted { wire: &wire, reads: 0 };
            read(&mut stream).await.expect("a header");
            assert_eq!(stream.wire, b"data");
            assert!(stream.reads <= most_reads, "{}", stream.reads);
            let mut stream = Counted { wire: &header[..header.len() - 1], reads: 0 };
            let error = read(&mut stream).await.expect_err("it ends early");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn addresses_and_networks() {
        let list = |entries: &[&str]| {
            let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
            Proxies::parse(&entries)
        };
        let proxies = list(&["10.0.0.0/8", "::ffff:172.16.0.0/108", "192.0.2.7", "2001:db8::/32", "::1"])
            .expect("valid");
        let listed = |ip: &str| proxies.contains(Some(SocketAddr::new(ip.parse().expect("an address"), 1)));
        for ip in [
            "10.1.2.3",
            "::ffff:10.1.2.3",
            "172.16.9.9",
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "2001:db8:1::",
            "::1",
        ] {
            assert!(listed(ip), "{ip}");
        }
        for ip in ["11.0.0.1", "192.0.2.8", "2001:db9::", "::2", "127.0.0.1"] {
            assert!(!listed(ip), "{ip}");
        }
        assert!(!proxies.contains(None), "a unix socket has no address to be listed");
        assert!(!Proxies::default().contains(Some(([10, 0, 0, 1], 1).into())));
        for wrong in ["", "10.0.0.0/33", "10.0.0.1:80", "proxy.test", "*", "10.0.0"] {
            assert!(list(&[wrong]).is_err(), "{wrong}");
        }
    }
}
