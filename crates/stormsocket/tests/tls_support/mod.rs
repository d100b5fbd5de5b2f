//! Certificates made for the test, and a peer on either side that speaks TLS without this library.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use stormsocket::{ClientTlsOptions, Identity, Roots, TlsOptions};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client, server};

use crate::support::soon;

/// An authority of the test's own.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Issued {
    pub chain: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Names of their own: two authorities of one name would be a forgery, which is another failure.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn roots(&self) -> Roots {
        Roots::from_pem(self.pem())
    }

    pub fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.0.der().clone()).unwrap();
        store
    }

    /// A certificate for these hosts.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = params(names);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued::new(&certificate, &key)
    }

    /// What a client needs to trust a server of this authority.
    pub fn client_options(&self) -> ClientTlsOptions {
        ClientTlsOptions::default().roots(self.roots())
    }
}

pub fn self_signed(names: &[&str]) -> Issued {
    let key = KeyPair::generate().unwrap();
    Issued::new(&params(names).self_signed(&key).unwrap(), &key)
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
}

impl Issued {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key_der.clone()).unwrap()
    }

    pub fn identity(&self) -> Identity {
        Identity::from_pem(&self.chain, &self.key)
    }

    /// TLS of a server that shows this certificate.
    pub fn options(&self) -> TlsOptions {
        TlsOptions::new(self.identity())
    }
}

/// A client's configuration that trusts `ca`.
pub fn client_config(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(ca.store())
        .with_no_client_auth()
}

/// Connects a scripted client, which wants `localhost`.
pub async fn tls_peer(addr: SocketAddr, ca: &Ca) -> client::TlsStream<TcpStream> {
    tls_peer_with(addr, client_config(ca, rustls::ALL_VERSIONS), "localhost").await.unwrap()
}

pub async fn tls_peer_with(
    addr: SocketAddr,
    config: ClientConfig,
    name: &'static str,
) -> std::io::Result<client::TlsStream<TcpStream>> {
    let stream = soon(TcpStream::connect(addr)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    soon(connector.connect(ServerName::try_from(name).unwrap(), stream)).await
}

/// A scripted server's configuration.
pub fn server_config(issued: &Issued) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], issued.key_der())
        .unwrap()
}

/// The certificate a scripted client was shown.
pub fn shown(peer: &client::TlsStream<TcpStream>) -> CertificateDer<'static> {
    peer.get_ref().1.peer_certificates().expect("a server shows one")[0].clone()
}

/// A directory of this test's own, removed at the end.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("stormsocket-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub type AcceptedPeer = server::TlsStream<TcpStream>;
