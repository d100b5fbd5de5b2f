//! A middleware that bounds how many messages a session, or an address, may send.
//!
//! Owns: what each key has sent in its window. In: a message's session and the time. Out: whether it goes on, and an event
//! for those that do not. Not here: how many connections an address may have (an option of servers).

mod windows;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ip::ip_key;
use crate::{BoxError, ConfigError, DisconnectReason, Middleware, Session, SessionId};
use windows::{Verdict, Windows};

/// Bounds how many messages may be received in a window of time; what is above it is dropped, or aborts its session with
/// reason [`DisconnectReason::RateLimited`].
///
/// A window begins with the first message of a session (or address) and lasts as long as it was told to, whatever happens
/// meanwhile: a session that is aborted, or leaves and comes back, takes nothing off the count of its address. It goes by the
/// system's clock; tokio's, which tests may pause, has no say in it.
///
/// ```
/// use std::time::Duration;
/// use storm_core::rate_limit::{RateLimit, RateLimitAction};
///
/// # fn main() -> Result<(), storm_core::ConfigError> {
/// let limit = RateLimit::per_ip(100, Duration::from_secs(1))?
///     .action(RateLimitAction::Drop)
///     .on_limited(|session| eprintln!("too many messages from {:?}", session.remote_addr()));
/// # let _middleware = limit;
/// # Ok(())
/// # }
/// ```
///
/// Memory is bounded: sessions are forgotten when they end, and of addresses there are never more than
/// [`max_addresses`](Self::max_addresses).
pub struct RateLimit {
    sessions: Option<Windows<SessionId>>,
    /// Sessions without an address are counted by themselves.
    addresses: Option<Windows<IpAddr>>,
    count: u32,
    window: Duration,
    action: RateLimitAction,
    ipv6_prefix: u8,
    on_limited: Option<Tell>,
}

type Tell = Box<dyn Fn(&Session) + Send + Sync>;

/// What becomes of a message above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RateLimitAction {
    /// Its session is aborted.
    #[default]
    Abort,
    /// It is dropped; the session goes on.
    Drop,
}

/// Addresses that are remembered at a time, unless told otherwise.
const MAX_ADDRESSES: usize = 65_536;

impl RateLimit {
    /// At most `count` messages of one session within `window`.
    ///
    /// # Errors
    /// `count` or `window` is zero.
    pub fn per_session(count: u32, window: Duration) -> Result<Self, ConfigError> {
        if count == 0 {
            return Err(ConfigError::new("count", "must be at least 1"));
        }
        if window.is_zero() {
            return Err(ConfigError::new("window", "must be longer than zero"));
        }
        Ok(Self {
            sessions: Some(Windows::unbounded()),
            addresses: None,
            count,
            window,
            action: RateLimitAction::default(),
            ipv6_prefix: 64,
            on_limited: None,
        })
    }

    /// At most `count` messages of all sessions of one address together within `window`. A session without an address (a
    /// unix socket) is counted by itself.
    ///
    /// # Errors
    /// `count` or `window` is zero.
    pub fn per_ip(count: u32, window: Duration) -> Result<Self, ConfigError> {
        let mut limit = Self::per_session(count, window)?;
        limit.addresses = Some(Windows::bounded(MAX_ADDRESSES));
        Ok(limit)
    }

    /// Sets what becomes of a message above the limit. Default [`RateLimitAction::Abort`].
    pub fn action(mut self, action: RateLimitAction) -> Self {
        self.action = action;
        self
    }

    /// Sets how many leading bits of an IPv6 address count as one address. Default 64, which is what one customer has at
    /// least; 128 tells every address apart, and lets such a customer have as many counts as he likes; 0 has one for all of IPv6.
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Sets how many addresses are remembered at a time, about 100 bytes each. Default 65 536; less than 16 is
    /// taken as 16. With more than that in one window the one whose window ends soonest is forgotten, and may begin a new one.
    pub fn max_addresses(mut self, addresses: usize) -> Self {
        if self.addresses.is_some() {
            self.addresses = Some(Windows::bounded(addresses));
        }
        self
    }

    /// Calls `tell` with whoever is over the limit: the session of the first message above it in each window, and each one
    /// that is aborted. It must not block.
    pub fn on_limited(mut self, tell: impl Fn(&Session) + Send + Sync + 'static) -> Self {
        self.on_limited = Some(Box::new(tell));
        self
    }

    /// Addresses that are remembered now; 0 if it counts by session.
    pub fn addresses(&self) -> usize {
        self.addresses.as_ref().map_or(0, Windows::len)
    }

    fn judge(&self, session: &Session, now: Instant) -> Verdict {
        if let (Some(addresses), Some(addr)) = (&self.addresses, session.remote_addr()) {
            return addresses.count(ip_key(addr.ip(), self.ipv6_prefix), now, self.count, self.window);
        }
        match &self.sessions {
            Some(sessions) => sessions.count(session.id(), now, self.count, self.window),
            None => Verdict::Within,
        }
    }
}

impl Middleware for RateLimit {
    async fn on_data_received(&self, session: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        let verdict = self.judge(session, Instant::now());
        if verdict == Verdict::Within {
            return Ok(Some(data));
        }
        let aborts = self.action == RateLimitAction::Abort;
        if aborts {
            session.abort_for(DisconnectReason::RateLimited);
        }
        if let Some(tell) = &self.on_limited
            && (aborts || verdict == Verdict::FirstAbove)
        {
            tell(session);
        }
        Ok(None)
    }

    async fn on_disconnected(&self, session: &Session, _: DisconnectReason) -> Result<(), BoxError> {
        // Its own count only: that of its address is not its to reset.
        if let Some(sessions) = &self.sessions {
            sessions.forget(&session.id());
        }
        Ok(())
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("count", &self.count)
            .field("window", &self.window)
            .field("per_ip", &self.addresses.is_some())
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::driver::Driver;
    use crate::middleware::MiddlewareChain;
    use crate::outbox::{Encode, SendQueue};
    use crate::{Hub, Message, Role, SendError, SessionOptions};

    struct Mute;

    impl Encode for Mute {
        fn encode(&mut self, _: Message, _: &mut SendQueue) -> Result<(), SendError> {
            Ok(())
        }
    }

    fn ready<T>(hook: impl Future<Output = Result<T, BoxError>>) -> T {
        match pin!(hook).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(output)) => output,
            _ => panic!("no hook waits or fails"),
        }
    }

    #[test]
    fn nothing_is_kept_of_a_session_that_has_ended() {
        let hour = Duration::from_secs(3600);
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        for limit in [RateLimit::per_session(1, hour), RateLimit::per_ip(1, hour)] {
            let limit = limit.expect("valid");
            let kept = || limit.sessions.as_ref().map(Windows::len);
            // It has no address, so `per_ip` counts it by itself, too.
            let driver = Driver::register(&hub, Role::Server, None, Mute);
            assert!(ready(limit.on_data_received(driver.session(), Bytes::new())).is_some());
            assert_eq!(kept(), Some(1));
            ready(limit.on_disconnected(driver.session(), DisconnectReason::ClosedByClient));
            assert_eq!(kept(), Some(0));
        }
    }
}
