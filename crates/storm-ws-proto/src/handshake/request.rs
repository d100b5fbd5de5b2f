//! The upgrade request as a server reads it (RFC 6455 §4.2.1).
//!
//! Owns: the head while it arrives, and every rule a request can break.
//! In:   bytes from the start of the connection.
//! Out:  a [`Request`]; from it an [`Upgrade`] to answer, or the error with its HTTP status.
//! Not here: writing the answer (`response`), who may connect (`origin` and the application).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Uri};

use super::headers::{self, Count};
use super::reject::Reject;
use super::{HeadLimits, HeadScanner, accept_key};
use crate::extension::{Extension, is_token};

/// Why a request is refused. [`status`](Self::status) and [`reject`](Self::reject) say with what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not an HTTP/1.1 head (RFC 9112 §2).
    #[error("request head is malformed")]
    Malformed,
    /// Another version than HTTP/1.1 (RFC 6455 §4.2.1), or than 1.0 where no upgrade is asked for.
    #[error("http version is not 1.1")]
    UnsupportedVersion,
    /// More bytes than [`HeadLimits::max_bytes`].
    #[error("request head is larger than {max} bytes")]
    HeadTooLarge {
        /// The limit.
        max: usize,
    },
    /// More lines than [`HeadLimits::max_headers`].
    #[error("request has more than {max} headers")]
    TooManyHeaders {
        /// The limit.
        max: usize,
    },
    /// Another method than GET (RFC 6455 §4.1).
    #[error("method {method} is not GET")]
    MethodNotAllowed {
        /// The method seen.
        method: Method,
    },
    /// A target that is neither a path nor an absolute URI.
    #[error("request target is not a path")]
    InvalidTarget,
    /// `Host` is missing, repeated or not a host (RFC 9112 §3.2).
    #[error("request needs exactly one valid host header")]
    InvalidHost,
    /// The request announces a body, which a reader of frames would take for frames.
    #[error("request announces a body")]
    BodyNotAllowed,
    /// `Upgrade` does not ask for `websocket`.
    #[error("request does not ask to upgrade to websocket")]
    NotUpgrade,
    /// `Connection` does not have the token `upgrade`.
    #[error("connection header lacks the upgrade token")]
    ConnectionNotUpgrade,
    /// Another `Sec-WebSocket-Version` than 13, or none.
    #[error("websocket version is not 13")]
    UnsupportedWebSocketVersion,
    /// `Sec-WebSocket-Key` is missing, repeated or not 16 bytes in base64.
    #[error("websocket key is not 16 bytes in base64")]
    InvalidKey,
    /// A header that must stand once stands twice.
    #[error("header {name} is repeated")]
    RepeatedHeader {
        /// The header's name in lower case.
        name: &'static str,
    },
    /// `Sec-WebSocket-Protocol` is not a list of distinct tokens.
    #[error("offered subprotocols are malformed")]
    InvalidProtocols,
    /// `Sec-WebSocket-Extensions` does not follow its grammar (RFC 6455 §9.1).
    #[error("offered extensions are malformed")]
    InvalidExtensions,
    /// The origin is not on the list.
    #[error("origin is not allowed")]
    OriginNotAllowed,
}

impl HandshakeError {
    /// The HTTP status to answer with. The one place where rules map to statuses.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotUpgrade | Self::UnsupportedWebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::OriginNotAllowed => StatusCode::FORBIDDEN,
            Self::Malformed
            | Self::InvalidTarget
            | Self::InvalidHost
            | Self::BodyNotAllowed
            | Self::ConnectionNotUpgrade
            | Self::InvalidKey
            | Self::RepeatedHeader { .. }
            | Self::InvalidProtocols
            | Self::InvalidExtensions => StatusCode::BAD_REQUEST,
        }
    }

    /// The answer to send before closing the connection, with the headers its status calls for.
    #[must_use]
    pub fn reject(&self) -> Reject {
        let reject = Reject::new(self.status()).text(&format!("{self}\n"));
        match self {
            Self::MethodNotAllowed { .. } => reject.fixed(header::ALLOW, "GET"),
            // RFC 9110 §15.5.22: 426 names the protocol; RFC 6455 §4.4: and the version we speak.
            Self::NotUpgrade | Self::UnsupportedWebSocketVersion => {
                reject.fixed(header::UPGRADE, "websocket").fixed(header::SEC_WEBSOCKET_VERSION, "13")
            }
            _ => reject,
        }
    }
}

/// Collects the request head. Parsing waits for its end, so the work is linear however it arrives.
///
/// ```
/// use storm_ws_proto::handshake::{Accept, HeadLimits, RequestReader};
///
/// let wire = b"GET /chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
///              Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
///              Sec-WebSocket-Version: 13\r\n\r\n";
/// let mut reader = RequestReader::new(HeadLimits::default());
/// assert!(reader.read(&wire[..40])?.is_none());
/// let (request, taken) = reader.read(wire)?.unwrap();
/// assert_eq!((request.path(), request.query(), taken), ("/chat", Some("room=1"), wire.len()));
///
/// let upgrade = request.upgrade()?;
/// let accepted = upgrade.accept(&Accept::new()).unwrap();
/// assert!(accepted.response.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
/// # Ok::<(), storm_ws_proto::handshake::HandshakeError>(())
/// ```
#[derive(Debug)]
pub struct RequestReader {
    limits: HeadLimits,
    scanner: HeadScanner,
}

impl RequestReader {
    /// A reader for one request.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, scanner: HeadScanner::default() }
    }

    /// Reads the head at the start of `received`, which holds everything received so far; `None` until
    /// it is whole. With it comes its length: what follows is already frames.
    ///
    /// # Errors
    /// The first rule of HTTP the request breaks, as soon as that is known. Rules of the upgrade are
    /// checked by [`Request::upgrade`].
    pub fn read(&mut self, received: &[u8]) -> Result<Option<(Request, usize)>, HandshakeError> {
        let max = self.limits.max_bytes;
        let visible = &received[..received.len().min(max)];
        // TLS on a plain port and other binary protocols need not fill the buffer to be refused.
        if visible.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r') {
            return Err(HandshakeError::Malformed);
        }
        match self.scanner.find_end(visible) {
            Err(_) => Err(HandshakeError::Malformed),
            Ok(Some(end)) => {
                Request::parse(&received[..end], self.limits).map(|request| Some((request, end)))
            }
            Ok(None) if received.len() >= max => Err(HandshakeError::HeadTooLarge { max }),
            Ok(None) => Ok(None),
        }
    }
}

/// A whole and valid GET or HEAD request without a body. It need not be an upgrade, and may be of HTTP/1.0 then, as health
/// checks and some proxies still are.
#[derive(Debug, Clone)]
pub struct Request {
    is_head: bool,
    is_http_1_0: bool,
    target: PathAndQuery,
    headers: HeaderMap,
}

impl Request {
    fn parse(head: &[u8], limits: HeadLimits) -> Result<Self, HandshakeError> {
        let mut lines = headers::room(head, limits.max_headers);
        let mut parsed = httparse::Request::new(&mut lines);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Ok(_) => return Err(HandshakeError::Malformed),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(HandshakeError::TooManyHeaders { max: limits.max_headers });
            }
            Err(httparse::Error::Version) => return Err(HandshakeError::UnsupportedVersion),
            Err(_) => return Err(HandshakeError::Malformed),
        }
        let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
            .map_err(|_| HandshakeError::Malformed)?;
        let is_http_1_0 = parsed.version == Some(0);
        let is_head = method == Method::HEAD;
        if method != Method::GET && !is_head {
            return Err(HandshakeError::MethodNotAllowed { method });
        }
        let target = target(parsed.path.unwrap_or_default()).ok_or(HandshakeError::InvalidTarget)?;
        let headers = headers::read(parsed.headers).ok_or(HandshakeError::Malformed)?;
        let request = Self { is_head, is_http_1_0, target, headers };
        if is_http_1_0 && request.wants_websocket() {
            return Err(HandshakeError::UnsupportedVersion);
        }
        request.check_host()?;
        request.check_no_body()?;
        Ok(request)
    }

    /// A request that another HTTP stack has read, with its body or without: from here on it is checked as one of ours.
    ///
    /// ```
    /// use storm_ws_proto::handshake::{Accept, Request};
    /// use storm_ws_proto::http;
    ///
    /// let request = http::Request::get("/chat")
    ///     .header("host", "server.example.com")
    ///     .header("upgrade", "websocket")
    ///     .header("connection", "upgrade")
    ///     .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    ///     .header("sec-websocket-version", "13")
    ///     .body(())?;
    /// let accepted = Request::from_http(&request)?.upgrade()?.accept(&Accept::new())?;
    /// assert_eq!(accepted.to_http().headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first rule of HTTP, as far as upgrades need it, that the request breaks.
    pub fn from_http<B>(request: &http::Request<B>) -> Result<Self, HandshakeError> {
        if request.version() != http::Version::HTTP_11 {
            return Err(HandshakeError::UnsupportedVersion);
        }
        if request.method() != Method::GET {
            return Err(HandshakeError::MethodNotAllowed { method: request.method().clone() });
        }
        let target = request.uri().path_and_query().cloned().ok_or(HandshakeError::InvalidTarget)?;
        let headers = request.headers().clone();
        let request = Self { is_head: false, is_http_1_0: false, target, headers };
        request.check_host()?;
        request.check_no_body()?;
        Ok(request)
    }

    /// RFC 9112 §3.2: exactly one, and valid; no user name belongs there. HTTP/1.0 does without.
    fn check_host(&self) -> Result<(), HandshakeError> {
        let host = match headers::count(&self.headers, &header::HOST) {
            Count::One(host) => host,
            Count::None if self.is_http_1_0 => return Ok(()),
            _ => return Err(HandshakeError::InvalidHost),
        };
        match Authority::try_from(host.as_bytes()) {
            Ok(authority) if !authority.as_str().contains('@') => Ok(()),
            _ => Err(HandshakeError::InvalidHost),
        }
    }

    fn check_no_body(&self) -> Result<(), HandshakeError> {
        if self.headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(HandshakeError::BodyNotAllowed);
        }
        match headers::count(&self.headers, &header::CONTENT_LENGTH) {
            Count::None => Ok(()),
            Count::One(value) if value == "0" => Ok(()),
            _ => Err(HandshakeError::BodyNotAllowed),
        }
    }

    /// Whether it is a HEAD request: the answer is that to a GET, [without its body](Reject::without_body) (RFC 9110
    /// §9.3.2).
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// The path, `/` at least.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// What follows the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// All headers as received.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the request asks for WebSocket, however badly. A plain GET does not, and may be answered
    /// by an HTTP fallback ([`Reject`] writes any answer).
    #[must_use]
    pub fn wants_websocket(&self) -> bool {
        headers::has_token(&self.headers, &header::UPGRADE, "websocket")
    }

    /// Checks the rules of the upgrade.
    ///
    /// # Errors
    /// The first rule the request breaks.
    pub fn upgrade(self) -> Result<Upgrade, HandshakeError> {
        let headers = &self.headers;
        if self.is_http_1_0 {
            return Err(HandshakeError::UnsupportedVersion);
        }
        if !self.wants_websocket() {
            return Err(HandshakeError::NotUpgrade);
        }
        if self.is_head {
            return Err(HandshakeError::MethodNotAllowed { method: Method::HEAD });
        }
        // RFC 9110 §7.6.1: tokens, so `Upgraded` and `X-Upgrade` are others.
        if !headers::has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(HandshakeError::ConnectionNotUpgrade);
        }
        match headers::count(headers, &header::SEC_WEBSOCKET_VERSION) {
            Count::One(version) if version == "13" => {}
            Count::Many => {
                return Err(HandshakeError::RepeatedHeader { name: "sec-websocket-version" });
            }
            _ => return Err(HandshakeError::UnsupportedWebSocketVersion),
        }
        if let Count::Many = headers::count(headers, &header::ORIGIN) {
            return Err(HandshakeError::RepeatedHeader { name: "origin" });
        }
        let Count::One(key) = headers::count(headers, &header::SEC_WEBSOCKET_KEY) else {
            return Err(HandshakeError::InvalidKey);
        };
        // RFC 6455 §4.2.1: 16 bytes once decoded.
        let mut nonce = [0; 18];
        if !STANDARD.decode_slice(key.as_bytes(), &mut nonce).is_ok_and(|len| len == 16) {
            return Err(HandshakeError::InvalidKey);
        }
        let accept = accept_key(key.as_bytes());
        let protocols = protocols(headers)?;
        let extensions = headers::extensions(headers).map_err(|_| HandshakeError::InvalidExtensions)?;
        Ok(Upgrade { request: self, accept, protocols, extensions })
    }
}

/// The path and query of an origin-form or absolute-form target (RFC 9112 §3.2).
fn target(text: &str) -> Option<PathAndQuery> {
    // RFC 6455 §3: no fragment.
    if text.contains('#') {
        return None;
    }
    if text.starts_with('/') {
        return text.parse().ok();
    }
    let uri: Uri = text.parse().ok()?;
    uri.scheme()?;
    uri.path_and_query().cloned().filter(|target| target.as_str().starts_with('/'))
}

/// RFC 6455 §4.1: tokens in order of preference, each once.
fn protocols(headers: &HeaderMap) -> Result<Vec<String>, HandshakeError> {
    let mut protocols: Vec<String> = Vec::new();
    for element in headers::list(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
        let protocol = std::str::from_utf8(element).map_err(|_| HandshakeError::InvalidProtocols)?;
        if !is_token(element) || protocols.iter().any(|known| known == protocol) {
            return Err(HandshakeError::InvalidProtocols);
        }
        protocols.push(protocol.to_owned());
    }
    Ok(protocols)
}

/// A valid upgrade request, waiting for its answer.
#[derive(Debug, Clone)]
pub struct Upgrade {
    request: Request,
    pub(super) accept: String,
    pub(super) protocols: Vec<String>,
    #[cfg_attr(
        not(feature = "deflate"),
        expect(dead_code, reason = "no extension is spoken without the feature")
    )]
    pub(super) extensions: Vec<Extension>,
}

impl Upgrade {
    /// The path, `/` at least.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// What follows the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.request.query()
    }

    /// All headers as received.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The subprotocols offered, most wanted first.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Checks the request's origin.
    ///
    /// # Errors
    /// [`HandshakeError::OriginNotAllowed`].
    pub fn check_origin(&self, allowed: &super::OriginList) -> Result<(), HandshakeError> {
        if allowed.allows_headers(self.headers()) { Ok(()) } else { Err(HandshakeError::OriginNotAllowed) }
    }
}
