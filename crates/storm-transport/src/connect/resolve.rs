//! Looking up names.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::AddressesFailed;

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
type Resolve = dyn Fn(String, u16) -> Resolving + Send + Sync;

/// Who looks up names: the system (the default), or an async function of host and port.
///
/// That function says the addresses in the order of preference, each with the port. A name without addresses may be an
/// empty list. The caller bounds the time; a dropped future gives up. What it fails with is the
/// [source](std::error::Error::source) of the error an attempt ends with, which is of the same kind ([`LookupFailed`]). A name
/// that is not known is [`NotFound`](io::ErrorKind::NotFound), and a lookup without an answer [`TimedOut`](io::ErrorKind::TimedOut):
/// these, and what networks bring about, are nothing to look at while a client reconnects. Other kinds are reported.
///
/// ```
/// use std::net::{IpAddr, Ipv4Addr};
/// use storm_transport::connect::Resolver;
///
/// let only_here = Resolver::new(|_host, port| async move { Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]) });
/// # let _ = only_here;
/// ```
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<Resolve>>);

impl Resolver {
    /// Has `resolve` look up names.
    pub fn new<R, Fut>(resolve: R) -> Self
    where
        R: Fn(String, u16) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Some(Arc::new(move |host, port| Box::pin(resolve(host, port)))))
    }

    pub(super) async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let (addrs, by_system) = match &self.0 {
            Some(resolve) => (resolve(host.to_owned(), port).await, false),
            None => (tokio::net::lookup_host((host, port)).await.map(Iterator::collect), true),
        };
        addrs.map_err(|error| LookupFailed::wrap(error, by_system))
    }
}

/// A name could not be looked up; what the resolver failed with is the [source](std::error::Error::source).
///
/// It is the inner error of the [`io::Error`] an attempt to connect to a name ends with, which is of the same kind as its
/// source. (A name that has no address is an [`AddressesFailed`] without attempts.)
///
/// ```
/// use storm_transport::connect::LookupFailed;
///
/// fn is_about_the_name(error: &std::io::Error) -> bool {
///     LookupFailed::of(error).is_some()
/// }
/// # assert!(!is_about_the_name(&std::io::ErrorKind::ConnectionRefused.into()));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the name could not be looked up")]
pub struct LookupFailed {
    source: io::Error,
    by_system: bool,
}

impl LookupFailed {
    /// What `error` says about a lookup, if it is from one that failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(crate) fn wrap(source: io::Error, by_system: bool) -> io::Error {
        io::Error::new(source.kind(), Self { source, by_system })
    }

    /// Whether `error` says that a name is not known, or has no address. The system has no kind for most of what its lookups
    /// fail with, so all of that counts; of a function of the user's, only what says so: the rest may be its mistake.
    pub(crate) fn is_expected_in(error: &io::Error) -> bool {
        Self::of(error).is_some_and(|failed| failed.by_system || error.kind() == io::ErrorKind::NotFound)
            || AddressesFailed::of(error).is_some_and(|failed| failed.attempts().is_empty())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(custom)" } else { "Resolver(system)" })
    }
}
