//! From a builder to a running server.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use storm_core::Hub;
use storm_core::middleware::MiddlewareChain;
use storm_transport::{BindAddr, Families, Listener, Listening};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::accept::accept_loop;
use crate::per_ip::PerIp;
use crate::proxied::Proxies;
use crate::shared::{Endpoint, Phase, Served, Shared};
use crate::slots::Slots;
use crate::worker::Worker;
use crate::workers::{Idle, Workers};
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
    let (workers, idle) = match options.worker_threads {
        Some(count) => Workers::new(count).map(|(workers, idle)| (Some(workers), Some(idle))),
        None => Ok((None, None)),
    }
    .map_err(StartError::Worker)?;
    let (listeners, local_addrs) = listen(addrs, options, workers.as_deref()).await?;
    let endpoint = Arc::new(endpoint);
    let shared = Arc::new(Shared {
        hub: Hub::new(options.session.clone(), middleware)?,
        slots: Slots::new(options.max_connections),
        listening: Slots::new(None),
        workers: workers.clone(),
        per_ip: PerIp::new(options),
        handshake_timeout: options.handshake_timeout,
        proxies,
        #[cfg(feature = "tls")]
        tls,
        endpoint: Mutex::new(Some(Arc::new(Served(endpoint.clone())))),
        phase: watch::channel(Phase::Running).0,
    });
    if let (Some(workers), Some(idle)) = (workers, idle) {
        run(&workers, idle, &shared).map_err(StartError::Worker)?;
        for worker in workers.iter() {
            worker.runtime.spawn(shared.hub.deliver_broadcasts());
        }
    } else {
        for _ in 0..Handle::current().metrics().num_workers() {
            tokio::spawn(shared.hub.deliver_broadcasts());
        }
    }
    for (listener, worker) in listeners {
        // A unix socket has no address of that kind.
        let addr = listener.local_addr().map(tracing::field::display);
        tracing::info!(target: "stormsocket::server", addr, "listening");
        let slot = shared.listening.take().expect("these slots have no limit");
        let runtime = worker.as_ref().map_or_else(Handle::current, |worker| worker.runtime.clone());
        runtime.spawn(accept_loop(listener, endpoint.clone(), shared.clone(), slot, worker));
    }
    #[cfg(feature = "tls")]
    if let Some(interval) = options.tls.as_ref().and_then(|tls| tls.watch_files) {
        tokio::spawn(crate::secure::watch_files(endpoint, shared.clone(), interval));
    }
    Ok(ServerHandle::new(shared, local_addrs))
}

/// A listener, and the worker that accepts on it if not all of them get what comes in.
type Placed = (Listener, Option<Arc<Worker>>);

/// Binds every address, with one socket for all workers or one for each; and the addresses by which they are reached.
async fn listen(
    addrs: Vec<BindAddr>,
    options: &ServerOptions,
    workers: Option<&Workers>,
) -> Result<(Vec<Placed>, Vec<SocketAddr>), StartError> {
    let (mut listeners, mut local_addrs) = (Vec::with_capacity(addrs.len()), Vec::new());
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
        let how = Listening {
            families,
            backlog: options.backlog,
            reuse_port: options.reuse_port,
            socket: &options.socket,
        };
        let bound = async {
            let listener = Listener::bind(&addr, how).await?;
            local_addrs.extend(listener.local_addr());
            share(listener, how, workers, &mut listeners)
        };
        bound.await.map_err(|source| StartError::Bind { addr, source })?;
    }
    Ok((listeners, local_addrs))
}

/// Gives each worker a listener on the same address, if the system spreads connections over several; else there is one for all.
fn share(
    listener: Listener,
    how: Listening<'_>,
    workers: Option<&Workers>,
    listeners: &mut Vec<Placed>,
) -> io::Result<()> {
    let Some(workers) = workers.filter(|_| listener.spreads_connections(how)) else {
        listeners.push((listener, None));
        return Ok(());
    };
    let mut accepting = workers.iter();
    let first = accepting.next().expect("there is at least one");
    for worker in accepting {
        let _inside = worker.runtime.enter();
        listeners.push((listener.sibling(how)?, Some(worker.clone())));
    }
    listeners.push((listener.moved_to(&first.runtime)?, Some(first.clone())));
    Ok(())
}

/// Starts the threads, which end with the server, or with the runtime this is called in.
fn run(workers: &Arc<Workers>, idle: Idle, shared: &Arc<Shared>) -> io::Result<()> {
    let cut_on_drop = workers.start(idle, || {
        let shared = shared.clone();
        async move {
            shared.over().await;
            if let Some(workers) = &shared.workers {
                workers.nobody_stays().await;
            }
        }
    })?;
    let workers = workers.clone();
    tokio::spawn(async move {
        workers.idle().await;
        drop(cut_on_drop);
    });
    Ok(())
}
