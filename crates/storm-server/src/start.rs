//! From a builder to a running server.

use std::sync::{Arc, Mutex};

use storm_core::Hub;
use storm_core::middleware::MiddlewareChain;
use storm_transport::{BindAddr, Families, Listener};
use tokio::sync::watch;

use crate::accept::{Endpoint, Phase, Served, Shared, accept_loop};
use crate::per_ip::PerIp;
use crate::proxied::Proxies;
use crate::slots::Slots;
use crate::{ServerHandle, ServerOptions, StartError};

/// Binds every address, then accepts on all of them. An error leaves nothing behind.
pub(crate) async fn start<E: Endpoint>(
    addrs: Vec<BindAddr>,
    options: &ServerOptions,
    middleware: MiddlewareChain,
    endpoint: E,
) -> Result<ServerHandle, StartError> {
    options.validate()?;
    let proxies = Proxies::parse(&options.proxy_protocol_from)?;
    #[cfg(feature = "tls")]
    let tls = match &options.tls {
        Some(tls) => Some(crate::secure::acceptor(tls.clone()).await?),
        None => None,
    };
    let mut listeners = Vec::with_capacity(addrs.len());
    // `[::]` takes IPv4 connections, too, but not away from a listener of IPv4 on the same port.
    let of_v4: Vec<u16> = addrs
        .iter()
        .filter_map(|addr| match addr {
            BindAddr::Ip(addr) if addr.is_ipv4() && addr.port() != 0 => Some(addr.port()),
            _ => None,
        })
        .collect();
    for addr in addrs {
        let families = match &addr {
            BindAddr::Ip(addr) if of_v4.contains(&addr.port()) => Families::V6Only,
            _ => Families::Both,
        };
        match Listener::bind(&addr, families, options.backlog, &options.socket).await {
            Ok(listener) => listeners.push(listener),
            Err(source) => return Err(StartError::Bind { addr, source }),
        }
    }
    let local_addrs = listeners.iter().filter_map(Listener::local_addr).collect();
    let endpoint = Arc::new(endpoint);
    let shared = Arc::new(Shared {
        hub: Hub::new(options.session.clone(), middleware)?,
        slots: Slots::new(options.max_connections),
        per_ip: PerIp::new(options),
        handshake_timeout: options.handshake_timeout,
        proxies,
        #[cfg(feature = "tls")]
        tls,
        endpoint: Mutex::new(Some(Arc::new(Served(endpoint.clone())))),
        phase: watch::channel(Phase::Running).0,
    });
    for _ in 0..tokio::runtime::Handle::current().metrics().num_workers() {
        tokio::spawn(shared.hub.deliver_broadcasts());
    }
    let listening = Slots::new(None);
    for listener in listeners {
        // A unix socket has no address of that kind.
        let addr = listener.local_addr().map(tracing::field::display);
        tracing::info!(target: "stormsocket::server", addr, "listening");
        let slot = listening.take().expect("these slots have no limit");
        tokio::spawn(accept_loop(listener, endpoint.clone(), shared.clone(), slot));
    }
    #[cfg(feature = "tls")]
    if let Some(interval) = options.tls.as_ref().and_then(|tls| tls.watch_files) {
        tokio::spawn(crate::secure::watch_files(endpoint, shared.clone(), interval));
    }
    Ok(ServerHandle::new(shared, listening, local_addrs))
}
