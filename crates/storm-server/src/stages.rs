//! A handshake and the connection it leads to, in one task.
//!
//! The connection takes the handshake's place. With a task for each, the handshake's would still be there when the
//! connection's is allocated, and leave a hole behind it: ten thousand connections, ten thousand holes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

pin_project! {
    /// The future of a handshake, then that of the connection `then` makes of its outcome, if it makes one.
    #[project = StagesProjection]
    pub(crate) enum Stages<H, F, C> {
        Handshake { handshake: Pin<Box<H>>, then: Option<F> },
        Connection { #[pin] connection: C },
        Over,
    }
}

impl<H, F, C> Stages<H, F, C>
where
    H: Future,
    F: FnOnce(H::Output) -> Option<C>,
    C: Future,
{
    pub(crate) const fn new(handshake: Pin<Box<H>>, then: F) -> Self {
        Self::Handshake { handshake, then: Some(then) }
    }
}

impl<H, F, C> Future for Stages<H, F, C>
where
    H: Future,
    F: FnOnce(H::Output) -> Option<C>,
    C: Future,
{
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.as_mut().project() {
                StagesProjection::Connection { connection } => return connection.poll(cx).map(drop),
                StagesProjection::Handshake { handshake, then } => {
                    let outcome = ready!(handshake.as_mut().poll(cx));
                    let then = then.take().expect("a handshake ends once");
                    // The handshake is gone before anything of the connection is allocated, which then takes its place.
                    self.set(Self::Over);
                    if let Some(connection) = then(outcome) {
                        self.set(Self::Connection { connection });
                    }
                }
                StagesProjection::Over => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_connection_follows_its_handshake_which_is_gone_by_then() {
        let held = Arc::new(());
        let handshake = Box::pin({
            let held = held.clone();
            async move {
                tokio::task::yield_now().await;
                Arc::strong_count(&held)
            }
        });
        let (ended, end) = tokio::sync::oneshot::channel();
        Stages::new(handshake, |count| {
            assert_eq!((count, Arc::strong_count(&held)), (2, 1));
            Some(async move {
                tokio::task::yield_now().await;
                ended.send(()).expect("somebody waits");
            })
        })
        .await;
        end.await.expect("it ran to its end");
    }

    #[tokio::test]
    async fn without_a_connection_that_is_all() {
        let connection: Option<std::future::Pending<()>> = None;
        Stages::new(Box::pin(std::future::ready(())), move |()| connection).await;
    }
}
