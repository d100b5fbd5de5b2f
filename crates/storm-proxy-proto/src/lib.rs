//! What is said around a connection that does not come directly: to a proxy on the way out, by a proxy on the way in.
//!
//! A part of StormSocket, and of use without it: `stormsocket` has it as options, `.proxy(..)` and `.proxy_protocol_from(..)`.
//!
//! ```text
//!  client ── HttpConnect / Socks5 ──> proxy ──> target            bytes to write, bytes that came, "open"
//!  peer ──> proxy ── PROXY header ──> ProxyHeaderReader           whose connection it is
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`http_connect`] | a tunnel through an HTTP proxy (RFC 9110 §9.3.6) |
//! | [`socks5`] | a tunnel through a SOCKS proxy (RFC 1928, RFC 1929) |
//! | [`proxy_header`] | the PROXY protocol, versions 1 and 2, on the receiving side |
//! | [`target`] | where a tunnel leads, and who asks for it |
//!
//! All three readers are used alike: hand in bytes, and as many of them as are part of the conversation are taken. What
//! follows belongs to whoever is at the other end of the tunnel, and is left alone. None of them holds more than its
//! bound, whatever comes. Not here: sockets, deadlines, which peers may send a header.

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http_connect;
pub mod proxy_header;
pub mod socks5;
pub mod target;

pub use http_connect::{HttpConnect, HttpConnectError};
pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxyHeaderReader};
pub use socks5::{Reply, Socks5, Socks5Error};
pub use target::{Credentials, Host, Target, TargetError};

/// What a client does next in its conversation with a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hand in more bytes.
    Read,
    /// Write these bytes, then hand in more.
    Write(Vec<u8>),
    /// The tunnel is open: everything from here on is the target's.
    Open,
}

#[cfg(test)]
pub(crate) mod testing {
    /// How a reader ended, and after how many bytes; `None` if it wants more. An error refuses a piece as a whole.
    pub(crate) type End<O, E> = Option<Result<(usize, O), E>>;

    /// Hands in `wire` whole, byte by byte, and in two pieces split at every offset (a sample of them for long input).
    /// All ways must come to the same.
    pub(crate) fn every_way<R, O, E>(
        new: impl Fn() -> R,
        receive: impl Fn(&mut R, &[u8]) -> Result<(usize, Option<O>), E>,
        wire: &[u8],
    ) -> End<O, E>
    where
        O: PartialEq + std::fmt::Debug,
        E: PartialEq + std::fmt::Debug,
    {
        let run = |pieces: &[&[u8]]| {
            let (mut reader, mut taken) = (new(), 0);
            for piece in pieces {
                let mut rest = *piece;
                while !rest.is_empty() {
                    match receive(&mut reader, rest) {
                        Ok((took, outcome)) => {
                            assert!((1..=rest.len()).contains(&took), "{took} of {}", rest.len());
                            taken += took;
                            if let Some(outcome) = outcome {
                                return Some(Ok((taken, outcome)));
                            }
                            rest = &rest[took..];
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
            None
        };
        let whole = run(&[wire]);
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(run(&bytes), whole, "one byte at a time");
        for at in (0..=wire.len()).step_by(1 + wire.len() / 500) {
            let (left, right) = wire.split_at(at);
            assert_eq!(run(&[left, right]), whole, "split at {at}");
        }
        whole
    }
}
