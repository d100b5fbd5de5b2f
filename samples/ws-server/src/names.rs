//! What sessions are called: each name once, whatever its case.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use stormsocket::{Session, SessionId, SessionKey};

use crate::fields::Name;
use crate::refusal::Refusal;

static NAME: SessionKey<Arc<str>> = SessionKey::new("name");

/// What newcomers are called, with their number behind it. Nobody may call himself so.
const GUEST: &str = "guest-";

/// The names that are taken; one for each session that chose one, at most.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: Mutex<HashMap<String, SessionId>>,
}

impl Names {
    /// Gives `session` a name in place of the one it has.
    pub(crate) fn claim(&self, session: &Session, name: &Name) -> Result<(), Refusal> {
        let key = name.as_str().to_lowercase();
        let refusal = || Refusal::NameTaken(name.as_str().to_owned());
        if key.starts_with(GUEST) {
            return Err(refusal());
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(&key).is_some_and(|owner| *owner != session.id()) {
            return Err(refusal());
        }
        taken.retain(|_, owner| *owner != session.id());
        taken.insert(key, session.id());
        drop(taken);
        session.set(&NAME, name.as_str().into());
        Ok(())
    }

    /// Frees the name of a session that has ended.
    pub(crate) fn release(&self, session: &Session) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| *owner != session.id());
    }
}

/// What `session` is called.
pub(crate) fn name_of(session: &Session) -> Arc<str> {
    session.get(&NAME).unwrap_or_else(|| format!("{GUEST}{}", session.id()).into())
}
