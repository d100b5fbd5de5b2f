//! The connecting side of the handshake.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use storm_core::{ConfigError, TlsInfo, TlsVersion};

use super::danger::AnyCertificate;
use super::error::{TlsConfigError, TlsFailure};
use super::identity::Identity;
use super::provider_or_ours;
use super::roots::Roots;
use super::stream::{ReadAhead, TlsStream};
use crate::Stream;

/// TLS of a client. Each field has a setter of its name.
///
/// ```no_run
/// use storm_transport::tls::{ClientTlsOptions, Identity, Roots};
///
/// let tls = ClientTlsOptions::default()
///     .roots(Roots::from_file("our-ca.pem"))
///     .identity(Identity::from_files("client.pem", "client.key"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct ClientTlsOptions {
    /// Whom the server's certificate must lead to. Default the system's roots.
    pub roots: Roots,
    /// The certificate to show a server that asks for one. Default `None`.
    pub identity: Option<Identity>,
    /// The host name to ask for and to verify, or an IP address. Default `None`: that of the address to connect to. A unix
    /// socket has none, so it needs this.
    pub server_name: Option<String>,
    /// Application protocols to offer (ALPN), the most wanted first. Default none.
    pub alpn: Vec<Vec<u8>>,
    /// Versions that are spoken. Default 1.2 and 1.3.
    pub versions: Vec<TlsVersion>,
    /// Whether a reconnect may resume the earlier session, which spares the full handshake. Default on.
    pub resumption: bool,
    /// Takes any certificate for any host: whoever is in between may read and change everything. Default off. For tests.
    pub danger_accept_any_certificate: bool,
    /// The cryptography. Default `None`: `ring`.
    pub crypto_provider: Option<Arc<CryptoProvider>>,
}

impl Default for ClientTlsOptions {
    fn default() -> Self {
        Self {
            roots: Roots::system(),
            identity: None,
            server_name: None,
            alpn: Vec::new(),
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
            resumption: true,
            danger_accept_any_certificate: false,
            crypto_provider: None,
        }
    }
}

impl ClientTlsOptions {
    /// Sets [`roots`](Self::roots).
    pub fn roots(mut self, roots: Roots) -> Self {
        self.roots = roots;
        self
    }

    /// Sets [`identity`](Self::identity): a client has one.
    pub fn identity(mut self, identity: impl Into<Option<Identity>>) -> Self {
        self.identity = identity.into();
        self
    }

    /// Sets [`server_name`](Self::server_name).
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets [`alpn`](Self::alpn): these instead of those there are.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`versions`](Self::versions).
    pub fn versions(mut self, versions: impl IntoIterator<Item = TlsVersion>) -> Self {
        self.versions = versions.into_iter().collect();
        self
    }

    /// Sets [`resumption`](Self::resumption).
    pub const fn resumption(mut self, on: bool) -> Self {
        self.resumption = on;
        self
    }

    /// Sets [`danger_accept_any_certificate`](Self::danger_accept_any_certificate).
    pub const fn danger_accept_any_certificate(mut self, on: bool) -> Self {
        self.danger_accept_any_certificate = on;
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
    /// No version, an impossible protocol name or server name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(name) = &self.server_name {
            parse_name(name)?;
        }
        super::validate(&self.versions, &self.alpn)
    }
}

/// Speaks TLS to one server over open streams.
#[derive(Clone)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsConnector {
    /// For the server at `host`, unless the options name another. Reads files and the system's roots: to be called where
    /// blocking is allowed.
    ///
    /// # Errors
    /// The options do not go together, or name what cannot be used; or there is no host name at all.
    pub fn new(options: &ClientTlsOptions, host: Option<&str>) -> Result<Self, TlsConfigError> {
        options.validate()?;
        let name = options.server_name.as_deref().or(host);
        let name = parse_name(name.ok_or_else(|| {
            ConfigError::new("server_name", "the address has no host name to verify: set one")
        })?)?;
        Ok(Self { config: Arc::new(config(options)?), name })
    }

    /// Performs the handshake. The time it takes is the caller's to bound.
    ///
    /// # Errors
    /// The transport or TLS fails; nothing but the handshake has been sent then.
    pub async fn connect(&self, stream: Stream) -> Result<(Stream, Arc<TlsInfo>), TlsFailure> {
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let connect = connector.connect(self.name.clone(), ReadAhead::new(stream)).into_fallible();
        match Box::pin(connect).await {
            Ok(tls) => {
                let name = match &self.name {
                    ServerName::DnsName(name) => Some(name.as_ref().into()),
                    // RFC 6066 §3: addresses are not sent.
                    _ => None,
                };
                let info = super::stream::info(tls.get_ref().1, name);
                Ok((Stream::Tls(Box::new(TlsStream::new(tls.into()))), Arc::new(info)))
            }
            Err((error, stream)) => Err(TlsFailure::new(error, stream.into_inner())),
        }
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A host name or an address, which in a URI may stand in brackets.
fn parse_name(name: &str) -> Result<ServerName<'static>, ConfigError> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| ConfigError::new("server_name", "neither a host name nor an ip address"))
}

fn config(options: &ClientTlsOptions) -> Result<ClientConfig, TlsConfigError> {
    let provider = provider_or_ours(options.crypto_provider.as_ref());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&super::protocol_versions(&options.versions))?;
    let builder = if options.danger_accept_any_certificate {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(options.roots.load()?)
    };
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.load()?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = options.alpn.clone();
    config.resumption = if options.resumption {
        // One server is all this client has.
        Resumption::in_memory_sessions(1)
    } else {
        Resumption::disabled()
    };
    Ok(config)
}
