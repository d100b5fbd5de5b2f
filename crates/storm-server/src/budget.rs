//! The time between accept and session: one budget for all handshakes of a connection together.

use std::time::Instant;

use crate::accept::Shared;

/// Runs the handshakes of one connection within their budget, and counts how they end. `None` if there is to be no session.
pub(crate) async fn within_budget<T>(
    shared: &Shared,
    handshakes: impl Future<Output = Option<T>>,
) -> Option<T> {
    let began = Instant::now();
    tokio::select! {
        done = handshakes => {
            match &done {
                Some(_) => shared.hub.record_handshake(began.elapsed()),
                None => shared.hub.count_handshake_failure(false),
            }
            done
        }
        () = expiry(shared) => {
            shared.hub.count_handshake_failure(true);
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
