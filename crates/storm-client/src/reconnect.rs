//! When a lost connection is replaced, and what happens to messages meanwhile.
//!
//! Owns: the options, and the delays they come to. Not here: the attempts themselves (`supervise`), the messages that
//! wait (`queue`).

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng, make_rng};
use storm_core::ConfigError;

/// How lost connections are replaced.
///
/// A connection is replaced unless this side closed it (`close` on the session, `disconnect` on the client). An `abort` of
/// the session is no such end: it gives up one connection, and the next one follows; [`ClientHandle::abort`] ends the client.
///
/// ```
/// use std::time::Duration;
/// use storm_client::ReconnectOptions;
///
/// // At most 1, 2, 4, 8, then 10 seconds, each time a random part of it.
/// let options = ReconnectOptions::exponential(Duration::from_secs(1), Duration::from_secs(10))
///     .max_first_attempts(3)
///     .max_queued_bytes(1 << 20);
/// assert_eq!(options.max_attempts, None);
/// ```
///
/// [`ClientHandle::abort`]: crate::ClientHandle::abort
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct ReconnectOptions {
    /// Wait before each attempt, and with a [`backoff`](Self::backoff) the longest wait before the first one. Default 2 s.
    /// Zero tries without pause, and is no start for a backoff.
    pub delay: Duration,
    /// Whether waits grow and are drawn at random. Default `None`: each one is `delay`.
    pub backoff: Option<Backoff>,
    /// Attempts in a row that may fail before the client gives up; `None` never does. Default `None`. A success starts
    /// the count anew, however short the connection.
    pub max_attempts: Option<u32>,
    /// Attempts to get the first connection of all before `connect` returns an error; `None` goes on for ever. Default 1:
    /// `connect` says at once whether address and options are right.
    pub max_first_attempts: Option<u32>,
    /// The longest `Retry-After` of a refused upgrade that is waited for in full; a longer one is cut to this. `None` does
    /// not look at it. Default 60 s. Only its form in seconds is understood.
    pub max_retry_after: Option<Duration>,
    /// Bytes of messages that may wait in [`ClientHandle::send`](crate::ClientHandle::send) for a connection. Default `None`:
    /// while there is none, sends fail at once. A message counts its payload, an empty one a byte; one that does not fit
    /// fails with [`SendError::Full`](storm_core::SendError::Full).
    pub max_queued_bytes: Option<usize>,
}

/// Exponential backoff with full jitter: the n-th wait of a row is a random part, from none to all, of
/// `delay * factor^(n - 1)`, at most of [`max_delay`](Self::max_delay). Clients that were lost together come back apart.
///
/// A row ends with a connection that lasts longer, its handlers included, than the wait before it could have been: of a server that
/// accepts and hangs up at once, each connection is waited for longer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct Backoff {
    /// How much longer each wait may be than the one before. Default 2, which is the least.
    pub factor: u32,
    /// The longest wait there may be. Default 60 s. Long: a server that is back is found late.
    pub max_delay: Duration,
    /// A seed for the random numbers, so that a test sees the same waits each time. Default `None`: the system's.
    pub seed: Option<u64>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { factor: 2, max_delay: Duration::from_secs(60), seed: None }
    }
}

impl Backoff {
    /// Sets [`factor`](Self::factor).
    pub const fn factor(mut self, factor: u32) -> Self {
        self.factor = factor;
        self
    }

    /// Sets [`max_delay`](Self::max_delay).
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets [`seed`](Self::seed).
    pub fn seed(mut self, seed: impl Into<Option<u64>>) -> Self {
        self.seed = seed.into();
        self
    }
}

impl Default for ReconnectOptions {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(2),
            backoff: None,
            max_attempts: None,
            max_first_attempts: Some(1),
            max_retry_after: Some(Duration::from_secs(60)),
            max_queued_bytes: None,
        }
    }
}

impl ReconnectOptions {
    /// The defaults, with a [`Backoff`] from `initial` to `max`.
    pub fn exponential(initial: Duration, max: Duration) -> Self {
        Self::default().delay(initial).backoff(Backoff::default().max_delay(max))
    }

    /// Sets [`delay`](Self::delay).
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets [`backoff`](Self::backoff).
    pub fn backoff(mut self, backoff: impl Into<Option<Backoff>>) -> Self {
        self.backoff = backoff.into();
        self
    }

    /// Sets [`max_attempts`](Self::max_attempts).
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.max_attempts = attempts.into();
        self
    }

    /// Sets [`max_first_attempts`](Self::max_first_attempts).
    pub fn max_first_attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.max_first_attempts = attempts.into();
        self
    }

    /// Sets [`max_retry_after`](Self::max_retry_after).
    pub fn max_retry_after(mut self, longest: impl Into<Option<Duration>>) -> Self {
        self.max_retry_after = longest.into();
        self
    }

    /// Sets [`max_queued_bytes`](Self::max_queued_bytes).
    pub fn max_queued_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.max_queued_bytes = bytes.into();
        self
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        const AT_LEAST_ONE: &str = "must be at least 1; None removes the limit";
        if self.max_attempts == Some(0) {
            return Err(ConfigError::new("max_attempts", AT_LEAST_ONE));
        }
        if self.max_first_attempts == Some(0) {
            return Err(ConfigError::new("max_first_attempts", AT_LEAST_ONE));
        }
        if self.max_retry_after == Some(Duration::ZERO) {
            return Err(ConfigError::new(
                "max_retry_after",
                "must be longer than zero; None ignores the header",
            ));
        }
        if self.max_queued_bytes == Some(0) {
            return Err(ConfigError::new("max_queued_bytes", "must be at least 1; None queues nothing"));
        }
        let Some(backoff) = &self.backoff else { return Ok(()) };
        if backoff.factor < 2 {
            return Err(ConfigError::new(
                "factor",
                "must be at least 2; without a backoff delays stay the same",
            ));
        }
        if self.delay.is_zero() || backoff.max_delay < self.delay {
            return Err(ConfigError::new(
                "max_delay",
                "a backoff grows from a delay longer than zero to one that is no shorter",
            ));
        }
        Ok(())
    }
}

/// The waits of one client.
#[derive(Debug)]
pub(crate) struct Delays {
    options: ReconnectOptions,
    generator: Option<StdRng>,
    /// Waits since a connection has lasted.
    row: u32,
}

impl Delays {
    pub(crate) fn new(options: &ReconnectOptions) -> Self {
        let generator =
            options.backoff.as_ref().map(|backoff| backoff.seed.map_or_else(make_rng, StdRng::seed_from_u64));
        Self { options: options.clone(), generator, row: 0 }
    }

    pub(crate) const fn options(&self) -> &ReconnectOptions {
        &self.options
    }

    /// The next wait, given what the server asked for.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        self.row = self.row.saturating_add(1);
        let longest = self.longest();
        let usual = match &mut self.generator {
            Some(generator) => {
                let most = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
                Duration::from_nanos(generator.random_range(0..=most))
            }
            None => longest,
        };
        match (retry_after, self.options.max_retry_after) {
            (Some(asked), Some(most)) => usual.max(asked.min(most)),
            _ => usual,
        }
    }

    /// A connection has lasted for `time`.
    pub(crate) fn lasted(&mut self, time: Duration) {
        if time > self.longest() {
            self.row = 0;
        }
    }

    /// What the last wait could have been at most; none if there was none.
    fn longest(&self) -> Duration {
        let ReconnectOptions { delay, backoff, .. } = &self.options;
        match (self.row.checked_sub(1), backoff) {
            (None, _) => Duration::ZERO,
            (Some(_), None) => *delay,
            (Some(grown), Some(backoff)) => {
                delay.saturating_mul(backoff.factor.saturating_pow(grown)).min(backoff.max_delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fixed_delay_stays_and_yields_to_retry_after_up_to_a_limit() {
        let mut delays = Delays::new(&ReconnectOptions::default());
        assert_eq!([(); 3].map(|()| delays.next(None)), [seconds(2); 3]);
        assert_eq!(delays.next(Some(seconds(1))), seconds(2), "never sooner than it would have");
        assert_eq!(delays.next(Some(seconds(30))), seconds(30));
        assert_eq!(delays.next(Some(seconds(3600))), seconds(60));
        let mut deaf = Delays::new(&ReconnectOptions::default().max_retry_after(None));
        assert_eq!(deaf.next(Some(seconds(30))), seconds(2));
    }

    #[test]
    fn a_backoff_grows_to_its_maximum_and_is_drawn_from_all_of_it() {
        let options = ReconnectOptions::exponential(seconds(1), seconds(10));
        let mut delays = Delays::new(&options);
        for (attempt, most) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (60, 10), (u32::MAX, 10)] {
            let mut draw = || {
                delays.row = attempt - 1;
                delays.next(None)
            };
            let drawn: Vec<_> = (0..200).map(|_| draw()).collect();
            assert!(drawn.iter().all(|delay| *delay <= seconds(most)), "{attempt}");
            // Full jitter: about half of it on average, and neither end is left out.
            let mean = drawn.iter().sum::<Duration>() / 200;
            assert!(mean > seconds(most) * 2 / 5 && mean < seconds(most) * 3 / 5, "{attempt}: {mean:?}");
            assert!(drawn.iter().any(|delay| *delay < seconds(most) / 10), "{attempt}");
            assert!(drawn.iter().any(|delay| *delay > seconds(most) * 9 / 10), "{attempt}");
        }
    }

    #[test]
    fn a_row_ends_with_a_connection_that_lasts_longer_than_the_wait_before_it_could_have_been() {
        let mut delays = Delays::new(&ReconnectOptions::exponential(seconds(1), seconds(60)));
        delays.lasted(Duration::ZERO);
        for longest in [1, 2, 4] {
            delays.next(None);
            assert_eq!(delays.longest(), seconds(longest));
            delays.lasted(seconds(longest));
        }
        delays.lasted(seconds(4) + Duration::from_nanos(1));
        delays.next(None);
        assert_eq!(delays.longest(), seconds(1));
    }

    #[test]
    fn the_same_seed_draws_the_same_delays() {
        let draw = |seed| {
            let backoff = Backoff::default().factor(3).seed(seed);
            let mut delays = Delays::new(&ReconnectOptions::default().backoff(backoff));
            (1..10).map(|_| delays.next(None)).collect::<Vec<_>>()
        };
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)), draw(Some(2)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let default = ReconnectOptions::default;
        for (options, name) in [
            (default().max_attempts(0), "max_attempts"),
            (default().max_first_attempts(0), "max_first_attempts"),
            (default().max_retry_after(Duration::ZERO), "max_retry_after"),
            (default().max_queued_bytes(0), "max_queued_bytes"),
            (default().backoff(Backoff::default().factor(1)), "factor"),
            (ReconnectOptions::exponential(Duration::ZERO, seconds(1)), "max_delay"),
            (ReconnectOptions::exponential(seconds(2), seconds(1)), "max_delay"),
        ] {
            let refused = options.validate().expect_err(name).to_string();
            assert!(refused.starts_with(name), "{refused}");
        }
        assert_eq!(ReconnectOptions::exponential(seconds(1), seconds(1)).validate(), Ok(()));
        assert_eq!(default().delay(Duration::ZERO).validate(), Ok(()));
    }
}
