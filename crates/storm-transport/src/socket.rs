//! Options of TCP sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use storm_core::ConfigError;

/// Options of every TCP socket that a server or client opens or accepts. Unix sockets have none of them, and streams that
/// were opened elsewhere stay as they are. Each has a setter of the same name.
///
/// ```
/// use std::time::Duration;
/// use storm_transport::{KeepAlive, SocketOptions};
///
/// let options = SocketOptions::default()
///     .no_delay(true)
///     .keep_alive(KeepAlive::default().idle(Duration::from_secs(60)));
/// assert_eq!(options.recv_buffer_size, Some(64 * 1024));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct SocketOptions {
    /// Sends small segments at once (`TCP_NODELAY`). Default `false`: Nagle's algorithm holds a small segment back
    /// while an earlier one is unacknowledged.
    pub no_delay: bool,
    /// Has the kernel probe silent peers. Default on, with the system's timing; `None` turns it off.
    pub keep_alive: Option<KeepAlive>,
    /// Bytes of the kernel's receive buffer. Default 64 KiB; `None` leaves it to the kernel's autotuning, which
    /// helps on paths with a large bandwidth-delay product and costs memory per connection. (Linux reserves twice the
    /// number for its own bookkeeping.)
    pub recv_buffer_size: Option<usize>,
    /// Bytes of the kernel's send buffer; as `recv_buffer_size`.
    pub send_buffer_size: Option<usize>,
}

/// Timing of keep-alive probes. `None` leaves the system's value (on Linux 2 h, 75 s and 9). Each has a setter of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "a setter returns the changed options"]
pub struct KeepAlive {
    /// Silence before the first probe; whole seconds, at least one.
    pub idle: Option<Duration>,
    /// Time between probes; whole seconds, at least one.
    pub interval: Option<Duration>,
    /// Unanswered probes after which the connection is dead; at least one. Not on every platform settable.
    pub count: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: false,
            keep_alive: Some(KeepAlive::default()),
            recv_buffer_size: Some(64 * 1024),
            send_buffer_size: Some(64 * 1024),
        }
    }
}

impl SocketOptions {
    /// Sets [`no_delay`](Self::no_delay).
    pub const fn no_delay(mut self, on: bool) -> Self {
        self.no_delay = on;
        self
    }

    /// Sets [`keep_alive`](Self::keep_alive).
    pub fn keep_alive(mut self, keep_alive: impl Into<Option<KeepAlive>>) -> Self {
        self.keep_alive = keep_alive.into();
        self
    }

    /// Sets [`recv_buffer_size`](Self::recv_buffer_size).
    pub fn recv_buffer_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.recv_buffer_size = bytes.into();
        self
    }

    /// Sets [`send_buffer_size`](Self::send_buffer_size).
    pub fn send_buffer_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer_size = bytes.into();
        self
    }

    /// Refuses values no system takes.
    ///
    /// # Errors
    /// A buffer size or keep-alive value of zero ("the system's" is `None`).
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.recv_buffer_size == Some(0) {
            return Err(ConfigError::new(
                "recv_buffer_size",
                "must be at least 1 byte; None leaves the system's",
            ));
        }
        if self.send_buffer_size == Some(0) {
            return Err(ConfigError::new(
                "send_buffer_size",
                "must be at least 1 byte; None leaves the system's",
            ));
        }
        let second = Duration::from_secs(1);
        let keep_alive = self.keep_alive.unwrap_or_default();
        if keep_alive.idle.is_some_and(|idle| idle < second)
            || keep_alive.interval.is_some_and(|interval| interval < second)
        {
            return Err(ConfigError::new("keep_alive", "idle and interval must be at least 1 s"));
        }
        if keep_alive.count == Some(0) {
            return Err(ConfigError::new("keep_alive", "count must be at least 1"));
        }
        Ok(())
    }

    /// A TCP socket for `addr` with these options, neither bound nor connected. Buffer sizes must be there before the
    /// connection is: they decide the window scale.
    pub(crate) fn socket(&self, addr: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(bytes) = self.recv_buffer_size {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer_size {
            socket.set_send_buffer_size(bytes)?;
        }
        self.apply(&SockRef::from(&socket))?;
        Ok(socket)
    }

    /// Sets everything on a connection that somebody else's listener has accepted. Buffer sizes come late there: larger ones than
    /// the listener's cannot scale the window any more.
    pub(crate) fn apply_late(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.recv_buffer_size {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer_size {
            socket.set_send_buffer_size(bytes)?;
        }
        self.apply(socket)
    }

    /// Sets what can be set at any time.
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.no_delay {
            socket.set_tcp_nodelay(true)?;
        }
        let Some(keep_alive) = self.keep_alive else {
            return Ok(());
        };
        socket.set_keepalive(true)?;
        if keep_alive != KeepAlive::default() {
            socket.set_tcp_keepalive(&keep_alive.parameters())?;
        }
        Ok(())
    }
}

impl KeepAlive {
    /// Sets [`idle`](Self::idle).
    pub fn idle(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.idle = idle.into();
        self
    }

    /// Sets [`interval`](Self::interval).
    pub fn interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.interval = interval.into();
        self
    }

    /// Sets [`count`](Self::count).
    pub fn count(mut self, probes: impl Into<Option<u32>>) -> Self {
        self.count = probes.into();
        self
    }

    fn parameters(self) -> TcpKeepalive {
        let mut parameters = TcpKeepalive::new();
        if let Some(idle) = self.idle {
            parameters = parameters.with_time(idle);
        }
        if let Some(interval) = self.interval {
            parameters = parameters.with_interval(interval);
        }
        #[cfg(not(any(
            target_os = "windows",
            target_os = "openbsd",
            target_os = "redox",
            target_os = "solaris"
        )))]
        if let Some(count) = self.count {
            parameters = parameters.with_retries(count);
        }
        parameters
    }
}
