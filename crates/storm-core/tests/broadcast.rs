//! Broadcasts as their members' outboxes see them, without a socket: a `Driver` stands in for each connection task.

mod support;

use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use storm_core::driver::Driver;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::{Encode, SendQueue};
use storm_core::{Hub, Message, Role, SendError, SessionOptions};
use support::Plain;

/// A protocol that needs until another session has come and gone for each message.
struct Slow(Weak<Hub>);

impl Encode for Slow {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        let hub = self.0.upgrade().expect("it encodes for a session of the hub");
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            drop(Driver::register(&hub, Role::Server, None, Plain(usize::MAX)));
            done.send(()).expect("the encoder waits");
        });
        wait.recv_timeout(Duration::from_secs(20)).expect("sessions come and go meanwhile");
        Plain(usize::MAX).encode(message, queue)
    }
}

#[test]
fn sessions_come_and_go_while_a_large_message_is_encoded() {
    let hub: Arc<Hub> = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
    let member = Driver::register(&hub, Role::Server, None, Slow(Arc::downgrade(&hub)));
    member.session().join("room");
    let large = vec![0; 64 * 1024];
    let everyone = hub.sessions().broadcast(large.clone());
    let room = hub.groups().broadcast("room", large);
    for broadcast in [everyone, room] {
        let mut sending = pin!(broadcast.into_future());
        let report = match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => report,
            Poll::Pending => panic!("there is room"),
        };
        assert_eq!((report.sent, report.failed), (1, 0));
    }
}
