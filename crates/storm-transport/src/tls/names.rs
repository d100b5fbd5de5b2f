//! Which certificate is served for which host name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::error::TlsConfigError;
use super::identity::Identity;

/// The certificates of a server by the names they are for. A client that names no host, or one that none is for, gets the
/// first.
#[derive(Debug)]
pub(super) struct Names {
    /// In lower case; `*.` stands for one label. Several, if they differ in the kind of key.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Names {
    pub(super) fn load(identities: &[Identity], provider: &CryptoProvider) -> Result<Self, TlsConfigError> {
        let mut names = Self { by_name: HashMap::new(), all: Vec::with_capacity(identities.len()) };
        for identity in identities {
            let certified = Arc::new(identity.certify(provider)?);
            let own = match &identity.names[..] {
                [] => names_in(certified.end_entity_cert()?)?,
                given => given.to_vec(),
            };
            for name in own {
                names.by_name.entry(name.to_ascii_lowercase()).or_default().push(certified.clone());
            }
            names.all.push(certified);
        }
        Ok(names)
    }

    fn of(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        // rustls hands names over in lower case.
        self.by_name.get(name).or_else(|| {
            // RFC 6125 §6.4.3: the wildcard is the whole of the left-most label.
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = hello.server_name().and_then(|name| self.of(name)).unwrap_or(&self.all);
        let usable = candidates
            .iter()
            .find(|certified| certified.key.choose_scheme(hello.signature_schemes()).is_some());
        // None may be usable: the handshake fails over that, with the proper alert.
        usable.or(candidates.first()).cloned()
    }
}

fn names_in(certificate: &CertificateDer<'_>) -> Result<Vec<String>, TlsConfigError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|source| TlsConfigError::Malformed { what: "the certificate", source: source.into() })?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}
