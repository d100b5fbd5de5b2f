//! The server as a child of the test, and a client that trusts the certificate it prints.

use std::process::Stdio;
use std::time::Duration;

use stormsocket::{ClientTlsOptions, Roots, TcpClient};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::unbounded_channel;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

#[tokio::test]
async fn whoever_trusts_the_printed_certificate_gets_an_echo() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_tls-echo"))
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program was built");
    let mut lines = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let mut certificate = String::new();
    let address = loop {
        let line = soon(lines.next_line()).await.expect("a pipe").expect("a line");
        if let Some(address) = line.strip_prefix("TLS echo listening on ") {
            break address.to_owned();
        }
        certificate += &line;
        certificate.push('\n');
    };

    let (sender, mut received) = unbounded_channel();
    let client = TcpClient::new(address.as_str())
        .tls(ClientTlsOptions::default().roots(Roots::from_pem(certificate)))
        .on_data(move |_, data| {
            // Nobody listens once the test is over.
            let _ = sender.send(data);
            async {}
        });
    let client = soon(client.connect()).await.expect("its certificate is the printed one");
    soon(client.send("hello")).await.expect("it is connected");
    assert_eq!(soon(received.recv()).await.expect("an answer"), "hello");
    soon(client.disconnect()).await;

    let stranger = TcpClient::new(address).tls(ClientTlsOptions::default().roots(other_roots())).connect();
    soon(stranger).await.expect_err("its certificate is nobody else's");
    soon(server.kill()).await.expect("it runs");
}

/// Roots that have not signed what the server shows.
fn other_roots() -> Roots {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    Roots::from_pem(made.cert.pem())
}
