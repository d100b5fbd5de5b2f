//! Servers with TLS: what is agreed, whom they let in, which certificate they show, and how that changes while they run.

mod support;
mod tls_support;

use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig};
use stormsocket::{
    ClientCertificates, ConfigError, ErrorKind, Identity, StartError, TcpServer, TlsConfigError, TlsError,
    TlsErrorKind, TlsOptions, TlsVersion, WsClient, WsServer,
};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The failure of a handshake, as the scripted client saw it.
fn failure<T>(result: std::io::Result<T>) -> TlsErrorKind {
    let error = result.err().expect("a failure");
    TlsError::of(&error).unwrap_or_else(|| panic!("no failure of tls: {error:?}")).kind()
}

#[tokio::test]
async fn both_versions_by_default_and_one_if_told() {
    let ca = Ca::new();
    let issued = ca.issue(&["localhost"]);
    let both = local_server().tls(issued.options()).start().await.unwrap();
    for (version, agreed) in [(&TLS12, TlsVersion::Tls12), (&TLS13, TlsVersion::Tls13)] {
        let peer = tls_peer_with(addr_of(&both), client_config(&ca, &[version]), "localhost").await.unwrap();
        until(|| both.sessions().len() == 1).await;
        let session = both.sessions().iter().next().unwrap();
        let tls = session.tls().unwrap();
        assert_eq!(tls.version, agreed);
        assert!(tls.cipher_suite.starts_with("TLS_"), "{}", tls.cipher_suite);
        assert_eq!(tls.server_name.as_deref(), Some("localhost"));
        assert_eq!((tls.alpn.as_ref(), tls.peer_certificates.len(), tls.resumed), (None, 0, false));
        assert_eq!(session.remote_addr().unwrap(), peer.get_ref().0.local_addr().unwrap());
        session.abort();
        until(|| both.sessions().is_empty()).await;
    }
    let new = local_server().tls(issued.options().versions([TlsVersion::Tls13])).start().await.unwrap();
    let old = tls_peer_with(addr_of(&new), client_config(&ca, &[&TLS12]), "localhost").await;
    assert_eq!(failure(old), TlsErrorKind::Alert);
    tls_peer_with(addr_of(&new), client_config(&ca, &[&TLS13]), "localhost").await.unwrap();
    stop(&both).await;
    stop(&new).await;
}

#[tokio::test]
async fn from_pem_and_der_and_files_of_both() {
    let ca = Ca::new();
    let issued = ca.issue(&["localhost"]);
    let place = Place::new("formats");
    let (der, key) = (issued.der.to_vec(), issued.key_der().secret_der().to_vec());
    let identities = [
        Identity::from_pem(&issued.chain, &issued.key),
        Identity::from_pem(issued.chain.clone() + &issued.key, issued.chain.clone() + &issued.key),
        Identity::from_der([der.clone()], &key),
        Identity::from_files(place.write("pem", &issued.chain), place.write("key.pem", &issued.key)),
        Identity::from_files(place.write("der", &der), place.write("key.der", &key)),
    ];
    for identity in identities {
        let server = local_server().tls(TlsOptions::new(identity)).start().await.unwrap();
        assert_eq!(shown(&tls_peer(addr_of(&server), &ca).await), issued.der);
        stop(&server).await;
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_an_error_at_start() {
    let ca = Ca::new();
    let (issued, other) = (ca.issue(&["localhost"]), ca.issue(&["localhost"]));
    let start = async |options: TlsOptions| match local_server().tls(options).start().await {
        Err(StartError::Tls(error)) => error,
        other => panic!("{other:?}"),
    };
    let missing = TlsOptions::new(Identity::from_files("/nowhere/chain", "/nowhere/key"));
    assert!(matches!(start(missing).await, TlsConfigError::File { path, .. } if path.ends_with("chain")));
    let mixed = TlsOptions::new(Identity::from_pem(&issued.chain, &other.key));
    assert!(matches!(start(mixed).await, TlsConfigError::Rejected(_)));
    let no_key = TlsOptions::new(Identity::from_pem(&issued.chain, "nothing"));
    assert!(matches!(start(no_key).await, TlsConfigError::Malformed { what: "the private key", .. }));
    let no_chain = TlsOptions::new(Identity::from_pem("", &issued.key));
    assert!(matches!(start(no_chain).await, TlsConfigError::NoCertificate));
    let nonsense = TlsOptions::new(Identity::from_der([[0x30, 1, 2, 3]], issued.key_der().secret_der()));
    start(nonsense).await;
    let no_roots =
        issued.options().client_certificates(ClientCertificates::Required(stormsocket::Roots::from_pem("")));
    assert!(matches!(start(no_roots).await, TlsConfigError::NoRoots));
    for (options, option) in [
        (issued.options().versions([]), "versions"),
        (issued.options().alpn([""]), "alpn"),
        (issued.options().alpn(["x".repeat(256)]), "alpn"),
        (issued.options().identities([]), "identities"),
        (issued.options().watch_files(Duration::ZERO), "watch_files"),
    ] {
        match local_server().tls(options).start().await {
            Err(StartError::Config(ConfigError::Invalid { option: wrong, .. })) => assert_eq!(wrong, option),
            other => panic!("{option}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_the_client_asks_for() {
    let ca = Ca::new();
    let first = ca.issue(&["first.example"]);
    let second = ca.issue(&["second.example", "*.second.example"]);
    let named = ca.issue(&["other.example", "by-hand.example"]);
    let options =
        first.options().identity(second.identity()).identity(named.identity().for_names(["By-Hand.example"]));
    let server = local_server().tls(options).start().await.unwrap();
    let addr = addr_of(&server);
    let ask = async |name| {
        let mut config = client_config(&ca, ALL_VERSIONS);
        // What is shown counts, not whether it is for that name.
        config.dangerous().set_certificate_verifier(any_certificate());
        shown(&tls_peer_with(addr, config, name).await.unwrap())
    };
    assert_eq!(ask("first.example").await, first.der);
    assert_eq!(ask("second.example").await, second.der);
    assert_eq!(ask("any.second.example").await, second.der);
    assert_eq!(ask("SECOND.example").await, second.der);
    assert_eq!(ask("two.labels.second.example").await, first.der, "a wildcard is one label");
    assert_eq!(ask("by-hand.example").await, named.der);
    assert_eq!(ask("other.example").await, first.der, "names given by hand replace those in the certificate");
    assert_eq!(ask("unknown.example").await, first.der);
    assert_eq!(ask("127.0.0.1").await, first.der);
    stop(&server).await;
}

#[tokio::test]
async fn one_name_with_two_kinds_of_key() {
    let ca = Ca::new();
    let p256 = ca.issue(&["localhost"]);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let options =
        TlsOptions::new(Identity::from_pem(ed25519.pem(), key.serialize_pem())).identity(p256.identity());
    let server = local_server().tls(options).start().await.unwrap();
    // A client that cannot verify Ed25519 gets the other one.
    let mut provider = rustls::crypto::ring::default_provider();
    provider.signature_verification_algorithms = ECDSA_ONLY;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(ca.store())
        .with_no_client_auth();
    let peer = tls_peer_with(addr_of(&server), config, "localhost").await.unwrap();
    assert_eq!(shown(&peer), p256.der);
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn the_application_protocol_is_agreed_or_the_client_refused() {
    let ca = Ca::new();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options().alpn(["storm/2", "storm/1"]))
        .start()
        .await
        .unwrap();
    let addr = addr_of(&server);
    let offer = async |protocols: &[&str]| {
        let mut config = client_config(&ca, ALL_VERSIONS);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        tls_peer_with(addr, config, "localhost").await
    };
    let peer = offer(&["storm/1", "storm/2"]).await.unwrap();
    assert_eq!(peer.get_ref().1.alpn_protocol(), Some(&b"storm/2"[..]), "the server's favourite");
    until(|| server.sessions().len() == 1).await;
    let session = server.sessions().iter().next().unwrap();
    assert_eq!(session.tls().unwrap().alpn.as_deref(), Some(&b"storm/2"[..]));
    drop(peer);
    offer(&[]).await.unwrap();
    assert_eq!(failure(offer(&["http/1.1"]).await), TlsErrorKind::Alert);
    stop(&server).await;
}

/// A client's configuration with a certificate of its own.
fn with_certificate(
    ca: &Ca,
    issued: &Issued,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(ca.store())
        .with_client_auth_cert(vec![issued.der.clone()], issued.key_der())
        .unwrap()
}

#[tokio::test]
async fn client_certificates_required_optional_and_not_asked_for() {
    let (ca, others) = (Ca::new(), Ca::new());
    let issued = ca.issue(&["localhost"]);
    let (known, unknown) = (ca.issue(&["client"]), others.issue(&["client"]));
    for version in [&TLS12, &TLS13] {
        for (policy, bare, stranger, certificates) in [
            (ClientCertificates::None, true, true, 0),
            (ClientCertificates::Optional(ca.roots()), true, false, 1),
            (ClientCertificates::Required(ca.roots()), false, false, 1),
        ] {
            let (recorder, mut log) = recorder();
            let options = issued.options().client_certificates(policy);
            let server = local_server()
                .tls(options)
                .on_data(|session, data| async move { session.send(data).await })
                .handler(recorder)
                .start()
                .await
                .unwrap();
            let addr = addr_of(&server);
            let try_with = async |config| -> std::io::Result<()> {
                let mut peer = tls_peer_with(addr, config, "localhost").await?;
                // With TLS 1.3 a client learns of its refusal only when it reads.
                peer.write_all(b"x").await?;
                let mut read = [0];
                soon(peer.read_exact(&mut read)).await.map(drop)
            };
            try_with(with_certificate(&ca, &known, version)).await.unwrap();
            let session = log.connected().await;
            let shown = &session.tls().unwrap().peer_certificates;
            assert_eq!(shown.len(), certificates);
            assert!(shown.iter().all(|der| **der == *known.der));
            log.data().await;
            log.disconnected().await;
            for (config, let_in, wrong) in [
                (client_config(&ca, &[version]), bare, TlsErrorKind::NoCertificate),
                (with_certificate(&ca, &unknown, version), stranger, TlsErrorKind::UnknownIssuer),
            ] {
                let tried = try_with(config).await;
                if let_in {
                    tried.unwrap();
                    log.connected().await;
                    log.data().await;
                    log.disconnected().await;
                } else {
                    assert_eq!(failure(tried), TlsErrorKind::Alert, "{wrong:?}");
                    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Handshake));
                }
            }
            stop(&server).await;
            log.assert_quiet();
        }
    }
}

#[tokio::test]
async fn a_client_that_comes_back_is_spared_the_full_handshake_unless_turned_off() {
    let ca = Ca::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let providers = [None, Some(provider)];
    let ways = providers.iter().flat_map(|provider| {
        [(true, &TLS12), (true, &TLS13), (false, &TLS12), (false, &TLS13)].map(|way| (provider, way))
    });
    for (provider, (resumption, version)) in ways {
        let (recorder, mut log) = recorder();
        let options = ca
            .issue(&["localhost"])
            .options()
            .resumption(resumption)
            .crypto_provider(provider.clone())
            .client_certificates(ClientCertificates::Optional(ca.roots()));
        let server = local_server()
            .tls(options)
            .on_data(|session, data| async move { session.send(data).await })
            .handler(recorder)
            .start()
            .await
            .unwrap();
        let config = with_certificate(&ca, &ca.issue(&["client"]), version);
        for expected in [false, resumption] {
            let mut peer = tls_peer_with(addr_of(&server), config.clone(), "localhost").await.unwrap();
            let session = log.connected().await;
            let tls = session.tls().unwrap();
            assert_eq!((tls.resumed, tls.peer_certificates.len()), (expected, 1), "{version:?}");
            // Tickets come behind the handshake: read something to have them.
            peer.write_all(b"x").await.unwrap();
            soon(peer.read_u8()).await.unwrap();
            log.data().await;
            soon(peer.shutdown()).await.unwrap();
            log.disconnected().await;
        }
        stop(&server).await;
    }
}

#[tokio::test]
async fn certificates_change_while_the_server_runs() {
    let ca = Ca::new();
    let place = Place::new("reload");
    let (before, after) = (ca.issue(&["localhost"]), ca.issue(&["localhost"]));
    let chain = place.write("chain", &before.chain);
    let key = place.write("key", &before.key);
    let server = local_server()
        .tls(TlsOptions::new(Identity::from_files(&chain, &key)))
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let addr = addr_of(&server);
    let mut old = tls_peer(addr, &ca).await;
    assert_eq!(shown(&old), before.der);
    let resuming = client_config(&ca, &[&TLS13]);
    let mut first = tls_peer_with(addr, resuming.clone(), "localhost").await.unwrap();
    first.write_all(b"x").await.unwrap();
    soon(first.read_u8()).await.unwrap();

    // Half of the new pair: refused, and the old one stays.
    place.write("chain", &after.chain);
    assert!(matches!(soon(server.reload_tls()).await, Err(TlsConfigError::Rejected(_))));
    assert_eq!(shown(&tls_peer(addr, &ca).await), before.der);
    place.write("key", &after.key);
    soon(server.reload_tls()).await.unwrap();
    assert_eq!(shown(&tls_peer(addr, &ca).await), after.der);
    // Tickets outlive it, and who is in is not disturbed.
    let again = tls_peer_with(addr, resuming, "localhost").await.unwrap();
    assert_eq!(again.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    old.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    soon(old.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still here");

    let third = ca.issue(&["localhost"]);
    soon(server.replace_tls(third.options().versions([TlsVersion::Tls13]))).await.unwrap();
    assert_eq!(shown(&tls_peer(addr, &ca).await), third.der);
    assert!(tls_peer_with(addr, client_config(&ca, &[&TLS12]), "localhost").await.is_err());
    assert!(soon(server.replace_tls(third.options().versions([]))).await.is_err());
    drop((old, first, again));
    stop(&server).await;

    let plain = local_server().start().await.unwrap();
    assert!(matches!(plain.reload_tls().await, Err(TlsConfigError::Disabled)));
    assert!(matches!(plain.replace_tls(third.options()).await, Err(TlsConfigError::Disabled)));
    stop(&plain).await;
}

#[tokio::test]
async fn changed_files_are_loaded_by_themselves_and_broken_ones_reported() {
    let ca = Ca::new();
    let place = Place::new("watch");
    let (before, after) = (ca.issue(&["localhost"]), ca.issue(&["localhost"]));
    let (chain, key) = (place.write("chain", &before.chain), place.write("key", &before.key));
    let (recorder, mut log) = recorder();
    let options = TlsOptions::new(Identity::from_files(&chain, &key)).watch_files(Duration::from_millis(2));
    let server = local_server().tls(options).handler(recorder).start().await.unwrap();
    let addr = addr_of(&server);
    assert_eq!(shown(&tls_peer(addr, &ca).await), before.der);
    log.connected().await;
    log.disconnected().await;
    place.write("chain", "nothing of use");
    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Certificate));
    assert_eq!(shown(&tls_peer(addr, &ca).await), before.der);
    // Replaced as tools do it: written beside, then renamed over.
    std::fs::rename(place.write("new key", &after.key), &key).unwrap();
    std::fs::rename(place.write("new chain", &after.chain), &chain).unwrap();
    soon(async { while shown(&tls_peer(addr, &ca).await) != after.der {} }).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_websocket_server_and_its_hooks_know_the_client() {
    let ca = Ca::new();
    let options =
        ca.issue(&["localhost"]).options().client_certificates(ClientCertificates::Required(ca.roots()));
    let client_certificate = ca.issue(&["client"]);
    let expected = client_certificate.der.to_vec();
    let server = WsServer::bind("127.0.0.1:0")
        .tls(options)
        .on_upgrade(move |request| {
            let expected = expected.clone();
            async move {
                let tls = request.tls().expect("a tls server");
                assert_eq!(tls.peer_certificates, [expected]);
                Ok(stormsocket::Accept::new())
            }
        })
        .on_message(|session, message| async move {
            assert!(session.tls().is_some());
            session.send(message).await
        })
        .start()
        .await
        .unwrap();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let client = WsClient::new(format!("wss://localhost:{}/x", addr_of(&server).port()))
        .tls(ca.client_options().identity(client_certificate.identity()))
        .on_message(move |_, message| {
            let said = said.clone();
            async move { said.send(message).unwrap() }
        })
        .connect()
        .await
        .unwrap();
    client.send_text("encrypted").await.unwrap();
    assert_eq!(soon(heard.recv()).await.unwrap().text(), Some("encrypted"));
    let tls = client.session().tls().unwrap().clone();
    assert_eq!((tls.version, tls.server_name.as_deref()), (TlsVersion::Tls13, Some("localhost")));
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_plain_server_has_no_tls() {
    let (recorder, mut log) = recorder();
    let server = TcpServer::bind("127.0.0.1:0").handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    assert!(log.connected().await.tls().is_none());
    drop(peer);
    stop(&server).await;
}

const ECDSA_ONLY: rustls::crypto::WebPkiSupportedAlgorithms = {
    const P256: &dyn rustls::pki_types::SignatureVerificationAlgorithm = webpki::ring::ECDSA_P256_SHA256;
    rustls::crypto::WebPkiSupportedAlgorithms {
        all: &[P256],
        mapping: &[(rustls::SignatureScheme::ECDSA_NISTP256_SHA256, &[P256])],
    }
};

fn any_certificate() -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    Arc::new(AnyCertificate)
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
