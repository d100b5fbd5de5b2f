//! Counts by kind: of disconnects by reason, of failed handshakes and refused sockets by why.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DisconnectReason;

/// Room for the kinds of any [`Kind`].
const MOST: usize = 16;

/// What is counted apart: a small enum.
pub trait Kind: Copy + 'static {
    /// Every kind, at most 16 of them.
    const ALL: &'static [Self];

    /// Its place in [`ALL`](Self::ALL).
    fn index(self) -> usize;

    /// A stable snake-case name, for logs and metric labels.
    fn label(self) -> &'static str;
}

/// How many there were of each kind.
///
/// ```
/// use storm_core::metrics::Tally;
/// use storm_core::DisconnectReason;
///
/// let none = Tally::<DisconnectReason>::default();
/// assert_eq!((none.get(DisconnectReason::SlowConsumer), none.total()), (0, 0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tally<K> {
    counts: [u64; MOST],
    of: PhantomData<K>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self::ZERO
    }
}

impl<K> Tally<K> {
    pub(crate) const ZERO: Self = Self { counts: [0; MOST], of: PhantomData };

    /// How many of all kinds.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl<K: Kind> Tally<K> {
    /// How many of `kind`.
    pub fn get(&self, kind: K) -> u64 {
        self.counts[kind.index()]
    }

    /// Each kind with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> + use<'_, K> {
        K::ALL.iter().map(|kind| (*kind, self.get(*kind)))
    }

    pub(crate) fn add(&mut self, kind: K) {
        self.counts[kind.index()] += 1;
    }

    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "instruments show sums over hubs"))]
    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(other.counts) {
            *ours += theirs;
        }
    }
}

impl<K: Kind> fmt::Debug for Tally<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(kind, count)| (kind.label(), count))).finish()
    }
}

/// A [`Tally`] that many tasks add to.
#[derive(Debug)]
pub(crate) struct AtomicTally<K> {
    counts: [AtomicU64; MOST],
    of: PhantomData<fn(K)>,
}

impl<K> Default for AtomicTally<K> {
    fn default() -> Self {
        Self { counts: Default::default(), of: PhantomData }
    }
}

impl<K: Kind> AtomicTally<K> {
    pub(crate) fn add(&self, kind: K) {
        self.counts[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Tally<K> {
        let mut tally = Tally::ZERO;
        for (count, counted) in tally.counts.iter_mut().zip(&self.counts) {
            *count = counted.load(Ordering::Relaxed);
        }
        tally
    }
}

impl Kind for DisconnectReason {
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize - 1
    }

    fn label(self) -> &'static str {
        self.as_str()
    }
}

/// Why a handshake made no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum HandshakeFailure {
    /// Its time was up.
    Timeout,
    /// The peer left, or the transport failed, before it was through.
    Disconnected,
    /// TLS failed: the peer speaks none, or nothing in common with us, or one side's certificate is not good enough.
    Tls,
    /// What came is no valid upgrade request, or no PROXY header where one is required.
    Malformed,
    /// The request's origin is not on the list.
    Origin,
    /// The upgrade hook said no.
    Rejected,
    /// The upgrade hook panicked, or chose what was not offered.
    HookFailed,
    /// The server is stopping.
    Stopping,
}

impl Kind for HandshakeFailure {
    const ALL: &'static [Self] = &[
        Self::Timeout,
        Self::Disconnected,
        Self::Tls,
        Self::Malformed,
        Self::Origin,
        Self::Rejected,
        Self::HookFailed,
        Self::Stopping,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::Tls => "tls",
            Self::Malformed => "malformed",
            Self::Origin => "origin",
            Self::Rejected => "rejected",
            Self::HookFailed => "hook_failed",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A limit that had a socket closed before anything was read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Limit {
    /// Connections of the server.
    Connections,
    /// Connections of one address.
    ConnectionsPerIp,
    /// Connections of one address that are still in a handshake.
    HandshakesPerIp,
}

impl Kind for Limit {
    const ALL: &'static [Self] = &[Self::Connections, Self::ConnectionsPerIp, Self::HandshakesPerIp];

    fn index(self) -> usize {
        self as usize
    }

    fn label(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::ConnectionsPerIp => "max_connections_per_ip",
            Self::HandshakesPerIp => "max_handshakes_per_ip",
        }
    }
}

/// How a session's transport came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// Everything queued had left, and both sides have ended their streams.
    Orderly,
    /// It failed, or the peer reset it.
    Lost,
    /// This side cut it: an abort, or a deadline.
    Cut,
}

impl Kind for Ending {
    const ALL: &'static [Self] = &[Self::Orderly, Self::Lost, Self::Cut];

    fn index(self) -> usize {
        self as usize
    }

    fn label(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::Lost => "lost",
            Self::Cut => "cut",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn check<K: Kind + fmt::Debug>() {
        assert!(K::ALL.len() <= MOST);
        let labels: HashSet<_> = K::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(labels.len(), K::ALL.len());
        let counting = AtomicTally::<K>::default();
        for (at, kind) in K::ALL.iter().enumerate() {
            assert_eq!(kind.index(), at, "{kind:?}");
            (0..=at).for_each(|_| counting.add(*kind));
        }
        let tally = counting.read();
        assert!(tally.iter().map(|(_, count)| count).eq(1..=K::ALL.len() as u64));
        assert_eq!(tally.total(), (1..=K::ALL.len() as u64).sum());
    }

    #[test]
    fn every_kind_has_a_place_and_a_name_of_its_own() {
        check::<DisconnectReason>();
        check::<HandshakeFailure>();
        check::<Ending>();
        check::<Limit>();
    }
}
