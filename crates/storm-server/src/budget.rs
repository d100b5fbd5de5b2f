//! The time between accept and session: one budget for all handshakes of a connection together.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use storm_core::Peer;
use storm_core::metrics::HandshakeFailure;
use storm_transport::Stream;
use tracing::{Instrument, info_span};

use crate::accept::{Endpoint, Phase, Shared};
use crate::proxied::client_of;
#[cfg(feature = "tls")]
use crate::secure::secure;

/// Runs the handshakes of one connection, with `remote`, within their budget, and counts how they end: an answered HTTP request is
/// `Err(None)`. `None` if there is to be no session.
///
/// They are boxed, and gone before anything of the connection is allocated, which then takes their place: else ten
/// thousand handshakes would leave ten thousand holes. For the same reason this is to be boxed, too ([`Stages`](crate::stages::Stages)).
pub(crate) async fn within_budget<T>(
    shared: &Shared,
    remote: Option<SocketAddr>,
    handshakes: Pin<Box<impl Future<Output = Result<T, Option<HandshakeFailure>>>>>,
) -> Option<T> {
    let began = Instant::now();
    let peer = remote.map(tracing::field::display);
    let handshakes = handshakes.instrument(info_span!(target: "stormsocket::handshake", "handshake", peer));
    let done = tokio::select! {
        done = handshakes => done,
        () = expiry(shared) => Err(Some(HandshakeFailure::Timeout)),
        () = shared.reached(Phase::Cutting) => Err(Some(HandshakeFailure::Stopping)),
    };
    match done {
        Ok(done) => {
            shared.hub.record_handshake(began.elapsed());
            Some(done)
        }
        Err(failure) => {
            if let Some(failure) = failure {
                shared.hub.count_handshake_failure(failure, remote);
            }
            None
        }
    }
}

/// What comes before any protocol of ours: the PROXY header of a peer that must send one, then TLS.
pub(crate) async fn prepare<E: Endpoint>(
    mut stream: Stream,
    remote: Option<SocketAddr>,
    shared: &Shared,
    endpoint: &E,
) -> Result<(Stream, Peer), Option<HandshakeFailure>> {
    let peer = Peer::from(client_of(&mut stream, remote, shared).await?);
    #[cfg(feature = "tls")]
    return secure(stream, peer, shared, endpoint).await;
    #[cfg(not(feature = "tls"))]
    {
        let _ = endpoint;
        Ok((stream, peer))
    }
}

/// Completes when the budget is used up.
async fn expiry(shared: &Shared) {
    match shared.handshake_timeout {
        Some(budget) => tokio::time::sleep(budget).await,
        None => std::future::pending().await,
    }
}
