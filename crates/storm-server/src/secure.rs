//! TLS between accept and whatever comes next, and certificates that change while the server runs.
//!
//! In: accepted streams. Out: the same, encrypted, with what is known of the peer; or what it counts as that there is no session to
//! be. Not here: the handshake itself (`storm_transport::tls`), the time it may take (`budget`).

use std::sync::Arc;
use std::time::Duration;

use storm_core::metrics::HandshakeFailure;
use storm_core::{Error, ErrorKind, Peer};
use storm_transport::Stream;
use storm_transport::tls::{TlsAcceptor, TlsConfigError, TlsFailure, TlsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::budget::Ended;
use crate::shared::{Endpoint, Phase, Shared, report};

/// How long the peer of a failed handshake has to read why: unread bytes of its own would turn the end into a reset, which may
/// overtake the alert.
const LINGER: Duration = Duration::from_secs(1);

/// An acceptor; files are read where that holds up nobody.
pub(crate) async fn acceptor(options: TlsOptions) -> Result<Arc<TlsAcceptor>, TlsConfigError> {
    blocking(move || TlsAcceptor::new(options)).await.map(Arc::new)
}

/// Runs what reads files.
pub(crate) async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(read).await {
        Ok(output) => output,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// Performs the TLS handshake, if the server speaks TLS.
pub(crate) async fn secure<'a, E: Endpoint>(
    stream: Stream,
    mut peer: Peer,
    shared: &'a Shared,
    endpoint: &E,
) -> Result<(Stream, Peer), Ended<'a>> {
    let Some(tls) = &shared.tls else { return Ok((stream, peer)) };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        // In the middle of it there is no answer that the peer could read.
        () = shared.reached(Phase::Stopping) => return Err(HandshakeFailure::Stopping.into()),
    };
    match accepted {
        Ok((stream, info)) => {
            peer.tls = Some(info);
            Ok((stream, peer))
        }
        Err(TlsFailure::Tls(error, mut stream)) => {
            report(endpoint, &shared.hub, &Error::new(ErrorKind::Handshake, error)).await;
            Err(Ended::with_farewell(Some(HandshakeFailure::Tls), async move {
                tokio::select! {
                    () = shared.reached(Phase::Stopping) => {}
                    _ = tokio::time::timeout(LINGER, linger(&mut stream)) => {}
                }
            }))
        }
        Err(_) => Err(HandshakeFailure::Disconnected.into()),
    }
}

/// Ends our stream, then reads and throws away until the peer ends its own.
async fn linger(stream: &mut Stream) {
    let mut rest = [0; 1024];
    if stream.shutdown().await.is_ok() {
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}

/// Loads certificates, keys and roots again when their files have changed, until the server stops.
pub(crate) async fn watch_files<E: Endpoint>(endpoint: Arc<E>, shared: Arc<Shared>, interval: Duration) {
    let Some(tls) = shared.tls.clone() else { return };
    let look = || {
        let tls = tls.clone();
        blocking(move || tls.files())
    };
    let mut before = look().await;
    loop {
        tokio::select! {
            () = shared.reached(Phase::Stopping) => return,
            () = tokio::time::sleep(interval) => {}
        }
        let now = look().await;
        // Whoever writes several files, or a long one, is done when nothing has changed from one look to the next. What could not
        // be used is not read again until something changes.
        if now != tls.files_read() && now == before {
            let tls = tls.clone();
            if let Err(error) = blocking(move || tls.reload()).await {
                report(&*endpoint, &shared.hub, &Error::new(ErrorKind::Certificate, error)).await;
            }
        }
        before = now;
    }
}
