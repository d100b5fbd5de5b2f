//! What TLS costs while idle, and that handshakes which fail leave nothing behind. One test, so that nothing else allocates.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "an allocator that counts")]

mod support;
mod tls_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::*;
use tls_support::*;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Counts what is allocated at the moment.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to our contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated() -> usize {
    NOW.load(Ordering::Relaxed)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

const SESSIONS: usize = 200;
const FAILURES: u64 = 10_000;

/// Bytes that one idle connection to the server at `addr` costs, its client's included.
async fn cost(ca: &Ca, addr: std::net::SocketAddr, arrived: impl Fn() -> usize) -> usize {
    let config = client_config(ca, rustls::ALL_VERSIONS);
    // Whatever is made once is there after the first ones.
    let mut peers = Vec::with_capacity(2 * SESSIONS);
    for _ in 0..SESSIONS {
        peers.push(tls_peer_with(addr, config.clone(), "localhost").await.unwrap());
    }
    until(|| arrived() == SESSIONS).await;
    let before = allocated();
    for _ in 0..SESSIONS {
        peers.push(tls_peer_with(addr, config.clone(), "localhost").await.unwrap());
    }
    until(|| arrived() == 2 * SESSIONS).await;
    (allocated() - before) / SESSIONS
}

#[tokio::test]
async fn idle_sessions_and_thousands_of_failed_handshakes() {
    let ca = Ca::new();
    let issued = ca.issue(&["localhost"]);

    // The least a loop over tokio_rustls can hold: no buffer of its own.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&issued)));
    let bare = tokio::spawn({
        let arrived = arrived.clone();
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, arrived) = (acceptor.clone(), arrived.clone());
                tokio::spawn(async move {
                    let mut stream = Box::new(acceptor.accept(stream).await.unwrap());
                    arrived.fetch_add(1, Ordering::Relaxed);
                    while stream.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {}
                });
            }
        }
    });
    let bare_cost = cost(&ca, addr, || arrived.load(Ordering::Relaxed)).await;
    bare.abort();

    let server = local_server().tls(issued.options()).start().await.unwrap();
    let addr = addr_of(&server);
    let our_cost = cost(&ca, addr, || server.sessions().len()).await;
    until(|| server.connections() == 0).await;
    let above = our_cost.saturating_sub(bare_cost);
    println!("idle: {our_cost} bytes here and at the client, {bare_cost} with the bare loop");
    assert!(above <= 6 * 1024, "{above} bytes above the bare loop's {bare_cost}");

    // What a failed handshake leaves behind, it leaves each time.
    let (mut memory, mut open) = (0, 0);
    for attempt in 0..FAILURES {
        let mut peer = Peer::connect(addr).await;
        match attempt % 3 {
            0 => peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await,
            1 => peer.send(&[22, 3, 1, 2, 0, 1, 0]).await,
            _ => {}
        }
        drop(peer);
        if attempt == 499 {
            until(|| server.connections() == 0).await;
            (memory, open) = (allocated(), descriptors());
        }
    }
    until(|| server.connections() == 0).await;
    let grown = allocated().saturating_sub(memory);
    assert!(grown < 64 * 1024, "{grown} bytes more after {FAILURES} failures");
    assert!(descriptors() <= open, "{} descriptors, {open} before", descriptors());
    assert_eq!(server.metrics().handshake_failures, FAILURES);
    assert_eq!(server.metrics().total_connections, 2 * SESSIONS as u64);
    // And it still serves.
    tls_peer(addr, &ca).await;
    stop(&server).await;
}
