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
/// [source](std::error::Error::source) of the error an attempt ends with, which is of the same kind.
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
        let addrs = match &self.0 {
            Some(resolve) => resolve(host.to_owned(), port).await,
            None => tokio::net::lookup_host((host, port)).await.map(Iterator::collect),
        };
        addrs.map_err(LookupFailed::wrap)
    }
}

/// What a resolver failed with, as the inner error of another one of the same kind: the system has no kind for these.
#[derive(Debug, thiserror::Error)]
#[error("the name could not be looked up")]
pub(crate) struct LookupFailed(#[source] io::Error);

impl LookupFailed {
    pub(crate) fn wrap(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }

    /// Whether `error` is from a lookup, be it that the name has no address.
    pub(crate) fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
            || AddressesFailed::of(error).is_some_and(|failed| failed.attempts().is_empty())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(custom)" } else { "Resolver(system)" })
    }
}
