//! The OpenTelemetry instruments, through the SDK's in-memory exporter. One test: the meter provider is global.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use stormsocket::LengthPrefixFramer;
use support::*;

/// Each instrument's sum (of a histogram: its count), and its unit.
fn read(metrics: &[ResourceMetrics]) -> BTreeMap<String, (u64, String)> {
    let mut read = BTreeMap::new();
    let scopes = metrics.last().expect("an export").scope_metrics();
    for scope in scopes.filter(|scope| scope.scope().name() == "StormSocket") {
        for metric in scope.metrics() {
            let sum = match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    assert!(sum.is_monotonic(), "{}", metric.name());
                    sum.data_points().map(|point| point.value()).sum()
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    assert!(!sum.is_monotonic(), "{}", metric.name());
                    sum.data_points().map(|point| u64::try_from(point.value()).unwrap()).sum()
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    histogram.data_points().map(|point| point.count()).sum()
                }
                other => panic!("{}: unexpected {other:?}", metric.name()),
            };
            read.insert(metric.name().to_owned(), (sum, metric.unit().to_owned()));
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instrument_shows_what_happened() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    global::set_meter_provider(provider.clone());
    let collect = || {
        exporter.reset();
        provider.force_flush().expect("exported");
        read(&exporter.get_finished_metrics().expect("metrics"))
    };

    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new().max_message(100))
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut first = Peer::connect(addr_of(&server)).await;
    let mut second = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    log.connected().await;
    for _ in 0..3 {
        first.send(&frame(b"hello")).await;
        assert_eq!(first.frame().await, b"hello");
        log.data().await;
    }
    second.send(&101_u32.to_be_bytes()).await;
    second.expect_end().await;
    drop(second);
    log.error().await;
    log.disconnected().await;
    until(|| server.connections() == 1).await;

    let bytes = 3 * frame(b"hello").len() as u64;
    let shown = collect();
    let sum = |name: &str| shown.get(name).unwrap_or_else(|| panic!("no {name} in {shown:?}")).clone();
    assert_eq!(sum("stormsocket.connections.total").0, 2);
    assert_eq!(sum("stormsocket.connections.active").0, 1);
    assert_eq!(sum("stormsocket.messages.sent").0, 3);
    assert_eq!(sum("stormsocket.messages.received").0, 3);
    assert_eq!(sum("stormsocket.bytes.sent").0, bytes);
    assert_eq!(sum("stormsocket.bytes.received").0, bytes + 4);
    assert_eq!(sum("stormsocket.errors").0, 1);
    assert_eq!(sum("stormsocket.messages.dropped").0, 0);
    assert_eq!(sum("stormsocket.slow_consumers").0, 0);
    assert_eq!(sum("stormsocket.disconnects").0, 1);
    assert_eq!(sum("stormsocket.connection.duration"), (1, "ms".to_owned()));

    drop(first);
    log.disconnected().await;
    stop(&server).await;
    drop(server);
    let shown = collect();
    let sum = |name: &str| shown.get(name).unwrap_or_else(|| panic!("no {name} in {shown:?}")).0;
    assert_eq!(sum("stormsocket.connections.active"), 0);
    // A server that is gone takes nothing off the counters.
    assert_eq!((sum("stormsocket.connections.total"), sum("stormsocket.messages.sent")), (2, 3));
    assert_eq!(sum("stormsocket.connection.duration"), 2);
}
