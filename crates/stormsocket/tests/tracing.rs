//! What is logged, seen by a subscriber that writes everything down.

mod support;
#[cfg(feature = "ws")]
mod ws_support;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stormsocket::{BoxError, DisconnectReason, LengthPrefixFramer, ReconnectOptions, TcpClient};
use support::*;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event as LogEvent, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// One event: level, target, fields, and those of the spans around it.
#[derive(Debug, Clone)]
struct Line {
    level: String,
    target: String,
    fields: String,
    spans: String,
}

/// What this thread has logged while it is alive.
struct Written {
    lines: Arc<Mutex<Vec<Line>>>,
    spans: Arc<Mutex<usize>>,
    _until_dropped: DefaultGuard,
}

struct Writer {
    lines: Arc<Mutex<Vec<Line>>>,
    spans: Arc<Mutex<usize>>,
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        use std::fmt::Write;
        write!(self.0, "{}={value:?} ", field.name()).expect("into a string");
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Writer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).expect("just made").extensions_mut().insert(fields);
        if attributes.metadata().target().starts_with("stormsocket") {
            *self.spans.lock().unwrap() += 1;
        }
    }

    fn on_event(&self, event: &LogEvent<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let around = context.event_scope(event).into_iter().flatten();
        let spans = around
            .map(|span| {
                let fields = span.extensions().get::<Fields>().expect("written when it was made").0.clone();
                format!("{}{{{fields}}}", span.name())
            })
            .collect();
        let metadata = event.metadata();
        let (level, target) = (metadata.level().to_string(), metadata.target().to_owned());
        self.lines.lock().unwrap().push(Line { level, target, fields: fields.0, spans });
    }
}

impl Written {
    fn start() -> Self {
        let (lines, spans) = (Arc::default(), Arc::default());
        let writer = Writer { lines: Arc::clone(&lines), spans: Arc::clone(&spans) };
        Self { lines, spans, _until_dropped: tracing_subscriber::registry().with(writer).set_default() }
    }

    /// The lines with this target (or one below it), their number as told.
    #[track_caller]
    fn of(&self, target: &str, count: usize) -> Vec<Line> {
        let lines = self.lines.lock().unwrap();
        let lines: Vec<_> = lines.iter().filter(|line| line.target.starts_with(target)).cloned().collect();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

#[tokio::test]
async fn a_connection_is_told_from_its_beginning_to_its_end_and_handlers_log_within_its_span() {
    let written = Written::start();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|session, data| async move {
            tracing::info!(target: "mine", "in a handler");
            session.send(data).await
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    peer.send(&frame(b"top secret")).await;
    assert_eq!(peer.frame().await, b"top secret");
    log.data().await;
    let before = written.lines.lock().unwrap().len();
    for _ in 0..1000 {
        peer.send(&frame(b"top secret")).await;
        assert_eq!(peer.frame().await, b"top secret");
        log.data().await;
    }
    let lines = written.lines.lock().unwrap()[before..].to_vec();
    assert!(lines.iter().all(|line| line.target == "mine"), "nothing is per message");
    assert_eq!(*written.spans.lock().unwrap(), 1);
    let addr = peer.0.local_addr().unwrap();
    drop(peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;

    let id = session.id();
    let around = format!("connection{{id={id} peer={addr} role=\"server\" protocol=\"tcp\" }}");
    let [connected, disconnected] = &written.of("stormsocket::connection", 2)[..] else { unreachable!() };
    assert_eq!((connected.level.as_str(), connected.spans.as_str()), ("DEBUG", around.as_str()));
    assert!(connected.fields.contains("message=connected"), "{connected:?}");
    assert_eq!((disconnected.level.as_str(), disconnected.spans.as_str()), ("DEBUG", around.as_str()));
    assert!(disconnected.fields.contains("reason=closed_by_client"), "{disconnected:?}");
    assert!(disconnected.fields.contains("uptime_ms="), "{disconnected:?}");
    for line in written.of("mine", 1001) {
        assert_eq!(line.spans, around);
    }
    let [listening, stopping, stopped] = &written.of("stormsocket::server", 3)[..] else { unreachable!() };
    assert!(listening.level == "INFO" && listening.fields.contains("addr=127.0.0.1:"), "{listening:?}");
    assert!(stopping.level == "INFO" && stopping.fields.contains("message=stopping"), "{stopping:?}");
    assert!(stopped.level == "INFO" && stopped.fields.contains("closed: 0"), "{stopped:?}");
    let all = format!("{:?}", written.lines.lock().unwrap());
    assert!(!all.contains("secret"), "no payloads");
}

#[tokio::test]
async fn errors_are_told_once_at_their_level_within_the_span() {
    let written = Written::start();
    let (recorder, _log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new().max_message(10))
        .on_data(|_, data| async move {
            assert!(data != "panic", "it panics");
            Err::<(), BoxError>("it fails".into())
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut fails = Peer::connect(addr_of(&server)).await;
    fails.send(&frame(b"fail")).await;
    fails.send(&frame(b"panic")).await;
    fails.expect_reset().await;
    let mut breaks = Peer::connect(addr_of(&server)).await;
    breaks.send(&u32::MAX.to_be_bytes()).await;
    breaks.expect_end().await;
    drop(breaks);
    stop(&server).await;
    let lines = written.of("stormsocket::error", 3);
    let expected = [
        ("ERROR", "message=a handler failed", "cause=it fails"),
        ("ERROR", "message=a handler panicked", "cause=it panics"),
        ("DEBUG", "message=the protocol was broken", "exceeds"),
    ];
    for (line, (level, message, cause)) in lines.iter().zip(expected) {
        assert_eq!(line.level, level, "{line:?}");
        assert!(line.fields.contains(message) && line.fields.contains(cause), "{line:?}");
        assert!(line.spans.starts_with("connection{id="), "{line:?}");
    }
    assert_eq!(server.metrics().error_count, 3);
}

#[tokio::test]
async fn sockets_above_a_limit_are_told_at_debug() {
    let written = Written::start();
    let server = local_server().max_connections(1).start().await.unwrap();
    let _inside = Peer::connect(addr_of(&server)).await;
    let mut outside = Peer::connect(addr_of(&server)).await;
    outside.expect_end().await;
    let [line] = &written.of("stormsocket::accept", 1)[..] else { unreachable!() };
    assert_eq!(line.level, "DEBUG");
    let peer = outside.0.local_addr().unwrap();
    assert!(line.fields.contains("limit=\"max_connections\""), "{line:?}");
    assert!(line.fields.contains(&format!("peer={peer}")), "{line:?}");
    stop(&server).await;
}

#[tokio::test]
async fn a_client_tells_of_its_attempts_and_why_it_gives_up_once() {
    let written = Written::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ReconnectOptions::default().delay(Duration::from_millis(1)).max_attempts(2);
    let client = TcpClient::new(listener.local_addr().unwrap()).reconnect(options).connect().await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    drop((stream, listener));
    soon(client.closed()).await;
    let lines = written.of("stormsocket::client", 4);
    let expected = [
        ("DEBUG", "message=reconnecting attempt=1 delay_ms=1"),
        ("DEBUG", "message=an attempt failed error=the connection could not be opened: "),
        ("DEBUG", "message=reconnecting attempt=2 delay_ms=1"),
        ("INFO", "message=gave up error=the connection could not be opened: "),
    ];
    for (line, (level, fields)) in lines.iter().zip(expected) {
        assert!(line.level == level && line.fields.contains(fields), "{line:?}");
    }
    let [connected, _] = &written.of("stormsocket::connection", 2)[..] else { unreachable!() };
    assert!(connected.spans.contains("role=\"client\" protocol=\"tcp\""), "{connected:?}");
    written.of("stormsocket::error", 0);
}

#[cfg(feature = "ws")]
#[tokio::test]
async fn hooks_log_within_their_handshakes_span_and_a_panic_of_theirs_is_told_once() {
    let written = Written::start();
    let server = stormsocket::WsServer::bind("127.0.0.1:0")
        .on_upgrade(|_| async {
            tracing::info!(target: "mine", "in a hook");
            panic!("no idea")
        })
        .start()
        .await
        .unwrap();
    let request = format!("{}\r\n", ws_support::request());
    assert_eq!(ws_support::Peer::refused(&server, &request).await.status, 500);
    until(|| server.connections() == 0).await;
    let [mine] = &written.of("mine", 1)[..] else { unreachable!() };
    assert!(mine.spans.starts_with("handshake{peer=127.0.0.1:"), "{mine:?}");
    let [panic] = &written.of("stormsocket::error", 1)[..] else { unreachable!() };
    assert!(panic.level == "ERROR" && panic.fields.contains("cause=no idea"), "{panic:?}");
    assert_eq!(panic.spans, mine.spans);
    written.of("stormsocket::handshake", 0);
    assert_eq!(server.metrics().handshake_failures, 1);
    stop(&server).await;
}

#[cfg(feature = "ws")]
#[tokio::test]
async fn handshakes_that_fail_are_told_at_debug_with_their_kind() {
    let written = Written::start();
    let server = stormsocket::WsServer::bind("127.0.0.1:0")
        .on_upgrade(|_| async { Err(stormsocket::Reject::new(stormsocket::StatusCode::UNAUTHORIZED)) })
        .start()
        .await
        .unwrap();
    let request = format!("{}\r\n", ws_support::request());
    ws_support::Peer::refused(&server, &request).await;
    ws_support::Peer::refused(&server, request.replace("GET", "POST")).await;
    until(|| server.connections() == 0).await;
    let lines = written.of("stormsocket::handshake", 2);
    for (line, kind) in lines.iter().zip(["rejected", "malformed"]) {
        assert_eq!(line.level, "DEBUG");
        assert!(line.fields.contains(&format!("kind=\"{kind}\" peer=127.0.0.1:")), "{line:?}");
    }
    written.of("stormsocket::connection", 0);
    stop(&server).await;
}

#[tokio::test]
async fn without_anyone_listening_there_is_no_span() {
    // This thread's subscriber wants nothing.
    let _nobody = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let server = local_server()
        .on_data(|session, data| async move {
            assert!(tracing::Span::current().is_disabled());
            session.send(data).await
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"x").await;
    peer.expect(b"x").await;
    stop(&server).await;
}
