//! Addresses and networks, as lists of them are written.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// Bits of an IPv6 address in front of the IPv4 address that it maps.
const MAPPING: u8 = 96;

/// The network that `text` names, an address being one of its own. Of IPv4 in IPv6 form (`::ffff:10.0.0.0/104`) it is the IPv4
/// network: to be asked about canonical addresses.
pub fn parse_net(text: &str) -> Option<IpNet> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical().into());
    }
    let net: IpNet = text.parse().ok()?;
    Some(mapped(net).map_or(net, IpNet::V4))
}

fn mapped(net: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(net) = net else { return None };
    let ip: Ipv4Addr = net.addr().to_ipv4_mapped()?;
    Ipv4Net::new(ip, net.prefix_len().checked_sub(MAPPING)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_in_ipv6_form_is_ipv4() {
        for (text, net) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7/128", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::ffff:0.0.0.0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_net(text).map(|net| net.to_string()).as_deref(), Some(net), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "::ffff:10.0.0.0/129", "name", "10.0.0.1:80"] {
            assert_eq!(parse_net(text), None, "{text}");
        }
    }
}
