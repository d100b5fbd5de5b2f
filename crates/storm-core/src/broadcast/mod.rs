//! One message to many sessions.
//!
//! Everyone gets a first try before anyone is waited for, and the message is encoded once for each distinct way its
//! receivers encode.

mod calls;

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use calls::Calls;

use crate::cork;
use crate::delivery::Lanes;
use crate::middleware::MiddlewareChain;
use crate::outbox::{Admission, Displaced, Payload, SharedFrames, Terms, Ticket};
use crate::{
    Groups, Hub, LatestKey, Message, SendError, SendOutcome, Session, SessionId, Sessions, SlowConsumerPolicy,
};

/// A message of this many bytes is encoded, and compressed, while sessions come and go. A shorter one has them wait.
const UNLOCKED_FROM: usize = 16 * 1024;

/// A broadcast that has not begun: `await` it to send.
///
/// The members' [policy](SlowConsumerPolicy) applies, unless [another](Self::policy) is given. The first poll tries every
/// member and waits for none, so a stalled member delays no other. The future is ready when each member has the message
/// queued, has had it dropped, or is gone; under [`SlowConsumerPolicy::Wait`] it therefore waits for those that are full.
/// Members are those of the moment of the first poll; one that leaves a group in that moment may still get a message of 16 KiB
/// or more.
///
/// A text is made from a string. Bytes that are to be one become a [`ByteString`](bytestring::ByteString) beforehand, with
/// `try_from`: what is not UTF-8 is an error of the caller's, and none that a report could tell.
///
/// # Cancel safety
/// Dropping the future takes the message back from the members it still waits for, and from no other.
#[derive(Debug)]
#[must_use = "a broadcast is sent when it is awaited"]
pub struct Broadcast<'a> {
    audience: Audience<'a>,
    message: Message,
    except: Vec<SessionId>,
    policy: Option<SlowConsumerPolicy>,
    key: Option<LatestKey>,
    uncompressed: bool,
}

/// What a broadcast came to, in numbers of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Queued whole. See [`SendOutcome::Sent`] for those that may go again.
    pub sent: usize,
    /// Dropped by [`SlowConsumerPolicy::Drop`], or by [`SlowConsumerPolicy::DropOldest`] for want of older ones to drop.
    pub dropped: usize,
    /// Aborted by [`SlowConsumerPolicy::Disconnect`].
    pub disconnected: usize,
    /// Suppressed by a middleware.
    pub suppressed: usize,
    /// Closing or closed already, or unable to encode the message, or ended by a panic of a middleware over it.
    pub failed: usize,
}

#[derive(Debug)]
pub(crate) enum Audience<'a> {
    Everyone(&'a Sessions),
    Group(&'a Groups, Arc<str>),
}

impl Audience<'_> {
    /// Visits the members, which are all of one hub.
    fn visit(&self, visit: impl FnMut(SessionId, &Session)) {
        match self {
            Self::Everyone(sessions) => sessions.visit(visit),
            Self::Group(groups, name) => groups.visit(name, visit),
        }
    }

    /// The hub of the members, if there are any.
    fn hub(&self) -> Option<Arc<Hub>> {
        match self {
            Self::Everyone(sessions) => sessions.hub(),
            Self::Group(groups, name) => groups.hub_of(name),
        }
    }
}

impl<'a> Broadcast<'a> {
    pub(crate) const fn new(audience: Audience<'a>, message: Message) -> Self {
        Self { audience, message, except: Vec::new(), policy: None, key: None, uncompressed: false }
    }

    /// Leaves out one session, usually the one the message came from. May be called for several.
    pub fn except(mut self, id: impl Into<SessionId>) -> Self {
        self.except.push(id.into());
        self
    }

    /// Sends it under `policy`, whatever the members' is.
    ///
    /// ```
    /// use storm_core::{Hub, SlowConsumerPolicy};
    ///
    /// async fn tick(hub: &Hub, tick: String) {
    ///     // Whoever reads too slowly misses the oldest ticks; nobody is waited for.
    ///     hub.broadcast_text(tick).policy(SlowConsumerPolicy::DropOldest).await;
    /// }
    /// ```
    pub fn policy(mut self, policy: SlowConsumerPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sends it as the newest state of the feed `key`: where a message under the same key still waits for a member, this
    /// one takes its place. See [`SendingWith::latest`](crate::SendingWith::latest).
    ///
    /// ```
    /// use storm_core::Groups;
    ///
    /// async fn score(groups: &Groups, game: u64, score: String) {
    ///     groups.broadcast_text("scores", score).latest(game).await;
    /// }
    /// ```
    pub fn latest(mut self, key: impl Into<LatestKey>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sends the message as it is, where the protocol would compress it.
    pub fn uncompressed(mut self) -> Self {
        self.uncompressed = true;
        self
    }

    /// Visits those it is for, under the lock of all sessions or groups.
    fn visit(&self, mut visit: impl FnMut(SessionId, &Session)) {
        self.audience.visit(|id, session| {
            if !self.except.contains(&id) {
                visit(id, session);
            }
        });
    }

    /// Those it is for at the moment.
    fn members(&self) -> Vec<Session> {
        let mut members = Vec::new();
        self.visit(|_, session| members.push(session.clone()));
        members
    }

    fn policy_in(&self, hub: &Hub) -> SlowConsumerPolicy {
        self.policy.unwrap_or(hub.options().slow_consumer_policy)
    }

    fn terms_in(&self, hub: &Hub) -> Terms {
        let droppable = self.policy_in(hub) == SlowConsumerPolicy::DropOldest;
        Terms { droppable, key: self.key.clone(), uncompressed: self.uncompressed }
    }
}

impl<'a> IntoFuture for Broadcast<'a> {
    type Output = BroadcastReport;
    type IntoFuture = Broadcasting<'a>;

    fn into_future(self) -> Broadcasting<'a> {
        Broadcasting {
            frames: SharedFrames::new(self.uncompressed),
            broadcast: self,
            report: BroadcastReport::default(),
            full: Vec::new(),
            waiting: 0,
            hub: None,
            calls: None,
            stage: Stage::First,
        }
    }
}

/// The future of a [`Broadcast`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Broadcasting<'a> {
    broadcast: Broadcast<'a>,
    frames: SharedFrames,
    report: BroadcastReport,
    /// Members that had no room, in places they keep; `None` once they are done with.
    full: Vec<Option<FullMember>>,
    /// How many of them are left.
    waiting: usize,
    /// Whose they are.
    hub: Option<Arc<Hub>>,
    /// There is none until someone is waited for.
    calls: Option<Calls>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has been tried.
    First,
    /// Everybody has been tried; those without room have been given one chance to write.
    Again,
    /// All that are left are in line, and call when it is their turn.
    InLine,
}

#[derive(Debug)]
struct FullMember {
    session: Session,
    /// Its place in line, and what it is called by.
    place: Option<(Ticket, Waker)>,
    /// The message as a middleware rewrote it for this member.
    own: Option<Message>,
}

impl Broadcasting<'_> {
    /// Tries every member once.
    fn try_everyone(&mut self) {
        let Some(hub) = self.broadcast.audience.hub() else { return };
        match hub.middleware() {
            None => self.try_at_once(&hub),
            Some(chain) => self.try_with_middleware(&hub, chain),
        }
        hub.enforce_budget();
        self.waiting = self.full.len();
        self.hub = Some(hub);
    }

    fn try_at_once(&mut self, hub: &Hub) {
        let Self { broadcast, frames, report, full, .. } = self;
        let terms = broadcast.terms_in(hub);
        let in_batch = cork::session();
        let mut deliveries = Deliveries { lanes: hub.lanes(), sessions: Vec::new() };
        let deliver = deliveries.lanes.are_open();
        let mut displaced = Vec::new();
        let mut attempt = |id: SessionId, session: &Session| {
            let mut outbox =
                if in_batch == Some(id) { session.outbox() } else { session.outbox_from_outside() };
            let payload = Payload::Shared(&broadcast.message, frames);
            if deliver && outbox.promise_delivery() {
                // At once: should the encoder panic, the promise is taken back.
                deliveries.sessions.push(session.clone());
            }
            let admission = outbox.admit_on(payload, &terms, None, false, &mut displaced);
            drop(outbox);
            if !report.count(admission) {
                full.push(Some(FullMember { session: session.clone(), place: None, own: None }));
            }
        };
        if broadcast.message.len() < UNLOCKED_FROM {
            broadcast.visit(attempt);
        } else {
            broadcast.members().iter().for_each(|session| attempt(session.id(), session));
        }
        deliveries.list();
    }

    /// Hooks are user code: they run without the lock that a visit holds.
    fn try_with_middleware(&mut self, hub: &Hub, chain: &MiddlewareChain) {
        let terms = self.broadcast.terms_in(hub);
        for session in self.broadcast.members() {
            let mut own = match chain.sending(&session, self.broadcast.message.clone()) {
                Ok(Some(message)) => Some(message),
                Ok(None) => {
                    self.report.suppressed += 1;
                    continue;
                }
                Err(_) => {
                    self.report.failed += 1;
                    continue;
                }
            };
            let mut displaced = Vec::new();
            let payload = terms.payload(&mut own);
            let admission = session.outbox().admit_on(payload, &terms, None, false, &mut displaced);
            if !self.report.count(admission) {
                self.full.push(Some(FullMember { session, place: None, own }));
            }
        }
    }

    /// Tries those without room again: all of them, until those that are left are in line and call.
    fn try_full(&mut self, called: Vec<usize>) {
        let everyone = self.stage != Stage::InLine;
        let numbers = if everyone { (0..self.full.len()).collect() } else { called };
        let Some(hub) = self.hub.clone().filter(|_| !numbers.is_empty()) else { return };
        let (policy, terms) = (self.broadcast.policy_in(&hub), self.broadcast.terms_in(&hub));
        let mut displaced = Vec::new();
        for number in numbers {
            if !self.try_member(number, policy, &terms, &mut displaced) {
                self.full[number] = None;
                self.waiting -= 1;
            }
        }
        hub.enforce_budget();
    }

    /// Whether the member of this number is still to be waited for.
    fn try_member(
        &mut self,
        number: usize,
        policy: SlowConsumerPolicy,
        terms: &Terms,
        displaced: &mut Displaced,
    ) -> bool {
        let Self { broadcast, frames, report, full, calls, stage, .. } = self;
        // One that is done with may have called before.
        let Some(member) = &mut full[number] else { return true };
        let payload = match &mut member.own {
            None => Payload::Shared(&broadcast.message, frames),
            own => terms.payload(own),
        };
        let ticket = member.place.as_ref().map(|(ticket, _)| *ticket);
        let mut outbox = member.session.outbox();
        let admission = outbox.admit_on(payload, terms, ticket, *stage != Stage::First, displaced);
        let stays = match &admission {
            Ok(Admission::Busy) => true,
            Ok(Admission::Full) => policy == SlowConsumerPolicy::Wait,
            _ => false,
        };
        if stays {
            let (ticket, waker) = match member.place.take() {
                Some((ticket, waker)) => (Some(ticket), waker),
                None => (None, calls.get_or_insert_default().waker(number)),
            };
            member.place = Some((outbox.wait(ticket, &waker), waker));
            return true;
        }
        let is_full = matches!(admission, Ok(Admission::Full));
        if is_full && *stage == Stage::First {
            return true;
        }
        if let Some(ticket) = ticket {
            outbox.leave(ticket);
        }
        if is_full {
            match member.session.refuse(outbox, policy) {
                Ok(SendOutcome::Dropped) => report.dropped += 1,
                _ => report.disconnected += 1,
            }
        } else {
            drop(outbox);
            report.count(admission);
        }
        false
    }
}

/// Members that are promised a delivery.
struct Deliveries<'a> {
    lanes: &'a Lanes,
    sessions: Vec<Session>,
}

impl Deliveries<'_> {
    fn list(mut self) {
        if !self.sessions.is_empty() {
            self.lanes.list(std::mem::take(&mut self.sessions));
        }
    }
}

impl Drop for Deliveries<'_> {
    fn drop(&mut self) {
        self.sessions.iter().for_each(Session::cancel_delivery);
    }
}

impl BroadcastReport {
    /// Counts an attempt; `false` if the member has no room.
    fn count(&mut self, admission: Result<Admission, SendError>) -> bool {
        match admission {
            Ok(Admission::Queued) => self.sent += 1,
            Ok(Admission::Full | Admission::Busy) => return false,
            Ok(Admission::Closed) | Err(_) => self.failed += 1,
        }
        true
    }
}

impl Future for Broadcasting<'_> {
    type Output = BroadcastReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BroadcastReport> {
        let this = &mut *self;
        let first = this.stage == Stage::First;
        if first {
            this.try_everyone();
        }
        if this.waiting > 0 {
            let called = this.calls.get_or_insert_default().take(cx.waker());
            this.try_full(called);
        }
        this.stage = if first { Stage::Again } else { Stage::InLine };
        if this.waiting == 0 {
            return Poll::Ready(this.report);
        }
        if first && this.full.iter().flatten().any(|member| member.place.is_none()) {
            // One chance to write before a message is dropped or a session cut, as in `Session::send`.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Broadcasting<'_> {
    fn drop(&mut self) {
        for member in self.full.iter().flatten() {
            if let Some((ticket, _)) = member.place {
                member.session.leave_line(ticket);
            }
        }
    }
}
