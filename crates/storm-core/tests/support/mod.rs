//! Stand-ins for a protocol and for payloads with an owner.

#![allow(dead_code, reason = "each test file uses its own part")]

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
