//! Clients whose server is a script, in paused time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use storm_core::driver::Driver;
use storm_core::events::Chain;
use storm_core::middleware::MiddlewareChain;
use storm_core::{
    Events, HandlerOutcome, Message, Role, SendBudget, SendError, SendOutcome, SlowConsumerPolicy,
};
use storm_framing::RawFramer;
use storm_transport::stream::Foreign;
use storm_transport::{Connection, Framed, FramedEncode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::*;
use crate::queue::Greeted;
use crate::{Backoff, ReconnectOptions};

mod queued;

/// Refuses as told, then accepts everything.
struct Script {
    failures: Mutex<VecDeque<ConnectError>>,
    opened: mpsc::UnboundedSender<DuplexStream>,
    attempts: mpsc::UnboundedSender<(u32, Instant)>,
    errors: mpsc::UnboundedSender<(ErrorKind, String)>,
    events: Chain<SaysHello, Greeted>,
}

/// Sends a first message once it is let, as a login would.
struct SaysHello(Option<Arc<Notify>>);

impl Events<Session, Bytes> for SaysHello {
    async fn connected(&self, session: &Session) -> HandlerOutcome {
        if let Some(let_on) = &self.0 {
            let_on.notified().await;
            session.send("hello").await.expect("connected");
        }
        Ok(())
    }

    async fn message(&self, _: &Session, _: Bytes) -> HandlerOutcome {
        Ok(())
    }
}

impl Endpoint for Script {
    type Ready = Connection<Foreign<DuplexStream>, Framed<RawFramer>>;

    async fn open(&self, shared: &Shared, attempt: u32) -> Result<Self::Ready, ConnectError> {
        let _ = self.attempts.send((attempt, Instant::now()));
        if let Some(failure) = self.failures.lock().pop_front() {
            return Err(failure);
        }
        let (ours, theirs) = tokio::io::duplex(1024);
        let _ = self.opened.send(theirs);
        let driver = Driver::register(&shared.hub, Role::Client, None, FramedEncode::new(RawFramer, None));
        Ok(Connection::new(Foreign(ours), Framed::new(RawFramer), driver, BytesMut::new()))
    }

    fn session(ready: &Self::Ready) -> Session {
        ready.session().clone()
    }

    async fn run(&self, ready: Self::Ready) -> DisconnectReason {
        ready.run(&self.events).await
    }

    async fn report(&self, error: &Error) {
        let _ = self.errors.send((error.kind(), error.cause().to_string()));
    }
}

/// The outside of a scripted client.
struct Stage {
    opened: mpsc::UnboundedReceiver<DuplexStream>,
    attempts: mpsc::UnboundedReceiver<(u32, Instant)>,
    errors: mpsc::UnboundedReceiver<(ErrorKind, String)>,
    told: mpsc::UnboundedReceiver<(u32, Duration)>,
}

impl Stage {
    async fn server(&mut self) -> DuplexStream {
        self.opened.recv().await.expect("the client lives")
    }

    async fn attempt(&mut self) -> (u32, Instant) {
        self.attempts.recv().await.expect("the client lives")
    }
}

fn prepare(
    reconnect: impl Into<Option<ReconnectOptions>>,
    failures: impl IntoIterator<Item = ConnectError>,
    retry_if: Option<fn(&ConnectError) -> bool>,
    hello: Option<Arc<Notify>>,
) -> (Script, Arc<Shared>, Stage) {
    prepare_with(ClientOptions::default().reconnect(reconnect), failures, retry_if, hello)
}

fn prepare_with(
    options: ClientOptions,
    failures: impl IntoIterator<Item = ConnectError>,
    retry_if: Option<fn(&ConnectError) -> bool>,
    hello: Option<Arc<Notify>>,
) -> (Script, Arc<Shared>, Stage) {
    options.validate().expect("valid");
    let hub = Hub::new(options.session.clone(), MiddlewareChain::default()).expect("valid");
    let (tell, told) = mpsc::unbounded_channel();
    let mut hooks = Hooks::default();
    hooks.on_reconnecting(move |attempt, delay| {
        let _ = tell.send((attempt, delay));
        std::future::ready(())
    });
    hooks.retry_if = retry_if.map(|retry_if| Box::new(retry_if) as Box<_>);
    let shared = Arc::new(Shared::new(hub, options, hooks));
    let (opened_at, opened) = mpsc::unbounded_channel();
    let (tried, attempts) = mpsc::unbounded_channel();
    let (failed, errors) = mpsc::unbounded_channel();
    let script = Script {
        failures: Mutex::new(failures.into_iter().collect()),
        opened: opened_at,
        attempts: tried,
        errors: failed,
        events: Chain(SaysHello(hello), Greeted(shared.queue.clone())),
    };
    (script, shared, Stage { opened, attempts, errors, told })
}

/// A client that has connected; failures come afterwards.
async fn connected(
    reconnect: ReconnectOptions,
    failures: impl IntoIterator<Item = ConnectError>,
) -> (ClientHandle, Stage) {
    let (script, shared, mut stage) = prepare(reconnect, [], None, None);
    let failures = failures.into_iter().collect();
    let ready = open(&script, &shared, 0).await.expect("no failure yet");
    *script.failures.lock() = failures;
    let delays = shared.options.reconnect.as_ref().map(Delays::new);
    let handle = start(script, ready, delays, shared);
    assert_eq!(stage.attempt().await.0, 0);
    (handle, stage)
}

fn refused() -> ConnectError {
    io::Error::from(io::ErrorKind::ConnectionRefused).into()
}

#[cfg(feature = "ws")]
fn answered(status: u16, headers: &[(&'static str, &str)]) -> ConnectError {
    let mut map = storm_ws_proto::http::HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().expect("a header value"));
    }
    let status = storm_ws_proto::http::StatusCode::from_u16(status).expect("a status");
    let error =
        storm_ws_proto::handshake::ResponseError::Status { status, headers: Box::new(map), body_at: 0 };
    ConnectError::Refused { error: Box::new(error), body: Bytes::new() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_for_a_hundred_attempts_is_found_by_the_next() {
    let options = ReconnectOptions::exponential(seconds(1), seconds(60)).backoff(Backoff::default().seed(7));
    let (client, mut stage) = connected(options.clone(), (0..100).map(|_| refused())).await;
    for row in 0..2 {
        let server = stage.server().await;
        // Longer than any wait could have been: the next row begins anew.
        tokio::time::sleep(seconds(61)).await;
        drop(server);
        let mut last = Instant::now();
        let mut longest = Duration::ZERO;
        let attempts = if row == 0 { 101 } else { 1 };
        for expected in 1..=attempts {
            let (attempt, at) = stage.attempt().await;
            let (told, delay) = stage.told.recv().await.expect("told");
            assert_eq!((attempt, told), (expected, expected));
            // The timer has a resolution of a millisecond.
            assert!(at - last >= delay && at - last <= delay + Duration::from_millis(1));
            let most = Duration::from_secs(1 << (expected - 1).min(6)).min(seconds(60));
            assert!(delay <= most, "{expected}: {delay:?}");
            longest = longest.max(delay);
            last = at;
        }
        if row == 0 {
            assert!(longest > seconds(50), "it grew: {longest:?}");
        }
    }
    assert_eq!(client.hub().metrics().error_count, 0, "a refused attempt is no error");
    let _server = stage.server().await;
    client.abort();
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_leaves_starts_the_count_anew_each_time() {
    let options = ReconnectOptions::exponential(seconds(1), seconds(60)).max_attempts(2);
    let (client, mut stage) = connected(options, []).await;
    for _ in 0..20 {
        drop(stage.server().await);
        assert_eq!(stage.told.recv().await.expect("told").0, 1);
    }
    client.disconnect().await;
    assert_eq!(client.state(), ConnectionState::Closed);
}

#[cfg(feature = "ws")]
#[tokio::test(start_paused = true)]
async fn a_server_that_says_no_for_good_is_not_asked_again() {
    for status in [400, 401, 403, 404, 410, 426, 301, 200, 501, 505] {
        let (client, mut stage) = connected(ReconnectOptions::default(), [answered(status, &[])]).await;
        drop(stage.server().await);
        client.closed().await;
        assert_eq!(stage.attempt().await.0, 1, "{status}");
        assert_eq!(stage.attempts.recv().await, None, "{status}");
        let (kind, text) = stage.errors.recv().await.expect("reported");
        assert_eq!(kind, ErrorKind::Connect);
        assert_eq!(text, "the server did not upgrade the connection");
        assert_eq!(stage.errors.recv().await, None, "once");
        assert_eq!(client.state(), ConnectionState::Closed);
    }
}

#[cfg(feature = "ws")]
#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again_when_it_said() {
    let failures = [
        answered(503, &[]),
        answered(503, &[("retry-after", "30")]),
        answered(429, &[("retry-after", " 5 ")]),
        answered(503, &[("retry-after", "86400")]),
        answered(502, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]),
        answered(504, &[("retry-after", "-1")]),
    ];
    let (client, mut stage) = connected(ReconnectOptions::default(), failures).await;
    drop(stage.server().await);
    for expected in [2, 2, 30, 5, 60, 2, 2] {
        assert_eq!(stage.told.recv().await.map(|(_, delay)| delay), Some(seconds(expected)));
    }
    let _server = stage.server().await;
    for _ in 0..6 {
        assert_eq!(stage.errors.recv().await.map(|(kind, _)| kind), Some(ErrorKind::Connect));
    }
    client.disconnect().await;
}

#[cfg(feature = "ws")]
#[tokio::test(start_paused = true)]
async fn users_decide_what_is_worth_another_attempt() {
    let only_401 = |error: &ConnectError| {
        let ConnectError::Refused { error, .. } = error else { return false };
        error.status().is_some_and(|status| status == 401)
    };
    let options = || ReconnectOptions::default().max_first_attempts(None);
    let (script, shared, mut stage) =
        prepare(options(), [answered(401, &[]), answered(401, &[]), refused()], Some(only_401), None);
    let Err(ConnectError::Io(error)) = launch(script, shared).await else { panic!("refused for good") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!([stage.attempt().await.0, stage.attempt().await.0, stage.attempt().await.0], [0, 1, 2]);
    // A hook that panics leaves it to the usual answer.
    let (script, shared, _stage) =
        prepare(options(), [refused(), answered(401, &[])], Some(|_| panic!("no idea")), None);
    assert!(matches!(launch(script, shared).await, Err(ConnectError::Refused { .. })));
}

/// What a client is up against, by its words.
fn trouble(client: &ClientHandle) -> Option<String> {
    let error = client.last_error()?;
    assert_eq!(error.kind(), ErrorKind::Connect);
    error.cause().downcast_ref::<ConnectError>().map(ToString::to_string)
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_last_attempt_is_known_until_one_succeeds_and_after_the_last_one_of_all() {
    let timed_out = || ConnectError::TimedOut(seconds(1));
    let (client, mut stage) =
        connected(ReconnectOptions::default().max_attempts(3), [refused(), timed_out()]).await;
    drop(stage.server().await);
    assert_eq!(trouble(&client), None, "none has failed");
    for failure in [refused(), timed_out()] {
        // It has failed by the time this test runs again.
        stage.told.recv().await.expect("told of the attempt");
        assert_eq!(trouble(&client), Some(failure.to_string()));
    }
    let _server = stage.server().await;
    assert_eq!(trouble(&client), None, "that is over");
    client.abort();
    client.closed().await;

    let (client, mut stage) = connected(ReconnectOptions::default().max_attempts(1), [refused()]).await;
    drop(stage.server().await);
    client.closed().await;
    assert_eq!(trouble(&client), Some(refused().to_string()));
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_has_a_limit_of_its_own() {
    // One attempt unless told otherwise, with `reconnect` or without.
    for reconnect in [None, Some(ReconnectOptions::default())] {
        let (script, shared, mut stage) = prepare(reconnect, [refused()], None, None);
        assert!(launch(script, shared).await.is_err());
        assert_eq!(stage.attempt().await.0, 0);
        assert_eq!(stage.attempts.recv().await, None);
        assert_eq!(stage.told.recv().await, None);
    }
    let three = ReconnectOptions::default().max_first_attempts(3).max_attempts(1);
    let (script, shared, mut stage) = prepare(three.clone(), [refused(), refused(), refused()], None, None);
    let began = Instant::now();
    assert!(launch(script, shared).await.is_err());
    assert_eq!(began.elapsed().as_secs(), 4, "two delays between three attempts");
    assert_eq!(stage.errors.recv().await, None, "what is returned is not reported");
    let (script, shared, mut stage) = prepare(three, [refused(), refused()], None, None);
    let client = launch(script, shared).await.expect("the third one succeeds");
    assert_eq!(stage.told.recv().await, Some((1, seconds(2))));
    assert_eq!(stage.told.recv().await, Some((2, seconds(2))));
    assert_eq!(client.state(), ConnectionState::Connected);
    client.abort();
}

/// The client is between two connections, without a delay having passed: a clock that is paused goes on only where nobody has
/// anything to do.
#[track_caller]
fn lost(client: &ClientHandle) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..1000 {
            if client.state() == ConnectionState::Connecting {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?} and not connecting, at {caller}", client.state());
    }
}

#[tokio::test(start_paused = true)]
async fn disconnect_and_abort_end_a_wait_at_once() {
    for aborts in [false, true] {
        let (client, mut stage) = connected(ReconnectOptions::default().delay(seconds(3600)), []).await;
        drop(stage.server().await);
        lost(&client).await;
        let began = Instant::now();
        if aborts {
            client.abort();
            client.closed().await;
        } else {
            client.disconnect().await;
        }
        assert!(began.elapsed() < seconds(1));
        assert_eq!(client.state(), ConnectionState::Closed);
        assert_eq!(stage.attempts.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_of_the_session_gives_up_the_connection_and_one_of_the_client_the_client() {
    let (client, mut stage) = connected(ReconnectOptions::default(), []).await;
    let mut server = stage.server().await;
    let first = client.session();
    first.abort();
    assert!(matches!(server.read(&mut [0]).await, Ok(0)));
    let mut server = stage.server().await;
    assert_eq!(first.disconnect_reason(), Some(DisconnectReason::Aborted));
    assert_ne!(client.session(), first);
    client.abort();
    client.closed().await;
    assert!(matches!(server.read(&mut [0]).await, Ok(0)));
    assert_eq!(client.disconnect_reason(), Some(DisconnectReason::Aborted));
    assert!(stage.opened.recv().await.is_none(), "no other follows");
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_sends_fail_at_once_while_there_is_no_connection() {
    let (client, mut stage) = connected(ReconnectOptions::default(), []).await;
    drop(stage.server().await);
    lost(&client).await;
    let began = Instant::now();
    let failed = client.send("x").await;
    assert!(matches!(failed, Err(SendError::Closed(Some(DisconnectReason::ClosedByServer)))), "{failed:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
    client.disconnect().await;
}

/// Polls a send once, which must wait.
async fn begin(
    client: &ClientHandle,
    message: &'static str,
) -> tokio::task::JoinHandle<Result<SendOutcome, SendError>> {
    let client = client.clone();
    let mut sending = Box::pin(async move { client.send(Message::from(message)).await });
    let first = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    assert!(first.is_pending(), "{message}: {first:?}");
    tokio::spawn(sending)
}

#[tokio::test(start_paused = true)]
async fn the_waits_for_a_server_that_hangs_up_at_once_grow_until_a_connection_lasts() {
    let options = ReconnectOptions::exponential(seconds(1), seconds(60));
    let options = options.clone().backoff(options.backoff.unwrap().seed(1));
    let (client, mut stage) = connected(options.clone(), []).await;
    let mut expected = Delays::new(&options);
    for _ in 0..6 {
        drop(stage.server().await);
        assert_eq!(stage.told.recv().await, Some((1, expected.next(None))), "each is the first attempt");
    }
    let server = stage.server().await;
    tokio::time::sleep(seconds(33)).await;
    drop(server);
    expected.lasted(seconds(33));
    let (_, delay) = stage.told.recv().await.expect("the client lives");
    assert_eq!(delay, expected.next(None));
    assert!(delay <= seconds(1), "{delay:?}");
    client.abort();
}

#[tokio::test(start_paused = true)]
async fn of_a_feed_the_newest_message_is_sent_and_a_try_does_not_wait() {
    let (client, mut stage) = connected(ReconnectOptions::default(), []).await;
    let mut server = stage.server().await;
    assert_eq!(client.try_send("tried").unwrap(), SendOutcome::Sent);
    let mut read = [0; 5];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"tried");
    // More than the pipe takes, less than the outbox does.
    client.send(vec![0; 64 * 1024]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    for price in ["one", "two", "six"] {
        client.send(price).latest("price").await.unwrap();
    }
    assert_eq!(client.metrics().messages_replaced, 2);
    let mut read = vec![0; 64 * 1024 + 3];
    server.read_exact(&mut read).await.unwrap();
    assert!(read.ends_with(b"six"));
    drop(server);
    client.session().closed().await;
    let lost = client.try_send("x");
    assert!(matches!(lost, Err(SendError::Closed(Some(DisconnectReason::ClosedByServer)))), "{lost:?}");
    client.abort();
}

#[test]
fn a_client_whose_runtime_goes_away_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let here = runtime().expect("a runtime");
    for loses_connection in [false, true] {
        let its_own = runtime().expect("a runtime");
        let options = ReconnectOptions::default().delay(seconds(3600)).max_queued_bytes(1 << 20);
        let (client, server) = its_own.block_on(async {
            let (client, mut stage) = connected(options, []).await;
            let server = stage.server().await;
            // The handlers are told: the way is open.
            client.send("x").await.expect("connected");
            if loses_connection {
                drop(server);
                lost(&client).await;
                return (client, None);
            }
            (client, Some(server))
        });
        // More than the outbox takes.
        let fill = async {
            while tokio::time::timeout(seconds(1), client.send(vec![1; 64 * 1024])).await.is_ok() {}
        };
        if server.is_some() {
            here.block_on(fill);
        }
        let waiting = here.block_on(begin(&client, "waits"));
        drop(its_own);
        let reason =
            if loses_connection { DisconnectReason::ClosedByServer } else { DisconnectReason::Aborted };
        let ends = async {
            for sent in [waiting.await.expect("no panic"), client.send("too late").await] {
                assert!(matches!(sent, Err(SendError::Closed(Some(why))) if why == reason), "{sent:?}");
            }
            client.disconnect().await;
        };
        let ends = async { tokio::time::timeout(seconds(60), ends).await };
        here.block_on(ends).expect("nobody waits for ever");
        assert_eq!(client.state(), ConnectionState::Closed);
    }
}

/// An error that asks the client for its state when it goes, as a user's may.
#[derive(Debug, thiserror::Error)]
#[error("curious")]
struct Curious(Arc<std::sync::OnceLock<ClientHandle>>);

impl Drop for Curious {
    fn drop(&mut self) {
        if let Some(client) = self.0.get() {
            assert!(client.last_error().is_none_or(|error| error.kind() == ErrorKind::Connect));
            assert_ne!(client.state(), ConnectionState::Closed);
        }
    }
}

#[test]
fn an_error_that_is_replaced_or_forgotten_may_ask_for_the_state_as_it_goes() {
    let (done, ended) = std::sync::mpsc::channel();
    // In a thread, so that a lock nobody releases fails the test instead of holding it up.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let handle = Arc::new(std::sync::OnceLock::new());
            let failures = [(); 2].map(|()| io::Error::other(Curious(handle.clone())).into());
            let (client, mut stage) = connected(ReconnectOptions::default(), failures).await;
            handle.set(client.clone()).expect("once");
            drop(stage.server().await);
            let _server = stage.server().await;
            client.abort();
            client.closed().await;
        });
        let _ = done.send(());
    });
    ended.recv_timeout(Duration::from_secs(10)).expect("no lock is held over a drop");
}
