//! The Prometheus example, scraped. One test: the meter provider is global.

#[path = "../examples/prometheus.rs"]
mod example;
mod ws_support;

use std::collections::BTreeMap;

use stormsocket::ServerHandle;
use ws_support::*;

/// Each sample's value by its name and labels, those of the library itself only.
async fn scrape(server: &ServerHandle) -> BTreeMap<String, f64> {
    let response = Peer::refused(server, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let scope = "otel_scope_name=\"StormSocket\"";
    response
        .body
        .lines()
        .filter(|line| line.starts_with("stormsocket_"))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (
                name.replace(&format!("{scope},"), "").replace(scope, "").replace(",}", "}"),
                value.parse().expect("a number"),
            )
        })
        .collect()
}

#[tokio::test]
async fn prometheus_sees_what_happened() {
    let registry = example::exporter().unwrap();
    let server = example::serve("127.0.0.1:0", registry).await.unwrap();
    let mut peer = Peer::connect(&server).await;
    let mut leaves = Peer::connect(&server).await;
    leaves.send(0x88, goodbye(1000, "")).await;
    leaves.closes().await;
    leaves.end().await;
    drop(leaves);
    for _ in 0..3 {
        peer.send(0x81, "hello").await;
        assert_eq!(peer.frame().await.text(), "hello");
    }
    assert_eq!(Peer::refused(&server, "POST / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 405);
    until(|| server.connections() == 1).await;
    assert_eq!(Peer::refused(&server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 404);

    let samples = scrape(&server).await;
    let metrics = server.metrics();
    let expected = [
        ("stormsocket_connections_total_total{}", 2.0),
        ("stormsocket_connections_active{}", 1.0),
        ("stormsocket_messages_sent_total{}", 3.0),
        ("stormsocket_messages_received_total{}", 3.0),
        ("stormsocket_messages_dropped_total{}", 0.0),
        ("stormsocket_bytes_sent_bytes_total{}", metrics.bytes_sent_total as f64),
        ("stormsocket_bytes_received_bytes_total{}", metrics.bytes_received_total as f64),
        ("stormsocket_errors_total{}", 0.0),
        ("stormsocket_slow_consumers_total{}", 0.0),
        ("stormsocket_disconnects_total{reason=\"closed_by_client\"}", 1.0),
        ("stormsocket_handshake_failures_total{kind=\"malformed\"}", 1.0),
        ("stormsocket_handshake_duration_milliseconds_count{}", 2.0),
        ("stormsocket_connection_duration_milliseconds_count{reason=\"closed_by_client\"}", 1.0),
    ];
    for (name, value) in expected {
        assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    }
    drop(peer);
    until(|| server.connections() == 0).await;
    assert_eq!(scrape(&server).await["stormsocket_connections_active{}"], 0.0);
    stop(server).await;
}
