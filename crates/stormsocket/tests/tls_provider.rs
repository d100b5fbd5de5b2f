//! Cryptography is what the options say, and nobody else's concern: no provider is installed for the process.

mod support;
mod tls_support;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedCipherSuite};
use stormsocket::{ClientTlsOptions, TcpClient, TlsOptions};
use support::*;
use tls_support::*;

/// A provider of this suite alone.
fn only(suite: CipherSuite) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|offered: &SupportedCipherSuite| offered.suite() == suite);
    assert_eq!(provider.cipher_suites.len(), 1);
    Arc::new(provider)
}

/// The suites both sides of a conversation see.
async fn agreed(server: TlsOptions, client: ClientTlsOptions) -> [&'static str; 2] {
    let (recorder, mut log) = recorder();
    let server = local_server().tls(server).handler(recorder).start().await.unwrap();
    let addr = format!("localhost:{}", addr_of(&server).port());
    let client = soon(TcpClient::new(addr).tls(client).connect()).await.unwrap();
    client.send("hi").await.unwrap();
    let session = log.connected().await;
    assert_eq!(log.data().await, "hi");
    let suites = [&session, &client.session()].map(|session| session.tls().unwrap().cipher_suite);
    soon(client.disconnect()).await;
    stop(&server).await;
    suites
}

#[tokio::test]
async fn a_provider_handed_in_is_used_and_none_is_installed() {
    let ca = Ca::new();
    let options = || ca.issue(&["localhost"]).options();
    let usual = agreed(options(), ca.client_options()).await;
    assert_eq!(usual, ["TLS_AES_256_GCM_SHA384"; 2]);

    let chacha = only(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let servers = agreed(options().crypto_provider(chacha), ca.client_options()).await;
    assert_eq!(servers, ["TLS_CHACHA20_POLY1305_SHA256"; 2]);

    let aes_128 = only(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let clients = agreed(options(), ca.client_options().crypto_provider(aes_128)).await;
    assert_eq!(clients, ["TLS_AES_128_GCM_SHA256"; 2]);

    assert!(CryptoProvider::get_default().is_none(), "another library may have its own");
}
