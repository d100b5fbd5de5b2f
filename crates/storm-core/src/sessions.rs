//! All live sessions of one server or client.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::broadcast::{Audience, Broadcast};
use crate::{Hub, Message, Session, SessionId};

/// The live sessions of one server or client. Usable from any task.
#[doc(alias("connections", "clients"))]
#[derive(Debug)]
pub struct Sessions {
    by_id: RwLock<HashMap<SessionId, Session>>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { by_id: RwLock::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The session with this id, if it is alive.
    pub fn get(&self, id: impl Into<SessionId>) -> Option<Session> {
        self.by_id.read().get(&id.into()).cloned()
    }

    /// Those alive now, in no particular order. A snapshot: no lock is held while you walk it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Session> + use<> {
        self.by_id.read().values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Sends `message` to all of them; see [`Broadcast`].
    pub fn broadcast(&self, message: impl Into<Message>) -> Broadcast<'_> {
        Broadcast::new(Audience::Everyone(self), message.into())
    }

    /// Sends `text` to all of them; see [`Broadcast`].
    pub fn broadcast_text(&self, text: impl Into<bytestring::ByteString>) -> Broadcast<'_> {
        self.broadcast(Message::Text(text.into()))
    }

    /// Closes all of them in an orderly way, side by side, and waits until all are gone.
    ///
    /// # Cancel safety
    /// All closes begin with the first poll and go on if the future is dropped.
    pub async fn close_all(&self) {
        let all = self.iter();
        let all: Vec<_> = all.inspect(|session| session.start_close(session.role().closed_by_us())).collect();
        for session in all {
            session.closed().await;
        }
    }

    pub(crate) fn insert(&self, session: &Session) {
        self.by_id.write().insert(session.id(), session.clone());
    }

    /// Removes a session; `then` runs before anyone sees it gone.
    pub(crate) fn remove(&self, session: &Session, then: impl FnOnce()) {
        let mut by_id = self.by_id.write();
        if by_id.remove(&session.id()).is_some() {
            then();
        }
    }

    /// Whose they are, if there are any.
    pub(crate) fn hub(&self) -> Option<Arc<Hub>> {
        self.by_id.read().values().next().map(|session| session.server().clone())
    }

    /// Visits all under the lock: `visit` is library code that takes no other lock than an outbox.
    pub(crate) fn visit(&self, mut visit: impl FnMut(SessionId, &Session)) {
        for (id, session) in self.by_id.read().iter() {
            visit(*id, session);
        }
    }
}
