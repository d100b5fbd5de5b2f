//! The upgrade as a client asks for it (RFC 6455 §4.1).
//!
//! Owns: the request, what it offered, and the response while it arrives.
//! In:   a URI, subprotocols, headers, 16 random bytes; then bytes from the wire.
//! Out:  the request's bytes; then what was agreed, or why not with the server's status and headers.
//! Not here: resolving, connecting, TLS, following redirects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{StatusCode, Uri};

use super::headers::{self, Count, Deflate, Unfit};
use super::{HeadLimits, HeadScanner, accept_key};
#[cfg(feature = "deflate")]
use crate::deflate::{DeflateOptions, DeflateParams};
use crate::extension::is_token;

/// Our own caller asked for a request that must not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not a `ws://` or `wss://` URI with a host; or its port is no number of 16 bits.
    #[error("uri is not a websocket uri with a host, and a valid port if any")]
    InvalidUri,
    /// A subprotocol that is no token, or is there twice.
    #[error("subprotocol `{protocol}` is not valid or repeated")]
    InvalidProtocol {
        /// The subprotocol as given.
        protocol: String,
    },
    /// A header name or value with characters that may not be there, such as line breaks.
    #[error("header `{name}` is not valid")]
    InvalidHeader {
        /// The name as given.
        name: String,
    },
    /// A header the handshake writes itself.
    #[error("header {name} is written by the handshake")]
    ReservedHeader {
        /// The name in lower case.
        name: HeaderName,
    },
}

/// The server's answer is not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// Not an HTTP/1.1 head.
    #[error("response head is malformed")]
    Malformed,
    /// More bytes than [`HeadLimits::max_bytes`].
    #[error("response head is larger than {max} bytes")]
    HeadTooLarge {
        /// The limit.
        max: usize,
    },
    /// More lines than [`HeadLimits::max_headers`].
    #[error("response has more than {max} headers")]
    TooManyHeaders {
        /// The limit.
        max: usize,
    },
    /// Another status than 101: the server refuses, redirects or does not know the protocol.
    #[error("server answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// All headers as received.
        headers: Box<HeaderMap>,
        /// Length of the head, and of interim answers in front of it: the body begins here in what was received.
        body_at: usize,
    },
    /// `Upgrade` is not `websocket`.
    #[error("response lacks upgrade: websocket")]
    UpgradeMissing {
        /// All headers as received.
        headers: Box<HeaderMap>,
    },
    /// `Connection` lacks the token `upgrade`.
    #[error("response lacks connection: upgrade")]
    ConnectionMissing {
        /// All headers as received.
        headers: Box<HeaderMap>,
    },
    /// `Sec-WebSocket-Accept` is missing, repeated or for another key.
    #[error("accept key does not match")]
    AcceptMismatch {
        /// All headers as received.
        headers: Box<HeaderMap>,
    },
    /// A subprotocol that was not offered, or more than one.
    #[error("server chose a subprotocol that was not offered")]
    InvalidProtocol {
        /// All headers as received.
        headers: Box<HeaderMap>,
    },
    /// An extension that was not offered, or parameters that do not answer the offer.
    #[error("server chose extensions that do not answer the offer")]
    InvalidExtensions {
        /// All headers as received.
        headers: Box<HeaderMap>,
    },
}

impl ResponseError {
    /// The server's status, if it sent a head: 101 when only something else in it is wrong.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Malformed | Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => None,
            Self::Status { status, .. } => Some(*status),
            _ => Some(StatusCode::SWITCHING_PROTOCOLS),
        }
    }

    /// The server's headers, if it sent a head.
    #[must_use]
    pub fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Malformed | Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => None,
            Self::Status { headers, .. }
            | Self::UpgradeMissing { headers }
            | Self::ConnectionMissing { headers }
            | Self::AcceptMismatch { headers }
            | Self::InvalidProtocol { headers }
            | Self::InvalidExtensions { headers } => Some(headers),
        }
    }
}

impl From<Unfit> for RequestError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Invalid(name) => Self::InvalidHeader { name },
            Unfit::Reserved(name) => Self::ReservedHeader { name },
        }
    }
}

fn invalid(name: &str) -> RequestError {
    RequestError::InvalidHeader { name: name.to_owned() }
}

/// An upgrade request in the making.
///
/// ```
/// use storm_ws_proto::handshake::{ClientRequest, HeadLimits};
///
/// let request = ClientRequest::new(&"ws://server.example.com:8080/chat".parse().unwrap())?
///     .protocol("chat")?
///     .header("Authorization", "Bearer abc")?;
/// let (bytes, handshake) = request.encode(*b"the sample nonce", HeadLimits::default());
/// assert!(bytes.starts_with(b"GET /chat HTTP/1.1\r\nHost: server.example.com:8080\r\n"));
/// # let _ = handshake;
/// # Ok::<(), storm_ws_proto::handshake::RequestError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ClientRequest {
    host: String,
    target: String,
    protocols: Vec<String>,
    headers: HeaderMap,
    deflate: Deflate,
}

impl ClientRequest {
    /// A request for this `ws://` or `wss://` URI. A fragment is left out (RFC 6455 §3), and so are user name and password.
    /// Characters beyond ASCII in path and query are escaped (RFC 3986 §2.1).
    ///
    /// # Errors
    /// [`RequestError::InvalidUri`].
    pub fn new(uri: &Uri) -> Result<Self, RequestError> {
        let default_port = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("ws") => 80,
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") => 443,
            _ => return Err(RequestError::InvalidUri),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(RequestError::InvalidUri)?;
        check_port(uri)?;
        // RFC 6455 §4.1: the port stands in `Host` unless it is the scheme's own.
        let host = match uri.port_u16() {
            Some(port) if port != default_port => format!("{host}:{port}"),
            _ => host.to_owned(),
        };
        let target = escaped(uri.path_and_query().map_or("/", |target| target.as_str()));
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Ok(Self { host, target, protocols: Vec::new(), headers: HeaderMap::new(), deflate: None })
    }

    /// Offers a subprotocol; the first offered is the most wanted.
    ///
    /// # Errors
    /// [`RequestError::InvalidProtocol`].
    pub fn protocol(mut self, protocol: impl Into<String>) -> Result<Self, RequestError> {
        let protocol = protocol.into();
        if !is_token(protocol.as_bytes()) || self.protocols.contains(&protocol) {
            return Err(RequestError::InvalidProtocol { protocol });
        }
        self.protocols.push(protocol);
        Ok(self)
    }

    /// Adds a header; those of the same name stay.
    ///
    /// # Errors
    /// [`RequestError::InvalidHeader`], [`RequestError::ReservedHeader`].
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, RequestError> {
        let (name, value) = headers::of_application(name, value.as_ref())?;
        self.headers.try_append(&name, value).map_err(|_| invalid(name.as_str()))?;
        Ok(self)
    }

    /// Sets a header, in place of all of the same name.
    ///
    /// ```
    /// use storm_ws_proto::handshake::{ClientRequest, RequestError};
    ///
    /// fn renew(request: ClientRequest, token: &str) -> Result<ClientRequest, RequestError> {
    ///     request.set_header("Authorization", format!("Bearer {token}"))
    /// }
    /// ```
    ///
    /// # Errors
    /// [`RequestError::InvalidHeader`], [`RequestError::ReservedHeader`].
    pub fn set_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, RequestError> {
        let (name, value) = headers::of_application(name, value.as_ref())?;
        self.headers.try_insert(&name, value).map_err(|_| invalid(name.as_str()))?;
        Ok(self)
    }

    /// Path and query, as they stand in the request line.
    ///
    /// ```
    /// use storm_ws_proto::handshake::ClientRequest;
    ///
    /// let request = ClientRequest::new(&"ws://example.com?room=1".parse()?)?;
    /// assert_eq!(request.target(), "/?room=1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The headers of the application so far.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Offers permessage-deflate.
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn deflate(mut self, options: DeflateOptions) -> Self {
        self.deflate = Some(options);
        self
    }

    /// The request's bytes, and what reads the response to it. `nonce` must be random and fresh for
    /// each connection (RFC 6455 §4.1).
    #[must_use]
    pub fn encode(&self, nonce: [u8; 16], limits: HeadLimits) -> (Bytes, ClientHandshake) {
        let key = STANDARD.encode(nonce);
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        headers::write(&mut out, "Host", self.host.as_bytes());
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        headers::write(&mut out, "Sec-WebSocket-Key", key.as_bytes());
        if !self.protocols.is_empty() {
            headers::write(&mut out, "Sec-WebSocket-Protocol", self.protocols.join(", ").as_bytes());
        }
        #[cfg(feature = "deflate")]
        if let Some(options) = &self.deflate {
            headers::write(&mut out, "Sec-WebSocket-Extensions", crate::deflate::offer(options).as_bytes());
        }
        for (name, value) in &self.headers {
            headers::write(&mut out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        let handshake = ClientHandshake {
            accept: accept_key(key.as_bytes()),
            protocols: self.protocols.clone(),
            deflate: self.deflate,
            limits,
            scanner: HeadScanner::default(),
            interim: 0,
        };
        (out.into(), handshake)
    }
}

/// Refuses a port that is no number of 16 bits: to `Uri` that is one without a port, and the scheme's own would be taken.
fn check_port(uri: &Uri) -> Result<(), RequestError> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    match authority.rsplit_once(':') {
        // The last colon of an address in brackets is no port's, nor is one in front of a password.
        Some((_, port)) if !port.is_empty() && !port.contains([']', '@']) && uri.port().is_none() => {
            Err(RequestError::InvalidUri)
        }
        _ => Ok(()),
    }
}

/// With what is not ASCII in the form URIs have it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match char::from(byte) {
            ascii if ascii.is_ascii() => out.push(ascii),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An upgrade that was agreed. What follows the head are frames.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Connected {
    /// All headers of the response.
    pub headers: HeaderMap,
    /// The subprotocol in use.
    pub protocol: Option<String>,
    /// The compression in use.
    #[cfg(feature = "deflate")]
    pub deflate: Option<DeflateParams>,
}

/// Waits for the response to one request.
#[derive(Debug)]
pub struct ClientHandshake {
    accept: String,
    protocols: Vec<String>,
    deflate: Deflate,
    limits: HeadLimits,
    scanner: HeadScanner,
    /// Bytes of interim answers, in front of the head that counts.
    interim: usize,
}

impl ClientHandshake {
    /// Reads the head at the start of `received`, which holds everything received so far; `None` until
    /// it is whole. With it comes its length, that of interim answers (100, 103) in front of it included.
    ///
    /// # Errors
    /// What is wrong with the response, once its head is whole or certainly none.
    pub fn read(&mut self, received: &[u8]) -> Result<Option<(Connected, usize)>, ResponseError> {
        let max = self.limits.max_bytes;
        loop {
            let head = received.get(self.interim..received.len().min(max)).unwrap_or_default();
            if head.first().is_some_and(|first| *first != b'H' && *first != b'\r') {
                return Err(ResponseError::Malformed);
            }
            let end = match self.scanner.find_end(head) {
                Err(_) => return Err(ResponseError::Malformed),
                Ok(Some(end)) => end,
                Ok(None) if received.len() >= max => return Err(ResponseError::HeadTooLarge { max }),
                Ok(None) => return Ok(None),
            };
            let (status, headers) = self.parse(&head[..end])?;
            let len = self.interim + end;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return self.check(headers).map(|connected| Some((connected, len)));
            }
            // RFC 9110 §15.2: interim answers may come before the one that counts.
            if !status.is_informational() {
                return Err(ResponseError::Status { status, headers: Box::new(headers), body_at: len });
            }
            self.interim = len;
            self.scanner = HeadScanner::default();
        }
    }

    /// RFC 6455 §4.1: what the client must verify.
    fn check(&self, headers: HeaderMap) -> Result<Connected, ResponseError> {
        let boxed = || Box::new(headers.clone());
        if !headers::has_token(&headers, &header::UPGRADE, "websocket") {
            return Err(ResponseError::UpgradeMissing { headers: boxed() });
        }
        if !headers::has_token(&headers, &header::CONNECTION, "upgrade") {
            return Err(ResponseError::ConnectionMissing { headers: boxed() });
        }
        match headers::count(&headers, &header::SEC_WEBSOCKET_ACCEPT) {
            Count::One(accept) if accept == self.accept.as_str() => {}
            _ => return Err(ResponseError::AcceptMismatch { headers: boxed() }),
        }
        let protocol = match headers::count(&headers, &header::SEC_WEBSOCKET_PROTOCOL) {
            Count::None => None,
            Count::One(value) => self.protocols.iter().find(|&offered| value == offered.as_str()).cloned(),
            Count::Many => None,
        };
        if protocol.is_none() && headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Err(ResponseError::InvalidProtocol { headers: boxed() });
        }
        let Ok(extensions) = headers::extensions(&headers) else {
            return Err(ResponseError::InvalidExtensions { headers: boxed() });
        };
        #[cfg(feature = "deflate")]
        let deflate = match (&extensions[..], &self.deflate) {
            ([], _) => None,
            ([answer], Some(options)) => match crate::deflate::check_response(answer, options) {
                Some(params) => Some(params),
                None => return Err(ResponseError::InvalidExtensions { headers: boxed() }),
            },
            _ => return Err(ResponseError::InvalidExtensions { headers: boxed() }),
        };
        #[cfg(not(feature = "deflate"))]
        if !extensions.is_empty() {
            debug_assert!(self.deflate.is_none());
            return Err(ResponseError::InvalidExtensions { headers: boxed() });
        }
        Ok(Connected {
            headers,
            protocol,
            #[cfg(feature = "deflate")]
            deflate,
        })
    }

    fn parse(&self, head: &[u8]) -> Result<(StatusCode, HeaderMap), ResponseError> {
        let mut lines = headers::room(head, self.limits.max_headers);
        let mut parsed = httparse::Response::new(&mut lines);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ResponseError::TooManyHeaders { max: self.limits.max_headers });
            }
            _ => return Err(ResponseError::Malformed),
        }
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let headers = headers::read(parsed.headers);
        // An HTTP/1.0 server cannot upgrade; any of its other answers is still worth reporting.
        match (status, headers, parsed.version) {
            (Some(StatusCode::SWITCHING_PROTOCOLS), _, Some(0)) => Err(ResponseError::Malformed),
            (Some(status), Some(headers), _) => Ok((status, headers)),
            _ => Err(ResponseError::Malformed),
        }
    }
}
