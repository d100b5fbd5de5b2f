//! When silence or a slow close ends a connection. Deadlines that move later are noticed when the old one fires: no timer is
//! reset per message, and in open sessions of a server none is looked at, either (`timers`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use storm_core::{DisconnectReason, Role};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Connection, Stage, timers};
use crate::protocol::Protocol;
use crate::transport::Transport;

/// Deadlines of the loop itself, and a timer for those and the protocol's.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// Boxed: most open connections have none of them.
    times: Option<Box<Times>>,
    /// Of a client, or of a connection that is ending.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Default)]
struct Times {
    /// When application data last came, or was last being handled. Kept only if there is an idle timeout.
    last_data: Option<Instant>,
    /// When a close in progress becomes an abort.
    close_at: Option<Instant>,
    /// When a handler that outlives its connection is dropped.
    grace_until: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(has_idle_timeout: bool) -> Self {
        let times =
            has_idle_timeout.then(|| Box::new(Times { last_data: Some(Instant::now()), ..Times::default() }));
        Self { times, timer: None }
    }

    /// Application data came or was handled.
    pub(super) fn touch(&mut self) {
        if let Some(last_data) = self.times.as_mut().and_then(|times| times.last_data.as_mut()) {
            *last_data = Instant::now();
        }
    }

    /// A close has begun, and has this long.
    pub(super) fn closing(&mut self, within: Duration) {
        self.times.get_or_insert_default().close_at = Some(Instant::now() + within);
    }

    /// Ready when a handler that outlives its connection has had its time: `grace` from the first call on.
    pub(super) fn poll_grace(&mut self, grace: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.times.get_or_insert_default().grace_until.get_or_insert_with(|| {
            self.timer = None;
            Instant::now() + grace
        });
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll(cx)
    }

    fn last_data(&self) -> Option<Instant> {
        self.times.as_ref()?.last_data
    }

    fn close_at(&self) -> Option<Instant> {
        self.times.as_ref()?.close_at
    }

    /// Arms the timer for `next` at the latest; ready when it has fired.
    fn poll_timer(&mut self, next: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if timer.deadline() > next || timer.is_elapsed() && next > Instant::now() {
            timer.as_mut().reset(next);
        }
        timer.as_mut().poll(cx)
    }
}

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// `None`, too, where the end of time comes first.
    fn idle_at(&self) -> Option<Instant> {
        self.deadlines.last_data()?.checked_add(self.session().server().options().idle_timeout?)
    }

    /// Fires what is due; pending when nothing is, with the timer armed for what comes next. Ready when something
    /// fired, so that its consequences are attended to.
    #[inline]
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        let shared = self.stage == Stage::Open && self.session().role() == Role::Server;
        // Deadlines only move later, except that there is one more when a handler is through.
        if shared && timers::is_armed(self.session()) && (busy || !self.armed_busy) {
            return Poll::Pending;
        }
        self.poll_due(cx, busy, shared)
    }

    #[inline(never)]
    fn poll_due(&mut self, cx: &mut Context<'_>, busy: bool, shared: bool) -> Poll<()> {
        loop {
            let idle_at = if busy || self.stage != Stage::Open { None } else { self.idle_at() };
            let protocol_at = match self.stage {
                Stage::Open => self.protocol.poll_timeout().map(Instant::from_std),
                _ => None,
            };
            let Some(next) = [self.deadlines.close_at(), idle_at, protocol_at].into_iter().flatten().min()
            else {
                return Poll::Pending;
            };
            if !shared && self.deadlines.poll_timer(next, cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if shared && next > now {
                timers::arm(self.session(), next);
                self.armed_busy = busy && self.deadlines.last_data().is_some();
                return Poll::Pending;
            }
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if due(self.deadlines.close_at()) {
                self.over(DisconnectReason::Aborted, true);
                return Poll::Ready(());
            }
            if due(idle_at) {
                let goodbye = self.protocol.goodbye_when_idle();
                self.session().start_close_with(DisconnectReason::IdleTimeout, goodbye);
                return Poll::Ready(());
            }
            if due(protocol_at) {
                let reading = !busy || self.may_read_ahead();
                let session = self.driver.session();
                if let Err(reason) = self.protocol.handle_timeout(now.into_std(), session, reading) {
                    session.abort_for(reason);
                }
                return Poll::Ready(());
            }
            // The timer was armed for a deadline that has moved since: arm it anew.
        }
    }
}
