//! Panics of user code end one session, not the task that cleans up after it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::PanicMessage;

/// Awaits `future`; a panic in it is a value, and `future` is not polled again.
///
/// What it borrows is used after a panic: the connection's own state is consistent whenever user code runs, and the
/// handlers' state is their owner's concern.
pub const fn catch_unwind_of<F: Future>(future: F) -> CatchUnwind<F> {
    CatchUnwind { future }
}

pin_project! {
    /// The future of [`catch_unwind_of`]. Written by hand: an async fn keeps its argument twice.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct CatchUnwind<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, PanicMessage>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind_in(|| self.project().future.poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Calls `user`; a panic in it is a value. As for what it borrows, see [`catch_unwind_of`].
#[inline]
pub fn catch_unwind_in<R>(user: impl FnOnce() -> R) -> Result<R, PanicMessage> {
    catch_unwind(AssertUnwindSafe(user)).map_err(|payload| {
        let message = PanicMessage::from_payload(payload.as_ref());
        // Its drop is user code, too. What that panics with is left alone: so might be the next one's.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        message
    })
}

/// Goes on with a panic that was caught for something to be done first.
pub fn resume(panic: &PanicMessage) -> ! {
    resume_unwind(Box::new(panic.to_string()))
}
