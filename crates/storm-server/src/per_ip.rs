//! How many connections, and how many of them still in a handshake, each address has: exactly.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use storm_core::ip::ip_key;
use storm_core::metrics::Limit;

use crate::ServerOptions;

/// Counts connections by address, as long as there are any. Memory is bounded by the connections there are.
#[derive(Debug)]
pub(crate) struct PerIp {
    max_connections: usize,
    max_handshakes: usize,
    ipv6_prefix: u8,
    /// Invariant: `1 <= connections` and `handshakes <= connections`, each at most its maximum.
    counts: Mutex<HashMap<IpAddr, Counts>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
}

/// One connection of an address, counted until dropped.
#[derive(Debug)]
pub(crate) struct IpSlot {
    per_ip: Arc<PerIp>,
    key: IpAddr,
    in_handshake: bool,
}

impl PerIp {
    /// `None` if there is no limit to keep.
    pub(crate) fn new(options: &ServerOptions) -> Option<Arc<Self>> {
        let (connections, handshakes) = (options.max_connections_per_ip, options.max_handshakes_per_ip);
        (connections.is_some() || handshakes.is_some()).then(|| {
            Arc::new(Self {
                max_connections: connections.unwrap_or(usize::MAX),
                max_handshakes: handshakes.unwrap_or(usize::MAX),
                ipv6_prefix: options.ipv6_prefix,
                counts: Mutex::default(),
            })
        })
    }

    /// Counts one more connection of `addr`, in its handshake, unless a limit is reached.
    pub(crate) fn take(self: &Arc<Self>, addr: IpAddr) -> Result<IpSlot, Limit> {
        self.count(addr, true)
    }

    /// Counts one more connection of `addr`, whose handshake is over, unless their limit is reached.
    pub(crate) fn take_established(self: &Arc<Self>, addr: IpAddr) -> Result<IpSlot, Limit> {
        self.count(addr, false)
    }

    fn count(self: &Arc<Self>, addr: IpAddr, in_handshake: bool) -> Result<IpSlot, Limit> {
        let key = ip_key(addr, self.ipv6_prefix);
        let mut counts = self.counts.lock();
        let now = counts.get(&key).copied().unwrap_or_default();
        if now.connections >= self.max_connections {
            return Err(Limit::ConnectionsPerIp);
        }
        if in_handshake && now.handshakes >= self.max_handshakes {
            return Err(Limit::HandshakesPerIp);
        }
        let handshakes = now.handshakes + usize::from(in_handshake);
        counts.insert(key, Counts { connections: now.connections + 1, handshakes });
        Ok(IpSlot { per_ip: self.clone(), key, in_handshake })
    }
}

impl IpSlot {
    /// The handshake is over.
    pub(crate) fn established(&mut self) {
        if std::mem::take(&mut self.in_handshake)
            && let Some(counts) = self.per_ip.counts.lock().get_mut(&self.key)
        {
            counts.handshakes -= 1;
        }
    }
}

impl Drop for IpSlot {
    fn drop(&mut self) {
        self.established();
        let mut all = self.per_ip.counts.lock();
        if let Some(counts) = all.get_mut(&self.key) {
            counts.connections -= 1;
            if counts.connections == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_ip(connections: usize, handshakes: usize) -> Arc<PerIp> {
        let options =
            ServerOptions::default().max_connections_per_ip(connections).max_handshakes_per_ip(handshakes);
        PerIp::new(&options).expect("limits")
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_have_limits_of_their_own_and_leave_nothing_behind() {
        let per_ip = per_ip(3, 2);
        let (here, there) = (addr("192.0.2.1"), addr("192.0.2.2"));
        let mut first = per_ip.take(here).expect("room");
        let second = per_ip.take(here).expect("room");
        assert_eq!(per_ip.take(here).err(), Some(Limit::HandshakesPerIp));
        drop(per_ip.take(there).expect("another address"));
        first.established();
        first.established();
        let third = per_ip.take(here).expect("one of three is through");
        assert_eq!(per_ip.take(here).err(), Some(Limit::ConnectionsPerIp));
        assert_eq!(
            per_ip.take(addr("::ffff:192.0.2.1")).err(),
            Some(Limit::ConnectionsPerIp),
            "it is the same"
        );
        drop((first, second, third));
        assert!(per_ip.counts.lock().is_empty());
        assert!(PerIp::new(&ServerOptions::default()).is_none());
    }

    #[test]
    fn what_comes_with_its_handshake_over_is_not_half_open() {
        let per_ip = per_ip(3, 1);
        let here = addr("192.0.2.1");
        let half_open = per_ip.take(here).expect("room");
        let passed_on = per_ip.take_established(here).expect("no handshake");
        assert_eq!(per_ip.take(here).err(), Some(Limit::HandshakesPerIp));
        drop(half_open);
        let _next = per_ip.take(here).expect("none is half-open");
        let _last = per_ip.take_established(here).expect("no handshake");
        assert_eq!(per_ip.take_established(here).err(), Some(Limit::ConnectionsPerIp));
        drop(passed_on);
        assert!(per_ip.take_established(here).is_ok());
    }

    #[test]
    fn ipv6_addresses_of_one_network_are_one() {
        let per_ip = per_ip(1, 1);
        let _one = per_ip.take(addr("2001:db8:1:2::1")).expect("room");
        assert!(per_ip.take(addr("2001:db8:1:2:ffff::2")).is_err());
        assert!(per_ip.take(addr("2001:db8:1:3::1")).is_ok());
        let options = ServerOptions::default().max_connections_per_ip(1).ipv6_prefix(128);
        let apart = PerIp::new(&options).expect("limits");
        let _one = apart.take(addr("2001:db8:1:2::1")).expect("room");
        assert!(apart.take(addr("2001:db8:1:2::2")).is_ok());
    }

    #[test]
    fn many_threads_never_take_more_than_there_are() {
        let per_ip = per_ip(10, 7);
        let taken: Vec<IpSlot> = std::thread::scope(|scope| {
            let take = || {
                let mut taken = Vec::new();
                for _ in 0..500 {
                    if let Ok(mut slot) = per_ip.take(addr("192.0.2.1")) {
                        assert!(per_ip.counts.lock()[&addr("192.0.2.1")].handshakes <= 7);
                        slot.established();
                        taken.push(slot);
                    }
                }
                taken
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(taken.len(), 10);
        drop(taken);
        assert!(per_ip.counts.lock().is_empty());
    }
}
