//! The time between accept and session: one budget for all handshakes of a connection together.

use std::pin::Pin;
use std::time::Instant;

use storm_core::metrics::HandshakeFailure;

use crate::accept::{Phase, Shared};

/// Runs the handshakes of one connection within their budget, and counts how they end: an answered HTTP request is
/// `Err(None)`. `None` if there is to be no session. (By reference: a future that is handed over is kept twice.)
pub(crate) async fn within_budget<T>(
    shared: &Shared,
    handshakes: Pin<&mut impl Future<Output = Result<T, Option<HandshakeFailure>>>>,
) -> Option<T> {
    let began = Instant::now();
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
                shared.hub.count_handshake_failure(failure);
            }
            None
        }
    }
}

/// Completes when the budget is used up.
async fn expiry(shared: &Shared) {
    match shared.handshake_timeout {
        Some(budget) => tokio::time::sleep(budget).await,
        None => std::future::pending().await,
    }
}
