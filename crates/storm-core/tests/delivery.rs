//! Writes from the outbox itself, by a broadcast's lane or by the connection task that is about to sleep: drivers stand in for
//! connection tasks, a shared buffer for their sockets.

use std::io::{self, IoSlice};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use storm_core::delivery::Delivering;
use storm_core::driver::{Driver, Wish};
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::{Control, Encode, SHARE_FROM, SendQueue, TryWrite};
use storm_core::{
    BroadcastReport, Hub, LatestKey, Message, Role, SendError, Session, SessionOptions, SlowConsumerPolicy,
};

/// A socket of as many bytes as there is `room` for.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Wire>>);

#[derive(Default)]
struct Wire {
    room: usize,
    writes: Vec<String>,
}

impl Socket {
    fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }
}

impl TryWrite for Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        let count = bytes.len().min(wire.room);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.room -= count;
        wire.writes.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
        Ok(count)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(&slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>())
    }
}

/// Bytes as they are; a pong is held back until the flush.
struct Plain {
    socket: Option<Socket>,
    pong: bool,
}

impl Encode for Plain {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        assert!(message.data() != b"panic", "as asked");
        queue.put_bytes(message.into_data());
        Ok(())
    }

    fn control(&mut self, control: Control, _: &mut SendQueue) {
        self.pong |= matches!(control, Control::Pong(_));
    }

    fn flush(&mut self, queue: &mut SendQueue) {
        if std::mem::take(&mut self.pong) {
            queue.put_slice(b"pong");
        }
    }

    fn twin(&self) -> Option<Box<dyn Encode>> {
        Some(Box::new(Self { socket: None, pong: false }))
    }

    fn writer(&self) -> Option<&dyn TryWrite> {
        self.socket.as_ref().map(|socket| socket as &dyn TryWrite)
    }

    fn close_writer(&mut self) {
        self.socket = None;
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn count(self: &Arc<Self>) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A session whose task sleeps.
struct Member {
    driver: Driver,
    writing: SendQueue,
    socket: Socket,
    wakes: Arc<Wakes>,
}

impl Member {
    fn new(hub: &Arc<Hub>, room: usize) -> Self {
        let socket = Socket::default();
        socket.0.lock().unwrap().room = room;
        let plain = Plain { socket: Some(socket.clone()), pong: false };
        let driver = Driver::register(hub, Role::Server, None, plain);
        let mut member = Self { driver, writing: SendQueue::default(), socket, wakes: Arc::default() };
        assert_eq!(member.park(), ("".to_owned(), Wish::Run));
        member
    }

    /// The task's visit between a batch and its sleep.
    fn rest(&mut self) -> Option<Wish> {
        self.driver.write_and_park(&mut self.writing, &self.wakes.clone().into())
    }

    fn session(&self) -> &Session {
        self.driver.session()
    }

    /// What the task finds when it is about to sleep.
    fn park(&mut self) -> (String, Wish) {
        let mut found = String::new();
        loop {
            let left = self.writing.as_single_slice().unwrap();
            found.push_str(std::str::from_utf8(left).unwrap());
            let written = left.len();
            self.writing.advance(written);
            let wish = self.driver.park(&mut self.writing, written, &self.wakes.clone().into());
            if self.writing.is_empty() {
                return (found, wish);
            }
        }
    }
}

fn hub(limit: usize, policy: SlowConsumerPolicy) -> Arc<Hub> {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(limit);
    options.slow_consumer_policy = policy;
    Hub::new(options, MiddlewareChain::default()).expect("valid")
}

fn roomy() -> Arc<Hub> {
    hub(1000, SlowConsumerPolicy::Wait)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn broadcast(hub: &Hub, text: &'static str) -> BroadcastReport {
    match poll(pin!(hub.broadcast(text).into_future())) {
        Poll::Ready(report) => report,
        Poll::Pending => panic!("somebody is waited for"),
    }
}

/// Lets the lane work until it sleeps.
fn deliver(lane: &mut Delivering) {
    let wakes = Arc::new(Wakes::default());
    loop {
        let done = Pin::new(&mut *lane).poll(&mut Context::from_waker(&wakes.clone().into()));
        if done.is_ready() || wakes.count() == 0 {
            return;
        }
    }
}

#[test]
fn a_sleeping_member_is_written_to_and_sleeps_on() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    deliver(&mut lane);
    assert_eq!(broadcast(&hub, "tick").sent, 1);
    assert_eq!(
        (member.socket.writes(), member.wakes.count()),
        (vec![], 0),
        "nothing leaves before the lane's turn"
    );
    assert_eq!(member.driver.session().pending_send_bytes(), 4);
    deliver(&mut lane);
    assert_eq!((member.socket.writes(), member.wakes.count()), (vec!["tick".to_owned()], 0));
    let metrics = member.driver.session().metrics();
    assert_eq!((metrics.messages_sent, metrics.bytes_sent), (1, 4));
    assert_eq!(member.driver.session().pending_send_bytes(), 0);
    assert_eq!(member.park(), ("".to_owned(), Wish::Run));
    // And again: it is listed anew.
    assert_eq!(broadcast(&hub, "tock").sent, 1);
    deliver(&mut lane);
    assert_eq!(member.socket.writes(), ["tock"]);
}

#[test]
fn what_is_queued_until_the_lanes_turn_leaves_in_one_write_and_in_order() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let member = Member::new(&hub, 100);
    let session = member.driver.session().clone();
    broadcast(&hub, "a");
    session.try_send("b").expect("room");
    broadcast(&hub, "c");
    session.control(Control::Pong("".into()));
    deliver(&mut lane);
    assert_eq!((member.socket.writes(), member.wakes.count()), (vec!["abcpong".to_owned()], 0));
    // Once the promise is kept, a send wakes the task again.
    session.try_send("d").expect("room");
    assert_eq!(member.wakes.count(), 1);
}

#[test]
fn what_the_socket_does_not_take_is_the_tasks() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 3);
    broadcast(&hub, "12345");
    deliver(&mut lane);
    assert_eq!((member.socket.writes(), member.wakes.count()), (vec!["123".to_owned()], 1));
    assert_eq!(member.driver.session().pending_send_bytes(), 2);
    broadcast(&hub, "67");
    deliver(&mut lane);
    assert_eq!(
        (member.socket.writes(), member.wakes.count()),
        (vec![], 0),
        "a task that is awake writes by itself"
    );
    assert_eq!(member.park().0, "4567");
}

#[test]
fn a_task_at_work_writes_by_itself() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    broadcast(&hub, "before ");
    member.driver.begin_batch();
    broadcast(&hub, "during");
    deliver(&mut lane);
    assert_eq!(member.socket.writes(), Vec::<String>::new());
    assert_eq!(member.park().0, "before during");
    assert_eq!(member.wakes.count(), 0);
}

#[test]
fn what_a_task_has_taken_goes_before_what_is_queued_behind() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    broadcast(&hub, "taken ");
    // Woken by something else than a send, the task takes what it finds.
    let mut writing = SendQueue::default();
    member.driver.sync(&mut writing, 0);
    broadcast(&hub, "behind");
    deliver(&mut lane);
    assert_eq!(member.socket.writes(), Vec::<String>::new());
    assert_eq!(writing.as_single_slice(), Some(&b"taken "[..]));
    assert_eq!(member.park().0, "behind");
}

#[test]
fn closing_and_aborted_sessions_are_their_tasks_affair() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let (mut closing, mut aborted) = (Member::new(&hub, 100), Member::new(&hub, 100));
    broadcast(&hub, "last");
    closing.driver.session().start_close(storm_core::DisconnectReason::ClosedByServer);
    aborted.driver.session().abort();
    deliver(&mut lane);
    assert_eq!((closing.wakes.count(), aborted.wakes.count()), (1, 1));
    assert_eq!(closing.socket.writes().len() + aborted.socket.writes().len(), 0);
    assert_eq!(closing.park(), ("last".to_owned(), Wish::Close));
    assert_eq!(aborted.park(), (String::new(), Wish::Abort));
    // An ended session lets go of its socket: only the test has it now.
    drop(aborted.driver);
    assert_eq!(Arc::strong_count(&aborted.socket.0), 1);
}

#[test]
fn a_member_without_room_gets_its_chance_to_write() {
    let hub = hub(4, SlowConsumerPolicy::Drop);
    let lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    broadcast(&hub, "full");
    // The lane has not had its turn; the task is woken, and has it before the broadcast gives up.
    let mut second = pin!(hub.broadcast("more").into_future());
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(member.wakes.count(), 1);
    assert_eq!(member.park().0, "full");
    assert!(matches!(poll(second), Poll::Ready(BroadcastReport { sent: 1, dropped: 0, .. })));
    drop(lane);
}

#[test]
fn what_may_go_again_is_encoded_by_the_task() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    for text in ["1", "2", "3"] {
        let key = LatestKey::from(7);
        assert!(poll(pin!(hub.broadcast(text).latest(key).into_future())).is_ready());
    }
    deliver(&mut lane);
    assert_eq!((member.socket.writes().concat(), member.wakes.count()), ("".to_owned(), 1));
    // The first was encoded at once, since nothing waited.
    assert_eq!(member.park(), ("13".to_owned(), Wish::Run));
}

#[test]
fn an_encoder_that_panics_over_a_broadcast_leaves_nobody_asleep() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    deliver(&mut lane);
    let members: Vec<_> = (0..3).map(|_| Member::new(&hub, 100)).collect();
    let broadcasting = std::panic::catch_unwind(AssertUnwindSafe(|| broadcast(&hub, "panic")));
    assert!(broadcasting.is_err());
    for member in &members {
        member.session().try_send("next").expect("room");
        assert_eq!(member.wakes.count(), 1, "by the broadcast's end or by this");
    }
}

#[test]
fn sockets_nobody_else_may_write_to_have_their_tasks_woken() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let wakes = Arc::new(Wakes::default());
    let mut driver = Driver::register(&hub, Role::Server, None, Plain { socket: None, pong: false });
    driver.park(&mut SendQueue::default(), 0, &wakes.clone().into());
    broadcast(&hub, "tick");
    assert_eq!(wakes.count(), 1);
    deliver(&mut lane);
    let mut writing = SendQueue::default();
    driver.sync(&mut writing, 0);
    assert_eq!(writing.as_single_slice(), Some(&b"tick"[..]));
}

#[test]
fn a_lane_that_goes_hands_its_members_to_their_tasks() {
    let hub = roomy();
    let lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100);
    broadcast(&hub, "tick");
    assert_eq!(member.wakes.count(), 0);
    drop(lane);
    assert_eq!((member.wakes.count(), member.park().0), (1, "tick".to_owned()));
    broadcast(&hub, "tock");
    assert_eq!(
        (member.wakes.count(), member.park().0),
        (1, "tock".to_owned()),
        "without lanes tasks are woken"
    );
}

#[test]
fn lanes_share_many_members_and_yield() {
    let hub = roomy();
    let mut lanes = [hub.deliver_broadcasts(), hub.deliver_broadcasts()];
    let members: Vec<_> = (0..1000).map(|_| Member::new(&hub, 100)).collect();
    assert_eq!(broadcast(&hub, "tick").sent, 1000);
    let written = || members.iter().filter(|member| !member.socket.writes().is_empty()).count();
    let wakes = Arc::new(Wakes::default());
    let one_turn = Pin::new(&mut lanes[0]).poll(&mut Context::from_waker(&wakes.clone().into()));
    assert!(one_turn.is_pending() && wakes.count() == 1, "it goes on after the others");
    assert!((1..500).contains(&written()));
    deliver(&mut lanes[0]);
    assert!((1..500).contains(&written()), "the rest is the other lane's");
    deliver(&mut lanes[1]);
    assert_eq!(written(), 500);
    assert!(members.iter().all(|member| member.wakes.count() == 0));
}

#[test]
fn lanes_end_with_their_hub() {
    let hub = roomy();
    let mut lane = hub.deliver_broadcasts();
    let wakes = Arc::new(Wakes::default());
    let mut cx = Context::from_waker(Waker::noop());
    let waker = wakes.clone().into();
    assert!(Pin::new(&mut lane).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(hub);
    assert_eq!(wakes.count(), 1);
    assert!(Pin::new(&mut lane).poll(&mut cx).is_ready());
}

#[test]
fn a_batch_leaves_and_its_task_sleeps_in_one_visit() {
    let hub = roomy();
    let mut member = Member::new(&hub, 100);
    for batch in 1..=2 {
        member.driver.begin_batch();
        member.session().try_send("own ").expect("room");
        member.session().try_send_ref("ref").expect("room");
        assert_eq!(member.rest(), Some(Wish::Run));
        assert_eq!(member.socket.writes(), ["own ref"]);
        assert_eq!(member.session().pending_send_bytes(), 0);
        let metrics = member.session().metrics();
        assert_eq!((metrics.messages_sent, metrics.bytes_sent), (2 * batch, 7 * batch));
    }
    assert_eq!(member.wakes.count(), 0);
    member.session().try_send("more").expect("room");
    assert_eq!(member.wakes.count(), 1, "the task sleeps, and a send wakes it");
}

#[test]
fn what_others_send_during_a_batch_leaves_behind_what_it_had_sent_before() {
    let hub = roomy();
    let mut member = Member::new(&hub, 100);
    let session = member.session().clone();
    member.driver.begin_batch();
    session.try_send("a").expect("room");
    std::thread::scope(|scope| scope.spawn(|| session.try_send("b").map(drop)).join())
        .expect("no panic")
        .expect("room");
    session.try_send("c").expect("room");
    assert_eq!(member.rest(), Some(Wish::Run));
    assert_eq!(member.socket.writes().concat(), "abc");
    assert_eq!(member.rest(), Some(Wish::Run));
    assert_eq!(member.socket.writes(), [""; 0]);
}

#[test]
fn what_the_socket_does_not_take_of_a_batch_is_written_by_the_task() {
    let hub = roomy();
    for room in 0..6 {
        let mut member = Member::new(&hub, room);
        member.driver.begin_batch();
        member.session().try_send("abcdef").expect("room");
        member.session().control(Control::Pong("".into()));
        assert_eq!(member.rest(), None);
        let written = member.socket.writes().concat();
        assert_eq!(written.len(), room);
        assert_eq!(member.session().pending_send_bytes() + room, "abcdefpong".len());
        let (rest, wish) = member.park();
        assert_eq!((written + &rest, wish), ("abcdefpong".to_owned(), Wish::Run));
        assert_eq!(member.session().metrics().bytes_sent, 10);
    }
}

#[test]
fn without_a_socket_of_its_own_or_when_it_is_to_end_the_task_writes() {
    let hub = roomy();
    let mut member = Member::new(&hub, 100);
    member.driver = Driver::register(&hub, Role::Server, None, Plain { socket: None, pong: false });
    member.driver.begin_batch();
    member.session().try_send("a").expect("room");
    assert_eq!(member.rest(), None);
    assert_eq!(member.park(), ("a".to_owned(), Wish::Run));

    let mut member = Member::new(&hub, 100);
    member.driver.begin_batch();
    member.session().try_send("a").expect("room");
    member.session().abort();
    assert_eq!(member.rest(), None);
    assert_eq!((member.park(), member.socket.writes()), (("".to_owned(), Wish::Abort), vec![]));
}

#[test]
fn a_batch_that_fills_the_outbox_makes_room_as_it_leaves() {
    let hub = hub(8, SlowConsumerPolicy::Wait);
    let mut member = Member::new(&hub, 100);
    let session = member.session().clone();
    member.driver.begin_batch();
    session.try_send("12345678").expect("below the limit before");
    assert!(session.is_backpressured());
    let mut waiting = pin!(session.send("next").into_future());
    assert!(poll(waiting.as_mut()).is_pending());
    assert_eq!(member.rest(), Some(Wish::Run));
    assert!(!session.is_backpressured());
    assert!(matches!(poll(waiting.as_mut()), Poll::Ready(Ok(_))));
    assert_eq!(member.wakes.count(), 1, "the task sleeps, and this wakes it");
}

/// Sends to its session when it is dropped.
struct Echoing(Vec<u8>, Session);

impl AsRef<[u8]> for Echoing {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        self.1.try_send("gone").expect("room");
    }
}

#[test]
fn a_shared_payload_of_a_batch_is_not_dropped_under_the_lock() {
    let hub = hub(100_000, SlowConsumerPolicy::Wait);
    let mut member = Member::new(&hub, 100_000);
    let payload = Bytes::from_owner(Echoing(vec![b'x'; SHARE_FROM], member.session().clone()));
    member.driver.begin_batch();
    member.session().try_send(payload).expect("room");
    assert_eq!(member.rest(), None);
    assert_eq!(member.park(), ("x".repeat(SHARE_FROM) + "gone", Wish::Run));
}

/// Broadcasts when it is dropped.
struct Broadcasting(Arc<Hub>);

impl AsRef<[u8]> for Broadcasting {
    fn as_ref(&self) -> &[u8] {
        b"x"
    }
}

impl Drop for Broadcasting {
    fn drop(&mut self) {
        broadcast(&self.0, "all");
    }
}

#[test]
fn a_payload_that_is_copied_in_a_batch_may_send_to_anyone_as_it_goes() {
    let hub = hub(100_000, SlowConsumerPolicy::Wait);
    let (mut member, mut other) = (Member::new(&hub, 100_000), Member::new(&hub, 100_000));
    let (own, others) = (member.session().clone(), other.session().clone());
    let payloads = [
        (Bytes::from_owner(Echoing(b"x".to_vec(), own.clone())), "xgone", ""),
        (Bytes::from_owner(Echoing(b"x".to_vec(), others)), "x", "gone"),
        (Bytes::from_owner(Broadcasting(hub)), "xall", "all"),
    ];
    for (payload, to_own, to_other) in payloads {
        member.driver.begin_batch();
        assert!(matches!(poll(pin!(own.send(payload))), Poll::Ready(Ok(_))));
        assert_eq!((member.park().0, other.park().0), (to_own.to_owned(), to_other.to_owned()));
    }
}

#[test]
fn a_shared_payload_is_not_dropped_under_the_lock_by_a_lane() {
    let hub = hub(100_000, SlowConsumerPolicy::Wait);
    let mut lane = hub.deliver_broadcasts();
    let mut member = Member::new(&hub, 100_000);
    deliver(&mut lane);
    broadcast(&hub, "tick ");
    let payload = Bytes::from_owner(Echoing(vec![b'x'; SHARE_FROM], member.session().clone()));
    member.session().try_send(payload).expect("room");
    deliver(&mut lane);
    assert_eq!((member.socket.writes(), member.wakes.count()), (vec![], 1));
    assert!(member.driver.sync(&mut member.writing, 0) == Wish::Run && member.writing.len() > SHARE_FROM);
    let written = member.writing.len();
    member.writing.advance(written);
    assert_eq!(member.session().pending_send_bytes(), written + "gone".len());
}
