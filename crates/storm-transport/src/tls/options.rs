//! What a server's TLS is configured with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use storm_core::{ConfigError, TlsVersion};

use super::error::TlsConfigError;
use super::identity::Identity;
use super::roots::Roots;

/// TLS of a server. Each field has a setter of its name.
///
/// ```no_run
/// use storm_transport::tls::{ClientCertificates, Identity, Roots, TlsOptions};
///
/// let tls = TlsOptions::new(Identity::from_files("server.pem", "server.key"))
///     .identity(Identity::from_files("other-host.pem", "other-host.key"))
///     .client_certificates(ClientCertificates::Required(Roots::from_file("our-ca.pem")))
///     .alpn(["http/1.1"]);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct TlsOptions {
    /// Certificate chains with their keys. Which one a client gets is chosen by the host name it asks for (SNI); the first
    /// one if it asks for none, or for one that no certificate is for.
    pub identities: Vec<Identity>,
    /// Versions that are spoken. Default 1.2 and 1.3. Leaving out 1.2 shuts out old clients and nobody else.
    pub versions: Vec<TlsVersion>,
    /// Whether clients are asked for a certificate. Default [`ClientCertificates::None`].
    pub client_certificates: ClientCertificates,
    /// Application protocols (ALPN), the most wanted first. Default none: whatever clients offer is passed over. A client that
    /// offers only others is refused; one that offers none is not.
    pub alpn: Vec<Vec<u8>>,
    /// Whether clients that come back are spared the full handshake. Default on. By tickets, which cost no memory here; their
    /// key is made at start and changes every six hours. With a [`crypto_provider`](Self::crypto_provider) the last 4096 sessions
    /// (with TLS 1.3, two for each client) are kept instead.
    pub resumption: bool,
    /// How often the files of identities and roots are looked at; those that have changed, and stayed as they are until the
    /// next look, are loaded for new connections. Default `None`: only when the server's handle says so.
    pub watch_files: Option<Duration>,
    /// The cryptography. Default `None`: `ring`. With one of yours nothing is left to `ring`, not even tickets: see
    /// [`resumption`](Self::resumption).
    pub crypto_provider: Option<Arc<CryptoProvider>>,
}

/// Whether a server asks its clients for a certificate, and who must have issued it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// They are asked and may have none; a wrong one ends the handshake.
    Optional(Roots),
    /// None, or a wrong one, ends the handshake.
    Required(Roots),
}

impl TlsOptions {
    /// TLS with one certificate chain, and defaults.
    pub fn new(identity: Identity) -> Self {
        Self {
            identities: vec![identity],
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
            client_certificates: ClientCertificates::None,
            alpn: Vec::new(),
            resumption: true,
            watch_files: None,
            crypto_provider: None,
        }
    }

    /// Adds one to [`identities`](Self::identities).
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// Sets [`identities`](Self::identities): these instead of those there are, the one of [`new`](Self::new) too.
    pub fn identities(mut self, identities: impl IntoIterator<Item = Identity>) -> Self {
        self.identities = identities.into_iter().collect();
        self
    }

    /// Sets [`versions`](Self::versions).
    pub fn versions(mut self, versions: impl IntoIterator<Item = TlsVersion>) -> Self {
        self.versions = versions.into_iter().collect();
        self
    }

    /// Sets [`client_certificates`](Self::client_certificates).
    pub fn client_certificates(mut self, client_certificates: ClientCertificates) -> Self {
        self.client_certificates = client_certificates;
        self
    }

    /// Sets [`alpn`](Self::alpn): these instead of those there are.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`resumption`](Self::resumption).
    pub const fn resumption(mut self, on: bool) -> Self {
        self.resumption = on;
        self
    }

    /// Sets [`watch_files`](Self::watch_files).
    pub fn watch_files(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.watch_files = every.into();
        self
    }

    /// Sets [`crypto_provider`](Self::crypto_provider).
    pub fn crypto_provider(mut self, provider: impl Into<Option<Arc<CryptoProvider>>>) -> Self {
        self.crypto_provider = provider.into();
        self
    }

    /// Refuses what does not go together. Files are not looked at.
    ///
    /// # Errors
    /// No identity, no version, an impossible protocol name, a watch without time between looks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.identities.is_empty() {
            return Err(ConfigError::new("identities", "a server needs a certificate"));
        }
        if self.watch_files == Some(Duration::ZERO) {
            return Err(ConfigError::new("watch_files", "must be longer than zero; None does not watch"));
        }
        super::validate(&self.versions, &self.alpn)
    }

    /// Every file that a reload reads.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let roots = match &self.client_certificates {
            ClientCertificates::None => None,
            ClientCertificates::Optional(roots) | ClientCertificates::Required(roots) => Some(roots),
        };
        self.identities.iter().flat_map(Identity::files).chain(roots.into_iter().flat_map(Roots::files))
    }
}

impl ClientCertificates {
    pub(super) fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
        let (roots, optional) = match self {
            Self::None => return Ok(WebPkiClientVerifier::no_client_auth()),
            Self::Optional(roots) => (roots, true),
            Self::Required(roots) => (roots, false),
        };
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.load()?, provider.clone());
        if optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|source| TlsConfigError::Malformed {
            what: "the roots of client certificates",
            source: source.into(),
        })
    }
}
