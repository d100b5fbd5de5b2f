//! The HTTP/1.1 upgrade, both roles (RFC 6455 §4).
//!
//! Owns: what the two roles share: limits, the accept key, the end of a head.
//! In:   bytes from the wire.
//! Out:  to `request` (what a server reads), `response` (what a server writes), `client` (both for a
//! client), `origin` (whom a browser may come from).
//! Not here: frames; the deadline of the handshake (the caller's).

mod client;
mod headers;
mod origin;
mod reject;
mod request;
mod response;

pub use client::{ClientHandshake, ClientRequest, Connected, RequestError, ResponseError};
pub use origin::{InvalidOrigin, OriginList};
pub use reject::{AnswerError, Reject};
pub use request::{HandshakeError, Request, RequestReader, Upgrade};
pub use response::{Accept, Accepted};

pub use crate::extension::is_token;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// What a peer may send before the upgrade is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadLimits {
    /// Bytes of a request or response head, its final empty line included; interim answers (100, 103) in front of it count. Default
    /// 16 KiB. A server answers 431 to more.
    pub max_bytes: usize,
    /// Header lines. Default 100. A server answers 431 to more.
    pub max_headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_bytes: 16 * 1024, max_headers: 100 }
    }
}

impl HeadLimits {
    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`max_headers`](Self::max_headers).
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.max_headers = headers;
        self
    }
}

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
fn accept_key(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Looks for the empty line that ends a head; each byte is looked at once however they arrive.
#[derive(Debug, Default)]
struct HeadScanner {
    /// Bytes looked at.
    seen: usize,
    /// Where the line began that `seen` is in.
    line_start: usize,
}

/// A line feed without its carriage return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BareLineFeed;

impl HeadScanner {
    /// The head's length including the empty line, once it is there. `head` must start with what was
    /// given before.
    fn find_end(&mut self, head: &[u8]) -> Result<Option<usize>, BareLineFeed> {
        while let Some(at) =
            head.get(self.seen..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n'))
        {
            let line = &head[self.line_start..self.seen + at];
            self.seen += at + 1;
            // Bare line feeds are where HTTP parsers disagree; nobody who speaks WebSocket sends them.
            if line.last() != Some(&b'\r') {
                return Err(BareLineFeed);
            }
            let is_first = self.line_start == 0;
            self.line_start = self.seen;
            // RFC 9112 §2.2: empty lines before the start line are skipped; one is enough for us.
            if line.len() == 1 && !is_first {
                return Ok(Some(self.seen));
            }
        }
        self.seen = head.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6455_section_1_3_accept_key() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn end_of_head_one_byte_at_a_time() {
        let head = b"\r\nGET / HTTP/1.1\r\na: b\r\n\r\nrest";
        let mut scanner = HeadScanner::default();
        let found = (0..=head.len()).find_map(|n| scanner.find_end(&head[..n]).unwrap());
        assert_eq!(found, Some(head.len() - 4));
        assert_eq!(HeadScanner::default().find_end(head), Ok(Some(head.len() - 4)));
    }

    #[test]
    fn bare_line_feeds() {
        assert_eq!(HeadScanner::default().find_end(b"GET / HTTP/1.1\na: b\r\n\r\n"), Err(BareLineFeed));
        assert_eq!(HeadScanner::default().find_end(b"\n"), Err(BareLineFeed));
    }
}
