//! TLS echo server on port 5001 (or the address given as argument), with a certificate made at start. Try it with
//! `openssl s_client -connect localhost:5001`; what it prints as its certificate, given as `-CAfile`, makes it a trusted
//! one.

use std::time::Duration;

use stormsocket::{BoxError, Identity, TcpServer, TlsOptions, shutdown_signal};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "0.0.0.0:5001".to_owned());
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let server = TcpServer::bind(address)
        .tls(TlsOptions::new(identity))
        .no_delay(true)
        .on_connected(|session| async move {
            if let Some(tls) = session.tls() {
                println!("[{}] connected: {:?}, {}", session.id(), tls.version, tls.cipher_suite);
            }
        })
        .on_data(|session, data| async move {
            println!("[{}] {} bytes", session.id(), data.len());
            session.send(data).await
        })
        .on_disconnected(|session, reason| async move {
            println!("[{}] disconnected: {reason}", session.id());
        })
        .on_error(|session, error| async move {
            let whose = session.map(|session| session.id().to_string()).unwrap_or_default();
            eprintln!("[{whose}] {error:#}");
        })
        .start()
        .await?;
    print!("{}", made.cert.pem());
    println!("TLS echo listening on {}", server.local_addr().expect("it listens on a TCP address"));
    shutdown_signal().await?;
    println!("{:?}", server.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
