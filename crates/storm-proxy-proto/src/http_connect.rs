//! A tunnel through an HTTP proxy (RFC 9110 §9.3.6).
//!
//! Owns: the head of the proxy's answer while it arrives.
//! In:   a target, maybe credentials; then bytes from the proxy.
//! Out:  the request; then "open", or the status the proxy refused with.
//! Not here: TLS to the proxy itself, other methods of authentication than Basic (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Step;
use crate::target::{Credentials, Target, TargetError};

/// Most bytes of the answer's head, interim ones included.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of one head.
pub const MAX_HEADERS: usize = 100;

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpConnectError {
    /// Not an HTTP/1 head.
    #[error("the proxy's answer is malformed")]
    Malformed,
    /// A head larger than [`MAX_HEAD`] or of more lines than [`MAX_HEADERS`].
    #[error("the head of the proxy's answer is too large")]
    TooLarge,
    /// The proxy refuses: 407 wants (other) credentials, 403 forbids the target, 502 and 504 cannot reach it.
    #[error("the proxy answered {status} {reason}")]
    Refused {
        /// The status.
        status: u16,
        /// The reason phrase, which may be empty.
        reason: String,
    },
}

/// The conversation with an HTTP proxy.
///
/// ```
/// use storm_proxy_proto::{HttpConnect, Step, Target};
///
/// let (mut connect, request) = HttpConnect::new(&Target::new("example.com", 443)?, None)?;
/// assert!(request.starts_with(b"CONNECT example.com:443 HTTP/1.1\r\n"));
/// let answer = b"HTTP/1.1 200 Connection established\r\n\r\nwhat the target says";
/// assert_eq!(connect.receive(answer)?, (answer.len() - 20, Step::Open));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HttpConnect {
    head: Vec<u8>,
    /// Bytes of interim answers, which are gone from `head`.
    skipped: usize,
    /// The line that is arriving has had another byte than CR.
    in_line: bool,
}

impl HttpConnect {
    /// The conversation about a tunnel to `target`, and the request it begins with.
    ///
    /// # Errors
    /// [`TargetError::InvalidCredentials`]: a colon in the user name, or control characters (RFC 7617 §2).
    pub fn new(target: &Target, credentials: Option<&Credentials>) -> Result<(Self, Vec<u8>), TargetError> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(Credentials { user, password }) = credentials {
            if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
                return Err(TargetError::InvalidCredentials);
            }
            request.push_str("Proxy-Authorization: Basic ");
            STANDARD.encode_string(format!("{user}:{password}"), &mut request);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Ok((Self { head: Vec::new(), skipped: 0, in_line: false }, request.into_bytes()))
    }

    /// Takes from `input` what belongs to the answer's head: how many bytes, and what is next.
    ///
    /// # Errors
    /// The proxy refuses, or answers something else than HTTP.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Step), HttpConnectError> {
        for (at, &byte) in input.iter().enumerate() {
            if self.skipped + self.head.len() == MAX_HEAD {
                return Err(HttpConnectError::TooLarge);
            }
            self.head.push(byte);
            // Whatever else it is, it is not HTTP: do not wait for the end of a head that never comes.
            if !self.head.starts_with(&b"HTTP/1."[..self.head.len().min(7)]) {
                return Err(HttpConnectError::Malformed);
            }
            let ends = byte == b'\n' && !self.in_line;
            self.in_line = if byte == b'\n' { false } else { self.in_line || byte != b'\r' };
            if ends && self.is_open()? {
                return Ok((at + 1, Step::Open));
            }
        }
        Ok((input.len(), Step::Read))
    }

    /// What a whole head says: open, or not yet.
    fn is_open(&mut self) -> Result<bool, HttpConnectError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut lines);
        match parsed.parse(&self.head) {
            Ok(httparse::Status::Complete(len)) if len == self.head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HttpConnectError::TooLarge),
            _ => return Err(HttpConnectError::Malformed),
        }
        match parsed.code {
            // RFC 9110 §9.3.6: any 2xx, and whatever length it announces, the tunnel follows the head.
            Some(200..=299) => Ok(true),
            // RFC 9110 §15.2: interim answers come before the one that counts. 101 would switch to who knows what.
            Some(status @ 100..=199) if status != 101 => {
                self.skipped += self.head.len();
                self.head.clear();
                Ok(false)
            }
            Some(status) => {
                let reason = parsed.reason.unwrap_or_default().to_owned();
                Err(HttpConnectError::Refused { status, reason })
            }
            None => Err(HttpConnectError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::every_way;

    fn target() -> Target {
        Target::new("example.com", 443).unwrap()
    }

    /// After how many bytes the tunnel is open.
    fn answered(wire: &[u8]) -> Option<Result<usize, HttpConnectError>> {
        let new = || HttpConnect::new(&target(), None).unwrap().0;
        let end = every_way(
            new,
            |connect, piece| {
                let (taken, step) = connect.receive(piece)?;
                Ok((taken, (step == Step::Open).then_some(())))
            },
            wire,
        );
        end.map(|end| end.map(|(taken, ())| taken))
    }

    fn error_of(wire: &[u8]) -> HttpConnectError {
        match answered(wire) {
            Some(Err(error)) => error,
            other => panic!("{}: {other:?}", wire.escape_ascii()),
        }
    }

    #[test]
    fn requests() {
        let (_, request) = HttpConnect::new(&target(), None).unwrap();
        assert_eq!(request, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n");
        let target = Target::new("::1", 80).unwrap();
        // RFC 7617 §2: the user "Aladdin" and the password "open sesame".
        let (_, request) =
            HttpConnect::new(&target, Some(&Credentials::new("Aladdin", "open sesame"))).unwrap();
        let expected = "CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\
                        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
        assert_eq!(request.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
        for (user, password) in [("a:b", "c"), ("a\r\nX: y", ""), ("a", "b\0")] {
            let error = HttpConnect::new(&target, Some(&Credentials::new(user, password))).unwrap_err();
            assert_eq!(error, TargetError::InvalidCredentials);
        }
    }

    #[test]
    fn any_2xx_opens_and_the_rest_is_the_targets() {
        for head in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200\r\n\r\n",
            "HTTP/1.1 299 \r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\nVia: bare line feeds\n\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let wire = [head.as_bytes(), b"\r\n\r\nSSH-2.0-x\r\n\r\n"].concat();
            assert_eq!(answered(&wire), Some(Ok(head.len())), "{head}");
            assert_eq!(answered(&head.as_bytes()[..head.len() - 1]), None);
        }
    }

    #[test]
    fn refusals_carry_their_status() {
        for (line, status, reason) in [
            ("407 Proxy Authentication Required", 407, "Proxy Authentication Required"),
            ("502", 502, ""),
            ("302 Found", 302, "Found"),
            ("101 Switching Protocols", 101, "Switching Protocols"),
        ] {
            let error = error_of(format!("HTTP/1.1 {line}\r\nX: y\r\n\r\nbody").as_bytes());
            assert_eq!(error, HttpConnectError::Refused { status, reason: reason.to_owned() });
        }
    }

    #[test]
    fn garbage_ends_at_its_first_byte_and_endless_heads_at_the_limit() {
        for wire in
            ["SSH-2.0", "\r\n", "HTTP/2", "HTTQ", "\x05\x00", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1\r\n\r\n"]
        {
            assert_eq!(error_of(wire.as_bytes()), HttpConnectError::Malformed, "{wire}");
        }
        let filler = |lines: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(lines));
        assert!(matches!(answered(filler(MAX_HEADERS).as_bytes()), Some(Ok(_))));
        let new = || HttpConnect::new(&target(), None).unwrap().0;
        assert_eq!(new().receive(filler(MAX_HEADERS + 1).as_bytes()), Err(HttpConnectError::TooLarge));
        let long = format!("HTTP/1.1 200 {}", "x".repeat(MAX_HEAD));
        let mut connect = new();
        assert_eq!(connect.receive(&long.as_bytes()[..MAX_HEAD]), Ok((MAX_HEAD, Step::Read)));
        assert_eq!(connect.receive(b"y"), Err(HttpConnectError::TooLarge));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1 + MAX_HEAD / 25);
        assert_eq!(new().receive(interim.as_bytes()), Err(HttpConnectError::TooLarge));
    }
}
