//! Which web pages may connect (RFC 6455 §10.2).
//!
//! Owns: a list of allowed origins.
//! In:   the `Origin` header of a request.
//! Out:  yes or no, by exact comparison of scheme, host and port.
//! Not here: refusing (`Reject`); clients that are no browsers and may claim any origin.

use http::header::{self, HeaderMap};

use super::headers::{Count, count};

/// A text that is no origin: `scheme://host` or `scheme://host:port`, nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin")]
pub struct InvalidOrigin(String);

/// The origins a server accepts.
///
/// ```
/// use storm_ws_proto::handshake::OriginList;
///
/// let list = OriginList::new(["https://good.com", "http://localhost:3000"])?;
/// assert!(list.allows("https://GOOD.com:443"));
/// assert!(!list.allows("https://good.com.evil.com"));
/// assert!(!list.allows("http://good.com"));
/// assert!(!list.allows("null"));
/// # Ok::<(), storm_ws_proto::handshake::InvalidOrigin>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginList(Vec<Origin>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    /// `None` for a scheme whose default port we do not know, written without a port.
    port: Option<u16>,
}

impl OriginList {
    /// A list of these origins.
    ///
    /// # Errors
    /// The first that is none. `null` is no origin: every sandboxed page has it.
    pub fn new<T: AsRef<str>>(origins: impl IntoIterator<Item = T>) -> Result<Self, InvalidOrigin> {
        let parse =
            |text: T| Origin::parse(text.as_ref()).ok_or_else(|| InvalidOrigin(text.as_ref().to_owned()));
        origins.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this origin is on the list.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| self.0.contains(&origin))
    }

    /// Whether a request with these headers comes from an origin on the list. One without `Origin`, or
    /// with several, does not.
    #[must_use]
    pub fn allows_headers(&self, headers: &HeaderMap) -> bool {
        match count(headers, &header::ORIGIN) {
            Count::One(value) => value.to_str().is_ok_and(|origin| self.allows(origin)),
            Count::None | Count::Many => false,
        }
    }
}

impl Origin {
    /// RFC 6454 §7: scheme, host and perhaps a port, without user, path or trailing slash.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of an IPv6 address in brackets is no port's.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b))
            }
        };
        if !is_host {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
            None => match scheme.as_str() {
                "http" | "ws" => Some(80),
                "https" | "wss" => Some(443),
                _ => None,
            },
        };
        Some(Self { scheme, host: host.to_ascii_lowercase(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_match_only() {
        let list = OriginList::new(["https://good.com", "http://[::1]:8080", "app://shell"]).unwrap();
        for (origin, allowed) in [
            ("https://good.com", true),
            ("HTTPS://Good.COM", true),
            ("https://good.com:443", true),
            ("http://[::1]:8080", true),
            ("app://shell", true),
            ("https://good.com:444", false),
            ("http://good.com", false),
            ("https://good.com.evil.com", false),
            ("https://evil-good.com", false),
            ("https://a.good.com", false),
            ("https://good.com@evil.com", false),
            ("https://good.com/", false),
            ("https://good.com, https://evil.com", false),
            ("http://[::1]", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(list.allows(origin), allowed, "{origin}");
        }
    }

    #[test]
    fn lists_hold_origins_only() {
        for text in [
            "null",
            "good.com",
            "https://",
            "https://a/b",
            "https://a:99999",
            "https://a:",
            "1x://a",
            "https://[1",
        ] {
            assert_eq!(OriginList::new([text]), Err(InvalidOrigin(text.to_owned())));
        }
    }

    #[test]
    fn one_header_is_needed() {
        let list = OriginList::new(["https://good.com"]).unwrap();
        let mut headers = HeaderMap::new();
        assert!(!list.allows_headers(&headers));
        headers.append(header::ORIGIN, "https://good.com".parse().unwrap());
        assert!(list.allows_headers(&headers));
        headers.append(header::ORIGIN, "https://good.com".parse().unwrap());
        assert!(!list.allows_headers(&headers));
    }
}
