//! What every session of a server or client is configured with.

use std::time::Duration;

use crate::{ConfigError, SendBudget};

/// What happens to a message when a session's outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SlowConsumerPolicy {
    /// `send` waits until the outbox has drained to half of its limit, first come first served.
    #[default]
    Wait,
    /// `send` returns [`SendOutcome::Dropped`](crate::SendOutcome::Dropped) and the message is counted as dropped.
    Drop,
    /// The session is aborted with [`DisconnectReason::SlowConsumer`](crate::DisconnectReason::SlowConsumer).
    Disconnect,
    /// The oldest messages that were sent under this policy and still wait are dropped, whole and counted, for the new
    /// one: `send` never waits for room, and the peer gets the newest. Where those that wait may not be dropped (sent under
    /// another policy, or with the connection already), the new one is, as under [`Drop`](Self::Drop).
    ///
    /// Messages under it are encoded when the connection takes them, one by one for each receiver of a broadcast, and
    /// until then count as their payload and 128 bytes. One sent under another policy later has those before it encoded
    /// and queued for good: order is kept.
    DropOldest,
}

/// Limits and deadlines of each session. Each has a setter of the same name, here and on every builder.
///
/// ```
/// use std::time::Duration;
/// use storm_core::SessionOptions;
///
/// let options = SessionOptions::default().max_pending_send_bytes(256 * 1024).idle_timeout(Duration::from_secs(300));
/// assert_eq!(options.close_deadline, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct SessionOptions {
    /// Bytes that may wait for the socket, payloads and control frames together; `None` removes the bound.
    /// Default 1 MiB. A message is admitted while less than this waits, so one message may exceed it. This is what
    /// one slow reader can cost in memory.
    pub max_pending_send_bytes: Option<usize>,
    /// Bytes read ahead of a busy handler before reading stops and TCP holds the sender back; `None` reads
    /// on without end. Default 1 MiB.
    pub max_pending_receive_bytes: Option<usize>,
    /// What happens at `max_pending_send_bytes`. Default [`SlowConsumerPolicy::Wait`].
    pub slow_consumer_policy: SlowConsumerPolicy,
    /// How long an orderly close may take before it becomes an abort, and how long a handler that still runs when
    /// its session has ended may go on before it is dropped. Default 5 s; more than a year is a year.
    pub close_deadline: Duration,
    /// Silence (no application data received) after which the session is closed; `None` never does. Default `None`.
    pub idle_timeout: Option<Duration>,
    /// Bounds what waits in all sessions that share it, of any number of servers and clients of the process. Default
    /// `None`: nothing bounds the sum.
    pub send_budget: Option<SendBudget>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            max_pending_send_bytes: Some(1 << 20),
            max_pending_receive_bytes: Some(1 << 20),
            slow_consumer_policy: SlowConsumerPolicy::Wait,
            close_deadline: Duration::from_secs(5),
            idle_timeout: None,
            send_budget: None,
        }
    }
}

impl SessionOptions {
    crate::session_setters!();

    /// Refuses values no session could work with.
    ///
    /// # Errors
    /// A byte limit, the close deadline, the idle timeout or the send budget is zero ("no limit" is `None`).
    pub fn validate(&self) -> Result<(), ConfigError> {
        const ZERO_BYTES: &str = "must be at least 1 byte; None removes the limit";
        if self.max_pending_send_bytes == Some(0) {
            return Err(ConfigError::new("max_pending_send_bytes", ZERO_BYTES));
        }
        if self.max_pending_receive_bytes == Some(0) {
            return Err(ConfigError::new("max_pending_receive_bytes", ZERO_BYTES));
        }
        if self.send_budget.as_ref().is_some_and(|budget| budget.limit() == 0) {
            return Err(ConfigError::new("send_budget", ZERO_BYTES));
        }
        if self.close_deadline.is_zero() {
            return Err(ConfigError::new(
                "close_deadline",
                "must be longer than zero; use abort to end at once",
            ));
        }
        if self.idle_timeout == Some(Duration::ZERO) {
            return Err(ConfigError::new("idle_timeout", "must be longer than zero; None turns it off"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(SessionOptions::default().validate(), Ok(()));
    }

    #[test]
    fn each_option_has_a_setter() {
        let budget = SendBudget::new(1);
        let second = Duration::from_secs(1);
        let options = SessionOptions::default()
            .max_pending_send_bytes(2)
            .max_pending_receive_bytes(None)
            .slow_consumer_policy(SlowConsumerPolicy::Drop)
            .close_deadline(second)
            .idle_timeout(second)
            .send_budget(budget.clone());
        let expected = SessionOptions {
            max_pending_send_bytes: Some(2),
            max_pending_receive_bytes: None,
            slow_consumer_policy: SlowConsumerPolicy::Drop,
            close_deadline: second,
            idle_timeout: Some(second),
            send_budget: Some(budget),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn zero_is_refused_by_name() {
        type Change = fn(&mut SessionOptions);
        let changes: [(&str, Change); 5] = [
            ("max_pending_send_bytes", |o| o.max_pending_send_bytes = Some(0)),
            ("max_pending_receive_bytes", |o| o.max_pending_receive_bytes = Some(0)),
            ("close_deadline", |o| o.close_deadline = Duration::ZERO),
            ("send_budget", |o| o.send_budget = Some(SendBudget::new(0))),
            ("idle_timeout", |o| o.idle_timeout = Some(Duration::ZERO)),
        ];
        for (name, change) in changes {
            let mut options = SessionOptions::default();
            change(&mut options);
            let ConfigError::Invalid { option, .. } = options.validate().expect_err(name);
            assert_eq!(option, name);
        }
    }
}
