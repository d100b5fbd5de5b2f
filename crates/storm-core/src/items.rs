//! Values a session carries for its user, by name and type.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::Session;

/// The name and type of a value that sessions carry.
///
/// ```
/// use storm_core::SessionKey;
///
/// static NAME: SessionKey<String> = SessionKey::new("name");
/// assert_eq!(NAME.name(), "name");
/// ```
pub struct SessionKey<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> SessionKey<T> {
    /// A key called `name`. Keys are equal if their names are: two types under one name overwrite each other.
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> fmt::Debug for SessionKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionKey").field(&self.name).finish()
    }
}

/// Shared, so that a value is copied and dropped outside of the lock: both are the user's code.
pub(crate) type ItemMap = HashMap<&'static str, Arc<dyn Any + Send + Sync>>;

/// Values for a session that is still to be.
///
/// ```
/// use storm_core::{EarlyItems, SessionKey};
///
/// static USER: SessionKey<String> = SessionKey::new("user");
/// let mut items = EarlyItems::default();
/// items.set(&USER, "Ann".to_owned());
/// assert!(!items.is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct EarlyItems(ItemMap);

impl EarlyItems {
    /// Stores `value`; returns the one of the same name it replaces, if it was of the same type.
    pub fn set<T: Clone + Send + Sync + 'static>(&mut self, key: &SessionKey<T>, value: T) -> Option<T> {
        let replaced = self.0.insert(key.name, Arc::new(value))?;
        replaced.downcast::<T>().ok().map(Arc::unwrap_or_clone)
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn give_to(self, session: &Session) {
        // A session that carries nothing needs no room for it.
        if !self.is_empty() {
            session.with_extras(|extras| extras.items.extend(self.0));
        }
    }
}

/// The values of one session; see [`Session::items`]. Usable from any task.
#[derive(Debug)]
pub struct Items<'a> {
    pub(crate) session: &'a Session,
}

impl Items<'_> {
    /// A copy of the value, `None` if there is none of this name and type.
    pub fn get<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>) -> Option<T> {
        let value = self.session.with_extras(|extras| extras.items.get(key.name).cloned())?;
        value.downcast::<T>().ok().map(Arc::unwrap_or_clone)
    }

    /// Stores `value`; returns the one it replaces, if it was of the same type.
    pub fn set<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>, value: T) -> Option<T> {
        let value = Arc::new(value);
        let replaced = self.session.with_extras(|extras| extras.items.insert(key.name, value))?;
        replaced.downcast::<T>().ok().map(Arc::unwrap_or_clone)
    }

    /// Changes the value in one step and returns a copy of what it is then. It begins as the type's default if there is none, or
    /// one of another type, which is replaced. Nothing another task changes meanwhile is lost: `change` runs again, on that
    /// value, so it should do nothing else. If it panics, nothing has changed.
    ///
    /// ```
    /// use storm_core::{Session, SessionKey};
    ///
    /// static STRIKES: SessionKey<u32> = SessionKey::new("strikes");
    ///
    /// fn warn(session: &Session) {
    ///     if session.update(&STRIKES, |strikes| *strikes += 1) == 3 {
    ///         session.abort();
    ///     }
    /// }
    /// ```
    pub fn update<T: Clone + Default + Send + Sync + 'static>(
        &self,
        key: &SessionKey<T>,
        mut change: impl FnMut(&mut T),
    ) -> T {
        loop {
            let before = self.session.with_extras(|extras| extras.items.get(key.name).cloned());
            let mut value =
                before.as_ref().and_then(|value| value.downcast_ref::<T>()).cloned().unwrap_or_default();
            change(&mut value);
            // Both are dropped without the lock: this one if it is not taken, what it replaces with `before`.
            let mut after: Option<Arc<dyn Any + Send + Sync>> = Some(Arc::new(value.clone()));
            let is_done = self.session.with_extras(|extras| {
                let now = extras.items.get(key.name);
                let is_as_before = match (&before, now) {
                    (None, None) => true,
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    _ => false,
                };
                if is_as_before && let Some(after) = after.take() {
                    extras.items.insert(key.name, after);
                }
                is_as_before
            });
            if is_done {
                return value;
            }
        }
    }

    /// Removes the value and returns it, `None` if there is none of this name and type.
    pub fn remove<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>) -> Option<T> {
        let removed = self.session.with_extras(|extras| {
            let is_of_type = extras.items.get(key.name).is_some_and(|value| value.is::<T>());
            if is_of_type { extras.items.remove(key.name) } else { None }
        })?;
        removed.downcast::<T>().ok().map(Arc::unwrap_or_clone)
    }

    /// The names that have a value, in no particular order.
    pub fn names(&self) -> Vec<&'static str> {
        self.session.with_extras(|extras| extras.items.keys().copied().collect())
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.session.with_extras(|extras| extras.items.len())
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
