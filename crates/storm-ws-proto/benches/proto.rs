//! What the steps of the protocol cost.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use storm_ws_proto::bytes::{Bytes, BytesMut};
use storm_ws_proto::{
    DeflateOptions, DeflateParams, FrameHead, Incoming, Limits, MessageKind, Receiver, Role, Sender, fuzzing,
};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn masked_frames(kind: MessageKind, payload: &[u8], count: usize) -> Vec<u8> {
    let (mut wire, mut sender) = (Vec::new(), Sender::client(|| KEY));
    for _ in 0..count {
        sender.message_slice(kind, payload, false, &mut wire).expect("open");
    }
    wire
}

fn mask(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for size in [32, 1024, 16 * 1024, 64 * 1024] {
        let mut data = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |b| {
            b.iter(|| fuzzing::apply_mask(KEY, black_box(&mut data)));
        });
    }
    group.finish();
}

fn head(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, size) in [("7 bit", 32), ("16 bit", 300), ("64 bit", 70_000)] {
        let wire = masked_frames(MessageKind::Binary, &vec![0; size], 1);
        group.bench_function(name, |b| b.iter(|| FrameHead::parse(black_box(&wire[..14]))));
    }
    group.finish();
}

fn utf8(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for (name, text) in
        [("ascii 32", "a".repeat(32)), ("ascii 64K", "a".repeat(65_536)), ("greek 64K", "κό".repeat(16_384))]
    {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("running check, {name}"), |b| {
            b.iter(|| fuzzing::check_utf8(black_box(text.as_bytes())));
        });
        group.bench_function(format!("std, {name}"), |b| {
            b.iter(|| std::str::from_utf8(black_box(text.as_bytes())).is_ok());
        });
    }
    group.finish();
}

/// Times only the decoding; refilling the read buffer is the socket's work.
fn time_receive(wire: &[u8], keep: bool, rounds: u64) -> Duration {
    let mut receiver = Receiver::new(Role::Server, Limits::default());
    let (mut total, mut buffer) = (Duration::ZERO, BytesMut::with_capacity(wire.len()));
    let mut kept = Vec::with_capacity(if keep { 1000 } else { 0 });
    for _ in 0..rounds {
        kept.clear();
        buffer.reserve(wire.len());
        buffer.extend_from_slice(wire);
        let start = Instant::now();
        while let Ok(Some(Incoming::Message(message))) = receiver.receive(&mut buffer) {
            if keep {
                kept.push(message);
            } else {
                black_box(&message);
            }
        }
        total += start.elapsed();
    }
    total
}

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("receive");
    for (name, kind, size, count) in [
        ("1000 x 32 B binary", MessageKind::Binary, 32, 1000),
        ("1000 x 32 B text", MessageKind::Text, 32, 1000),
        ("16 x 1 KiB text", MessageKind::Text, 1024, 16),
        ("1 x 64 KiB binary", MessageKind::Binary, 65_536, 1),
        ("1 x 64 KiB text", MessageKind::Text, 65_536, 1),
    ] {
        let wire = masked_frames(kind, &vec![b'x'; size], count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| time_receive(&wire, false, rounds));
        });
        if count == 1000 {
            group.bench_function(format!("{name}, kept"), |b| {
                b.iter_custom(|rounds| time_receive(&wire, true, rounds));
            });
        }
    }
    group.finish();
}

fn send(c: &mut Criterion) {
    let mut group = c.benchmark_group("send");
    for size in [32, 1024, 65_536] {
        let payload = Bytes::from(vec![b'x'; size]);
        for (name, mut sender) in [("server", Sender::server()), ("client", Sender::client(|| KEY))] {
            let mut wire = BytesMut::with_capacity(2 * size + 64);
            group.bench_function(format!("{name} {size}"), |b| {
                b.iter(|| {
                    wire.clear();
                    sender.message_slice(MessageKind::Text, black_box(&payload), true, &mut wire)
                });
            });
        }
    }
    group.finish();
}

fn deflate(c: &mut Criterion) {
    let mut group = c.benchmark_group("deflate");
    let text: String =
        (0..40).map(|n| format!(r#"{{"seq":{n},"from":"user{}","text":"hello there"}},"#, n % 7)).collect();
    let options = DeflateOptions::default().min_size(0);
    for takeover in [true, false] {
        let mut params = DeflateParams::default();
        params.server_no_context_takeover = !takeover;
        let mut sender = Sender::server().deflate(&params, &options);
        let mut wire = BytesMut::new();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("send 2 KiB of JSON, takeover {takeover}"), |b| {
            b.iter(|| {
                wire.clear();
                sender.message_slice(MessageKind::Text, black_box(text.as_bytes()), true, &mut wire)
            });
        });
        let mut wire = BytesMut::new();
        Sender::server()
            .deflate(&params, &options)
            .message_slice(MessageKind::Text, text.as_bytes(), true, &mut wire)
            .expect("open");
        let mut receiver = Receiver::new(Role::Client, Limits::default()).deflate(&params);
        group.bench_function(format!("receive 2 KiB of JSON, takeover {takeover}"), |b| {
            b.iter_batched_ref(|| wire.clone(), |wire| receiver.receive(wire), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, mask, head, utf8, receive, send, deflate);
criterion_main!(benches);
