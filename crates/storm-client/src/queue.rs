//! Sends that wait for a connection, first come first served.
//!
//! ```text
//!  send ── connected, nobody waits: open_way ──> the session
//!   └── otherwise: wait ── room? ─> line ─> connected ──> the session ── lost meanwhile ─> back to the head of the line
//! ```
//!
//! Each send keeps its own message and its place in line: what is dropped has not been sent, and what completes says what
//! became of it. Owns: the line, and the bytes in it. In: the session of the moment, from `supervise` and [`Greeted`].

use bytes::Bytes;
use parking_lot::Mutex;
use storm_core::{
    DisconnectReason, Events, HandlerOutcome, Hub, Message, SendBudget, SendError, SendOutcome, Session,
};
use tokio::sync::watch;

use crate::sending::Terms;

/// Where sends go.
#[derive(Debug, Clone)]
enum Way {
    /// There is no connection, or its handlers are still being told of it.
    None,
    Through(Session),
    /// There will be none any more.
    Over(Option<DisconnectReason>),
}

/// The sends of one client that wait for a connection.
#[derive(Debug)]
pub(crate) struct Queue {
    max_bytes: usize,
    /// Bytes in the line. Zero exactly if nobody waits.
    waiting: Mutex<usize>,
    /// Whose turn it is: this lock is handed over in the order it was asked for.
    turn: tokio::sync::Mutex<()>,
    way: watch::Sender<Way>,
}

impl Queue {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            waiting: Mutex::new(0),
            turn: tokio::sync::Mutex::new(()),
            way: watch::channel(Way::None).0,
        }
    }

    /// The connection is lost.
    pub(crate) fn lost(&self) {
        self.way.send_replace(Way::None);
    }

    /// There will be no connection any more.
    pub(crate) fn over(&self, reason: Option<DisconnectReason>) {
        self.way.send_replace(Way::Over(reason));
    }

    /// The connection of the moment, if it may be sent over at once: nobody is in line.
    pub(crate) fn open_way(&self) -> Option<Session> {
        if *self.waiting.lock() > 0 {
            return None;
        }
        match &*self.way.borrow() {
            Way::Through(session) => Some(session.clone()),
            Way::None | Way::Over(_) => None,
        }
    }

    /// The end, if there will be no connection any more.
    pub(crate) fn end(&self) -> Option<SendError> {
        match &*self.way.borrow() {
            Way::Over(reason) => Some(SendError::Closed(*reason)),
            Way::None | Way::Through(_) => None,
        }
    }

    /// Sends over the next connection, or this one, once it is this message's turn.
    pub(crate) async fn wait(&self, message: Message, terms: Terms) -> Result<SendOutcome, SendError> {
        let _place = self.line_up(message.len())?;
        let _turn = self.turn.lock().await;
        let mut way = self.way.subscribe();
        loop {
            let next = way.wait_for(|way| !matches!(way, Way::None)).await;
            let next = next.map_or(Way::Over(None), |way| way.clone());
            let session = match next {
                Way::Through(session) => session,
                Way::None | Way::Over(None) => return Err(SendError::Closed(None)),
                Way::Over(reason) => return Err(SendError::Closed(reason)),
            };
            match terms.send(session.clone(), message.clone()).await {
                Err(SendError::Closed(reason)) => fits_the_budget(session.server(), reason, message.len())?,
                outcome => return outcome,
            }
            // Its end is known before the way is: an error is the end, and seen above.
            let _ = way.wait_for(|way| !matches!(way, Way::Through(lost) if *lost == session)).await;
        }
    }

    fn line_up(&self, len: usize) -> Result<Place<'_>, SendError> {
        let bytes = len.max(1);
        let mut waiting = self.waiting.lock();
        if waiting.saturating_add(bytes) > self.max_bytes {
            return Err(SendError::Full);
        }
        *waiting += bytes;
        Ok(Place { queue: self, bytes })
    }
}

/// The longest head a message has on the wire, of the protocols here.
const LONGEST_HEAD: usize = 16;

/// Whether a message of `len` bytes, with which a connection has ended for `reason`, has a chance on the next one: one that is more than
/// the whole budget would have each of them shed.
pub(crate) fn fits_the_budget(
    hub: &Hub,
    reason: Option<DisconnectReason>,
    len: usize,
) -> Result<(), SendError> {
    let limit = hub.options().send_budget.as_ref().map_or(usize::MAX, SendBudget::limit);
    if reason == Some(DisconnectReason::SlowConsumer) && len.saturating_add(LONGEST_HEAD) > limit {
        return Err(SendError::TooLarge { len, limit });
    }
    Ok(())
}

/// Room in the line, given back on drop.
struct Place<'a> {
    queue: &'a Queue,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.queue.waiting.lock() -= self.bytes;
    }
}

/// The last of a client's handlers: opens the way once the others have been told of a connection, so that what they send
/// first (who we are, what we want) is first.
pub(crate) struct Greeted(pub(crate) Option<std::sync::Arc<Queue>>);

impl Greeted {
    fn open(&self, session: &Session) {
        if let Some(queue) = &self.0 {
            queue.way.send_replace(Way::Through(session.clone()));
        }
    }
}

impl Events<Session, Bytes> for Greeted {
    const MESSAGES: bool = false;

    async fn connected(&self, session: &Session) -> HandlerOutcome {
        self.open(session);
        Ok(())
    }

    async fn message(&self, _: &Session, _: Bytes) -> HandlerOutcome {
        Ok(())
    }
}

#[cfg(feature = "ws")]
impl Events<storm_transport::ws::WsSession, Message> for Greeted {
    const MESSAGES: bool = false;

    async fn connected(&self, session: &storm_transport::ws::WsSession) -> HandlerOutcome {
        self.open(session);
        Ok(())
    }

    async fn message(&self, _: &storm_transport::ws::WsSession, _: Message) -> HandlerOutcome {
        Ok(())
    }
}
