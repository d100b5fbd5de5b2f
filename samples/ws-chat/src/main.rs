//! WebSocket chat on port 8080: open <http://localhost:8080> in two tabs. Another address is the first argument:
//! `cargo run -p ws-chat -- 127.0.0.1:9000`.

use std::time::Duration;

use stormsocket::{
    AnswerError, BoxError, HttpResponse, SlowConsumerPolicy, StatusCode, WsServer, shutdown_signal,
};

const PAGE: &str = include_str!("page.html");

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    let server = WsServer::bind(address.as_str())
        .no_delay(true)
        .on_http(|request| async move {
            match request.path() {
                "/" => page(),
                "/health" => Ok(HttpResponse::new(StatusCode::OK).text("ok\n")),
                _ => Ok(HttpResponse::new(StatusCode::NOT_FOUND).text("There is only one page: /\n")),
            }
        })
        .on_connected(|session| async move {
            println!("[{}] joined ({} online)", session.id(), session.server().sessions().len());
        })
        .on_message(|session, message| async move {
            if let Some(text) = message.text() {
                println!("[{}] {} bytes", session.id(), text.len());
                // Whoever reads too slowly misses it; the default would have this handler wait for him.
                let others = session.server().broadcast(message).except(session.id());
                others.policy(SlowConsumerPolicy::Drop).await;
            }
        })
        .on_disconnected(|session, reason| async move {
            println!("[{}] left: {reason}", session.id());
        })
        .on_error(|session, error| async move {
            let whose = session.map(|session| session.id().to_string()).unwrap_or_default();
            eprintln!("[{whose}] {error:#}");
        })
        .start()
        .await?;
    println!("WebSocket chat listening on {}", server.local_addr().ok_or("not a TCP address")?);
    shutdown_signal().await?;
    println!("{:?}", server.shutdown(Duration::from_secs(5)).await);
    Ok(())
}

fn page() -> Result<HttpResponse, AnswerError> {
    // The page has its style and script in itself and talks to this server only: nothing else is allowed to it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    HttpResponse::new(StatusCode::OK)
        .header("content-type", "text/html; charset=utf-8")?
        .header("content-security-policy", policy)?
        .header("x-content-type-options", "nosniff")
        .map(|response| response.body(PAGE))
}
