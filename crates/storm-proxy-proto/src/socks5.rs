//! A tunnel through a SOCKS version 5 proxy (RFC 1928), with a user name and password (RFC 1929) or without.
//!
//! ```text
//!  greeting ──> Method ── none ────────────────────────────────> Reply ── 0 ──> open
//!                  └───── password ──> credentials ──> Status ──────┘
//! ```
//!
//! Owns: the place in the conversation, and the answer that is arriving (262 bytes at most).
//! In:   a target, maybe credentials; then bytes from the proxy.
//! Out:  bytes to write; "open", or what the proxy refused with.
//! Not here: GSSAPI (RFC 1961), BIND and UDP ASSOCIATE. Names are looked up by the proxy.

use std::fmt;

use crate::Step;
use crate::target::{Credentials, Host, Target, TargetError};

const VERSION: u8 = 5;
/// RFC 1929 §2: its sub-negotiation has a version of its own.
const AUTH_VERSION: u8 = 1;
const NO_AUTH: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xFF;

/// Why there is no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Socks5Error {
    /// Not a SOCKS 5 proxy.
    #[error("the proxy speaks version {version}, not 5")]
    Version {
        /// The version it said.
        version: u8,
    },
    /// The proxy takes none of the methods of authentication that were offered.
    #[error("the proxy wants another authentication")]
    NoAcceptableMethod,
    /// The proxy chose a method of authentication that was not offered.
    #[error("the proxy chose authentication method {method}, which was not offered")]
    MethodNotOffered {
        /// The method.
        method: u8,
    },
    /// User name or password are wrong.
    #[error("the proxy refused the credentials with status {status}")]
    Unauthorized {
        /// The status, which is not zero.
        status: u8,
    },
    /// The proxy refuses the tunnel.
    #[error("the proxy answered: {reply}")]
    Refused {
        /// Why.
        reply: Reply,
    },
    /// An answer with an address of unknown type: its end cannot be found.
    #[error("the proxy answered with an address of type {kind}")]
    AddressType {
        /// The type.
        kind: u8,
    },
}

/// What a SOCKS proxy says of a request (RFC 1928 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// 1.
    GeneralFailure,
    /// 2: not allowed by the proxy's rules.
    NotAllowed,
    /// 3.
    NetworkUnreachable,
    /// 4: also names that do not resolve.
    HostUnreachable,
    /// 5.
    ConnectionRefused,
    /// 6.
    TtlExpired,
    /// 7.
    CommandNotSupported,
    /// 8.
    AddressTypeNotSupported,
    /// Any other.
    Other(u8),
}

impl Reply {
    fn new(code: u8) -> Self {
        match code {
            1 => Self::GeneralFailure,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::CommandNotSupported,
            8 => Self::AddressTypeNotSupported,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GeneralFailure => "general failure",
            Self::NotAllowed => "not allowed by its rules",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::ConnectionRefused => "connection refused",
            Self::TtlExpired => "ttl expired",
            Self::CommandNotSupported => "command not supported",
            Self::AddressTypeNotSupported => "address type not supported",
            Self::Other(code) => return write!(f, "reply {code}"),
        })
    }
}

/// The conversation with a SOCKS 5 proxy.
///
/// ```
/// use storm_proxy_proto::{Socks5, Step, Target};
///
/// let (mut socks, greeting) = Socks5::new(&Target::new("example.com", 443)?, None)?;
/// assert_eq!(greeting, [5, 1, 0]);
/// let (2, Step::Write(request)) = socks.receive(&[5, 0])? else { panic!() };
/// assert_eq!(request, b"\x05\x01\x00\x03\x0bexample.com\x01\xbb");
/// let reply = b"\x05\x00\x00\x01\0\0\0\0\0\0what the target says";
/// assert_eq!(socks.receive(reply)?, (10, Step::Open));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Socks5 {
    phase: Phase,
    /// The answer that is arriving; shorter than `Phase::len` says.
    answer: Vec<u8>,
    request: Vec<u8>,
    /// The message with the credentials, if they are offered.
    credentials: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The proxy chooses a method of authentication.
    Method,
    /// It judges the credentials.
    Status,
    /// It answers the request.
    Reply,
}

impl Socks5 {
    /// The conversation about a tunnel to `target`, and the greeting it begins with.
    ///
    /// # Errors
    /// [`TargetError::InvalidCredentials`]: user names have 1 to 255 bytes, passwords at most 255.
    pub fn new(target: &Target, credentials: Option<&Credentials>) -> Result<(Self, Vec<u8>), TargetError> {
        let credentials = credentials.map(sub_negotiation).transpose()?;
        let greeting = match credentials {
            Some(_) => vec![VERSION, 2, NO_AUTH, PASSWORD],
            None => vec![VERSION, 1, NO_AUTH],
        };
        let request = request(target)?;
        Ok((Self { phase: Phase::Method, answer: Vec::new(), request, credentials }, greeting))
    }

    /// Takes from `input` what belongs to the proxy's answer: how many bytes, and what is next.
    ///
    /// # Errors
    /// The proxy refuses, or speaks something else.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Step), Socks5Error> {
        for (at, &byte) in input.iter().enumerate() {
            self.answer.push(byte);
            if let Some(step) = self.answered()? {
                self.answer.clear();
                return Ok((at + 1, step));
            }
        }
        Ok((input.len(), Step::Read))
    }

    /// What follows from the answer so far; `None` until it is whole.
    fn answered(&mut self) -> Result<Option<Step>, Socks5Error> {
        match (self.phase, &self.answer[..]) {
            (Phase::Method | Phase::Reply, &[version]) if version != VERSION => {
                Err(Socks5Error::Version { version })
            }
            (Phase::Method, &[_, method]) => match (method, self.credentials.take()) {
                (NO_AUTH, _) => Ok(Some(self.ask())),
                (PASSWORD, Some(credentials)) => {
                    self.phase = Phase::Status;
                    Ok(Some(Step::Write(credentials)))
                }
                (NONE_ACCEPTABLE, _) => Err(Socks5Error::NoAcceptableMethod),
                (method, _) => Err(Socks5Error::MethodNotOffered { method }),
            },
            // Its version is not looked at: some proxies say 5 here, and the status is what counts.
            (Phase::Status, &[_, 0]) => Ok(Some(self.ask())),
            (Phase::Status, &[_, status]) => Err(Socks5Error::Unauthorized { status }),
            (Phase::Reply, &[_, code]) if code != 0 => Err(Socks5Error::Refused { reply: Reply::new(code) }),
            (Phase::Reply, &[_, _, _, kind, first, ..]) => {
                let len = match kind {
                    1 => 4,
                    3 => 1 + usize::from(first),
                    4 => 16,
                    kind => return Err(Socks5Error::AddressType { kind }),
                };
                // The address the proxy connects from is of no use to us.
                Ok((self.answer.len() == 4 + len + 2).then_some(Step::Open))
            }
            _ => Ok(None),
        }
    }

    fn ask(&mut self) -> Step {
        self.phase = Phase::Reply;
        Step::Write(std::mem::take(&mut self.request))
    }
}

/// RFC 1928 §4: CONNECT.
fn request(target: &Target) -> Result<Vec<u8>, TargetError> {
    let mut out = vec![VERSION, 1, 0];
    match target.host() {
        Host::Ip(std::net::IpAddr::V4(ip)) => {
            out.push(1);
            out.extend(ip.octets());
        }
        Host::Name(name) => {
            out.push(3);
            put_short(&mut out, name).ok_or_else(|| TargetError::InvalidName { name: name.clone() })?;
        }
        Host::Ip(std::net::IpAddr::V6(ip)) => {
            out.push(4);
            out.extend(ip.octets());
        }
    }
    out.extend(target.port().to_be_bytes());
    Ok(out)
}

/// RFC 1929 §2.
fn sub_negotiation(credentials: &Credentials) -> Result<Vec<u8>, TargetError> {
    let mut out = vec![AUTH_VERSION];
    Some(&credentials.user)
        .filter(|user| !user.is_empty())
        .and_then(|user| put_short(&mut out, user))
        .and_then(|()| put_short(&mut out, &credentials.password))
        .ok_or(TargetError::InvalidCredentials)?;
    Ok(out)
}

/// A text behind its length in one byte.
fn put_short(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.push(u8::try_from(text.len()).ok()?);
    out.extend(text.as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{End, every_way};

    /// After how many bytes of `wire` the tunnel is open, and what the client wrote behind its greeting by then.
    fn answered(credentials: Option<&Credentials>, wire: &[u8]) -> End<Vec<u8>, Socks5Error> {
        let new = || (Socks5::new(&Target::new("h.test", 80).unwrap(), credentials).unwrap().0, Vec::new());
        every_way(
            new,
            |(socks, wrote), piece| {
                let (taken, step) = socks.receive(piece)?;
                if let Step::Write(bytes) = &step {
                    wrote.extend_from_slice(bytes);
                }
                Ok((taken, (step == Step::Open).then(|| wrote.clone())))
            },
            wire,
        )
    }

    fn me() -> Credentials {
        Credentials::new("me", "secret")
    }

    const REQUEST: &[u8] = b"\x05\x01\x00\x03\x06h.test\x00\x50";
    const OPEN: &[u8] = b"\x05\x00\x00\x01\x7f\0\0\x01\x04\x38";

    #[test]
    fn greetings_and_requests() {
        let of = |host, credentials: Option<&Credentials>| {
            let target = Target::new(host, 258).unwrap();
            let (mut socks, greeting) = Socks5::new(&target, credentials).unwrap();
            let (2, Step::Write(request)) = socks.receive(&[5, 0]).unwrap() else { panic!() };
            (greeting, request)
        };
        assert_eq!(of("10.1.2.3", None), (vec![5, 1, 0], vec![5, 1, 0, 1, 10, 1, 2, 3, 1, 2]));
        let v6 = [&[5, 1, 0, 4][..], &[0; 15], &[1, 1, 2]].concat();
        assert_eq!(of("::1", Some(&me())), (vec![5, 2, 0, 2], v6));
        for (user, password) in [("", "x"), (&*"u".repeat(256), "x"), ("u", &*"x".repeat(256))] {
            let credentials = Credentials::new(user, password);
            let error = Socks5::new(&Target::new("h", 1).unwrap(), Some(&credentials)).unwrap_err();
            assert_eq!(error, TargetError::InvalidCredentials);
        }
    }

    #[test]
    fn tunnels_open_and_the_rest_is_the_targets() {
        let wire = [&[5, 0], OPEN, b"220 hello\r\n"].concat();
        assert_eq!(answered(None, &wire), Some(Ok((12, REQUEST.to_vec()))));
        assert_eq!(answered(Some(&me()), &wire), Some(Ok((12, REQUEST.to_vec()))), "not asked for");
        let wrote = [b"\x01\x02me\x06secret", REQUEST].concat();
        let wire = [&[5, 2, 1, 0], OPEN, b"\x05\x00"].concat();
        assert_eq!(answered(Some(&me()), &wire), Some(Ok((14, wrote))));
        for bound in [
            &b"\x05\x00\x00\x03\x00\0\0"[..],
            b"\x05\x00\x00\x03\x05proxy\0\0",
            &[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
        ] {
            let wire = [&[5, 0], bound, b"rest"].concat();
            assert_eq!(answered(None, &wire), Some(Ok((2 + bound.len(), REQUEST.to_vec()))));
            let cut = &wire[..2 + bound.len() - 1];
            assert_eq!(answered(None, cut), None, "one byte missing");
        }
    }

    #[test]
    fn refusals_are_typed() {
        let error_of = |credentials: Option<&Credentials>, wire: &[u8]| match answered(credentials, wire) {
            Some(Err(error)) => error,
            other => panic!("{wire:?}: {other:?}"),
        };
        assert_eq!(error_of(None, &[5, 0xFF]), Socks5Error::NoAcceptableMethod);
        assert_eq!(error_of(None, &[5, 2]), Socks5Error::MethodNotOffered { method: 2 });
        assert_eq!(error_of(Some(&me()), &[5, 1]), Socks5Error::MethodNotOffered { method: 1 });
        assert_eq!(error_of(None, b"HTTP/1.1 400"), Socks5Error::Version { version: b'H' });
        assert_eq!(error_of(None, &[4]), Socks5Error::Version { version: 4 });
        assert_eq!(error_of(Some(&me()), &[5, 2, 1, 9]), Socks5Error::Unauthorized { status: 9 });
        for (code, reply) in [
            (1, Reply::GeneralFailure),
            (2, Reply::NotAllowed),
            (3, Reply::NetworkUnreachable),
            (4, Reply::HostUnreachable),
            (5, Reply::ConnectionRefused),
            (6, Reply::TtlExpired),
            (7, Reply::CommandNotSupported),
            (8, Reply::AddressTypeNotSupported),
            (200, Reply::Other(200)),
        ] {
            // Some proxies end the connection right behind the code.
            assert_eq!(error_of(None, &[5, 0, 5, code]), Socks5Error::Refused { reply });
        }
        assert_eq!(error_of(None, &[5, 0, 5, 0, 0, 2, 0]), Socks5Error::AddressType { kind: 2 });
        assert_eq!(error_of(None, &[5, 0, 6]), Socks5Error::Version { version: 6 });
    }
}
