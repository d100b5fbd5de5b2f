//! A bounded, seeded run of the fuzz entry points over mutations of the committed corpus.

use std::path::Path;

use storm_proxy_proto::fuzzing;

const ROUNDS: usize = 20_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

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
    for _ in 0..random.below(5) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.next().to_be_bytes()[0],
            2 => data.insert(at, [0, 1, 5, 0xFF, b'\r', b'\n', b' ', b':'][random.below(8)]),
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
fn answers_of_http_proxies() {
    smoke("http_connect", fuzzing::http_connect);
}

#[test]
fn answers_of_socks_proxies() {
    smoke("socks5", fuzzing::socks5);
}

#[test]
fn proxy_headers() {
    smoke("proxy_header", fuzzing::proxy_header);
}
