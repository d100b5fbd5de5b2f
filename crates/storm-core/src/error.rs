//! Errors, sorted by whose fault they are.

use std::sync::Arc;

use crate::DisconnectReason;

/// Any error a handler, a middleware or a codec may return.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a message was not sent. None of its bytes are on the wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The session is closing or closed, for this reason if one is known yet.
    #[error("the session is closed{}", .0.map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Closed(Option<DisconnectReason>),
    /// There is no room, and the caller does not wait: a control message, say, or one for a client whose queue is full.
    #[error("there is no room for the message")]
    Full,
    /// The message is larger than the framer or the protocol can carry; or, of a client that would send it again over its next
    /// connection, than its whole [`SendBudget`](crate::SendBudget).
    #[error("a message of {len} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Bytes of payload.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A text payload is not UTF-8.
    #[error("a text message must be utf-8")]
    InvalidUtf8,
    /// A middleware's sending hook panicked, which ends the session; its `on_error` hears of it.
    #[error("a middleware panicked over the message")]
    Panicked,
    /// The protocol has no such message.
    #[error("the protocol has no such message")]
    Unsupported,
    /// The framer or codec refused the message.
    #[error("the message could not be encoded")]
    Encode(#[source] BoxError),
}

/// A builder was given values that do not go together. Nothing was started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is outside its range.
    #[error("{option}: {problem}")]
    Invalid {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl ConfigError {
    /// An option and what is wrong with its value.
    pub const fn new(option: &'static str, problem: &'static str) -> Self {
        Self::Invalid { option, problem }
    }
}

/// Something that needs a person: what `on_error` gets. Cheap to clone.
///
/// `{}` says where it comes from, and no more; `{:#}` says the cause, too, and the cause's, down to the first one. Causes
/// often say little by themselves: that a server refused a client's upgrade, say, and one further down with which status.
///
/// ```
/// use std::io;
/// use storm_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Handler, io::Error::other("the database is away"));
/// assert_eq!(format!("{error}"), "a handler failed");
/// assert_eq!(format!("{error:#}"), "a handler failed: the database is away");
/// ```
///
/// Ends that networks bring (reset, broken pipe, refused, aborted) are [`DisconnectReason`]s, not errors.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    source: BoxError,
}

/// Where an [`Error`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A handler or a middleware returned an error. The session goes on.
    Handler,
    /// A handler or a middleware panicked. The session ends.
    Panic,
    /// The peer, or the installed framer, broke the protocol. The session ends.
    Protocol,
    /// The transport failed in a way that networks do not bring about by themselves.
    Transport,
    /// Accepting a connection failed; the server goes on.
    Accept,
    /// A handshake failed; there is no session.
    Handshake,
    /// Changed certificates cannot be used; the server goes on with those it has.
    Certificate,
    /// A connection attempt of a client failed.
    Connect,
}

impl Error {
    /// An error of `kind`, caused by `source`.
    pub fn new(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self(Arc::new(Inner { kind, source: source.into() }))
    }

    /// Where it comes from.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The cause, for a downcast. To print it, print the error as `{:#}`.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self.0.source.as_ref()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0.kind {
            ErrorKind::Handler => "a handler failed",
            ErrorKind::Panic => "a handler panicked",
            ErrorKind::Protocol => "the protocol was broken",
            ErrorKind::Transport => "the transport failed",
            ErrorKind::Accept => "accepting a connection failed",
            ErrorKind::Handshake => "a handshake failed",
            ErrorKind::Certificate => "certificates could not be reloaded",
            ErrorKind::Connect => "connecting failed",
        })?;
        if f.alternate() {
            write!(f, ": {}", Chain(self.cause()))?;
        }
        Ok(())
    }
}

/// An error and its sources, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.source.as_ref())
    }
}

/// The text a panic was raised with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PanicMessage(String);

impl PanicMessage {
    /// Reads the payload that `catch_unwind` returned.
    pub fn from_payload(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "a panic without a message".to_owned()))
    }
}
