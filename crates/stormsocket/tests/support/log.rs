//! What handlers were told, in order.

use bytes::Bytes;
use stormsocket::{BoxError, DisconnectReason, Error, ErrorKind, Session, TcpHandler};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::soon;

/// One call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected(Session),
    Data(Session, Bytes),
    Disconnected(Session, DisconnectReason),
    Error(Option<Session>, ErrorKind),
}

/// A handler that writes down what it is told.
#[derive(Debug, Clone)]
pub struct Recorder(UnboundedSender<Event>);

/// What a [`Recorder`] was told.
#[derive(Debug)]
pub struct Log(UnboundedReceiver<Event>);

/// A recorder and what it writes.
pub fn recorder() -> (Recorder, Log) {
    let (sender, receiver) = unbounded_channel();
    (Recorder(sender), Log(receiver))
}

impl Recorder {
    fn note(&self, event: Event) {
        // Once the test is over nobody reads.
        let _ = self.0.send(event);
    }
}

impl TcpHandler for Recorder {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        self.note(Event::Connected(session.clone()));
        Ok(())
    }

    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        self.note(Event::Data(session.clone(), data));
        Ok(())
    }

    async fn on_disconnected(&self, session: &Session, reason: DisconnectReason) -> Result<(), BoxError> {
        self.note(Event::Disconnected(session.clone(), reason));
        Ok(())
    }

    async fn on_error(&self, session: Option<&Session>, error: &Error) {
        self.note(Event::Error(session.cloned(), error.kind()));
    }
}

impl Log {
    /// The next event.
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = Event> {
        let next = soon(self.0.recv());
        async move { next.await.expect("the recorder is alive") }
    }

    /// The next event, which is a connect.
    #[track_caller]
    pub fn connected(&mut self) -> impl Future<Output = Session> {
        let next = self.next();
        async move {
            match next.await {
                Event::Connected(session) => session,
                other => panic!("expected a connect, not {other:?}"),
            }
        }
    }

    /// The next event, which is a message.
    #[track_caller]
    pub fn data(&mut self) -> impl Future<Output = Bytes> {
        let next = self.next();
        async move {
            match next.await {
                Event::Data(_, data) => data,
                other => panic!("expected data, not {other:?}"),
            }
        }
    }

    /// The next event, which is an end.
    #[track_caller]
    pub fn disconnected(&mut self) -> impl Future<Output = DisconnectReason> {
        let next = self.next();
        async move {
            match next.await {
                Event::Disconnected(_, reason) => reason,
                other => panic!("expected an end, not {other:?}"),
            }
        }
    }

    /// The next event, which is an error.
    #[track_caller]
    pub fn error(&mut self) -> impl Future<Output = ErrorKind> {
        let next = self.next();
        async move {
            match next.await {
                Event::Error(_, kind) => kind,
                other => panic!("expected an error, not {other:?}"),
            }
        }
    }

    /// Fails if anything has happened since.
    #[track_caller]
    pub fn assert_quiet(&mut self) {
        if let Ok(event) = self.0.try_recv() {
            panic!("unexpected {event:?}");
        }
    }
}
