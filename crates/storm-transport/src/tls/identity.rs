//! A certificate chain and its private key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::TlsConfigError;

/// Who this side is: a certificate chain, the own certificate first, and the private key to it (PKCS#8, PKCS#1 or SEC1,
/// not encrypted).
///
/// ```no_run
/// use storm_transport::tls::Identity;
///
/// let from_files = Identity::from_files("/etc/ssl/server.pem", "/etc/ssl/server.key");
/// let from_bytes = Identity::from_pem(std::fs::read("server.pem")?, std::fs::read("server.key")?);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// What is in it is looked at when the server starts or the client connects; a mistake is an error then.
#[derive(Clone)]
pub struct Identity {
    source: Source,
    /// Host names to serve it for instead of those in the certificate.
    pub(super) names: Vec<String>,
}

#[derive(Clone)]
enum Source {
    Files { chain: PathBuf, key: PathBuf },
    Pem { chain: Arc<[u8]>, key: Arc<[u8]> },
    Der { chain: Vec<CertificateDer<'static>>, key: Arc<[u8]> },
}

impl Identity {
    /// From two files, each PEM or DER (of DER, the chain is one certificate). Read anew at each reload.
    pub fn from_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Source::Files { chain: chain.into(), key: key.into() })
    }

    /// From PEM. Both may be the same text.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self::new(Source::Pem { chain: chain.as_ref().into(), key: key.as_ref().into() })
    }

    /// From DER, one element per certificate.
    pub fn from_der<C: Into<Vec<u8>>>(chain: impl IntoIterator<Item = C>, key: impl AsRef<[u8]>) -> Self {
        let chain = chain.into_iter().map(|certificate| certificate.into().into()).collect();
        Self::new(Source::Der { chain, key: key.as_ref().into() })
    }

    /// Serves it for these host names (`*.example.com` for any one label) instead of those in the certificate.
    pub fn for_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    fn new(source: Source) -> Self {
        Self { source, names: Vec::new() }
    }

    /// The files it comes from, if it does.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = match &self.source {
            Source::Files { chain, key } => [Some(&**chain), Some(&**key)],
            _ => [None, None],
        };
        files.into_iter().flatten()
    }

    /// The chain and the key, read and parsed.
    pub(super) fn load(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsConfigError> {
        let (chain, key) = match &self.source {
            Source::Files { chain, key } => (certificates(&read(chain)?)?, private_key(&read(key)?)?),
            Source::Pem { chain, key } => (certificates(chain)?, private_key(key)?),
            Source::Der { chain, key } => (chain.clone(), private_key(key)?),
        };
        if chain.is_empty() {
            return Err(TlsConfigError::NoCertificate);
        }
        Ok((chain, key))
    }

    /// As rustls wants it; the key must be the certificate's.
    pub(super) fn certify(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
        let (chain, key) = self.load()?;
        Ok(CertifiedKey::from_der(chain, key, provider)?)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is a secret.
        let mut debug = f.debug_struct("Identity");
        if let Source::Files { chain, key } = &self.source {
            debug.field("chain", chain).field("key", key);
        }
        debug.field("names", &self.names).finish_non_exhaustive()
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    std::fs::read(path).map_err(|source| TlsConfigError::File { path: path.to_owned(), source })
}

fn is_pem(bytes: &[u8]) -> bool {
    // DER begins with a SEQUENCE, whose tag is no character of PEM's.
    bytes.first() != Some(&0x30)
}

/// The certificates in PEM, or the one in DER.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    if !is_pem(bytes) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsConfigError::Malformed { what: "the certificate chain", source: source.into() })
}

fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let malformed = |source| TlsConfigError::Malformed { what: "the private key", source };
    if is_pem(bytes) {
        return PrivateKeyDer::from_pem_slice(bytes).map_err(|source| malformed(source.into()));
    }
    PrivateKeyDer::try_from(bytes.to_vec()).map_err(|source| malformed(source.into()))
}
