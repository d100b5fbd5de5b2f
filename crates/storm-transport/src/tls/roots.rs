//! Whom to trust: the root certificates that a peer's chain must lead to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;

use super::error::TlsConfigError;
use super::identity::{certificates, read};

/// Root certificates: the system's, given ones, or both.
///
/// ```
/// use storm_transport::tls::Roots;
///
/// let ours = Roots::from_file("/etc/ssl/our-ca.pem");
/// let ours_and_public_ones = Roots::system().and(ours);
/// ```
#[derive(Debug, Clone)]
pub struct Roots(Vec<Source>);

#[derive(Debug, Clone)]
enum Source {
    System,
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Roots {
    /// Those the system trusts. (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others.)
    pub fn system() -> Self {
        Self(vec![Source::System])
    }

    /// Those in a file, PEM or DER. Read anew at each reload.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(vec![Source::File(path.into())])
    }

    /// Those in a PEM text.
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Self {
        Self(vec![Source::Bytes(pem.as_ref().into())])
    }

    /// One in DER.
    pub fn from_der(der: impl AsRef<[u8]>) -> Self {
        Self(vec![Source::Bytes(der.as_ref().into())])
    }

    /// These, too.
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The files they come from; the system's are not among them.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|source| match source {
            Source::File(path) => Some(&**path),
            _ => None,
        })
    }

    /// Reads and parses them. Of the system's, those that rustls cannot use are left out: systems carry odd ones.
    pub(super) fn load(&self) -> Result<Arc<RootCertStore>, TlsConfigError> {
        let mut store = RootCertStore::empty();
        for source in &self.0 {
            let given = match source {
                Source::System => {
                    let system = rustls_native_certs::load_native_certs();
                    store.add_parsable_certificates(system.certs);
                    continue;
                }
                Source::File(path) => certificates(&read(path)?)?,
                Source::Bytes(bytes) => certificates(bytes)?,
            };
            for root in given {
                store.add(root)?;
            }
        }
        if store.is_empty() {
            return Err(TlsConfigError::NoRoots);
        }
        Ok(Arc::new(store))
    }
}
