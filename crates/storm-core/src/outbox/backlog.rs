//! Messages that may go again before they leave: dropped for newer ones, or replaced under their key.
//!
//! Owns: whole messages, not encoded, in the order in which they leave. Encoded bytes could not be taken back: what
//! follows them may depend on them (compression), or the task may have them.
//! Not here: when they are encoded, and the limit (`outbox`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::Payload;
use crate::Message;

/// What a waiting message counts besides its payload: about what it takes in memory here, and more than any head on the
/// wire. Bounds how many empty ones may wait.
pub(crate) const ENTRY_COST: usize = 128;

/// Names a feed of which only the latest state is worth sending; see [`SendingWith::latest`](crate::SendingWith::latest).
///
/// A number or a text. Texts are the same key if they are equal, whoever owns them.
///
/// ```
/// use std::sync::Arc;
///
/// use storm_core::LatestKey;
///
/// assert_eq!(LatestKey::from("price"), LatestKey::from(Arc::from("price")));
/// assert_ne!(LatestKey::from(1), LatestKey::from("1"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LatestKey(Name);

#[derive(Clone)]
enum Name {
    Number(u64),
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    fn parts(&self) -> (Option<u64>, &str) {
        match self {
            Self::Number(number) => (Some(*number), ""),
            Self::Static(text) => (None, text),
            Self::Shared(text) => (None, text),
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl From<u64> for LatestKey {
    fn from(number: u64) -> Self {
        Self(Name::Number(number))
    }
}

impl From<&'static str> for LatestKey {
    fn from(text: &'static str) -> Self {
        Self(Name::Static(text))
    }
}

impl From<Arc<str>> for LatestKey {
    fn from(text: Arc<str>) -> Self {
        Self(Name::Shared(text))
    }
}

impl From<String> for LatestKey {
    fn from(text: String) -> Self {
        Self(Name::Shared(text.into()))
    }
}

impl fmt::Debug for LatestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parts() {
            (Some(number), _) => number.fmt(f),
            (None, text) => text.fmt(f),
        }
    }
}

/// On which terms a message waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// It may be dropped for a newer one.
    pub(crate) droppable: bool,
    /// It is replaced by the next one under the same key.
    pub(crate) key: Option<LatestKey>,
    pub(crate) uncompressed: bool,
}

impl Terms {
    /// It is queued for good, like most.
    #[inline]
    pub(crate) const fn is_usual(&self) -> bool {
        !self.droppable && self.key.is_none()
    }

    /// How `message`, which is the sender's own, is to be queued.
    #[inline]
    pub(crate) const fn payload<'a>(&self, message: &'a mut Option<Message>) -> Payload<'a> {
        match self.uncompressed {
            false => Payload::Own(message),
            true => Payload::Uncompressed(message),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) message: Message,
    pub(super) terms: Terms,
}

impl Entry {
    pub(super) fn cost(&self) -> usize {
        cost(&self.message)
    }
}

/// What `message` counts while it waits here.
pub(super) fn cost(message: &Message) -> usize {
    message.len() + ENTRY_COST
}

/// The messages by place in line. Nothing here takes a scan: all of it happens behind the outbox's lock.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    entries: BTreeMap<u64, Entry>,
    /// The place of the message under each key. Invariant: exactly the keys of `entries`.
    keys: HashMap<LatestKey, u64>,
    /// The places of those that may be dropped.
    droppable: BTreeSet<u64>,
    next: u64,
    cost: usize,
    droppable_cost: usize,
}

impl Backlog {
    /// What its messages count, all together.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// What those of them count that may be dropped.
    pub(super) fn droppable_cost(&self) -> usize {
        self.droppable_cost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What the message counts that waits under `key`.
    pub(super) fn cost_under(&self, key: &LatestKey) -> Option<usize> {
        Some(self.entries[self.keys.get(key)?].cost())
    }

    /// Puts a message in the place of the one under its key, if there is one, else at the end. Returns the one it replaces.
    pub(super) fn put(&mut self, entry: Entry) -> Option<Entry> {
        let key = entry.terms.key.clone();
        let place = key.as_ref().and_then(|key| self.keys.get(key)).copied();
        let place = place.unwrap_or(self.next);
        let replaced = self.take(place);
        self.next = self.next.max(place + 1);
        self.cost += entry.cost();
        if entry.terms.droppable {
            self.droppable_cost += entry.cost();
            self.droppable.insert(place);
        }
        if let Some(key) = key {
            self.keys.insert(key, place);
        }
        self.entries.insert(place, entry);
        replaced
    }

    /// The message that leaves next.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let (place, _) = self.entries.first_key_value()?;
        self.take(*place)
    }

    /// The oldest one that may be dropped.
    pub(super) fn pop_droppable(&mut self) -> Option<Entry> {
        self.take(*self.droppable.first()?)
    }

    fn take(&mut self, place: u64) -> Option<Entry> {
        let entry = self.entries.remove(&place)?;
        self.cost -= entry.cost();
        if self.droppable.remove(&place) {
            self.droppable_cost -= entry.cost();
        }
        if let Some(key) = &entry.terms.key {
            self.keys.remove(key);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &'static str, droppable: bool, key: Option<u64>) -> Entry {
        let terms = Terms { droppable, key: key.map(LatestKey::from), uncompressed: false };
        Entry { message: text.into(), terms }
    }

    fn drain(backlog: &mut Backlog) -> String {
        std::iter::from_fn(|| backlog.pop()).map(|entry| entry.message.text().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_latest_takes_the_place_of_the_one_before() {
        let mut backlog = Backlog::default();
        for (text, key) in [("a", Some(1)), ("b", None), ("c", Some(2)), ("dd", Some(1)), ("e", Some(3))] {
            assert_eq!(backlog.put(entry(text, false, key)).is_some(), text == "dd");
        }
        assert_eq!(backlog.cost_under(&1.into()), Some(ENTRY_COST + 2));
        assert_eq!(backlog.cost(), 4 * ENTRY_COST + 5);
        assert_eq!(drain(&mut backlog), "ddbce");
        assert_eq!((backlog.cost(), backlog.keys.len(), backlog.cost_under(&1.into())), (0, 0, None));
        backlog.put(entry("again", false, Some(1)));
        assert_eq!(drain(&mut backlog), "again");
    }

    #[test]
    fn the_oldest_that_may_go_goes_first_and_the_rest_keeps_its_order() {
        let mut backlog = Backlog::default();
        for (text, droppable) in [("1", false), ("2", true), ("3", false), ("4", true), ("5", true)] {
            backlog.put(entry(text, droppable, None));
        }
        assert_eq!(backlog.droppable_cost(), 3 * (ENTRY_COST + 1));
        assert_eq!(backlog.pop_droppable().unwrap().message, "2".into());
        assert_eq!(backlog.pop_droppable().unwrap().message, "4".into());
        assert_eq!(backlog.droppable_cost(), ENTRY_COST + 1);
        assert_eq!(drain(&mut backlog), "135");
        assert_eq!((backlog.droppable_cost(), backlog.droppable.len()), (0, 0));
        assert!(backlog.pop_droppable().is_none());
    }

    #[test]
    fn a_replacement_waits_on_its_own_terms() {
        let mut backlog = Backlog::default();
        backlog.put(entry("kept", false, Some(1)));
        backlog.put(entry("may go", true, Some(1)));
        assert_eq!(backlog.droppable_cost(), ENTRY_COST + 6);
        backlog.put(entry("kept again", false, Some(1)));
        assert_eq!(backlog.droppable_cost(), 0);
        assert!(backlog.pop_droppable().is_none());
        assert_eq!(drain(&mut backlog), "kept again");
    }
}
