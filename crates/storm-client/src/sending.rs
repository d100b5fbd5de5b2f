//! One send of a client: over the connection of the moment, or in line for the next one.
//!
//! Owns: the message and its terms, until a connection has it. Not here: the line (`queue`), what a session makes of a
//! send (`storm-core`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use storm_core::{LatestKey, Message, SendError, SendOutcome, SendingWith, Session, SlowConsumerPolicy};

use crate::queue::fits_the_budget;
use crate::supervise::Shared;

type Outcome = Result<SendOutcome, SendError>;

/// The future of [`ClientHandle::send`](crate::ClientHandle::send).
#[must_use = "a message is sent when its future is awaited"]
pub struct ClientSending<'a> {
    shared: &'a Shared,
    terms: Terms,
    stage: Stage<'a>,
}

/// What one message is sent on, on whichever connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    policy: Option<SlowConsumerPolicy>,
    key: Option<LatestKey>,
    uncompressed: bool,
}

impl Terms {
    /// A send of `message` over `session`.
    pub(crate) fn send(&self, session: Session, message: Message) -> SendingWith<'static> {
        let mut sending = SendingWith::over(session, message);
        if let Some(policy) = self.policy {
            sending = sending.policy(policy);
        }
        if let Some(key) = &self.key {
            sending = sending.latest(key.clone());
        }
        if self.uncompressed { sending.uncompressed() } else { sending }
    }
}

/// How far a send has got.
enum Stage<'a> {
    /// Not polled yet. `None`: what was to be a text was none.
    Fresh(Option<Message>),
    /// Over the connection of the moment. If that one is closing, what was `kept` goes over the next one.
    Direct {
        sending: SendingWith<'static>,
        kept: Option<Message>,
    },
    /// In line for a connection. Boxed: what waits for one may wait for a while.
    InLine(Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>),
    Done,
}

impl<'a> ClientSending<'a> {
    /// A send of `message`; `None` is a text that is not UTF-8.
    pub(crate) fn new(shared: &'a Shared, message: Option<Message>) -> Self {
        Self { shared, terms: Terms::default(), stage: Stage::Fresh(message) }
    }

    /// Sends it under `policy`, whatever the client's is. Counts on a connection, not while the message waits for one.
    ///
    /// ```
    /// use storm_client::ClientHandle;
    /// use storm_core::{SendError, SlowConsumerPolicy};
    ///
    /// async fn position(client: &ClientHandle, position: String) -> Result<(), SendError> {
    ///     client.send(position).policy(SlowConsumerPolicy::DropOldest).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn policy(mut self, policy: SlowConsumerPolicy) -> Self {
        self.terms.policy = Some(policy);
        self
    }

    /// Sends it as the newest state of the feed `key`; see [`SendingWith::latest`]. Those that wait for a connection are all
    /// handed to it, in order, and replace each other there.
    pub fn latest(mut self, key: impl Into<LatestKey>) -> Self {
        self.terms.key = Some(key.into());
        self
    }

    /// Sends the message as it is, where the protocol would compress it.
    pub fn uncompressed(mut self) -> Self {
        self.terms.uncompressed = true;
        self
    }

    /// The way of a fresh message.
    fn set_out(&self, message: Message) -> Stage<'a> {
        let Some(queue) = &self.shared.queue else {
            let session = self.shared.session().expect("a handle is made when the first session is there");
            return Stage::Direct { sending: self.terms.send(session, message), kept: None };
        };
        match queue.open_way() {
            Some(session) => {
                let kept = Some(message.clone());
                Stage::Direct { sending: self.terms.send(session, message), kept }
            }
            None => Stage::InLine(Box::pin(queue.wait(message, self.terms.clone()))),
        }
    }
}

impl Future for ClientSending<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        loop {
            let outcome = match &mut this.stage {
                Stage::Fresh(message) => match message.take() {
                    Some(message) => {
                        this.stage = this.set_out(message);
                        continue;
                    }
                    None => Err(SendError::InvalidUtf8),
                },
                Stage::Direct { sending, kept } => {
                    let outcome = ready!(Pin::new(sending).poll(cx));
                    if let (Err(SendError::Closed(reason)), Some(queue), Some(message)) =
                        (&outcome, &this.shared.queue, kept.take())
                    {
                        // Not a byte of it has been sent: the next connection may have it.
                        match fits_the_budget(&this.shared.hub, *reason, message.len()) {
                            Ok(()) => {
                                this.stage = Stage::InLine(Box::pin(queue.wait(message, this.terms.clone())));
                                continue;
                            }
                            Err(error) => Err(error),
                        }
                    } else {
                        outcome
                    }
                }
                Stage::InLine(waiting) => ready!(waiting.as_mut().poll(cx)),
                Stage::Done => panic!("a send was polled after it had completed"),
            };
            this.stage = Stage::Done;
            return Poll::Ready(outcome);
        }
    }
}

impl std::fmt::Debug for ClientSending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSending").field("terms", &self.terms).finish_non_exhaustive()
    }
}
