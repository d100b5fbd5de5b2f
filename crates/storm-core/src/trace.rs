//! What is logged: through `tracing`, with targets and levels that do not change when code moves.
//!
//! | target | level | what |
//! |---|---|---|
//! | `stormsocket::connection` | INFO | span `connection` around everything a session's task does, handlers included: `id`, `peer`, `role`, `protocol` |
//! | | DEBUG | `connected`; `disconnected` with `reason` and `uptime_ms` |
//! | `stormsocket::error` | ERROR | a handler or hook failed or panicked; certificates could not be read again |
//! | | WARN | accepting failed; connecting failed; a transport failed in an unusual way |
//! | | DEBUG | the peer broke the protocol; TLS failed, or an upgrade hook chose what was not offered |
//! | `stormsocket::handshake` | INFO | span `handshake` around TLS and the upgrade, hooks included: `peer` |
//! | | DEBUG | a handshake made no session, and no error has said so: `kind`, `peer` |
//! | `stormsocket::accept` | DEBUG | a socket above a limit was closed: `limit`, `peer` |
//! | `stormsocket::server` | INFO | `listening`, `stopping`, `stopped` with its report |
//! | `stormsocket::client` | DEBUG | `reconnecting` with `attempt` and `delay_ms`; an attempt failed as networks have it, with `error` |
//! | | INFO | gave up, with the `error` of the last attempt |
//!
//! What strangers can bring about at will is DEBUG. What `on_error` is told is `stormsocket::error`, once; whoever logs it
//! there turns this target off. Payloads are never logged, and nothing is per message.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::{Level, Span, debug, error, event_enabled, info, info_span, warn};

use crate::error::Chain;
use crate::metrics::{HandshakeFailure, Kind, Limit};
use crate::{Error, ErrorKind, Role, Session};

pin_project! {
    /// The future of a connection within its span, if anybody listens: nobody pays for the span of nobody.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct Traced<F> {
        #[pin]
        connection: F,
        span: Option<Box<Span>>,
    }
}

/// Runs `connection`, which is `session`'s, in a span of its own. `protocol` is what it speaks: `tcp`, `ws`; over TLS that is
/// `tcp+tls`, `wss`.
pub fn traced<F>(session: &Session, protocol: &'static str, connection: F) -> Traced<F> {
    let span = info_span!(
        target: "stormsocket::connection",
        "connection",
        id = session.id().get(),
        peer = session.remote_addr().map(tracing::field::display),
        role = match session.role() {
            Role::Server => "server",
            Role::Client => "client",
        },
        protocol = secure(session, protocol),
    );
    span.in_scope(|| debug!(target: "stormsocket::connection", id = session.id().get(), "connected"));
    Traced { connection, span: (!span.is_disabled()).then(|| Box::new(span)) }
}

#[cfg(feature = "tls")]
fn secure(session: &Session, protocol: &'static str) -> &'static str {
    match (session.tls(), protocol) {
        (None, protocol) => protocol,
        (Some(_), "ws") => "wss",
        (Some(_), _) => "tcp+tls",
    }
}

#[cfg(not(feature = "tls"))]
const fn secure(_: &Session, protocol: &'static str) -> &'static str {
    protocol
}

impl<F: Future> Future for Traced<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.as_ref().map(|span| span.enter());
        this.connection.poll(cx)
    }
}

pub(crate) fn disconnected(session: &Session) {
    if event_enabled!(target: "stormsocket::connection", Level::DEBUG) {
        let reason = session.disconnect_reason().map(tracing::field::display);
        let uptime = session.metrics().uptime.as_millis();
        debug!(
            target: "stormsocket::connection",
            id = session.id().get(),
            reason,
            uptime_ms = u64::try_from(uptime).unwrap_or(u64::MAX),
            "disconnected"
        );
    }
}

/// An error that `on_error` is told of.
pub(crate) fn reported(error: &Error) {
    let cause = tracing::field::display(Chain(error.cause()));
    match error.kind() {
        ErrorKind::Handler | ErrorKind::Panic | ErrorKind::Certificate => {
            error!(target: "stormsocket::error", cause, "{error}");
        }
        ErrorKind::Transport | ErrorKind::Accept | ErrorKind::Connect => {
            warn!(target: "stormsocket::error", cause, "{error}");
        }
        ErrorKind::Protocol | ErrorKind::Handshake => debug!(target: "stormsocket::error", cause, "{error}"),
    }
}

/// An attempt to connect that failed as networks have it: nobody else is told.
pub fn attempt_failed(error: &Error) {
    debug!(target: "stormsocket::client", error = %Chain(error.cause()), "an attempt failed");
}

/// A client that makes no more attempts, and the error of the last one.
pub fn gave_up(error: &Error) {
    info!(target: "stormsocket::client", error = %Chain(error.cause()), "gave up");
}

pub(crate) fn handshake_failed(failure: HandshakeFailure, peer: Option<SocketAddr>) {
    // Those are reported as errors, too, and told as such.
    if matches!(failure, HandshakeFailure::Tls | HandshakeFailure::HookFailed) {
        return;
    }
    let peer = peer.map(tracing::field::display);
    debug!(target: "stormsocket::handshake", kind = failure.label(), peer, "a handshake made no session");
}

pub(crate) fn refused(limit: Limit, peer: Option<SocketAddr>) {
    let peer = peer.map(tracing::field::display);
    debug!(target: "stormsocket::accept", limit = limit.label(), peer, "a socket above a limit was closed");
}
