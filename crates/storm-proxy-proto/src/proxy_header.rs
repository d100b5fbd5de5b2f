//! The PROXY protocol, versions 1 and 2, on the receiving side: what a proxy says of the connection it passes on.
//!
//! ```text
//!  v1  "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"            at most 107 bytes
//!
//!  v2  | 0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A | 2 command | family protocol | length, 16 bits |
//!      | addresses and ports, as long as the family has it | TLVs, the rest of length |
//! ```
//!
//! Owns: the header that is arriving, 107 bytes of it at most.
//! In:   the first bytes of a connection.
//! Out:  whose connection it is; how many bytes the header took; or that it is none.
//! Not here: which peers must send a header (all others must not be believed), the time it may take.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of a version 2 header up to the addresses.
const FIXED: usize = 16;
/// §2.1: the shortest version 1 header, `PROXY UNKNOWN` and its line end.
const MIN_LINE: usize = 15;
/// §2.1: the longest version 1 header, with its line end.
const MAX_LINE: usize = 107;
/// Most bytes a version 2 header may announce behind its first 16: addresses and TLVs.
pub const MAX_ANNOUNCED: usize = 4096;

/// What came is no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// The first bytes are neither version's.
    #[error("the connection does not begin with a PROXY header")]
    NoHeader,
    /// A version 1 line that breaks the format.
    #[error("the PROXY line is malformed")]
    MalformedLine,
    /// A version 2 header of another version, with an unknown command, family or protocol, or too short for its family.
    #[error("the PROXY header is malformed")]
    MalformedHeader,
    /// A version 2 header that announces more than [`MAX_ANNOUNCED`] bytes.
    #[error("the PROXY header announces {len} bytes")]
    TooLong {
        /// Bytes announced.
        len: usize,
    },
}

/// What a proxy says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyHeader {
    /// It passes on the connection of a client over TCP.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address the client has connected to.
        destination: SocketAddr,
    },
    /// It does not say whose connection it is (`UNKNOWN`, or another protocol than TCP over IP).
    Unknown,
    /// The connection is the proxy's own, to see whether the server is there (command `LOCAL`).
    Local,
}

/// Reads the header at the start of a connection.
///
/// ```
/// use storm_proxy_proto::{ProxyHeader, ProxyHeaderReader};
///
/// let mut reader = ProxyHeaderReader::default();
/// let wire = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET / HTTP/1.1\r\n";
/// let (taken, header) = reader.receive(wire)?;
/// assert_eq!(&wire[taken..], b"GET / HTTP/1.1\r\n");
/// let Some(ProxyHeader::Client { source, .. }) = header else { panic!() };
/// assert_eq!(source.to_string(), "192.0.2.1:56324");
/// # Ok::<(), storm_proxy_proto::ProxyHeaderError>(())
/// ```
#[derive(Debug, Default)]
pub struct ProxyHeaderReader {
    /// What decides; TLVs are counted and thrown away.
    kept: Vec<u8>,
    skipped: usize,
}

impl ProxyHeaderReader {
    /// Takes from `input` what belongs to the header: how many bytes, and what it says once it is whole. Everything
    /// behind is the client's.
    ///
    /// # Errors
    /// It is no header, as soon as that is certain.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Option<ProxyHeader>), ProxyHeaderError> {
        for (at, &byte) in input.iter().enumerate() {
            // A longer header than any that is kept whole: only the bytes of its TLVs are still missing.
            if self.kept.len() < MAX_LINE {
                self.kept.push(byte);
            } else {
                self.skipped += 1;
            }
            if let Some(header) = self.whole()? {
                return Ok((at + 1, Some(header)));
            }
        }
        Ok((input.len(), None))
    }

    /// Bytes that are still to come before the header can be whole, at least one: whoever reads no more than these at a time
    /// takes nothing of what is behind it.
    #[must_use]
    pub fn at_least(&self) -> usize {
        let (kept, have) = (&self.kept[..], self.kept.len() + self.skipped);
        let needed = match (kept.first(), kept.first_chunk::<FIXED>()) {
            // Nothing says which version it is.
            (None, _) => MIN_LINE,
            (Some(b'P'), _) => MIN_LINE.max(have + if kept.ends_with(b"\r") { 1 } else { 2 }),
            (Some(_), None) => FIXED,
            (Some(_), Some(&[.., high, low])) => FIXED + usize::from(u16::from_be_bytes([high, low])),
        };
        needed.saturating_sub(have).max(1)
    }

    /// The header, if this byte was its last.
    fn whole(&self) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
        let kept = &self.kept[..];
        let begins = |with: &[u8]| kept[..kept.len().min(with.len())] == with[..kept.len().min(with.len())];
        if begins(b"PROXY ") {
            return match kept {
                [line @ .., b'\r', b'\n'] => v1(line).map(Some).ok_or(ProxyHeaderError::MalformedLine),
                [.., b'\n'] => Err(ProxyHeaderError::MalformedLine),
                _ if kept.len() == MAX_LINE => Err(ProxyHeaderError::MalformedLine),
                _ => Ok(None),
            };
        }
        if !begins(&SIGNATURE) {
            return Err(ProxyHeaderError::NoHeader);
        }
        let Some((head, addresses)) = kept.split_first_chunk::<FIXED>() else { return Ok(None) };
        let &[.., version_command, family_protocol, high, low] = head;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let family = Family::of(version_command, family_protocol, len)?;
        let have = addresses.len() + self.skipped;
        Ok((have == len).then(|| family.header(addresses)))
    }
}

/// What a version 2 header has behind its fixed part, as far as it matters.
#[derive(Debug, Clone, Copy)]
enum Family {
    Local,
    Unknown,
    Tcp4,
    Tcp6,
}

impl Family {
    /// What the fixed part says, if it breaks no rule.
    fn of(version_command: u8, family_protocol: u8, len: usize) -> Result<Self, ProxyHeaderError> {
        if len > MAX_ANNOUNCED {
            return Err(ProxyHeaderError::TooLong { len });
        }
        // §2.2: unassigned values are to be refused; assigned ones that do not concern us (datagrams, unix sockets)
        // are as good as UNSPEC.
        let (family, needed) = match (family_protocol >> 4, family_protocol & 0x0F) {
            (0, 0..=2) | (0..=3, 0) => (Self::Unknown, 0),
            (1, 1) => (Self::Tcp4, 12),
            (2, 1) => (Self::Tcp6, 36),
            (1, 2) => (Self::Unknown, 12),
            (2, 2) => (Self::Unknown, 36),
            (3, 1 | 2) => (Self::Unknown, 216),
            _ => return Err(ProxyHeaderError::MalformedHeader),
        };
        match version_command {
            // §2.2: of a LOCAL header the rest is skipped, whatever it is.
            0x20 => Ok(Self::Local),
            0x21 if len >= needed => Ok(family),
            _ => Err(ProxyHeaderError::MalformedHeader),
        }
    }

    /// The header, now that all of it is here.
    fn header(self, addresses: &[u8]) -> ProxyHeader {
        let pair = |ip_len: usize, ip: fn(&[u8]) -> Option<IpAddr>| {
            let port = |at: usize| Some(u16::from_be_bytes(*addresses.get(at..)?.first_chunk()?));
            let source = SocketAddr::new(ip(addresses)?, port(2 * ip_len)?);
            let destination = SocketAddr::new(ip(addresses.get(ip_len..)?)?, port(2 * ip_len + 2)?);
            Some(ProxyHeader::Client { source, destination })
        };
        let client = match self {
            Self::Local => return ProxyHeader::Local,
            Self::Unknown => None,
            Self::Tcp4 => pair(4, |bytes| Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into())),
            Self::Tcp6 => pair(16, |bytes| Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into())),
        };
        client.unwrap_or(ProxyHeader::Unknown)
    }
}

/// §2.1: a line without its end. Fields are separated by exactly one space.
fn v1(line: &[u8]) -> Option<ProxyHeader> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split(' ').skip(1);
    let family = fields.next()?;
    if family == "UNKNOWN" {
        // Whatever follows on the line is to be ignored.
        return Some(ProxyHeader::Unknown);
    }
    let fields: Vec<&str> = fields.collect();
    let &[source, destination, source_port, destination_port] = &fields[..] else { return None };
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(Into::into),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(Into::into),
            _ => None,
        }
    };
    let port = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain)
    };
    Some(ProxyHeader::Client {
        source: SocketAddr::new(ip(source)?, port(source_port)?),
        destination: SocketAddr::new(ip(destination)?, port(destination_port)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{End, every_way};

    fn read(wire: &[u8]) -> End<ProxyHeader, ProxyHeaderError> {
        every_way(ProxyHeaderReader::default, ProxyHeaderReader::receive, wire)
    }

    fn error_of(wire: &[u8]) -> ProxyHeaderError {
        match read(wire) {
            Some(Err(error)) => error,
            other => panic!("{}: {other:?}", wire.escape_ascii()),
        }
    }

    fn client(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A version 2 header.
    fn v2(version_command: u8, family_protocol: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_command, family_protocol], &len, rest].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xDC, 0x04, 0x01, 0xBB];

    fn tcp6() -> Vec<u8> {
        let ip = |last: u8| [&[0x20, 0x01, 0x0D, 0xB8][..], &[0; 11], &[last]].concat();
        [ip(1), ip(2), vec![0xDC, 0x04, 0x01, 0xBB]].concat()
    }

    #[test]
    fn lines() {
        let longest = "ffff:f3ff:ffff:ffff:ffff:ffff:ffff:ffff";
        let long = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
        let unknown = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
        assert_eq!(unknown.len(), MAX_LINE);
        let both = format!("[{longest}]:65535");
        for (line, header) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
                client("192.0.2.1:56324", "198.51.100.7:443"),
            ),
            ("PROXY TCP6 2001:db8::1 ::1 0 443\r\n", client("[2001:db8::1]:0", "[::1]:443")),
            (&*long, client(&both, &both)),
            ("PROXY UNKNOWN\r\n", ProxyHeader::Unknown),
            ("PROXY UNKNOWN whatever there is\r\n", ProxyHeader::Unknown),
            (&*unknown, ProxyHeader::Unknown),
        ] {
            let wire = [line.as_bytes(), b"PROXY again\r\n\r\n"].concat();
            assert_eq!(read(&wire), Some(Ok((line.len(), header))), "{line}");
            assert_eq!(read(&wire[..line.len() - 1]), None, "{line}");
        }
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.7 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 056 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +56 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.7 56 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.7 56324 443\r\n",
            "PROXY UNKNOWN\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n",
        ] {
            assert_eq!(error_of(line.as_bytes()), ProxyHeaderError::MalformedLine, "{line}");
        }
        assert_eq!(error_of(b"PROXY UNKNOWN \xFF\r\n"), ProxyHeaderError::MalformedLine);
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE));
        assert_eq!(error_of(endless.as_bytes()), ProxyHeaderError::MalformedLine);
        for other in [
            "GET / HTTP/1.1\r\n",
            "proxy ",
            "PROXX",
            "PROXY\t",
            "\x16\x03\x01",
            "\r\n\r\n\r",
            "\r\n\r\n\0\r\nQUIX",
        ] {
            assert_eq!(error_of(other.as_bytes()), ProxyHeaderError::NoHeader, "{other}");
        }
    }

    #[test]
    fn binary_headers() {
        let four = client("192.0.2.1:56324", "198.51.100.7:443");
        let six = client("[2001:db8::1]:56324", "[2001:db8::2]:443");
        let tlvs = [&[0x04, 0, 2, 9, 9][..], &[0x01, 1, 0], &[7; 256]].concat();
        for (wire, header) in [
            (v2(0x21, 0x11, &TCP4), four),
            (v2(0x21, 0x11, &[&TCP4[..], &tlvs].concat()), four),
            (v2(0x21, 0x21, &tcp6()), six),
            (v2(0x21, 0x21, &[&tcp6()[..], &tlvs].concat()), six),
            (v2(0x21, 0x11, &[&TCP4[..], &[0; MAX_ANNOUNCED - 12]].concat()), four),
            (v2(0x20, 0x00, b""), ProxyHeader::Local),
            (v2(0x20, 0x11, &TCP4), ProxyHeader::Local),
            (v2(0x20, 0x11, &tlvs), ProxyHeader::Local),
            (v2(0x21, 0x00, b""), ProxyHeader::Unknown),
            (v2(0x21, 0x00, &tlvs), ProxyHeader::Unknown),
            (v2(0x21, 0x12, &TCP4), ProxyHeader::Unknown),
            (v2(0x21, 0x22, &tcp6()), ProxyHeader::Unknown),
            (v2(0x21, 0x31, &[b'/'; 216]), ProxyHeader::Unknown),
        ] {
            let len = wire.len();
            let wire = [&wire[..], &SIGNATURE].concat();
            assert_eq!(read(&wire), Some(Ok((len, header))));
            assert_eq!(read(&wire[..len - 1]), None);
        }
    }

    #[test]
    fn binary_headers_that_are_none() {
        for wire in [
            v2(0x11, 0x11, &TCP4),
            v2(0x31, 0x11, &TCP4),
            v2(0x22, 0x11, &TCP4),
            v2(0x2F, 0x00, b""),
            v2(0x21, 0x13, &TCP4),
            v2(0x21, 0x41, &TCP4),
            v2(0x20, 0xF0, b""),
            v2(0x21, 0x11, &TCP4[..11]),
            v2(0x21, 0x21, &TCP4),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, b""),
        ] {
            // Known from the first 16 bytes.
            assert_eq!(error_of(&wire[..FIXED]), ProxyHeaderError::MalformedHeader, "{wire:?}");
        }
        let huge = [&SIGNATURE[..], &[0x21, 0x11, 0xFF, 0xFF]].concat();
        assert_eq!(error_of(&huge), ProxyHeaderError::TooLong { len: 0xFFFF });
        let local = [&SIGNATURE[..], &[0x20, 0x00, 0x10, 0x01]].concat();
        assert_eq!(error_of(&local), ProxyHeaderError::TooLong { len: MAX_ANNOUNCED + 1 });
    }

    #[test]
    fn whoever_reads_what_is_sure_to_come_reads_seldom_and_never_too_much() {
        let tlvs = [&TCP4[..], &[0; 1000]].concat();
        for (header, most_reads) in [
            (v2(0x21, 0x11, &tlvs), 3),
            (v2(0x21, 0x21, &tcp6()), 3),
            (v2(0x20, 0x00, b""), 2),
            (b"PROXY UNKNOWN\r\n".to_vec(), 1),
            (b"PROXY UNKNOWN \r \r\r\n".to_vec(), 7),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n".to_vec(), 16),
            (b"PROXY TCP6 ::1 ::1 1 2\r\n".to_vec(), 7),
        ] {
            let (mut reader, mut at) = (ProxyHeaderReader::default(), 0);
            for reads in 1.. {
                let next = at + reader.at_least();
                assert!(next <= header.len(), "{}", header.escape_ascii());
                let (taken, whole) = reader.receive(&header[at..next]).expect("a header");
                assert_eq!(taken, next - at);
                at = next;
                if whole.is_some() {
                    assert!(reads <= most_reads, "{}: {reads}", header.escape_ascii());
                    break;
                }
            }
            // Nor if it comes a byte at a time.
            let mut reader = ProxyHeaderReader::default();
            for (at, byte) in header.iter().enumerate() {
                assert!((1..=header.len() - at).contains(&reader.at_least()), "{}", header.escape_ascii());
                reader.receive(&[*byte]).expect("a header");
            }
        }
    }

    #[test]
    fn no_more_is_kept_than_decides() {
        let mut reader = ProxyHeaderReader::default();
        let wire = v2(0x21, 0x11, &[&TCP4[..], &[0; MAX_ANNOUNCED - 12]].concat());
        assert_eq!(reader.receive(&wire[..wire.len() - 1]), Ok((wire.len() - 1, None)));
        assert_eq!(reader.kept.len(), MAX_LINE);
    }
}
