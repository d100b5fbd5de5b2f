//! Attempts to connect to the addresses of one name (Happy Eyeballs, RFC 8305).
//!
//! Owns: the attempts under way and what became of those that failed.
//! In:   addresses in the resolver's order, and how to connect to one.
//! Out:  the first connection; or every address with its error.
//! Not here: looking up names (`resolve`), the budget (the caller drops the future).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// `EAFNOSUPPORT`: this host does not have the family of the address. There is no kind for it.
const NO_SUCH_FAMILY: i32 = if cfg!(windows) {
    10047
} else if cfg!(any(target_os = "linux", target_os = "android")) {
    97
} else {
    47
};

/// No address of a name took the connection: the addresses in the order in which they failed, with their errors.
///
/// It is the inner error of the [`io::Error`] a failed attempt to connect to a name ends with.
///
/// ```
/// use storm_transport::connect::AddressesFailed;
///
/// fn log(error: &std::io::Error) {
///     for (addr, error) in AddressesFailed::of(error).map_or(&[][..], AddressesFailed::attempts) {
///         eprintln!("{addr}: {error}");
///     }
/// }
/// # log(&std::io::ErrorKind::ConnectionRefused.into());
/// ```
#[derive(Debug)]
pub struct AddressesFailed(Vec<(SocketAddr, io::Error)>);

impl AddressesFailed {
    /// What `error` says about single addresses, if it is from an attempt to connect to a name.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Every address that was tried, and how it failed. None if the name has no address.
    #[must_use]
    pub fn attempts(&self) -> &[(SocketAddr, io::Error)] {
        &self.0
    }

    /// One kind for all: that of the last attempt, but a family this host cannot reach at all, or does not even have, says
    /// little.
    fn kind(&self) -> io::ErrorKind {
        let unreachable = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::AddrNotAvailable
            ) || error.raw_os_error() == Some(NO_SUCH_FAMILY)
        };
        let errors = || self.0.iter().rev().map(|(_, error)| error);
        let said = errors().find(|error| !unreachable(error)).or_else(|| errors().next());
        said.map_or(io::ErrorKind::NotFound, io::Error::kind)
    }
}

impl fmt::Display for AddressesFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the name has no address");
        }
        f.write_str("no address took the connection")?;
        for (at, (addr, error)) in self.0.iter().enumerate() {
            write!(f, "{} {addr}: {error}", if at == 0 { ':' } else { ';' })?;
        }
        Ok(())
    }
}

impl std::error::Error for AddressesFailed {}

/// RFC 8305 §4: families take turns, the one the resolver prefers first; within a family its order stays.
pub(super) fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addrs.first() else { return addrs };
    let preferred = first.is_ipv6();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for addr in addrs {
        let family = if addr.is_ipv6() == preferred { &mut one } else { &mut other };
        // Some resolvers say an address once for each kind of socket.
        if !family.contains(&addr) {
            family.push(addr);
        }
    }
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(one.len() + other.len());
    loop {
        let (a, b) = (one.next(), other.next());
        if a.is_none() && b.is_none() {
            return turns;
        }
        turns.extend(a.into_iter().chain(b));
    }
}

/// Connects to the first address that answers. An attempt starts when the one before it has failed, or has taken
/// `delay`; when one succeeds, the others are dropped.
pub(super) async fn race<T, F>(
    addrs: Vec<SocketAddr>,
    delay: Option<Duration>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut race = Race {
        waiting: interleave(addrs).into_iter(),
        running: Vec::new(),
        failed: AddressesFailed(Vec::new()),
        delay: delay.map(|delay| (delay, Box::pin(sleep(delay)))),
    };
    race.start(&attempt);
    std::future::poll_fn(|cx| race.poll(cx, &attempt)).await
}

struct Race<F> {
    waiting: std::vec::IntoIter<SocketAddr>,
    /// Boxed to be pinned: there are few, and a connection costs more.
    running: Vec<(SocketAddr, Pin<Box<F>>)>,
    failed: AddressesFailed,
    delay: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<T, F: Future<Output = io::Result<T>>> Race<F> {
    /// Starts the next attempt, if an address is left, and the wait for the one after it.
    fn start(&mut self, attempt: &impl Fn(SocketAddr) -> F) -> bool {
        let Some(addr) = self.waiting.next() else { return false };
        self.running.push((addr, Box::pin(attempt(addr))));
        if let Some((delay, sleep)) = &mut self.delay {
            sleep.as_mut().reset(Instant::now() + *delay);
        }
        true
    }

    fn poll(&mut self, cx: &mut Context<'_>, attempt: &impl Fn(SocketAddr) -> F) -> Poll<io::Result<T>> {
        loop {
            let mut at = 0;
            let mut failed = false;
            while let Some((addr, running)) = self.running.get_mut(at) {
                match running.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Ok(connected)),
                    Poll::Ready(Err(error)) => {
                        self.failed.0.push((*addr, error));
                        drop(self.running.remove(at));
                        failed = true;
                    }
                }
            }
            let late = match &mut self.delay {
                Some((_, sleep)) if self.waiting.len() > 0 => sleep.as_mut().poll(cx).is_ready(),
                _ => false,
            };
            // Whatever has been started must be polled once, or it never wakes us.
            if (failed || late) && self.start(attempt) {
                continue;
            }
            if self.running.is_empty() {
                let failed = std::mem::replace(&mut self.failed, AddressesFailed(Vec::new()));
                return Poll::Ready(Err(io::Error::new(failed.kind(), failed)));
            }
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DELAY: Duration = Duration::from_millis(250);

    /// Address number `n` of a family.
    fn v4(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 80).into()
    }

    fn v6(n: u16) -> SocketAddr {
        ([0x2001, 0xDB8, 0, 0, 0, 0, 0, n], 80).into()
    }

    /// Connects as scripted, and writes down when each attempt began and when it was dropped.
    struct Script {
        began: Instant,
        outcomes: Vec<(SocketAddr, Duration, Result<(), io::ErrorKind>)>,
        log: RefCell<Vec<(String, Duration)>>,
    }

    impl Script {
        fn new(outcomes: &[(SocketAddr, Duration, Result<(), io::ErrorKind>)]) -> Self {
            Self { began: Instant::now(), outcomes: outcomes.to_vec(), log: RefCell::default() }
        }

        fn note(&self, what: String) {
            self.log.borrow_mut().push((what, self.began.elapsed()));
        }

        async fn attempt(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
            struct Lost<'a>(&'a Script, SocketAddr);
            impl Drop for Lost<'_> {
                fn drop(&mut self) {
                    self.0.note(format!("cancel {}", self.1.ip()));
                }
            }
            self.note(format!("try {}", addr.ip()));
            let (_, after, outcome) =
                *self.outcomes.iter().find(|(known, ..)| *known == addr).expect("a scripted address");
            let lost = Lost(self, addr);
            sleep(after).await;
            std::mem::forget(lost);
            outcome.map(|()| addr).map_err(io::Error::from)
        }

        async fn run(&self, delay: Option<Duration>) -> io::Result<SocketAddr> {
            let addrs = self.outcomes.iter().map(|outcome| outcome.0).collect();
            race(addrs, delay, |addr| self.attempt(addr)).await
        }

        fn log(&self) -> Vec<(String, u128)> {
            self.log.borrow().iter().map(|(what, when)| (what.clone(), when.as_millis())).collect()
        }
    }

    fn line(what: &str, when: u128) -> (String, u128) {
        (what.to_owned(), when)
    }

    #[test]
    fn families_take_turns_and_the_preferred_one_begins() {
        let sorted = interleave(vec![v6(1), v6(2), v6(3), v4(1), v4(2)]);
        assert_eq!(sorted, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(interleave(vec![v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
        assert_eq!(interleave(vec![v4(2), v4(1), v4(2)]), [v4(2), v4(1)], "each once, in its order");
        assert_eq!(interleave(vec![]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_first_family_costs_one_delay() {
        let script = Script::new(&[(v6(1), 3600 * SECOND, Ok(())), (v4(1), SECOND / 10, Ok(()))]);
        assert_eq!(script.run(Some(DELAY)).await.unwrap(), v4(1));
        let expected =
            [line("try 2001:db8::1", 0), line("try 192.0.2.1", 250), line("cancel 2001:db8::1", 350)];
        assert_eq!(script.log(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once_and_the_delay_anew() {
        let refused = Err(io::ErrorKind::ConnectionRefused);
        let script = Script::new(&[
            (v6(1), SECOND / 10, refused),
            (v6(2), 3600 * SECOND, Ok(())),
            (v4(1), 3600 * SECOND, Ok(())),
            (v4(2), SECOND / 100, Ok(())),
        ]);
        assert_eq!(script.run(Some(DELAY)).await.unwrap(), v4(2));
        let expected = [
            line("try 2001:db8::1", 0),
            line("try 192.0.2.1", 100),
            line("try 2001:db8::2", 350),
            line("try 192.0.2.2", 600),
            line("cancel 192.0.2.1", 610),
            line("cancel 2001:db8::2", 610),
        ];
        assert_eq!(script.log(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_may_still_win() {
        let script = Script::new(&[(v6(1), SECOND / 2, Ok(())), (v4(1), SECOND, Ok(()))]);
        assert_eq!(script.run(Some(DELAY)).await.unwrap(), v6(1));
        assert_eq!(script.log().last(), Some(&line("cancel 192.0.2.1", 500)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_error_is_in_the_last_one() {
        let script = Script::new(&[
            (v6(1), Duration::ZERO, Err(io::ErrorKind::NetworkUnreachable)),
            (v4(1), SECOND, Err(io::ErrorKind::ConnectionRefused)),
            (v6(2), SECOND / 4, Err(io::ErrorKind::HostUnreachable)),
        ]);
        let error = script.run(Some(DELAY)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "the telling one");
        let attempts = AddressesFailed::of(&error).expect("a name").attempts();
        let kinds: Vec<_> = attempts.iter().map(|(addr, error)| (*addr, error.kind())).collect();
        assert_eq!(
            kinds,
            [
                (v6(1), io::ErrorKind::NetworkUnreachable),
                (v6(2), io::ErrorKind::HostUnreachable),
                (v4(1), io::ErrorKind::ConnectionRefused),
            ]
        );
        let text = error.to_string();
        for (addr, error) in attempts {
            assert!(text.contains(&format!("{addr}: {error}")), "{text}");
        }
    }

    #[test]
    fn a_host_without_ipv6_says_what_became_of_ipv4() {
        let kind = |errors: &[&dyn Fn() -> io::Error]| {
            AddressesFailed(errors.iter().map(|error| (v6(1), error())).collect()).kind()
        };
        let no_ipv6 = || io::Error::from_raw_os_error(NO_SUCH_FAMILY);
        let of = |kind: io::ErrorKind| move || io::Error::from(kind);
        let (refused, denied) = (io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied);
        assert_eq!(kind(&[&of(refused), &no_ipv6]), refused);
        assert_eq!(kind(&[&no_ipv6]), no_ipv6().kind());
        assert_eq!(kind(&[&of(refused), &of(denied)]), denied, "a firewall of this host is news");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_delay_they_are_tried_one_after_the_other() {
        let dead = Err(io::ErrorKind::TimedOut);
        let script = Script::new(&[(v6(1), 60 * SECOND, dead), (v4(1), SECOND, Ok(()))]);
        assert_eq!(script.run(None).await.unwrap(), v4(1));
        assert_eq!(script.log(), [line("try 2001:db8::1", 0), line("try 192.0.2.1", 60_000)]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_is_not_found() {
        let error = Script::new(&[]).run(Some(DELAY)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::NotFound, "the name has no address")
        );
    }
}
