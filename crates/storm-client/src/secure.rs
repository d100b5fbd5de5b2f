//! TLS between connecting and whatever comes next.
//!
//! In: open streams. Out: the same, encrypted, with what is known of the peer; or the error that says what is wrong with it. Not
//! here: the handshake itself (`storm_transport::tls`), the time it may take (`supervise`).

use storm_core::Peer;
use storm_transport::tls::{ClientTlsOptions, TlsConfigError, TlsConnector, TlsFailure};
use storm_transport::{ConnectAddr, Stream};

use crate::ConnectError;

/// A connector for the server at `host`; files, and the system's roots, are read where that holds up nobody.
pub(crate) async fn connector(
    options: ClientTlsOptions,
    host: Option<String>,
) -> Result<TlsConnector, TlsConfigError> {
    match tokio::task::spawn_blocking(move || TlsConnector::new(&options, host.as_deref())).await {
        Ok(connector) => connector,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// The host that `addr` names, for verification; a unix socket has none.
pub(crate) fn host_of(addr: &ConnectAddr) -> Option<String> {
    match addr {
        ConnectAddr::Name(name) => Some(name.rsplit_once(':').map_or(&**name, |(host, _)| host).to_owned()),
        ConnectAddr::Ip(addr) => Some(addr.ip().to_string()),
        _ => None,
    }
}

/// Performs the TLS handshake, if the client speaks TLS.
pub(crate) async fn secure(
    stream: Stream,
    mut peer: Peer,
    tls: Option<&TlsConnector>,
) -> Result<(Stream, Peer), ConnectError> {
    let Some(tls) = tls else { return Ok((stream, peer)) };
    match tls.connect(stream).await {
        Ok((stream, info)) => {
            peer.tls = Some(info);
            Ok((stream, peer))
        }
        Err(TlsFailure::Tls(error, _)) => Err(ConnectError::Tls(error)),
        Err(TlsFailure::Io(error)) => Err(ConnectError::Io(error)),
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into()),
    }
}
