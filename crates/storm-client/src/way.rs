//! How a client comes to its stream: it connects, or was given one.

use std::sync::{Mutex, PoisonError};

use storm_core::{ConfigError, Peer};
use storm_transport::connect::Purpose;
use storm_transport::{ConnectAddr, Stream};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{ClientOptions, ConnectError};

/// A stream somebody else has opened.
pub(crate) struct Given(Stream);

impl Given {
    pub(crate) fn new<S>(options: &ClientOptions, stream: S) -> Result<Self, ConfigError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if options.reconnect.is_some() {
            return Err(ConfigError::new("reconnect", "a given stream cannot be opened again"));
        }
        Ok(Self(Stream::of(stream)))
    }
}

/// The way to a server.
pub(crate) enum Way {
    Dial(ConnectAddr),
    /// `None` once it was taken, by the one attempt there is.
    Given(Mutex<Option<Stream>>),
}

impl Way {
    pub(crate) fn new(addr: ConnectAddr, given: Option<Given>) -> Self {
        match given {
            Some(Given(stream)) => Self::Given(Mutex::new(Some(stream))),
            None => Self::Dial(addr),
        }
    }

    /// An open stream, and what is known of the peer.
    pub(crate) async fn open(
        &self,
        options: &ClientOptions,
        purpose: Purpose,
    ) -> Result<(Stream, Peer), ConnectError> {
        match self {
            Self::Dial(addr) => {
                let (stream, remote) = options.dialer(purpose).dial(addr).await?;
                Ok((stream, remote.into()))
            }
            Self::Given(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))?;
                let peer = stream.peer_addr().into();
                Ok((stream, peer))
            }
        }
    }
}
