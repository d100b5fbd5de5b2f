//! Who counts as one address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `addr` as a key to count by: of an IPv6 address its first `prefix` bits, since whoever has one of those has all behind
/// it; an IPv4 address that was mapped to IPv6 as itself.
///
/// ```
/// use storm_core::ip::ip_key;
///
/// let one = ip_key("2001:db8:1:2:3:4:5:6".parse().unwrap(), 64);
/// let other = ip_key("2001:db8:1:2:ffff::1".parse().unwrap(), 64);
/// assert_eq!(one, other);
/// assert_eq!(ip_key("::ffff:192.0.2.1".parse().unwrap(), 64).to_string(), "192.0.2.1");
/// ```
pub fn ip_key(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => addr.into(),
        IpAddr::V6(addr) => {
            let host_bits = 128 - u32::from(prefix.min(128));
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv6Addr::from_bits(addr.to_bits() & mask).into()
        }
    }
}

/// `addr`, or the IPv4 address that it maps to IPv6. Any other IPv6 address keeps its scope.
#[doc(hidden)]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(addr, |ip| (ip, v6.port()).into()),
        SocketAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_those_they_map_and_others_keep_their_scope() {
        for (addr, canonically) in [
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("[fe80::1%3]:5", "[fe80::1%3]:5"),
        ] {
            assert_eq!(canonical(addr.parse().expect("an address")).to_string(), canonically);
        }
    }

    #[test]
    fn prefixes_are_cut_where_told() {
        let addr: IpAddr = "2001:db8:1:2:3:4:5:6".parse().expect("an address");
        for (prefix, key) in [
            (128, "2001:db8:1:2:3:4:5:6"),
            (64, "2001:db8:1:2::"),
            (48, "2001:db8:1::"),
            (0, "::"),
            (255, "2001:db8:1:2:3:4:5:6"),
        ] {
            assert_eq!(ip_key(addr, prefix).to_string(), key, "{prefix}");
        }
        let v4: IpAddr = "192.0.2.77".parse().expect("an address");
        assert_eq!(ip_key(v4, 64), v4);
    }
}
