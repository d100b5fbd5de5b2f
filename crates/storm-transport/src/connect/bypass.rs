//! What is connected to without a proxy, in the form of the variable `NO_PROXY`.

use std::net::IpAddr;

use ipnet::IpNet;
use storm_core::ConfigError;

use crate::net::parse_net;

/// A list of names, addresses and networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bypass(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// Every port if `None`.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Net(IpNet),
    /// In lower case, no dot at either end.
    Domain(String),
}

impl Bypass {
    pub(super) fn parse(list: &str) -> Result<Self, ConfigError> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries = entries.map(|entry| {
            Entry::parse(entry).ok_or_else(|| {
                ConfigError::new(
                    "proxy",
                    "an exception is a name, an address or a network, or one of them with a port",
                )
            })
        });
        entries.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip = bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().filter(|entry| entry.port.is_none_or(|only| only == port)).any(|entry| {
            match (&entry.hosts, ip) {
                (Hosts::All, _) => true,
                (Hosts::Net(net), Some(ip)) => net.contains(&ip),
                (Hosts::Domain(domain), None) => name
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                _ => false,
            }
        })
    }
}

impl Entry {
    fn parse(entry: &str) -> Option<Self> {
        if let Some(hosts) = Hosts::parse(entry) {
            return Some(Self { hosts, port: None });
        }
        let (hosts, port) = entry.rsplit_once(':')?;
        Some(Self { hosts: Hosts::parse(hosts)?, port: Some(port.parse().ok()?) })
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Some(net) = parse_net(bare) {
            return Some(Self::Net(net));
        }
        let domain = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
        let domain = domain.trim_end_matches('.');
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        (!domain.is_empty() && domain.bytes().all(allowed)).then(|| Self::Domain(domain.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_networks() {
        let bypass = Bypass::parse(
            "localhost, .Example.com,*.star.test , 10.0.0.0/8,192.0.2.7,::ffff:172.16.0.0/108, [::1]:8080,fe80::/10,p.test:81,",
        )
        .unwrap();
        for (host, port) in [
            ("localhost", 1),
            ("LOCALHOST.", 1),
            ("example.com", 1),
            ("a.b.EXAMPLE.com", 443),
            ("x.star.test", 1),
            ("10.255.0.1", 1),
            ("172.16.9.9", 1),
            ("::ffff:10.0.0.1", 1),
            ("192.0.2.7", 1),
            ("::1", 8080),
            ("[::1]", 8080),
            ("fe80::1", 1),
            ("p.test", 81),
        ] {
            assert!(bypass.covers(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("notlocalhost", 1),
            ("badexample.com", 1),
            ("example.com.evil.test", 1),
            ("11.0.0.1", 1),
            ("192.0.2.70", 1),
            ("10.evil.test", 1),
            ("::1", 80),
            ("p.test", 80),
            ("", 80),
        ] {
            assert!(!bypass.covers(host, port), "{host}:{port}");
        }
        assert!(Bypass::parse("*").unwrap().covers("anything.test", 1));
        assert!(!Bypass::parse("").unwrap().covers("anything.test", 1));
        for list in ["a b", "x:port", "10.0.0.0/33", "http://x", ".", "x:70000"] {
            assert!(Bypass::parse(list).is_err(), "{list}");
        }
    }
}
