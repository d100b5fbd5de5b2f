//! Any answer of a server but the 101.
//!
//! Owns: the bytes of every refusal, and of the answer to a plain request.
//! In:   the application's choice of status, headers and body.
//! Out:  a whole response; nothing the application hands in can add lines to it.
//! Not here: which rule calls for which status (`request`).

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers::{self, Unfit};

/// Our own caller asked for an answer that must not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A subprotocol the client did not offer (RFC 6455 §4.2.2).
    #[error("subprotocol `{protocol}` was not offered")]
    ProtocolNotOffered {
        /// The subprotocol chosen.
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
    /// A reason phrase with characters that may not be there, such as line breaks.
    #[error("reason phrase is not valid")]
    InvalidReason,
}

/// An answer that cannot be sent becomes a 500 without a word to the peer; [`Reject::mistake`] has the error.
impl From<AnswerError> for Reject {
    fn from(error: AnswerError) -> Self {
        Self { mistake: Some(error), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR) }
    }
}

impl From<Unfit> for AnswerError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Invalid(name) => Self::InvalidHeader { name },
            Unfit::Reserved(name) => Self::ReservedHeader { name },
        }
    }
}

/// Adds a header of the application's to an answer.
pub(super) fn add_header(headers: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), AnswerError> {
    let (parsed, value) = headers::of_application(name, value)?;
    headers.try_append(parsed, value).map_err(|_| AnswerError::InvalidHeader { name: name.to_owned() })?;
    Ok(())
}

/// A final HTTP answer, after which the connection is closed.
///
/// ```
/// use storm_ws_proto::handshake::Reject;
/// use storm_ws_proto::http::StatusCode;
///
/// let answer = Reject::new(StatusCode::UNAUTHORIZED)
///     .header("WWW-Authenticate", "Bearer")?
///     .text("who are you?");
/// assert!(answer.to_bytes().starts_with(b"HTTP/1.1 401 Unauthorized\r\n"));
/// assert!(answer.reason("no\r\nSet-Cookie: a=b").is_err());
/// # Ok::<(), storm_ws_proto::handshake::AnswerError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    status: StatusCode,
    reason: Option<String>,
    headers: HeaderMap,
    body: Bytes,
    omits_body: bool,
    mistake: Option<AnswerError>,
}

impl Reject {
    /// An answer with this status and its standard reason, without a body. Also serves as the answer to
    /// a plain request: a status of 200 is fine. One below 200 is not final and becomes 500.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        let status = if status.is_informational() { StatusCode::INTERNAL_SERVER_ERROR } else { status };
        Self {
            status,
            reason: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            omits_body: false,
            mistake: None,
        }
    }

    /// Replaces the reason phrase.
    ///
    /// # Errors
    /// [`AnswerError::InvalidReason`] for anything but printable ASCII, spaces and tabs.
    pub fn reason(mut self, reason: &str) -> Result<Self, AnswerError> {
        if !reason.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
            return Err(AnswerError::InvalidReason);
        }
        self.reason = Some(reason.to_owned());
        Ok(self)
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`AnswerError::InvalidHeader`], [`AnswerError::ReservedHeader`].
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, AnswerError> {
        add_header(&mut self.headers, name, value.as_ref())?;
        Ok(self)
    }

    /// Sets the body; its type is a header of the caller's.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Leaves the body out, though not its length: the answer to a HEAD request (RFC 9110 §9.3.2).
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.omits_body = true;
        self
    }

    /// Sets a body of plain text.
    #[must_use]
    pub fn text(self, body: &str) -> Self {
        self.fixed(header::CONTENT_TYPE, "text/plain; charset=utf-8").body(body.to_owned())
    }

    /// Sets a header whose value is ours.
    pub(super) fn fixed(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// Why this is not the answer the application wanted, if it is made of an [`AnswerError`].
    #[must_use]
    pub fn mistake(&self) -> Option<&AnswerError> {
        self.mistake.as_ref()
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The whole response, with `Content-Length` and `Connection: close`.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(256 + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        let reason = self.reason.as_deref().or(self.status.canonical_reason()).unwrap_or_default();
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            headers::write(&mut out, name.as_str(), value.as_bytes());
        }
        // RFC 9110 §8.6, §6.4.1: these two have neither a length nor a body.
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless {
            headers::write(&mut out, "content-length", self.body.len().to_string().as_bytes());
        }
        // RFC 9110 §7.8: `Upgrade` is a hop-by-hop header and must be named in `Connection`.
        let upgrade = self.headers.contains_key(header::UPGRADE);
        headers::write(&mut out, "connection", if upgrade { b"upgrade, close" } else { b"close" });
        out.extend_from_slice(b"\r\n");
        if !bodiless && !self.omits_body {
            out.extend_from_slice(&self.body);
        }
        out.into()
    }
}
