//! Named groups of sessions.
//!
//! A group exists while it has members. Joining and leaving go through one lock, so that a join is never lost to the
//! vanishing of an emptied group, and a session that has ended is in none.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::broadcast::{Audience, Broadcast};
use crate::{Hub, Message, Session, SessionId};

type Members = HashMap<SessionId, Session>;

/// The groups of one server or client, for its own sessions. Usable from any task.
#[doc(alias("rooms", "topics", "channels", "publish", "subscribe"))]
#[derive(Debug)]
pub struct Groups {
    /// Invariant: no group is empty, and a session's own list names exactly the groups it is in.
    by_name: RwLock<HashMap<Arc<str>, Members>>,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self { by_name: RwLock::default() }
    }

    /// Adds `session` to `group`; returns whether it was added. A member stays one; a session that has ended is
    /// not added, nor is one of another server or client.
    #[doc(alias("subscribe"))]
    pub fn add(&self, group: impl AsRef<str>, session: &Session) -> bool {
        if !self.are_of(session) {
            return false;
        }
        let mut by_name = self.by_name.write();
        session.with_extras(|extras| {
            if extras.left_for_good || extras.groups.contains(group.as_ref()) {
                return false;
            }
            let name: Arc<str> = match by_name.get_key_value(group.as_ref()) {
                Some((name, _)) => name.clone(),
                None => group.as_ref().into(),
            };
            by_name.entry(name.clone()).or_default().insert(session.id(), session.clone());
            extras.groups.insert(name)
        })
    }

    /// Removes `session` from `group`; returns whether it was in it.
    #[doc(alias("unsubscribe"))]
    pub fn remove(&self, group: impl AsRef<str>, session: &Session) -> bool {
        if !self.are_of(session) {
            return false;
        }
        let mut by_name = self.by_name.write();
        let was_member = session.with_extras(|extras| extras.groups.remove(group.as_ref()));
        if was_member {
            remove_member(&mut by_name, group.as_ref(), session);
        }
        was_member
    }

    /// Removes `session` from all its groups.
    pub fn remove_from_all(&self, session: &Session) {
        if self.are_of(session) {
            self.take_out(session, false);
        }
    }

    /// Removes `session` from all its groups and refuses later joins.
    pub(crate) fn retire(&self, session: &Session) {
        self.take_out(session, true);
    }

    /// A session knows the names of its groups, not whose they are: they are those of its own hub.
    fn are_of(&self, session: &Session) -> bool {
        std::ptr::eq(self, session.server().groups())
    }

    fn take_out(&self, session: &Session, for_good: bool) {
        let mut by_name = self.by_name.write();
        let left = session.with_extras(|extras| {
            extras.left_for_good |= for_good;
            std::mem::take(&mut extras.groups)
        });
        for group in left {
            remove_member(&mut by_name, &group, session);
        }
    }

    /// How many members `group` has; 0 if it does not exist.
    pub fn member_count(&self, group: impl AsRef<str>) -> usize {
        self.by_name.read().get(group.as_ref()).map_or(0, HashMap::len)
    }

    /// The members of `group` now, in no particular order.
    pub fn members(&self, group: impl AsRef<str>) -> Vec<Session> {
        self.by_name
            .read()
            .get(group.as_ref())
            .map(|members| members.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The groups there are now, in no particular order.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.by_name.read().keys().cloned().collect()
    }

    /// Sends `message` to the members of `group`; an unknown group has none. See [`Broadcast`].
    #[doc(alias("publish"))]
    pub fn broadcast(&self, group: impl AsRef<str>, message: impl Into<Message>) -> Broadcast<'_> {
        Broadcast::new(Audience::Group(self, self.name_of(group.as_ref())), message.into())
    }

    /// Sends `text` to the members of `group`; see [`Broadcast`].
    pub fn broadcast_text(
        &self,
        group: impl AsRef<str>,
        text: impl Into<bytestring::ByteString>,
    ) -> Broadcast<'_> {
        self.broadcast(group, Message::Text(text.into()))
    }

    /// The name to keep: shared if the group exists, so that a broadcast does not copy it.
    fn name_of(&self, group: &str) -> Arc<str> {
        match self.by_name.read().get_key_value(group) {
            Some((name, _)) => name.clone(),
            None => group.into(),
        }
    }

    /// Whose the members of `group` are, if there are any.
    pub(crate) fn hub_of(&self, group: &str) -> Option<Arc<Hub>> {
        self.by_name.read().get(group)?.values().next().map(|session| session.server().clone())
    }

    /// Visits the members under the lock: `visit` is library code that takes no other lock than an outbox.
    pub(crate) fn visit(&self, group: &str, mut visit: impl FnMut(SessionId, &Session)) {
        if let Some(members) = self.by_name.read().get(group) {
            members.iter().for_each(|(id, session)| visit(*id, session));
        }
    }
}

fn remove_member(by_name: &mut HashMap<Arc<str>, Members>, group: &str, session: &Session) {
    if let Some(members) = by_name.get_mut(group) {
        members.remove(&session.id());
        if members.is_empty() {
            by_name.remove(group);
        }
    }
}
