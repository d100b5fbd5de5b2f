//! Panics of user code end one session, not the task that cleans up after it.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::error::PanicMessage;

/// Awaits `future`; a panic in it is a value, and the future is dropped.
///
/// What it borrows is used after a panic: the connection's own state is consistent whenever user code runs, and the
/// handlers' state is their owner's concern.
pub async fn catch_unwind_of<F: Future>(future: F) -> Result<F::Output, PanicMessage> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(payload) => Poll::Ready(Err(PanicMessage::from_payload(payload.as_ref()))),
    })
    .await
}
