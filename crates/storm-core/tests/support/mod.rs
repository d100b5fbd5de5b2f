//! Stand-ins for a protocol, a connection task, a waiting task and payloads with an owner.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use storm_core::driver::Driver;
use storm_core::outbox::{Encode, SendQueue};
use storm_core::{Message, SendError, Session};

/// Bytes as they are, at most `.0` of them in a message.
pub(crate) struct Plain(pub(crate) usize);

impl Encode for Plain {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        self.check(&message)?;
        queue.put_bytes(message.into_data());
        Ok(())
    }

    fn check(&mut self, message: &Message) -> Result<(), SendError> {
        match message.len() > self.0 {
            true => Err(SendError::TooLarge { len: message.len(), limit: self.0 }),
            false => Ok(()),
        }
    }

    fn twin(&self) -> Option<Box<dyn Encode>> {
        Some(Box::new(Self(self.0)))
    }
}

/// The owner of a payload that asks its session how it is when it is dropped, which would wait for ever for a lock held then.
pub(crate) struct Asking(pub(crate) Vec<u8>, pub(crate) Session);

impl AsRef<[u8]> for Asking {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        assert!(!self.1.is_backpressured());
    }
}

/// A task that counts how often it was woken.
#[derive(Default)]
pub(crate) struct Wakes(pub(crate) AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Everything leaves; returns how many bytes that was.
pub(crate) fn drain(driver: &mut Driver) -> usize {
    let (mut writing, mut written, mut all) = (SendQueue::default(), 0, 0);
    loop {
        driver.sync(&mut writing, written);
        written = writing.len();
        if written == 0 {
            return all;
        }
        all += written;
        writing.advance(written);
    }
}

/// A payload that panics when it goes.
pub(crate) struct Fragile(pub(crate) Vec<u8>);

impl AsRef<[u8]> for Fragile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("do not drop me");
    }
}
