//! Everything that waits: heartbeat, idle timeout, close deadline. Time is paused, streams are in memory.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod ws_support;

use std::sync::Arc;
use std::time::Duration;

use storm_core::outbox::SHARE_FROM;
use stormsocket::{
    BoxError, ConnectionState, DisconnectReason, ErrorKind, HeartbeatOptions, Message, Role, SendError,
    SessionOptions, WsHandler, WsOptions, WsSession,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use ws_support::*;

const SECOND: Duration = Duration::from_secs(1);
const ROOM: usize = 1 << 16;

fn beating(seconds: u32, missed: u32) -> WsOptions {
    let heartbeat = HeartbeatOptions::default().interval(SECOND * seconds).max_missed_pongs(missed);
    WsOptions::default().heartbeat(heartbeat)
}

fn silent() -> WsOptions {
    WsOptions::default().heartbeat(HeartbeatOptions::default().interval(None))
}

/// A handler that waits for a permit in each message.
struct Busy(Arc<Semaphore>);

impl WsHandler for Busy {
    async fn on_message(&self, _: &WsSession, _: Message) -> Result<(), BoxError> {
        self.0.acquire().await?.forget();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn fifteen_seconds_and_three_end_at_75_after_a_pong_at_17() {
    for role in [Role::Server, Role::Client] {
        let (handler, mut observed) = observer();
        let (session, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &beating(15, 3), ROOM, handler);
        observed.connected().await;
        let began = Instant::now();
        let ping = peer.frame().await;
        assert_eq!((ping.first, ping.masked, began.elapsed()), (0x89, role == Role::Client, 15 * SECOND));
        sleep(2 * SECOND).await;
        peer.send(0x8A, &ping.payload).await;
        for seconds in [30, 45, 60] {
            assert_eq!((peer.frame().await.first, began.elapsed()), (0x89, seconds * SECOND));
        }
        assert_eq!(session.round_trip(), Some(2 * SECOND));
        // An abort: a dead peer answers no close frame.
        peer.end().await;
        assert_eq!(began.elapsed(), 75 * SECOND);
        assert_eq!(running.await.unwrap(), DisconnectReason::HeartbeatTimeout);
        assert_eq!(observed.disconnected().await, DisconnectReason::HeartbeatTimeout);
        observed.finished().await;
    }
}

#[tokio::test(start_paused = true)]
async fn any_pong_proves_life_and_pings_or_data_do_not() {
    for role in [Role::Server, Role::Client] {
        let (handler, mut observed) = observer();
        let (_, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &beating(10, 1), ROOM, handler);
        observed.connected().await;
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(peer.frame().await.first, 0x89);
            peer.send(0x8A, b"not what was asked").await;
        }
        assert_eq!(began.elapsed(), 200 * SECOND);
        let talking = tokio::spawn(async move {
            let words = [peer.frame_of(0x81, b"talk"), peer.frame_of(0x89, b"")].concat();
            loop {
                sleep(SECOND).await;
                if peer.try_write(&words).await.is_err() {
                    break;
                }
            }
        });
        // Missed at 210 and 220; the tick at 220 is one too many.
        assert_eq!(running.await.unwrap(), DisconnectReason::HeartbeatTimeout);
        assert_eq!(began.elapsed(), 220 * SECOND);
        talking.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_found_although_the_send_buffer_is_full() {
    for role in [Role::Server, Role::Client] {
        let (handler, _observed) = observer();
        let (session, peer, running) =
            piped(&hub(SessionOptions::default()), role, &beating(15, 3), 1000, handler);
        let began = Instant::now();
        let sender = session.clone();
        let sending = tokio::spawn(async move { while sender.send(vec![0; SHARE_FROM]).await.is_ok() {} });
        assert_eq!(running.await.unwrap(), DisconnectReason::HeartbeatTimeout);
        assert_eq!(began.elapsed(), 60 * SECOND);
        sending.await.unwrap();
        drop(peer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_all_the_time_is_not_dead_although_the_send_buffer_is_full() {
    for role in [Role::Server, Role::Client] {
        let (handler, _observed) = observer();
        let mut options = SessionOptions::default();
        options.max_pending_send_bytes = Some(16 * SHARE_FROM);
        let (session, mut peer, running) = piped(&hub(options), role, &beating(15, 3), 1000, handler);
        let began = Instant::now();
        let sender = session.clone();
        let sending = tokio::spawn(async move { while sender.send(vec![0; SHARE_FROM]).await.is_ok() {} });
        let mut pings = 0;
        while began.elapsed() < 150 * SECOND {
            let frame = peer.frame().await;
            if frame.first == 0x89 {
                pings += 1;
                peer.send(0x8A, &frame.payload).await;
            }
            // Sixteen messages are two seconds, and the outbox never stays below its limit for long.
            sleep(SECOND / 8).await;
        }
        assert_eq!((pings, session.disconnect_reason()), (9, None));
        session.abort();
        assert_eq!(running.await.unwrap(), DisconnectReason::Aborted);
        sending.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_pile_up_for_a_peer_that_talks_and_does_not_read() {
    let (handler, _observed) = observer();
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(16 * SHARE_FROM);
    let (session, mut peer, running) = piped(&hub(options), Role::Server, &beating(15, 3), 1000, handler);
    let sender = session.clone();
    let sending = tokio::spawn(async move { while sender.send(vec![0; SHARE_FROM]).await.is_ok() {} });
    sleep(20 * SECOND).await;
    let pending = session.pending_send_bytes();
    for _ in 0..100 {
        peer.send(0x8A, b"unasked").await;
        sleep(15 * SECOND).await;
    }
    assert_eq!((session.pending_send_bytes(), session.disconnect_reason()), (pending, None));
    session.abort();
    assert_eq!(running.await.unwrap(), DisconnectReason::Aborted);
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ticks_do_not_count_while_our_handler_keeps_us_from_reading() {
    let gate = Arc::new(Semaphore::new(0));
    let mut options = SessionOptions::default();
    options.max_pending_receive_bytes = Some(1000);
    let (_, mut peer, running) =
        piped(&hub(options), Role::Server, &beating(15, 3), ROOM, Busy(gate.clone()));
    let began = Instant::now();
    // One to be busy with, and more than is read ahead.
    peer.send(0x82, [0; 300]).await;
    peer.settle().await;
    for _ in 1..10 {
        peer.send(0x82, [0; 300]).await;
    }
    for tick in 1..=40 {
        assert_eq!((peer.frame().await.first, began.elapsed()), (0x89, tick * 15 * SECOND));
    }
    gate.add_permits(10);
    // From now on silence counts: three forgiven, the fourth is the end.
    for _ in 0..3 {
        assert_eq!(peer.frame().await.first, 0x89);
    }
    peer.end().await;
    assert_eq!(running.await.unwrap(), DisconnectReason::HeartbeatTimeout);
    assert_eq!(began.elapsed(), 44 * 15 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn ticks_count_while_our_handler_is_busy_and_we_still_read() {
    for answers in [true, false] {
        let gate = Arc::new(Semaphore::new(0));
        let mut options = SessionOptions::default();
        options.close_deadline = SECOND;
        let (session, mut peer, running) =
            piped(&hub(options), Role::Server, &beating(15, 3), ROOM, Busy(gate.clone()));
        let began = Instant::now();
        peer.send(0x82, b"work").await;
        if answers {
            for _ in 0..40 {
                let ping = peer.frame().await;
                peer.send(0x8A, &ping.payload).await;
            }
            assert_eq!(session.state(), ConnectionState::Connected);
            drop(peer);
            gate.add_permits(1);
            assert_eq!(running.await.unwrap(), DisconnectReason::TransportError);
        } else {
            session.closed().await;
            assert_eq!(began.elapsed(), 60 * SECOND);
            // The handler has one close deadline to finish.
            assert_eq!(running.await.unwrap(), DisconnectReason::HeartbeatTimeout);
            assert_eq!(began.elapsed(), 61 * SECOND);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn round_trips_are_measured_for_heartbeats_and_for_pings_of_ours() {
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &beating(30, 3), ROOM, handler);
    assert_eq!(session.round_trip(), None);
    let ping = peer.frame().await;
    sleep(Duration::from_millis(7)).await;
    peer.send(0x8A, &ping.payload).await;
    peer.settle().await;
    assert_eq!(session.round_trip(), Some(Duration::from_millis(7)));
    session.ping("are you there?").unwrap();
    let ping = peer.frame().await;
    assert_eq!((ping.first, &ping.payload[..]), (0x89, &b"are you there?"[..]));
    sleep(Duration::from_micros(1500)).await;
    peer.send(0x8A, b"something else").await;
    peer.settle().await;
    assert_eq!(session.round_trip(), Some(Duration::from_millis(7)));
    peer.send(0x8A, &ping.payload).await;
    peer.settle().await;
    let measured = session.round_trip().unwrap();
    assert!((Duration::from_micros(1500)..Duration::from_millis(7)).contains(&measured), "{measured:?}");
    // Twice the same answer measures once.
    sleep(SECOND).await;
    peer.send(0x8A, &ping.payload).await;
    peer.settle().await;
    assert_eq!(session.round_trip(), Some(measured));
    assert!(session.ping(vec![0; 126]).is_err());
    session.abort();
    running.await.unwrap();
    assert!(session.ping("x").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_refused_does_not_spoil_the_round_trip_of_the_one_before() {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(1000);
    let (handler, mut observed) = observer();
    let (session, mut peer, running) = piped(&hub(options), Role::Server, &silent(), ROOM, handler);
    observed.connected().await;
    session.ping("first").unwrap();
    assert_eq!(peer.frame().await.payload, b"first");
    // Nothing is awaited in between, so nothing leaves.
    session.try_send(vec![0; 1000]).unwrap();
    assert!(matches!(session.ping("second"), Err(SendError::Full)));
    sleep(Duration::from_millis(7)).await;
    peer.send(0x8A, b"second").await;
    peer.settle().await;
    assert_eq!(session.round_trip(), None, "it never left");
    peer.send(0x8A, b"first").await;
    peer.settle().await;
    let measured = session.round_trip().expect("it was answered");
    assert!((7..10).contains(&measured.as_millis()), "{measured:?}");
    session.abort();
    running.await.unwrap();
    assert!(matches!(session.ping("third"), Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
}

#[tokio::test(start_paused = true)]
async fn idle_means_no_application_data_whatever_is_pinged() {
    let mut options = SessionOptions::default();
    options.idle_timeout = Some(60 * SECOND);
    let (handler, mut observed) = echo();
    let (_, mut peer, running) = piped(&hub(options), Role::Server, &beating(10, 3), ROOM, handler);
    observed.connected().await;
    let began = Instant::now();
    // Data at 45 s moves the end to 105 s; pings, theirs and ours, do not.
    let mut talked = false;
    let code = loop {
        let frame = peer.frame().await;
        match frame.first {
            0x89 => {
                peer.send(0x8A, &frame.payload).await;
                peer.send(0x89, b"and you?").await;
                if began.elapsed() >= 40 * SECOND && !talked {
                    talked = true;
                    sleep(5 * SECOND).await;
                    peer.send(0x81, b"data").await;
                }
            }
            0x88 => break frame.code(),
            _ => {}
        }
    };
    assert_eq!((code, began.elapsed()), (Some(1001), 105 * SECOND));
    peer.send(0x88, goodbye(1001, "")).await;
    peer.end().await;
    drop(peer);
    assert_eq!(running.await.unwrap(), DisconnectReason::IdleTimeout);
    observed.message().await;
    assert_eq!(observed.disconnected().await, DisconnectReason::IdleTimeout);
    observed.finished().await;
}

#[tokio::test(start_paused = true)]
async fn neither_a_busy_handler_nor_a_slow_upload_is_idle() {
    let mut options = SessionOptions::default();
    options.idle_timeout = Some(10 * SECOND);
    let gate = Arc::new(Semaphore::new(0));
    let (session, mut peer, running) =
        piped(&hub(options), Role::Server, &silent(), ROOM, Busy(gate.clone()));
    peer.send(0x82, b"work").await;
    sleep(100 * SECOND).await;
    assert_eq!(session.state(), ConnectionState::Connected);
    gate.add_permits(1);
    sleep(9 * SECOND).await;
    // One frame that takes a minute.
    let frame = masked(0x82, &[0; 120]);
    for piece in frame.chunks(10) {
        peer.write(piece).await;
        sleep(5 * SECOND).await;
    }
    assert_eq!(session.state(), ConnectionState::Connected);
    gate.add_permits(1);
    let began = Instant::now();
    assert_eq!(peer.closes().await, Some(1001));
    assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
    drop(peer);
    assert_eq!(running.await.unwrap(), DisconnectReason::IdleTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_not_answered_becomes_an_abort() {
    for role in [Role::Server, Role::Client] {
        let (handler, mut observed) = observer();
        let (session, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &silent(), ROOM, handler);
        observed.connected().await;
        let began = Instant::now();
        session.send("last").await.unwrap();
        session.close().await;
        assert_eq!(began.elapsed(), 5 * SECOND);
        assert_eq!(peer.frame().await.text(), "last");
        assert_eq!(peer.closes().await, Some(1000));
        peer.end().await;
        let reason = role_closed(role);
        assert_eq!(running.await.unwrap(), reason);
        assert_eq!(observed.disconnected().await, reason);
        observed.finished().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_a_rule_and_stays_is_cut_at_the_close_deadline_whatever_it_goes_on_saying() {
    let more = [(0x81, &b"talk"[..]), (0xC1, b"broken, too"), (0x88, b"\x03\xEA"), (0x89, b"alive")];
    for (role, more) in
        [Role::Server, Role::Client].into_iter().flat_map(|role| more.map(|more| (role, more)))
    {
        let mut options = SessionOptions::default();
        options.close_deadline = 2 * SECOND;
        let (handler, mut observed) = observer();
        let (session, mut peer, running) = piped(&hub(options), role, &silent(), ROOM, handler);
        observed.connected().await;
        let began = Instant::now();
        peer.send(0xC1, b"RSV1").await;
        assert_eq!(peer.closes().await, Some(1002));
        if role == Role::Server {
            // RFC 6455 §7.1.1: the server ends TCP first, but the peer does not follow.
            peer.end().await;
        }
        let flooding = tokio::spawn(async move {
            let flood = peer.frame_of(more.0, more.1).repeat(1000);
            for _ in 0..1000 {
                if peer.try_write(&flood).await.is_err() {
                    break;
                }
                // The clock does not wait for a moment without anything to read.
                tokio::time::advance(Duration::from_millis(10)).await;
            }
        });
        assert_eq!(observed.error().await.0, ErrorKind::Protocol);
        assert_eq!(session.state(), ConnectionState::Closing);
        assert_eq!(running.await.unwrap(), DisconnectReason::ProtocolError, "{role:?}, {more:?}");
        let took = began.elapsed();
        assert!(took >= 2 * SECOND && took < 3 * SECOND, "{role:?}, {more:?}: {took:?}");
        flooding.await.unwrap();
        assert_eq!(observed.disconnected().await, DisconnectReason::ProtocolError);
        observed.finished().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_a_rule_and_falls_silent_is_cut_at_the_close_deadline() {
    for role in [Role::Server, Role::Client] {
        let (handler, mut observed) = observer();
        let (_, mut peer, running) = piped(&hub(SessionOptions::default()), role, &silent(), ROOM, handler);
        observed.connected().await;
        let began = Instant::now();
        peer.send(0xC1, b"RSV1").await;
        assert_eq!(peer.closes().await, Some(1002));
        peer.end().await;
        let waited = if role == Role::Server { Duration::ZERO } else { 5 * SECOND };
        assert_eq!(began.elapsed(), waited, "{role:?}: a client leaves the end of TCP to the server");
        assert_eq!(soon(running).await.unwrap(), DisconnectReason::ProtocolError, "{role:?}");
        assert_eq!(began.elapsed(), 5 * SECOND);
        assert_eq!(observed.error().await.0, ErrorKind::Protocol);
        assert_eq!(observed.disconnected().await, DisconnectReason::ProtocolError);
        observed.finished().await;
    }
}

fn role_closed(role: Role) -> DisconnectReason {
    match role {
        Role::Server => DisconnectReason::ClosedByServer,
        Role::Client => DisconnectReason::ClosedByClient,
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_behind_a_peer_that_does_not_read_ends_at_the_deadline_too() {
    let mut options = SessionOptions::default();
    options.close_deadline = 2 * SECOND;
    let (handler, _observed) = observer();
    let (session, peer, running) = piped(&hub(options), Role::Server, &silent(), 100, handler);
    session.send(vec![0; 10_000]).await.unwrap();
    let began = Instant::now();
    session.close().await;
    assert_eq!(began.elapsed(), 2 * SECOND);
    assert_eq!(running.await.unwrap(), DisconnectReason::ClosedByServer);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn an_answered_close_ends_at_once_and_who_ends_the_stream_depends_on_the_role() {
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &silent(), ROOM, handler);
    let began = Instant::now();
    session.start_close(DisconnectReason::ClosedByServer);
    assert_eq!(peer.closes().await, Some(1000));
    // What is still on its way is read and not delivered.
    peer.send(0x81, b"crossing").await;
    peer.send(0x88, goodbye(1000, "")).await;
    peer.end().await;
    drop(peer);
    running.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);

    // A client leaves it to the server, and helps itself at the deadline.
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Client, &silent(), ROOM, handler);
    session.start_close(DisconnectReason::ClosedByClient);
    assert_eq!(peer.closes().await, Some(1000));
    peer.send(0x88, goodbye(1000, "")).await;
    peer.end().await;
    assert_eq!(began.elapsed(), 5 * SECOND);
    assert_eq!(running.await.unwrap(), DisconnectReason::ClosedByClient);
}

#[tokio::test(start_paused = true)]
async fn an_abort_cuts_a_hung_close_short_and_both_may_be_repeated() {
    let (handler, mut observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &silent(), ROOM, handler);
    observed.connected().await;
    let began = Instant::now();
    let closing: Vec<_> = (0..3)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.close().await })
        })
        .collect();
    assert_eq!(peer.closes().await, Some(1000));
    sleep(SECOND).await;
    session.abort();
    session.abort();
    for closing in closing {
        closing.await.unwrap();
    }
    session.close().await;
    session.abort();
    peer.end().await;
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(running.await.unwrap(), DisconnectReason::ClosedByServer, "the first reason wins");
    assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByServer);
    observed.finished().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_ping_is_answered_when_answers_cannot_leave() {
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &silent(), 256, handler);
    // More than the pipe holds: the writer is stuck in the middle of it.
    session.send(vec![7; 1000]).await.unwrap();
    for number in 0..100_u8 {
        peer.send(0x89, [number]).await;
    }
    assert_eq!(peer.frame().await.payload.len(), 1000);
    let mut pongs = vec![peer.frame().await];
    pongs.extend(peer.settle().await);
    assert!(pongs.iter().all(|pong| pong.first == 0x8A), "{pongs:?}");
    assert!(pongs.len() < 50, "{} answers", pongs.len());
    assert_eq!(pongs.last().unwrap().payload, [99], "the newest is answered");
    assert!(session.pending_send_bytes() < 200);
    session.abort();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn control_frames_in_the_same_read_as_a_message_do_not_wait_for_its_handler() {
    for role in [Role::Server, Role::Client] {
        let gate = Arc::new(Semaphore::new(0));
        let (session, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &beating(15, 3), ROOM, Busy(gate.clone()));
        let began = Instant::now();
        let wire = [peer.frame_of(0x81, b"work"), peer.frame_of(0x89, b"answer me")].concat();
        peer.write(wire).await;
        let pong = peer.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (0x8A, &b"answer me"[..]));
        // And so are pings that come later, as long as the handler takes.
        peer.send(0x89, b"me, too").await;
        assert_eq!(peer.frame().await.payload, b"me, too");
        assert_eq!(began.elapsed(), Duration::ZERO);
        session.abort();
        gate.add_permits(1);
        running.await.unwrap();
    }
}
