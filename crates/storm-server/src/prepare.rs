//! What comes before any protocol of ours: the PROXY header of a peer that must send one, then TLS.

use std::net::SocketAddr;

use storm_core::Peer;
use storm_core::metrics::HandshakeFailure;
use storm_transport::Stream;

use crate::budget::Ended;
use crate::proxied::client_of;
#[cfg(feature = "tls")]
use crate::secure::secure;
use crate::shared::{Endpoint, Phase, Shared};

/// Has `stream` be the client's own, whose address is known: no header in front of it, and decrypted.
pub(crate) async fn prepare<'a, E: Endpoint>(
    mut stream: Stream,
    remote: Option<SocketAddr>,
    shared: &'a Shared,
    endpoint: &E,
) -> Result<(Stream, Peer), Ended<'a>> {
    let client = tokio::select! {
        biased;
        client = client_of(&mut stream, remote, &shared.proxies) => client?,
        () = shared.reached(Phase::Stopping) => return Err(HandshakeFailure::Stopping.into()),
    };
    let peer = Peer::from(client);
    #[cfg(feature = "tls")]
    return secure(stream, peer, shared, endpoint).await;
    #[cfg(not(feature = "tls"))]
    {
        let _ = endpoint;
        Ok((stream, peer))
    }
}
