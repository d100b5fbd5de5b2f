//! Where a tunnel leads, and who asks for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a tunnel leads: a name, which the proxy looks up, or an address; and a port.
///
/// ```
/// use storm_proxy_proto::Target;
///
/// assert_eq!(Target::new("example.com", 443)?.to_string(), "example.com:443");
/// assert_eq!(Target::new("::1", 80)?.to_string(), "[::1]:80");
/// assert!(Target::new("evil\r\nHost: other", 80).is_err());
/// # Ok::<(), storm_proxy_proto::TargetError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: Host,
    port: u16,
}

/// The host of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name of 1 to 255 characters that may stand in a URI.
    Name(String),
}

/// Our own caller named a target no proxy can be asked for, or credentials that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not a host name: empty, longer than 255 bytes, or with characters that may not be there. Names in other scripts
    /// have an ASCII form (`xn--`).
    #[error("`{name}` is not a host name")]
    InvalidName {
        /// The name as given.
        name: String,
    },
    /// A user name or password that is too long for the proxy's protocol or has characters that may not be there.
    #[error("the proxy's user name or password cannot be sent")]
    InvalidCredentials,
}

impl Target {
    /// The target `host`, a name or an address (IPv6 with or without brackets), at `port`.
    ///
    /// # Errors
    /// [`TargetError::InvalidName`].
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Ok(Self { host: Host::Ip(ip), port });
        }
        // RFC 3986 §3.2.2: the characters of a registered name.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
        if host.is_empty() || host.len() > 255 || !host.bytes().all(allowed) {
            return Err(TargetError::InvalidName { name: host.to_owned() });
        }
        Ok(Self { host: Host::Name(host.to_owned()), port })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

/// As it stands in a URI: `name:port`, IPv6 addresses in brackets.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// User name and password for a proxy. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Credentials {
    /// A user and a password; what may be in them depends on the proxy's protocol.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        assert_eq!(Target::new("10.0.0.1", 1).unwrap().host(), &Host::Ip([10, 0, 0, 1].into()));
        assert_eq!(Target::new("[::1]", 1), Target::new("::1", 1));
        assert_eq!(Target::new("a_b-c.example.", 65_535).unwrap().to_string(), "a_b-c.example.:65535");
        assert_eq!(Target::from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 8))).to_string(), "[::1]:8");
        let long = "x".repeat(256);
        for name in ["", "a b", "a\r\nb", "a:b", "[a]", "a/b", "a@b", "grün", "a\0", "?", "#", &long] {
            assert_eq!(Target::new(name, 1), Err(TargetError::InvalidName { name: name.to_owned() }));
        }
        assert!(Target::new(&long[1..], 1).is_ok());
    }

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(format!("{:?}", Credentials::new("me", "secret")), "Credentials(..)");
    }
}
