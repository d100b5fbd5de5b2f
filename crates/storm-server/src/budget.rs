//! The time between accept and session: one budget for all handshakes of a connection together.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Instant;

use storm_core::metrics::HandshakeFailure;
use tracing::{Instrument, info_span};

use crate::shared::{Phase, Shared};

/// How handshakes end that make no session.
pub(crate) struct Ended<'a> {
    /// What it counts as; `None` is an answered HTTP request.
    failure: Option<HandshakeFailure>,
    /// What the peer still gets, where it is to get something: within the budget, but whatever becomes of that, the end is as it is.
    farewell: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
}

#[cfg(any(feature = "ws", feature = "tls"))]
impl<'a> Ended<'a> {
    pub(crate) fn with_farewell(
        failure: Option<HandshakeFailure>,
        farewell: impl Future<Output = ()> + Send + 'a,
    ) -> Self {
        Self { failure, farewell: Some(Box::pin(farewell)) }
    }
}

impl From<HandshakeFailure> for Ended<'_> {
    fn from(failure: HandshakeFailure) -> Self {
        Self { failure: Some(failure), farewell: None }
    }
}

/// Runs the handshakes of one connection, with `remote`, within their budget, and counts how they end. `None` if there is to
/// be no session.
///
/// They are boxed, and gone before anything of the connection is allocated, which then takes their place: else ten
/// thousand handshakes would leave ten thousand holes. For the same reason this is to be boxed, too ([`Stages`](crate::stages::Stages)).
pub(crate) async fn within_budget<'a, T>(
    shared: &'a Shared,
    remote: Option<SocketAddr>,
    handshakes: Pin<Box<impl Future<Output = Result<T, Ended<'a>>>>>,
) -> Option<T> {
    let began = Instant::now();
    let peer = remote.map(tracing::field::display);
    let handshakes = handshakes.instrument(info_span!(target: "stormsocket::handshake", "handshake", peer));
    let mut expiry = pin!(expiry(shared));
    let done = tokio::select! {
        done = handshakes => done,
        () = &mut expiry => Err(HandshakeFailure::Timeout.into()),
        () = shared.reached(Phase::Cutting) => Err(HandshakeFailure::Stopping.into()),
    };
    let Ended { failure, farewell } = match done {
        Ok(done) => {
            shared.hub.record_handshake(began.elapsed());
            return Some(done);
        }
        Err(ended) => ended,
    };
    if let Some(failure) = failure {
        shared.hub.count_handshake_failure(failure, remote);
    }
    if let Some(farewell) = farewell {
        tokio::select! {
            () = farewell => {}
            () = &mut expiry => {}
            () = shared.reached(Phase::Cutting) => {}
        }
    }
    None
}

/// Completes when the budget is used up.
async fn expiry(shared: &Shared) {
    match shared.handshake_timeout {
        Some(budget) => tokio::time::sleep(budget).await,
        None => std::future::pending().await,
    }
}
