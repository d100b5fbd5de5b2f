//! Metrics for Prometheus on the WebSocket server's own port: an echo server that answers `GET /metrics`, too.
//!
//! ```text
//! cargo run -p stormsocket --example prometheus --features metrics
//! curl http://localhost:8080/metrics
//! ```
//!
//! Whoever reaches the port reaches the metrics: have your proxy keep `/metrics` to yourself, or serve it on a
//! `WsServer` of its own that listens on a private address; one registry shows all servers of the process.

use std::time::Duration;

use opentelemetry::global;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use stormsocket::{BoxError, HttpResponse, ServerHandle, StatusCode, WsServer, shutdown_signal};

#[tokio::main]
#[cfg_attr(test, expect(dead_code, reason = "a test includes this file"))]
async fn main() -> Result<(), BoxError> {
    // Before the first server: instruments are made with it.
    let registry = exporter()?;
    let server = serve("0.0.0.0:8080", registry).await?;
    println!("WebSocket echo and /metrics on {}", server.local_addr().ok_or("not a TCP address")?);
    shutdown_signal().await?;
    println!("{:?}", server.shutdown(Duration::from_secs(5)).await);
    Ok(())
}

/// Has all instruments of the process collected by the registry that is returned.
pub(crate) fn exporter() -> Result<Registry, BoxError> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()?;
    global::set_meter_provider(SdkMeterProvider::builder().with_reader(exporter).build());
    Ok(registry)
}

pub(crate) async fn serve(address: &str, registry: Registry) -> Result<ServerHandle, BoxError> {
    let server = WsServer::bind(address)
        .on_http(move |request| {
            let registry = registry.clone();
            async move {
                match request.path() {
                    "/metrics" => metrics(&registry)
                        .unwrap_or_else(|_| HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR)),
                    _ => HttpResponse::new(StatusCode::NOT_FOUND),
                }
            }
        })
        .on_message(|session, message| async move { session.send(message).await });
    Ok(server.start().await?)
}

/// Everything there is to tell, in Prometheus' text format.
fn metrics(registry: &Registry) -> Result<HttpResponse, BoxError> {
    let text = TextEncoder::new().encode_to_string(&registry.gather())?;
    Ok(HttpResponse::new(StatusCode::OK)
        .header("content-type", "text/plain; version=0.0.4; charset=utf-8")?
        .body(text))
}
