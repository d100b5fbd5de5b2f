//! A bounded, seeded run of the fuzz entry points over mutations of the committed corpus.

mod support;

use std::path::Path;

use storm_ws_proto::{Role, fuzzing};
use support::Random;

const ROUNDS: usize = 20_000;

/// The seeds of one target, in a stable order.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = std::fs::read_dir(folder).expect("a committed corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.below(6) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.next().to_be_bytes()[0],
            2 => data.insert(at, [0, 0x7F, 0x80, 0xFF, b'\r', b'\n', b',', b'"'][random.below(8)]),
            3 if at < data.len() => drop(data.remove(at)),
            4 => data.truncate(at),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

fn smoke(name: &str, target: impl Fn(&[u8])) {
    let seeds = corpus(name);
    for seed in &seeds {
        target(seed);
    }
    let mut random = Random(0xF022);
    for _ in 0..ROUNDS {
        target(&mutate(&mut random, &seeds));
    }
}

#[test]
fn request_heads() {
    smoke("request_head", fuzzing::request_head);
}

#[test]
fn response_heads() {
    smoke("response_head", fuzzing::response_head);
}

#[test]
fn extension_headers() {
    smoke("extension_header", fuzzing::extension_header);
}

#[test]
fn frames_in_both_roles() {
    smoke("frames", |data| fuzzing::frames(Role::Server, data));
    smoke("frames", |data| fuzzing::frames(Role::Client, data));
}

#[test]
fn conversations_in_both_directions() {
    smoke("conversation", |data| fuzzing::conversation(Role::Server, data));
    smoke("conversation", |data| fuzzing::conversation(Role::Client, data));
}

#[test]
fn compressed_frames_in_both_roles() {
    smoke("deflate_frames", |data| fuzzing::deflate_frames(Role::Server, data));
    smoke("deflate_frames", |data| fuzzing::deflate_frames(Role::Client, data));
}
