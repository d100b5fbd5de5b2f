//! From a name to a connection: lookups, several addresses, one budget for all of it.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stormsocket::{
    AddressesFailed, ConnectError, ConnectionState, DelimiterFramer, ErrorKind, HeartbeatOptions,
    LookupFailed, ReconnectOptions, SendError, Session, TcpClient, WsClient, WsServer,
};
use support::*;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// An address that answers nothing: a listener whose queue is full. Dead as long as it is held.
struct Dead {
    addr: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Dead {
    async fn new(at: &str) -> io::Result<Self> {
        let addr: SocketAddr = at.parse().expect("an address");
        let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.bind(addr)?;
        let listener = socket.listen(1)?;
        let addr = listener.local_addr()?;
        let mut queued = Vec::new();
        // Until one is not answered any more.
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(addr)).await
        {
            queued.push(connected?);
            assert!(queued.len() < 1000, "the queue has no end");
        }
        Ok(Self { addr, _listener: listener, _queued: queued })
    }

    /// On IPv6, where there is one.
    async fn v6() -> Self {
        match Self::new("[::1]:0").await {
            Ok(dead) => dead,
            Err(_) => Self::new("127.0.0.1:0").await.expect("a listener"),
        }
    }
}

/// A port nobody listens on.
async fn closed(at: &str) -> SocketAddr {
    match TcpListener::bind(at).await {
        Ok(listener) => listener.local_addr().expect("bound"),
        // No such family here: refused in another way.
        Err(_) => "[::1]:1".parse().expect("an address"),
    }
}

fn says(
    addrs: &[SocketAddr],
) -> impl Fn(String, u16) -> std::future::Ready<io::Result<Vec<SocketAddr>>> + use<> {
    let addrs = addrs.to_vec();
    move |_, _| std::future::ready(Ok(addrs.clone()))
}

#[tokio::test]
async fn a_dead_ipv6_address_costs_one_delay_and_not_the_budget() {
    let dead = Dead::v6().await;
    let server = local_server().start().await.expect("it starts");
    let live = addr_of(&server);
    let began = Instant::now();
    let client = TcpClient::new("both.test:80").resolver(says(&[dead.addr, live])).connect();
    let client = soon(client).await.expect("the live one takes it");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250), "{took:?}: the first one was not given its time");
    assert!(took < Duration::from_secs(5), "{took:?} of 10 s");
    assert_eq!(client.session().remote_addr(), Some(live));
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_websocket_client_gets_there_too_and_asks_for_the_name() {
    let dead = Dead::v6().await;
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|request| async move {
            assert_eq!(request.headers()["host"], "both.test:8080");
            Ok(stormsocket::Accept::new())
        })
        .start()
        .await
        .expect("it starts");
    let (asked, live) = (Arc::new(AtomicUsize::new(0)), addr_of(&server));
    let (count, dead_addr) = (asked.clone(), dead.addr);
    let client = WsClient::new("ws://both.test:8080/")
        .connection_attempt_delay(Duration::from_millis(20))
        .resolver(move |host, port| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_eq!((host.as_str(), port), ("both.test", 8080));
                Ok(vec![dead_addr, live])
            }
        })
        .connect();
    let client = soon(client).await.expect("the live one takes it");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_refused_address_starts_the_next_at_once() {
    let server = local_server().start().await.expect("it starts");
    let addrs = [closed("[::1]:0").await, closed("127.0.0.1:0").await, addr_of(&server)];
    let client =
        TcpClient::new("both.test:80").connection_attempt_delay(None).resolver(says(&addrs)).connect();
    let client = soon(client).await.expect("the last one takes it");
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn when_all_fail_the_error_names_each() {
    let addrs = [closed("127.0.0.1:0").await, closed("[::1]:0").await, closed("127.0.0.1:0").await];
    let client = TcpClient::new("none.test:80").resolver(says(&addrs)).connect();
    let error = soon(client).await.expect_err("nobody listens");
    let ConnectError::Io(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let attempts = AddressesFailed::of(&error).expect("it was a name").attempts();
    let mut tried: Vec<_> = attempts.iter().map(|(addr, _)| *addr).collect();
    let mut addrs = addrs.to_vec();
    tried.sort();
    addrs.sort();
    assert_eq!(tried, addrs);
    let text = error.to_string();
    assert!(addrs.iter().all(|addr| text.contains(&addr.to_string())), "{text}");
}

#[tokio::test]
async fn the_budget_bounds_the_lookup_and_dead_addresses_alike() {
    let budget = Duration::from_millis(200);
    let client = TcpClient::new("slow.test:80")
        .connect_timeout(budget)
        .resolver(|_, _| std::future::pending::<io::Result<Vec<SocketAddr>>>())
        .connect();
    let error = soon(client).await.expect_err("it never resolves");
    assert!(matches!(error, ConnectError::TimedOut(after) if after == budget), "{error:?}");

    let dead = [Dead::v6().await, Dead::new("127.0.0.1:0").await.expect("a listener")];
    let client = WsClient::new("ws://dead.test/")
        .connect_timeout(budget)
        .connection_attempt_delay(Duration::from_millis(10))
        .resolver(says(&[dead[0].addr, dead[1].addr]))
        .connect();
    let error = soon(client).await.expect_err("nobody answers");
    assert!(matches!(error, ConnectError::TimedOut(after) if after == budget), "{error:?}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_the_resolvers_error() {
    let client = TcpClient::new("gone.test:80")
        .resolver(|_, _| async { Err(io::Error::new(io::ErrorKind::NotFound, "NXDOMAIN")) })
        .connect();
    let ConnectError::Io(error) = soon(client).await.expect_err("no such name") else { panic!("not io") };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let source = std::error::Error::source(&error).expect("the resolver's");
    assert_eq!(source.to_string(), "NXDOMAIN");
    assert!(LookupFailed::of(&error).is_some() && AddressesFailed::of(&error).is_none());
    let client = TcpClient::new("empty.test:80").resolver(says(&[])).connect();
    let ConnectError::Io(error) = soon(client).await.expect_err("no address") else { panic!("not io") };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(AddressesFailed::of(&error).is_some_and(|failed| failed.attempts().is_empty()));
    for name in ["no-port", "host:port", "host:70000", ":80"] {
        let ConnectError::Io(error) = soon(TcpClient::new(name).connect()).await.expect_err(name) else {
            panic!("not io")
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}

#[tokio::test]
async fn a_resolver_that_panics_fails_its_attempt_and_no_more() {
    let resolver = |_, _| async { panic!("no such luck") };
    let client = TcpClient::new("some.test:80").resolver(resolver).connect();
    let error = soon(client).await.expect_err("no address");
    assert!(matches!(&error, ConnectError::Panic(panic) if panic.to_string().contains("luck")), "{error:?}");

    let (recorder, mut log) = recorder();
    let server = local_server().start().await.expect("it starts");
    let (addr, asked) = (addr_of(&server), AtomicUsize::new(0));
    let client = TcpClient::new("some.test:80")
        .resolver(move |_, _| {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                assert!(first, "once is enough");
                Ok(vec![addr])
            }
        })
        .reconnect(
            ReconnectOptions::default()
                .delay(Duration::from_millis(1))
                .max_attempts(2)
                .max_queued_bytes(1024),
        )
        .handler(recorder)
        .connect();
    let client = soon(client).await.expect("it connects");
    log.connected().await.abort();
    log.disconnected().await;
    // Waits for a connection there will not be.
    let queued = soon(client.send("x")).await;
    assert!(matches!(queued, Err(SendError::Closed(_))), "{queued:?}");
    for _ in 0..2 {
        assert_eq!(log.error().await, ErrorKind::Connect);
    }
    soon(client.closed()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    stop(&server).await;
}

#[tokio::test]
async fn each_attempt_looks_the_name_up_anew() {
    let (recorder, mut log) = recorder();
    let first = local_server().handler(recorder).start().await.expect("it starts");
    let second = local_server()
        .framer(DelimiterFramer::default())
        .on_connected(|session: Session| async move { session.send("second").await })
        .start()
        .await
        .expect("it starts");
    let addrs = [addr_of(&first), addr_of(&second)];
    let asked = AtomicUsize::new(0);
    let (told, mut came) = tokio::sync::mpsc::unbounded_channel();
    let client = TcpClient::new("moving.test:80")
        .framer(DelimiterFramer::default())
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .resolver(move |_, _| {
            std::future::ready(Ok(vec![addrs[asked.fetch_add(1, Ordering::Relaxed).min(1)]]))
        })
        .on_data(move |_, line| std::future::ready(told.send(line)))
        .connect();
    let client = soon(client).await.expect("the first one takes it");
    log.connected().await.abort();
    assert_eq!(soon(came.recv()).await.as_deref(), Some(&b"second"[..]));
    soon(client.disconnect()).await;
    stop(&first).await;
    stop(&second).await;
}

#[tokio::test]
async fn delays_outside_of_the_standards_range_are_refused() {
    for millis in [0, 9, 2001] {
        let client = TcpClient::new("127.0.0.1:1").connection_attempt_delay(Duration::from_millis(millis));
        let error = client.connect().await.expect_err("refused");
        assert!(matches!(error, ConnectError::Config(_)), "{millis}: {error:?}");
    }
}

#[tokio::test]
async fn a_client_may_have_all_the_time_there_is() {
    let server = WsServer::bind("127.0.0.1:0").start().await.expect("it starts");
    let client = WsClient::new(format!("ws://{}/", addr_of(&server)))
        .connect_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .close_deadline(Duration::MAX)
        .heartbeat(HeartbeatOptions::default().interval(Duration::MAX))
        .reconnect(ReconnectOptions::default().delay(Duration::MAX))
        .connect();
    let client = soon(client).await.expect("it is there");
    client.session().abort();
    until(|| client.state() == ConnectionState::Connecting).await;
    soon(client.disconnect()).await;
    soon(server.shutdown(Duration::MAX)).await;
}

#[tokio::test]
async fn names_that_cannot_be_looked_up_while_reconnecting_are_nothing_to_look_at() {
    let (recorder, mut log) = recorder();
    let server = local_server().start().await.expect("it starts");
    let (addr, asked) = (addr_of(&server), AtomicUsize::new(0));
    let client = TcpClient::new("some.test:80")
        .resolver(move |_, _| {
            let answer = match asked.fetch_add(1, Ordering::Relaxed) {
                1 => Err(io::Error::new(io::ErrorKind::NotFound, "NXDOMAIN")),
                2 => Err(io::ErrorKind::TimedOut.into()),
                3 => Ok(Vec::new()),
                _ => Ok(vec![addr]),
            };
            std::future::ready(answer)
        })
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .handler(recorder)
        .connect();
    let client = soon(client).await.expect("it connects");
    log.connected().await.abort();
    log.disconnected().await;
    log.connected().await;
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_mistake_of_a_resolver_is_reported_and_another_attempt_made() {
    let (recorder, mut log) = recorder();
    let server = local_server().start().await.expect("it starts");
    let (addr, asked) = (addr_of(&server), AtomicUsize::new(0));
    let client = TcpClient::new("some.test:80")
        .resolver(move |_, _| {
            std::future::ready(match asked.fetch_add(1, Ordering::Relaxed) {
                1 => Err(io::Error::other("the list of services has a hole")),
                _ => Ok(vec![addr]),
            })
        })
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .handler(recorder)
        .connect();
    let client = soon(client).await.expect("it connects");
    log.connected().await.abort();
    log.disconnected().await;
    assert_eq!(log.error().await, ErrorKind::Connect);
    log.connected().await;
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn clients_whose_closures_hold_references_connect_in_tasks_of_their_own() {
    let nobody = closed("127.0.0.1:0").await;
    let name: &'static str = "Ann";
    let tcp = TcpClient::new(nobody).on_data(move |_, _| async move { println!("for {name}") });
    let ws =
        WsClient::new(format!("ws://{nobody}")).on_message(move |_, _| async move { println!("for {name}") });
    let tcp = tokio::spawn(async move { tcp.connect().await });
    let ws = tokio::spawn(async move { ws.connect().await });
    assert!(soon(tcp).await.expect("no panic").is_err());
    assert!(soon(ws).await.expect("no panic").is_err());
}
