//! The cheap handle to one connection.
//!
//! Owns: identity, state, reason, metrics, items, group names. Its bytes wait in the [`outbox`](crate::outbox).
//! Not here: the socket (the connection task has it; see [`driver`](crate::driver)).

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use parking_lot::{Mutex, MutexGuard};

#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::cork::{self, Put};
use crate::error::{PanicMessage, SendError};
use crate::items::{ItemMap, Items, SessionKey};
use crate::outbox::{Admission, Control, Encode, Outbox, Part, Payload, Phase, Ticket};
use crate::state::{ReasonCell, StateCell};
use crate::{
    ConnectionMetrics, ConnectionState, DisconnectReason, Hub, Message, MessageRef, Peer, Role, SendOutcome,
    Sending, SessionId, SlowConsumerPolicy,
};

mod ending;

pub use ending::Closed;

/// A handle to one connection. Cloning is cheap; every method may be called from any task or thread, together, and
/// after the connection has ended.
///
/// * Messages leave in the order their sends were admitted, whole or not at all.
/// * [`close`](Self::close) lets leave what is queued, [`abort`](Self::abort) does not. Both may be called again,
///   together, from inside a handler of the same session and on a dead peer.
/// * Dropping a handle ends nothing.
#[derive(Clone)]
pub struct Session(pub(crate) Arc<Inner<dyn Encode>>);

pub(crate) struct Inner<E: ?Sized> {
    pub(crate) id: SessionId,
    pub(crate) role: Role,
    pub(crate) state: StateCell,
    pub(crate) reason: ReasonCell,
    peer_addr: PeerAddr,
    #[cfg(feature = "tls")]
    tls: Option<Arc<TlsInfo>>,
    pub(crate) hub: Arc<Hub>,
    /// When it began, on the [`clock`].
    since: u64,
    /// Written by the connection task only.
    pub(crate) bytes_received: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    /// When a timer wakes the connection task, as that timer counts; 0 if it does not. See [`timer`](crate::timer).
    pub(crate) wake_at: AtomicU64,
    /// What the protocol keeps with the session.
    pub(crate) attachment: Option<Box<dyn Any + Send + Sync>>,
    extras: Mutex<Option<Box<Extras>>>,
    /// Someone else has been at the outbox since the connection task's batch began, or the batch has no cork. Written under
    /// the outbox's lock, except that the batch's own thread may look without.
    pub(crate) uncork: AtomicBool,
    /// A batch of the connection task has begun. Its own, and here because there is room.
    pub(crate) in_batch: AtomicBool,
    pub(crate) outbox: Mutex<Outbox<E>>,
}

/// An `Option<SocketAddr>` in half the room. Idle sessions are many, and those of IPv6 have a box.
enum PeerAddr {
    None,
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<Option<SocketAddr>> for PeerAddr {
    fn from(addr: Option<SocketAddr>) -> Self {
        match addr {
            None => Self::None,
            Some(SocketAddr::V4(addr)) => Self::V4(addr),
            Some(SocketAddr::V6(addr)) => Self::V6(Box::new(addr)),
        }
    }
}

/// Nanoseconds since the process first asked: half an `Instant`, and good for five centuries.
fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What many sessions never need.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) items: ItemMap,
    pub(crate) groups: BTreeSet<Arc<str>>,
    /// The session has left its groups for good.
    pub(crate) left_for_good: bool,
    /// How a sending hook has panicked, on any task; the connection task is to report it.
    hook_panic: Option<PanicMessage>,
}

impl Session {
    pub(crate) fn new(
        hub: Arc<Hub>,
        role: Role,
        peer: Peer,
        encoder: impl Encode,
        attachment: Option<Box<dyn Any + Send + Sync>>,
    ) -> Self {
        let limit = hub.options().max_pending_send_bytes;
        let budget = hub.options().send_budget.clone();
        Self(Arc::new(Inner {
            id: SessionId::next(),
            role,
            state: StateCell::new(ConnectionState::Connecting),
            reason: ReasonCell::new(),
            peer_addr: peer.addr.into(),
            #[cfg(feature = "tls")]
            tls: peer.tls,
            hub,
            since: clock(),
            bytes_received: AtomicU64::new(0),
            messages_received: AtomicU64::new(0),
            wake_at: AtomicU64::new(0),
            attachment,
            extras: Mutex::new(None),
            uncork: AtomicBool::new(true),
            in_batch: AtomicBool::new(false),
            outbox: Mutex::new(Outbox::new(encoder, limit, budget)),
        }))
    }

    /// Identifies this session in the process.
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Which side of the connection this is.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The peer's address; `None` where the transport has none (unix sockets, in-memory streams). That of an IPv4 peer is an
    /// IPv4 address, whatever listener or proxy it came by.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match &self.0.peer_addr {
            PeerAddr::None => None,
            PeerAddr::V4(addr) => Some((*addr).into()),
            PeerAddr::V6(addr) => Some((**addr).into()),
        }
    }

    /// What TLS agreed on, with the peer's certificates; `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.0.tls.as_deref()
    }

    /// Where the connection is in its life.
    pub fn state(&self) -> ConnectionState {
        self.0.state.get()
    }

    /// Why it ended, `None` while nothing has ended it.
    pub fn disconnect_reason(&self) -> Option<DisconnectReason> {
        self.0.reason.get()
    }

    /// What its server's or client's sessions have in common: sessions, groups, metrics.
    pub fn server(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// What the protocol keeps with the session, if it is a `T`.
    #[doc(hidden)]
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        self.0.attachment.as_ref()?.downcast_ref()
    }

    /// Counters of this connection, as of now.
    pub fn metrics(&self) -> ConnectionMetrics {
        let (bytes_sent, messages_sent, lost) = {
            let outbox = self.outbox();
            (outbox.bytes_sent, outbox.messages_sent, outbox.lost())
        };
        ConnectionMetrics {
            bytes_sent,
            bytes_received: self.0.bytes_received.load(Ordering::Relaxed),
            messages_sent,
            messages_received: self.0.messages_received.load(Ordering::Relaxed),
            messages_dropped: lost.dropped,
            messages_replaced: lost.replaced,
            uptime: Duration::from_nanos(clock() - self.0.since),
        }
    }

    /// Whether the outbox has reached its limit and not yet drained to half of it.
    pub fn is_backpressured(&self) -> bool {
        self.outbox().is_backpressured()
    }

    /// Bytes that are queued and that the kernel does not have yet.
    pub fn pending_send_bytes(&self) -> usize {
        self.outbox().pending_bytes()
    }

    /// Sends one message: binary (text if made from text) on WebSocket, framed on TCP.
    ///
    /// Ready at once while the outbox is below its limit; at the limit the
    /// [policy](crate::SessionOptions::slow_consumer_policy) decides, after the connection had one chance to write. Another
    /// policy for this message alone is [`.policy(..)`](Sending::policy); of a state of which only the newest counts,
    /// [`.latest(key)`](Sending::latest) sends no other.
    ///
    /// # Cancel safety
    /// A dropped future has queued the message whole or not at all.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the session is closing or closed; others if the message cannot be encoded.
    #[doc(alias("write", "emit"))]
    #[inline]
    pub fn send(&self, message: impl Into<Message>) -> Sending<'_> {
        Sending::new(self, message.into())
    }

    /// Sends one text message, from a string or from UTF-8 bytes. What is owned already ([`Bytes`](bytes::Bytes),
    /// `Vec<u8>`, `String`, [`ByteString`]) is not copied.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use storm_core::{SendError, Session};
    ///
    /// async fn relay(session: &Session, json: Bytes) -> Result<(), SendError> {
    ///     session.send_text("next:").await?;
    ///     session.send_text(json).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    ///
    /// # Errors
    /// [`SendError::InvalidUtf8`] if `text` is bytes that are not UTF-8, whatever the session's state; others as
    /// [`send`](Self::send).
    pub fn send_text(&self, text: impl TryInto<ByteString>) -> Sending<'_> {
        match text.try_into() {
            Ok(text) => self.send(Message::Text(text)),
            Err(_) => Sending::not_utf8(self),
        }
    }

    /// Queues one message if there is room now, and does not wait: for callers that cannot, and for those that do
    /// something else at the limit.
    ///
    /// # Errors
    /// [`SendError::Full`] at the limit, whatever the policy; others as [`send`](Self::send).
    pub fn try_send(&self, message: impl Into<Message>) -> Result<SendOutcome, SendError> {
        self.try_own(message.into())
    }

    /// As [`try_send`](Self::try_send), for a message that lies in someone else's buffer: it is copied once, behind what
    /// is queued. The cheapest way to send what is small; from some 4 KiB on an owned message, which is shared and not
    /// copied, costs less.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    #[inline(always)]
    pub fn try_send_ref<'m>(&self, message: impl Into<MessageRef<'m>>) -> Result<SendOutcome, SendError> {
        let message = message.into();
        // In a batch of the session's own handlers no lock is needed.
        if !self.0.uncork.load(Ordering::Relaxed) {
            match cork::put_ref(self.0.id, message) {
                Put::Queued => return Ok(SendOutcome::Sent),
                Put::Failed(error) => return Err(*error),
                Put::NoRoom => {}
            }
        }
        match self.0.hub.middleware() {
            Some(_) => self.try_own(message.to_message()),
            None => self.try_admit(Payload::Ref(message)),
        }
    }

    #[inline(never)]
    fn try_own(&self, message: Message) -> Result<SendOutcome, SendError> {
        let Some(middleware) = self.0.hub.middleware() else {
            return self.try_admit(Payload::Own(&mut Some(message)));
        };
        // Room first: a hook is not to see what is then refused, and again with the next try. What no hook has seen is
        // not queued, either, should there be room the moment after.
        let outbox = self.outbox();
        let (may_admit, phase) = (outbox.may_admit(), outbox.phase);
        drop(outbox);
        if !may_admit {
            return Err(if phase == Phase::Open { SendError::Full } else { self.closed_error() });
        }
        match middleware.sending(self, message)? {
            Some(message) => self.try_admit(Payload::Own(&mut Some(message))),
            None => Ok(SendOutcome::Suppressed),
        }
    }

    #[inline(never)]
    fn try_admit(&self, payload: Payload<'_>) -> Result<SendOutcome, SendError> {
        let mut outbox = self.outbox();
        match outbox.admit(payload, None)? {
            Admission::Queued => self.sent(outbox),
            Admission::Full | Admission::Busy => Err(SendError::Full),
            Admission::Closed => {
                drop(outbox);
                Err(self.closed_error())
            }
        }
    }

    /// Sends the next part of a message, which must be the caller's own to continue; see the WebSocket session's
    /// message writer, which is. Waits at the limit, whatever the policy.
    ///
    /// # Cancel safety
    /// A dropped future has queued the part whole or not at all.
    ///
    /// # Errors
    /// [`SendError::Unsupported`] if the protocol has no such thing; others as [`send`](Self::send).
    #[doc(hidden)]
    pub fn send_part(&self, part: Part) -> impl Future<Output = Result<(), SendError>> + Send + '_ {
        let mut part = Some(part);
        let mut place = Place { session: self, ticket: None };
        std::future::poll_fn(move |cx| {
            let mut outbox = self.outbox();
            let admission = outbox.admit(Payload::Part(&mut part), place.ticket);
            if let Ok(Admission::Full | Admission::Busy) = admission {
                place.ticket = Some(outbox.wait(place.ticket, cx.waker()));
                return Poll::Pending;
            }
            if let Some(ticket) = place.ticket.take() {
                outbox.leave(ticket);
            }
            Poll::Ready(match admission {
                Ok(Admission::Closed) => {
                    drop(outbox);
                    Err(self.closed_error())
                }
                Ok(_) => self.sent(outbox).map(drop),
                Err(error) => Err(error),
            })
        })
    }

    /// Sends a control message, if the protocol has any: at once or not at all, whatever the policy. Returns whether it
    /// was taken: not if the session is closing, nor, except for a pong, if the outbox is full.
    #[doc(hidden)]
    pub fn control(&self, control: Control) -> bool {
        self.outbox().control(control, false)
    }

    /// As [`control`](Self::control), though the outbox is full: for what tells a slow peer from a dead one. Only one goes past
    /// the limit until senders may go on; the others would leave no sooner, and are refused.
    #[doc(hidden)]
    pub fn control_when_full(&self, control: Control) -> bool {
        self.outbox().control(control, true)
    }

    /// Joins a group, which comes to be if it does not exist. Once the session has ended this does nothing.
    #[doc(alias("subscribe", "room"))]
    pub fn join(&self, group: impl AsRef<str>) {
        self.0.hub.groups().add(group, self);
    }

    /// Leaves a group, which vanishes if this was its last member.
    #[doc(alias("unsubscribe"))]
    pub fn leave(&self, group: impl AsRef<str>) {
        self.0.hub.groups().remove(group, self);
    }

    /// Whether it is in `group`. In `on_disconnected` handlers it still is, afterwards in none.
    ///
    /// ```
    /// use storm_core::Session;
    ///
    /// async fn say(session: &Session, room: &str, text: String) {
    ///     if session.is_in(room) {
    ///         session.server().groups().broadcast_text(room, text).await;
    ///     }
    /// }
    /// # let _ = say;
    /// ```
    #[doc(alias("is_member", "contains", "has_joined"))]
    pub fn is_in(&self, group: impl AsRef<str>) -> bool {
        self.with_extras(|extras| extras.groups.contains(group.as_ref()))
    }

    /// The groups it is in, in alphabetical order.
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.with_extras(|extras| extras.groups.iter().cloned().collect())
    }

    /// The values it carries for its user.
    pub fn items(&self) -> Items<'_> {
        Items { session: self }
    }

    /// A copy of the value under `key`; `None` if there is none of this name and type.
    pub fn get<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>) -> Option<T> {
        self.items().get(key)
    }

    /// Stores a value under `key`; returns the one it replaces.
    pub fn set<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>, value: T) -> Option<T> {
        self.items().set(key, value)
    }

    /// Changes the value under `key` in one step; see [`Items::update`].
    pub fn update<T: Clone + Default + Send + Sync + 'static>(
        &self,
        key: &SessionKey<T>,
        change: impl FnMut(&mut T),
    ) -> T {
        self.items().update(key, change)
    }

    pub(crate) fn with_extras<R>(&self, f: impl FnOnce(&mut Extras) -> R) -> R {
        f(self.0.extras.lock().get_or_insert_default())
    }

    /// The outbox, for anyone but the connection task's own batch, which ends if it is this thread's.
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox<dyn Encode + 'static>> {
        let mut outbox = self.outbox_from_outside();
        cork::drain(self.0.id, |corked| outbox.end_batch(corked));
        outbox
    }

    /// The outbox, for those who know that this thread is not in a batch of the session.
    #[inline]
    pub(crate) fn outbox_from_outside(&self) -> MutexGuard<'_, Outbox<dyn Encode + 'static>> {
        let outbox = self.0.outbox.lock();
        self.0.uncork.store(true, Ordering::Relaxed);
        outbox
    }

    pub(crate) fn closed_error(&self) -> SendError {
        SendError::Closed(self.disconnect_reason())
    }

    /// After a message was queued: what its sender is told. If it was too much for the budget someone is shed, perhaps
    /// this session.
    #[inline]
    pub(crate) fn sent(&self, outbox: MutexGuard<'_, Outbox<dyn Encode>>) -> Result<SendOutcome, SendError> {
        if outbox.is_over_budget() { self.sent_too_much(outbox) } else { Ok(SendOutcome::Sent) }
    }

    #[cold]
    #[inline(never)]
    fn sent_too_much(&self, outbox: MutexGuard<'_, Outbox<dyn Encode>>) -> Result<SendOutcome, SendError> {
        let taken = outbox.taken_bytes();
        drop(outbox);
        self.0.hub.enforce_budget();
        let outbox = self.outbox();
        // The task, which has gone on meanwhile, may have it: then it cannot be said that nothing of it has left.
        if outbox.phase < Phase::Aborting || outbox.taken_bytes() > taken {
            return Ok(SendOutcome::Sent);
        }
        drop(outbox);
        Err(self.closed_error())
    }

    /// Keeps the promise of a delivery.
    pub(crate) fn deliver(&self) {
        if self.outbox().deliver() {
            self.0.hub.enforce_budget();
        }
    }

    pub(crate) fn cancel_delivery(&self) {
        self.outbox().cancel_delivery();
    }

    #[cold]
    pub(crate) fn leave_line(&self, ticket: Ticket) {
        self.outbox().leave(ticket);
    }

    /// Applies `policy` to a message that found no room in the outbox, which nobody else has seen since: what is dropped is
    /// counted before the session can end and its counts are added up.
    pub(crate) fn refuse(
        &self,
        mut outbox: MutexGuard<'_, Outbox<dyn Encode>>,
        policy: SlowConsumerPolicy,
    ) -> Result<SendOutcome, SendError> {
        if policy == SlowConsumerPolicy::Disconnect {
            drop(outbox);
            self.abort_for(DisconnectReason::SlowConsumer);
            return Err(self.closed_error());
        }
        outbox.count_dropped(1);
        Ok(SendOutcome::Dropped)
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Session {}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.0.id.get())
            .field("remote_addr", &self.remote_addr())
            .field("state", &self.state())
            .field("disconnect_reason", &self.disconnect_reason())
            .finish_non_exhaustive()
    }
}

/// A place in line, given up on drop.
struct Place<'a> {
    session: &'a Session,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.session.leave_line(ticket);
        }
    }
}
