//! What both roles configure alike.

use storm_core::ConfigError;
#[cfg(feature = "deflate")]
use storm_ws_proto::DeflateOptions;
use storm_ws_proto::handshake::HeadLimits;
use storm_ws_proto::{HeartbeatOptions, Limits};

/// Options of a WebSocket session, whichever side it is on. Each has a setter of the same name.
///
/// ```
/// use std::time::Duration;
/// use storm_transport::WsOptions;
/// use storm_ws_proto::HeartbeatOptions;
///
/// let options = WsOptions::default().heartbeat(HeartbeatOptions::default().interval(Duration::from_secs(15)));
/// assert_eq!(options.limits.max_message_size, Some(4 << 20));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct WsOptions {
    /// Pings, and when a silent peer is given up. Default every 30 s, and after 3 unanswered ones.
    pub heartbeat: HeartbeatOptions,
    /// What a peer may make us hold. Default frames of 1 MiB, messages of 4 MiB and of 16 384 fragments.
    pub limits: Limits,
    /// What a peer may send before the upgrade is done. Default 16 KiB and 100 header lines.
    pub head_limits: HeadLimits,
    /// permessage-deflate (RFC 7692). Default `None`: messages are not compressed. Costs a session up to some 300 KiB for
    /// its two windows once it is used, and CPU per message.
    #[cfg(feature = "deflate")]
    pub deflate: Option<DeflateOptions>,
}

impl WsOptions {
    /// Sets [`heartbeat`](Self::heartbeat).
    pub const fn heartbeat(mut self, heartbeat: HeartbeatOptions) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Sets [`limits`](Self::limits).
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`head_limits`](Self::head_limits).
    pub const fn head_limits(mut self, limits: HeadLimits) -> Self {
        self.head_limits = limits;
        self
    }

    /// Sets [`deflate`](Self::deflate).
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<DeflateOptions>>) -> Self {
        self.deflate = deflate.into();
        self
    }

    /// Refuses values no session could work with.
    ///
    /// # Errors
    /// A limit or the heartbeat interval is zero ("off" and "no limit" are `None`).
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.heartbeat.interval.is_some_and(|interval| interval.is_zero()) {
            return Err(ConfigError::new(
                "heartbeat",
                "interval must be longer than zero; None turns it off",
            ));
        }
        if self.limits.max_frame_size == Some(0) || self.limits.max_message_size == Some(0) {
            return Err(ConfigError::new("limits", "sizes must be at least 1 byte; None removes the limit"));
        }
        if self.limits.max_fragments == Some(0) {
            return Err(ConfigError::new(
                "limits",
                "max_fragments must be at least 1; None removes the limit",
            ));
        }
        if self.head_limits.max_bytes < 64 || self.head_limits.max_headers < 5 {
            return Err(ConfigError::new(
                "head_limits",
                "leave no room for an upgrade: at least 64 bytes, 5 lines",
            ));
        }
        Ok(())
    }
}
