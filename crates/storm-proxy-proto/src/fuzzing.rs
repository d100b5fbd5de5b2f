//! Entry points for fuzzers: any bytes in, a panic only for a bug.
//!
//! Owns: nothing.
//! In:   arbitrary bytes; the first one chooses how the rest is cut up.
//! Out:  nothing; broken invariants panic.
//! Not here: the fuzzers (`fuzz/`, `tests/fuzz_smoke.rs`).

use std::fmt::Debug;

use crate::{Credentials, HttpConnect, ProxyHeaderReader, Socks5, Step, Target};

/// How a reader ended, and after how many bytes. Errors have no such number: a piece is refused as a whole.
type End<O, E> = Option<Result<(usize, O), E>>;

/// Hands `data` to a reader in pieces of `step` bytes until it ends.
fn run<R, O, E>(
    mut reader: R,
    receive: impl Fn(&mut R, &[u8]) -> Result<(usize, Option<O>), E>,
    data: &[u8],
    step: usize,
) -> End<O, E> {
    let mut taken = 0;
    for piece in data.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            match receive(&mut reader, rest) {
                Ok((took, outcome)) => {
                    assert!((1..=rest.len()).contains(&took), "{took} of {}", rest.len());
                    taken += took;
                    if let Some(outcome) = outcome {
                        return Some(Ok((taken, outcome)));
                    }
                    rest = &rest[took..];
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
    None
}

fn compare<R, O: PartialEq + Debug, E: PartialEq + Debug>(
    new: impl Fn() -> R,
    receive: impl Fn(&mut R, &[u8]) -> Result<(usize, Option<O>), E>,
    data: &[u8],
) -> End<O, E> {
    let (&step, data) = data.split_first()?;
    let whole = run(new(), &receive, data, data.len().max(1));
    assert_eq!(run(new(), &receive, data, usize::from(step).max(1)), whole);
    if let Some(Ok((taken, _))) = &whole {
        // What is behind the end has no say.
        assert_eq!(run(new(), &receive, &data[..*taken], 1), whole);
        assert_eq!(run(new(), &receive, &data[..*taken - 1], 1), None);
    }
    whole
}

/// The answer of an HTTP proxy.
pub fn http_connect(data: &[u8]) {
    let target = Target::new("example.com", 443).expect("valid");
    let new = || HttpConnect::new(&target, None).expect("valid").0;
    compare(
        new,
        |connect, piece| {
            connect.receive(piece).map(|(taken, step)| (taken, (step == Step::Open).then_some(())))
        },
        data,
    );
}

/// The answers of a SOCKS 5 proxy, to a client with and without credentials.
pub fn socks5(data: &[u8]) {
    let target = Target::new("example.com", 443).expect("valid");
    let credentials = Credentials::new("user", "password");
    for credentials in [None, Some(&credentials)] {
        let new = || Socks5::new(&target, credentials).expect("valid").0;
        compare(
            new,
            |socks, piece| {
                socks.receive(piece).map(|(taken, step)| (taken, (step == Step::Open).then_some(())))
            },
            data,
        );
    }
}

/// A PROXY header.
pub fn proxy_header(data: &[u8]) {
    let end = compare(ProxyHeaderReader::default, ProxyHeaderReader::receive, data);
    if let Some(Ok((taken, _))) = end {
        assert!(taken <= 16 + crate::proxy_header::MAX_ANNOUNCED);
    }
}
