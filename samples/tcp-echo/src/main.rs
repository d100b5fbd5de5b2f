//! TCP echo server on port 5000. Try it with `nc 127.0.0.1 5000` or `telnet 127.0.0.1 5000`.

use std::time::Duration;

use stormsocket::{BoxError, TcpServer, shutdown_signal};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = TcpServer::bind("0.0.0.0:5000")
        .no_delay(true)
        .on_connected(|session| async move {
            println!("[{}] connected ({} online)", session.id(), session.server().sessions().len());
        })
        .on_data(|session, data| async move {
            println!("[{}] {} bytes", session.id(), data.len());
            session.send(data).await
        })
        .on_disconnected(|session, reason| async move {
            println!("[{}] disconnected: {reason}", session.id());
        })
        .on_error(|session, error| async move {
            eprintln!("[{}] {error}", session.map(|session| session.id().to_string()).unwrap_or_default());
        })
        .start()
        .await?;
    println!("TCP echo listening on {}", server.local_addr().expect("it listens on a TCP address"));
    shutdown_signal().await?;
    println!("{:?}", server.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
