//! Which proxy a connection goes through, and the conversation with it.
//!
//! Owns: the proxies of a client and what they are not asked for.
//! In:   URIs or environment variables; then a connection to the proxy.
//! Out:  the same connection, led on to the target with nothing of the target's read from it.
//! Not here: the bytes of the conversation (`storm-proxy-proto`), reaching the proxy and the budget (`connect`).

use std::io;

use storm_core::ConfigError;
use storm_proxy_proto::{
    Credentials, HttpConnect, HttpConnectError, Reply, Socks5, Socks5Error, Step, Target, TargetError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bypass::Bypass;

/// Bytes looked at in one go: the answer of nearly every proxy.
const PEEK: usize = 1024;

/// The proxies of a client: one for everything, or several as the environment says.
///
/// ```
/// use storm_transport::connect::Proxy;
///
/// let proxy = Proxy::new("socks5://127.0.0.1:1080")?
///     .credentials("me", "p@ss")
///     .except("localhost, 10.0.0.0/8, .internal.example.com")?;
/// assert!(Proxy::new("ftp://127.0.0.1").is_err());
/// # let _ = proxy;
/// # Ok::<(), storm_core::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    tcp: Option<Server>,
    tls: Option<Server>,
    ws: Option<Server>,
    bypass: Bypass,
}

/// What a connection is for, as far as it decides on the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Plain TCP.
    Tcp,
    /// TLS, with or without WebSocket inside.
    Tls,
    /// WebSocket without TLS.
    Ws,
}

/// One proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    kind: Kind,
    pub(super) host: String,
    pub(super) port: u16,
    credentials: Option<Credentials>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// Why a proxy did not lead on to the target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy cannot be reached, or went away before it had answered.
    #[error("the proxy cannot be reached")]
    Io(#[source] io::Error),
    /// No proxy can be asked for such a target.
    #[error("the proxy cannot be asked for the target")]
    Target(#[source] TargetError),
    /// An HTTP proxy refused, or answered something else than HTTP.
    #[error("the proxy did not open a tunnel")]
    Http(#[source] HttpConnectError),
    /// A SOCKS proxy refused, or answered something else than SOCKS 5.
    #[error("the proxy did not open a tunnel")]
    Socks5(#[source] Socks5Error),
}

impl ProxyError {
    /// The status an HTTP proxy refused with: 407 wants (other) credentials.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Http(HttpConnectError::Refused { status, .. }) => Some(*status),
            _ => None,
        }
    }

    /// What a SOCKS proxy refused with.
    #[must_use]
    pub fn reply(&self) -> Option<Reply> {
        match self {
            Self::Socks5(Socks5Error::Refused { reply }) => Some(*reply),
            _ => None,
        }
    }

    /// Whether the proxy is fine and the target is not there (502 to 504, or a SOCKS reply that says so): what a direct
    /// connection would have met as a refused or timed out attempt.
    #[must_use]
    pub fn is_target_unreachable(&self) -> bool {
        match self {
            Self::Http(_) => matches!(self.status(), Some(502..=504)),
            Self::Socks5(_) => matches!(
                self.reply(),
                Some(
                    Reply::GeneralFailure
                        | Reply::NetworkUnreachable
                        | Reply::HostUnreachable
                        | Reply::ConnectionRefused
                        | Reply::TtlExpired
                )
            ),
            _ => false,
        }
    }
}

impl Proxy {
    /// A proxy for every connection: `http://host:port` (HTTP CONNECT) or `socks5://host:port` (`socks5h` is the same: a
    /// SOCKS proxy always looks up the names), with `user:password@` in front of the host if the proxy wants that. Ports
    /// are 80 and 1080 unless said. TLS to the proxy itself is not spoken.
    ///
    /// # Errors
    /// Another scheme, no host, or credentials that cannot be sent.
    pub fn new(uri: impl AsRef<str>) -> Result<Self, ConfigError> {
        let server = Server::parse(uri.as_ref())?;
        let all = || Some(server.clone());
        Ok(Self { tcp: all(), tls: all(), ws: all(), bypass: Bypass::default() })
    }

    /// What the environment says, as other programs read it; `None` if it names no proxy. Nothing reads it unless this is
    /// called.
    ///
    /// | connection | variables, the first that is set counts |
    /// |---|---|
    /// | TLS, `wss://` | `https_proxy`, `HTTPS_PROXY`, `all_proxy`, `ALL_PROXY` |
    /// | `ws://` | `http_proxy`, `all_proxy`, `ALL_PROXY` (not `HTTP_PROXY`, which a CGI client can set) |
    /// | plain TCP | `all_proxy`, `ALL_PROXY` |
    ///
    /// `no_proxy` or `NO_PROXY` says what [`except`](Self::except) would. A proxy without a scheme is an HTTP proxy.
    ///
    /// # Errors
    /// A variable holds what [`new`](Self::new) or [`except`](Self::except) refuses.
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let first = |names: &[&str]| {
            let value = names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
            value.map(|value| Server::parse(&value)).transpose()
        };
        let proxy = Self {
            tcp: first(&["all_proxy", "ALL_PROXY"])?,
            tls: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            ws: first(&["http_proxy", "all_proxy", "ALL_PROXY"])?,
            bypass: Bypass::default(),
        };
        if proxy.tcp.is_none() && proxy.tls.is_none() && proxy.ws.is_none() {
            return Ok(None);
        }
        match variable("no_proxy").or_else(|| variable("NO_PROXY")) {
            Some(list) => proxy.except(&list).map(Some),
            None => Ok(Some(proxy)),
        }
    }

    /// Sets the user and password of every proxy, as they are (in a URI some characters need escapes).
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let credentials = Credentials::new(user, password);
        for server in [&mut self.tcp, &mut self.tls, &mut self.ws].into_iter().flatten() {
            server.credentials = Some(credentials.clone());
        }
        self
    }

    /// Connects directly to what is on this list, which replaces an earlier one: names (subdomains included, with or
    /// without a dot in front), addresses, networks (`10.0.0.0/8`), each with a port if only that is meant, separated by
    /// commas; `*` is everything. Names are not looked up for that.
    ///
    /// # Errors
    /// An entry that is none of these.
    pub fn except(mut self, list: &str) -> Result<Self, ConfigError> {
        self.bypass = Bypass::parse(list)?;
        Ok(self)
    }

    /// Refuses credentials that cannot be sent.
    ///
    /// # Errors
    /// A colon or control character in those for an HTTP proxy, more than 255 bytes for a SOCKS proxy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        [&self.tcp, &self.tls, &self.ws].into_iter().flatten().try_for_each(Server::validate)
    }

    /// The proxy for a connection; `None` goes directly.
    pub(super) fn server(&self, purpose: Purpose, host: &str, port: u16) -> Option<&Server> {
        let server = match purpose {
            Purpose::Tcp => self.tcp.as_ref(),
            Purpose::Tls => self.tls.as_ref(),
            Purpose::Ws => self.ws.as_ref(),
        };
        server.filter(|_| !self.bypass.covers(host, port))
    }
}

impl Server {
    fn parse(uri: &str) -> Result<Self, ConfigError> {
        let invalid = |problem| ConfigError::new("proxy", problem);
        let (scheme, rest) = uri.split_once("://").unwrap_or(("http", uri));
        let (kind, usual_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            "https" => return Err(invalid("TLS to the proxy itself is not supported; use http://")),
            _ => return Err(invalid("the scheme must be http, socks5 or socks5h")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, authority) = match rest.rsplit_once('@') {
            Some((user_info, authority)) => (Some(user_info), authority),
            None => (None, rest),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // A colon inside of brackets is the address's.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| invalid("the port must be from 0 to 65535"))?)
            }
            _ => (authority, usual_port),
        };
        if Target::new(host, port).is_err() {
            return Err(invalid("not of the form scheme://host:port"));
        }
        let credentials = user_info
            .map(|user_info| {
                let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
                let decode =
                    |text| unescaped(text).ok_or_else(|| invalid("a broken escape in the credentials"));
                Ok(Credentials::new(decode(user)?, decode(password)?))
            })
            .transpose()?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = Self { kind, host, port, credentials };
        server.validate()?;
        Ok(server)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let anywhere = Target::new("localhost", 80).expect("a host name");
        Conversation::new(self, &anywhere).map(drop).map_err(|_| {
            ConfigError::new("proxy", "the user name or password cannot be sent to such a proxy")
        })
    }

    /// Has the proxy at the other end of `stream` lead on to the target. What the target says stays unread.
    ///
    /// # Errors
    /// The proxy refuses, answers something else, or goes away.
    pub(super) async fn lead_on(&self, stream: &mut TcpStream, target: &Target) -> Result<(), ProxyError> {
        let (mut conversation, opening) = Conversation::new(self, target).map_err(ProxyError::Target)?;
        stream.write_all(&opening).await.map_err(ProxyError::Io)?;
        let mut bytes = [0; PEEK];
        loop {
            // Only looked at, until it is known how much of it is the proxy's: nothing is left to pass on to whatever
            // speaks over the tunnel.
            let seen = stream.peek(&mut bytes).await.map_err(ProxyError::Io)?;
            if seen == 0 {
                return Err(ProxyError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let (taken, step) = conversation.receive(&bytes[..seen])?;
            stream.read_exact(&mut bytes[..taken]).await.map_err(ProxyError::Io)?;
            match step {
                Step::Read => {}
                Step::Write(answer) => stream.write_all(&answer).await.map_err(ProxyError::Io)?,
                Step::Open => return Ok(()),
            }
        }
    }
}

/// The conversation with either kind.
enum Conversation {
    Http(HttpConnect),
    Socks5(Socks5),
}

impl Conversation {
    /// It, and the bytes it begins with.
    fn new(server: &Server, target: &Target) -> Result<(Self, Vec<u8>), TargetError> {
        let credentials = server.credentials.as_ref();
        Ok(match server.kind {
            Kind::Http => {
                let (connect, opening) = HttpConnect::new(target, credentials)?;
                (Self::Http(connect), opening)
            }
            Kind::Socks5 => {
                let (socks, opening) = Socks5::new(target, credentials)?;
                (Self::Socks5(socks), opening)
            }
        })
    }

    fn receive(&mut self, input: &[u8]) -> Result<(usize, Step), ProxyError> {
        match self {
            Self::Http(connect) => connect.receive(input).map_err(ProxyError::Http),
            Self::Socks5(socks) => socks.receive(input).map_err(ProxyError::Socks5),
        }
    }
}

/// Without its percent escapes (RFC 3986 §2.1).
fn unescaped(text: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name did not resolve, or no address took the connection.
    #[error("the connection could not be opened")]
    Io(#[from] io::Error),
    /// The proxy did not lead on to the target.
    #[error("the proxy did not open the connection")]
    Proxy(#[from] ProxyError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(uri: &str) -> Result<(Kind, String, u16, Option<Credentials>), String> {
        let Server { kind, host, port, credentials } =
            Server::parse(uri).map_err(|error| error.to_string())?;
        Ok((kind, host, port, credentials))
    }

    #[test]
    fn uris() {
        let me = |password| Some(Credentials::new("me", password));
        for (uri, expected) in [
            ("http://proxy.test:3128", (Kind::Http, "proxy.test", 3128, None)),
            ("proxy.test:3128/", (Kind::Http, "proxy.test", 3128, None)),
            ("HTTP://proxy.test", (Kind::Http, "proxy.test", 80, None)),
            ("socks5://10.0.0.1", (Kind::Socks5, "10.0.0.1", 1080, None)),
            ("socks5h://me:a%40b%3A@[::1]:9050", (Kind::Socks5, "::1", 9050, me("a@b:"))),
            ("http://me@[::1]", (Kind::Http, "::1", 80, me(""))),
            ("http://me:a:b@proxy.test", (Kind::Http, "proxy.test", 80, me("a:b"))),
        ] {
            let (kind, host, port, credentials) = expected;
            assert_eq!(server(uri), Ok((kind, host.to_owned(), port, credentials)), "{uri}");
        }
        let long = format!("socks5://{}@proxy.test", "u".repeat(256));
        for uri in [
            "",
            "http://",
            "https://proxy.test",
            "socks4://proxy.test",
            "ftp://proxy.test",
            "http://proxy.test:port",
            "http://proxy.test:70000",
            "http://proxy.test/path",
            "http://a b",
            "http://me:%4@proxy.test",
            "http://me:%zz@proxy.test",
            "http://m%3Ae:x@proxy.test",
            "http://me:%0d%0a@proxy.test",
            "socks5://:x@proxy.test",
            &long,
        ] {
            assert!(server(uri).is_err(), "{uri}");
        }
        let proxy = Proxy::new("http://proxy.test").unwrap().credentials("a:b", "");
        assert!(proxy.validate().is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        let proxy = Proxy::new("http://me:secret@proxy.test:1").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn the_environment() {
        let read = |variables: &[(&str, &str)]| {
            Proxy::from_variables(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let of =
            |proxy: &Proxy, purpose| proxy.server(purpose, "h.test", 1).map(|server| server.host.clone());
        let all = |variables| {
            let proxy = read(variables).unwrap()?;
            Some([Purpose::Tcp, Purpose::Ws, Purpose::Tls].map(|purpose| of(&proxy, purpose)))
        };
        let names =
            |names: [&str; 3]| Some(names.map(|name| Some(name.to_owned()).filter(|name| !name.is_empty())));
        assert_eq!(all(&[]), None);
        assert_eq!(all(&[("NO_PROXY", "a.test"), ("https_proxy", "")]), None);
        assert_eq!(all(&[("HTTP_PROXY", "http://evil.test")]), None, "a CGI client's header");
        assert_eq!(all(&[("ALL_PROXY", "socks5://a.test")]), names(["a.test", "a.test", "a.test"]));
        assert_eq!(
            all(&[
                ("all_proxy", "a.test"),
                ("ALL_PROXY", "b.test"),
                ("HTTPS_PROXY", "c.test"),
                ("http_proxy", "d.test")
            ]),
            names(["a.test", "d.test", "c.test"])
        );
        assert_eq!(all(&[("https_proxy", "c.test"), ("HTTPS_PROXY", "x.test")]), names(["", "", "c.test"]));
        assert_eq!(all(&[("ALL_PROXY", "a.test"), ("NO_PROXY", "h.test")]), Some([None, None, None]));
        assert!(read(&[("ALL_PROXY", "ftp://x")]).is_err());
        assert!(read(&[("ALL_PROXY", "x"), ("NO_PROXY", "a b")]).is_err());
    }
}
