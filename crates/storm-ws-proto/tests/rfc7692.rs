//! RFC 7692: compressed messages between the two halves, and what a peer can do wrong with them.

mod support;

use storm_ws_proto::bytes::{Bytes, BytesMut};
use storm_ws_proto::handshake::{Accept, ClientRequest, HeadLimits, RequestReader};
use storm_ws_proto::{
    CloseCode, DeflateOptions, DeflateParams, Incoming, Limits, MessageKind, ProtocolError, Receiver, Role,
    SendError, Sender, SharedFrame, SharedKey,
};
use support::*;

fn options() -> DeflateOptions {
    DeflateOptions::default().min_size(0)
}

/// Runs the whole handshake and says what both sides agreed on.
fn agree(client: DeflateOptions, server: DeflateOptions) -> DeflateParams {
    let request = ClientRequest::new(&"ws://h/".parse().unwrap()).unwrap().deflate(client);
    let (bytes, mut handshake) = request.encode([7; 16], HeadLimits::default());
    let (request, _) = RequestReader::new(HeadLimits::default()).read(&bytes).unwrap().unwrap();
    let accepted = request.upgrade().unwrap().accept(&Accept::new().deflate(server)).unwrap();
    let (connected, _) = handshake.read(&accepted.response).unwrap().unwrap();
    assert_eq!(connected.deflate, accepted.deflate);
    connected.deflate.unwrap()
}

#[test]
fn what_is_chosen_first_is_granted_and_a_refusal_is_a_choice() {
    let request = ClientRequest::new(&"ws://h/".parse().unwrap()).unwrap().deflate(options());
    let (bytes, _) = request.encode([7; 16], HeadLimits::default());
    let (request, _) = RequestReader::new(HeadLimits::default()).read(&bytes).unwrap().unwrap();
    let upgrade = request.upgrade().unwrap();
    let granted = |accept: Accept| {
        let accepted = upgrade.accept(&accept).unwrap();
        assert_eq!(accepted.deflate.is_some(), accepted.deflate_options.is_some());
        accepted.deflate_options
    };
    let (first, second) = (options().level(1), options().level(2));
    assert_eq!(granted(Accept::new().deflate(first).or_deflate(second)), Some(first));
    assert_eq!(granted(Accept::new().deflate(None).or_deflate(second)), None);
    assert_eq!(granted(Accept::new().or_deflate(second)), Some(second));
    assert_eq!(granted(Accept::new().or_deflate(None)), None);
}

fn receiver(role: Role) -> Receiver {
    Receiver::new(role, Limits::default()).deflate(&DeflateParams::default())
}

fn sender(role: Role, params: &DeflateParams, options: &DeflateOptions) -> Sender {
    match role {
        Role::Server => Sender::server().deflate(params, options),
        Role::Client => Sender::client(|| KEY).deflate(params, options),
    }
}

/// Chat-like messages that share much with each other.
fn chatter(n: usize) -> String {
    format!(r#"{{"type":"chat","from":"user{}","seq":{n},"text":"{}"}}"#, n % 7, "la ".repeat(n % 50))
}

const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

#[test]
fn section_7_2_3_examples_in_frames() {
    let shared = [plain(0xC1, &HELLO), plain(0xC1, &[0xF2, 0x00, 0x11, 0x00, 0x00])].concat();
    let cases = [
        ("one frame", plain(0xC1, &HELLO), 1),
        ("two frames", [plain(0x41, &HELLO[..3]), plain(0x80, &HELLO[3..])].concat(), 1),
        ("context takeover", shared, 2),
        ("stored", plain(0xC1, &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00]), 1),
        ("final block", plain(0xC1, &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00]), 1),
    ];
    for (name, wire, count) in cases {
        let expected = vec![text("Hello"); count];
        assert_eq!(every_way(|| receiver(Role::Client), &wire), (expected, None), "{name}");
    }
}

#[test]
fn every_agreement_round_trips_in_both_directions() {
    for bits in 0_u8..16 {
        let flag = |at: u8| bits & (1 << at) != 0;
        let client = options()
            .server_no_context_takeover(flag(0))
            .client_no_context_takeover(flag(1))
            .server_max_window_bits(if flag(2) { 9 } else { 15 })
            .client_max_window_bits(if flag(3) { 10 } else { 15 });
        let params = agree(client, options());
        for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let mut sender = sender(from, &params, &options());
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for n in 0..30 {
                let shown = chatter(n);
                sender.message(MessageKind::Text, shown.clone().into(), true, &mut wire).unwrap();
                expected.push(text(&shown));
            }
            let new = || Receiver::new(to, Limits::default()).deflate(&params);
            assert_eq!(every_way(new, &wire), (expected, None), "{params:?}");
        }
    }
}

#[test]
fn a_thousand_messages_with_a_kept_window() {
    for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        let params = DeflateParams::default();
        let mut sender = sender(from, &params, &options());
        let (mut wire, mut plain_size) = (Vec::new(), 0);
        for n in 0..1000 {
            plain_size += chatter(n).len();
            sender.message(MessageKind::Text, chatter(n).into(), n % 5 != 0, &mut wire).unwrap();
        }
        let expected = (0..1000).map(|n| text(&chatter(n))).collect();
        assert_eq!(feed(&mut receiver(to), wire.chunks(777)), (expected, None));
        assert!(wire.len() < plain_size / 2);
    }
}

#[test]
fn reserved_bit_rules() {
    for role in [Role::Server, Role::Client] {
        let of = |first, payload: &[u8]| frame(role, first, payload);
        let cases = [
            ("on a ping", of(0xC9, b"")),
            ("on a pong", of(0xCA, b"")),
            ("on a close", of(0xC8, b"")),
            ("on a continuation", [of(0x41, &HELLO[..3]), of(0xC0, &HELLO[3..])].concat()),
            ("on the continuation of a plain message", [of(0x01, b"a"), of(0xC0, b"b")].concat()),
        ];
        for (name, wire) in cases {
            let error = ProtocolError::ReservedBits { bits: 0b100 };
            assert_eq!(every_way(|| receiver(role), &wire), (vec![], Some(error)), "{name}");
            assert_eq!(error.close_code(), CloseCode::PROTOCOL_ERROR);
        }
        for (first, bits) in [(0xA1, 0b010), (0x91, 0b001), (0xF1, 0b111)] {
            let error = ProtocolError::ReservedBits { bits };
            assert_eq!(every_way(|| receiver(role), &of(first, b"")), (vec![], Some(error)));
        }
    }
}

#[test]
fn bomb_stops_at_the_limit_and_ends_cleanly() {
    for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        let mut wire = BytesMut::new();
        let mut peer = sender(from, &DeflateParams::default(), &options());
        peer.message(MessageKind::Binary, vec![0; 100 << 20].into(), true, &mut wire).unwrap();
        assert!(wire.len() < 150_000);
        // A malformed block right behind it must not make a second error of the first.
        wire.extend_from_slice(&frame(to, 0xC2, &[0x07]));
        let limits = Limits::default().max_message_size(1 << 20);
        let mut receiver = Receiver::new(to, limits).deflate(&DeflateParams::default());
        let error = ProtocolError::MessageTooBig { len: (1 << 20) + 1, max: 1 << 20 };
        assert_eq!(receiver.receive(&mut wire), Err(error));
        assert_eq!(error.close_code(), CloseCode::MESSAGE_TOO_BIG);
        assert_eq!(receiver.receive(&mut wire), Ok(None));
    }
}

#[test]
fn limit_counts_inflated_bytes_over_all_fragments() {
    let mut wire = Vec::new();
    let mut peer = sender(Role::Client, &DeflateParams::default(), &options());
    for part in 0..3 {
        peer.fragment(MessageKind::Binary, &[part; 100], part == 2, true, &mut wire).unwrap();
    }
    for (max, fits) in [(300, true), (299, false)] {
        let limits = Limits::default().max_message_size(max);
        let new = || Receiver::new(Role::Server, limits).deflate(&DeflateParams::default());
        let (events, error) = every_way(new, &wire);
        assert_eq!((events.len(), error.is_none()), (usize::from(fits), fits));
    }
}

#[test]
fn corrupt_streams() {
    for payload in [&[0x07][..], &[0x00, 0x05, 0x00, 0x00, 0x00], &[0xFF; 20]] {
        let error = ProtocolError::CorruptDeflate;
        for role in [Role::Server, Role::Client] {
            assert_eq!(every_way(|| receiver(role), &frame(role, 0xC2, payload)), (vec![], Some(error)));
        }
        assert_eq!(error.close_code(), CloseCode::INVALID_PAYLOAD);
    }
}

#[test]
fn empty_compressed_messages() {
    for role in [Role::Server, Role::Client] {
        let frames = [(0xC1, &[0x00][..]), (0xC2, b""), (0x41, b""), (0x80, b""), (0xC1, &HELLO)];
        let wire = frames.map(|(first, payload)| frame(role, first, payload)).concat();
        let expected = vec![text(""), binary(b""), text(""), text("Hello")];
        assert_eq!(every_way(|| receiver(role), &wire), (expected, None));
    }
}

#[test]
fn invalid_utf8_after_inflating() {
    let mut wire = Vec::new();
    let mut peer = sender(Role::Client, &DeflateParams::default(), &options());
    peer.message_slice(MessageKind::Text, b"ok \xED\xA0\x80", true, &mut wire).unwrap();
    assert_eq!(every_way(|| receiver(Role::Server), &wire), (vec![], Some(ProtocolError::InvalidUtf8)));
}

#[test]
fn code_points_split_between_compressed_fragments() {
    let mut wire = Vec::new();
    let mut peer = sender(Role::Client, &DeflateParams::default(), &options());
    for (at, byte) in "€𝄞".bytes().enumerate() {
        peer.fragment(MessageKind::Text, &[byte], at == 6, true, &mut wire).unwrap();
        peer.ping(b"", &mut wire).unwrap();
    }
    let mut expected = vec![ping(b""); 7];
    expected.insert(6, text("€𝄞"));
    assert_eq!(every_way(|| receiver(Role::Server), &wire), (expected, None));
}

#[test]
fn plain_messages_between_compressed_ones() {
    let wire = [masked(0xC1, &HELLO), masked(0x81, b"plain"), masked(0xC1, &[0xF2, 0x00, 0x11, 0x00, 0x00])];
    let expected = vec![text("Hello"), text("plain"), text("Hello")];
    assert_eq!(every_way(|| receiver(Role::Server), &wire.concat()), (expected, None));
}

#[test]
fn plain_fragments_between_compressed_messages() {
    let wire = [masked(0xC1, &HELLO), masked(0x01, b"pl"), masked(0x80, b"ain"), masked(0xC1, &HELLO)];
    let expected = vec![text("Hello"), text("plain"), text("Hello")];
    assert_eq!(every_way(|| receiver(Role::Server), &wire.concat()), (expected, None));
}

#[test]
fn the_message_limit_is_for_inflated_bytes_in_any_fragment() {
    // RFC 7692 §7.2.3.3: a block without compression is longer than what it holds.
    let stored = b"\x00\x05\x00\xFA\xFFHello\x00";
    let new = || {
        Receiver::new(Role::Server, Limits::default().max_message_size(8)).deflate(&DeflateParams::default())
    };
    for wire in [masked(0xC1, stored), [masked(0x41, &stored[..1]), masked(0x80, &stored[1..])].concat()] {
        assert_eq!(every_way(new, &wire), (vec![text("Hello")], None));
    }
}

#[test]
fn a_message_in_fragments_is_compressed_if_its_first_is() {
    for (first, rest, bits) in [(true, false, 0x41), (false, true, 0x01)] {
        let mut server = Sender::server().deflate(&DeflateParams::default(), &options());
        let mut wire = Vec::new();
        server.fragment(MessageKind::Text, b"Hel", false, first, &mut wire).unwrap();
        server.fragment(MessageKind::Text, b"lo", true, rest, &mut wire).unwrap();
        assert_eq!(wire[0], bits);
        assert_eq!(every_way(|| receiver(Role::Client), &wire), (vec![text("Hello")], None));
    }
}

#[test]
fn small_messages_and_opt_outs_go_plain() {
    let mut sender =
        Sender::server().deflate(&DeflateParams::default(), &DeflateOptions::default().min_size(100));
    let mut first = |payload: &[u8], compress| {
        let mut wire = Vec::new();
        sender.message_slice(MessageKind::Text, payload, compress, &mut wire).unwrap();
        wire[0]
    };
    assert_eq!(first(&[b'a'; 99], true), 0x81);
    assert_eq!(first(&[b'a'; 100], true), 0xC1);
    assert_eq!(first(&[b'a'; 100], false), 0x81);
    let mut all = Vec::new();
    Sender::server()
        .deflate(&DeflateParams::default(), &options())
        .message_slice(MessageKind::Text, b"", true, &mut all)
        .unwrap();
    assert_eq!(all, b"\x81\x00", "an empty message has nothing to compress");
}

#[test]
fn noise_goes_plain_when_no_window_depends_on_it() {
    let noise = Random(5).bytes(1000);
    for (no_takeover, first) in [(true, 0x82), (false, 0xC2)] {
        let mut params = DeflateParams::default();
        params.server_no_context_takeover = no_takeover;
        let mut wire = Vec::new();
        Sender::server()
            .deflate(&params, &options())
            .message_slice(MessageKind::Binary, &noise, true, &mut wire)
            .unwrap();
        assert_eq!(wire[0], first);
    }
}

#[test]
fn a_window_of_eight_bits_is_kept_to_by_not_compressing() {
    let mut params = DeflateParams::default();
    params.client_max_window_bits = 8;
    let mut wire = Vec::new();
    sender(Role::Client, &params, &options())
        .message_slice(MessageKind::Text, &[b'a'; 500], true, &mut wire)
        .unwrap();
    assert_eq!(wire[0], 0x81);
    // The other direction is not affected.
    let mut server = Sender::server().deflate(&params, &options());
    server.message_slice(MessageKind::Text, &[b'a'; 500], true, &mut wire).unwrap();
    assert!(server.shared_key().is_compressed());
}

mod shared {
    use super::*;

    /// Private and shared messages in turn, to a peer that keeps its window.
    fn alternate(params: &DeflateParams) {
        let mut server = Sender::server().deflate(params, &options());
        let key = server.shared_key();
        assert!(key.is_compressed());
        let (mut wire, mut expected) = (BytesMut::new(), Vec::new());
        for n in 0..60 {
            let private = chatter(n);
            server.message(MessageKind::Text, private.clone().into(), true, &mut wire).unwrap();
            expected.push(text(&private));
            let public = chatter(n + 1).repeat(2);
            let key = if n % 4 == 0 { SharedKey::PLAIN } else { key };
            let frame = SharedFrame::encode(MessageKind::Text, public.as_bytes(), key);
            assert_eq!(frame.is_compressed(), n % 4 != 0);
            server.put_shared(&frame, &mut wire).unwrap();
            expected.push(text(&public));
        }
        let new = || Receiver::new(Role::Client, Limits::default()).deflate(params);
        assert_eq!(every_way(new, &wire), (expected, None));
    }

    #[test]
    fn alternating_with_private_messages() {
        for bits in [9, 12, 15] {
            for no_takeover in [false, true] {
                let mut params = DeflateParams::default();
                params.server_max_window_bits = bits;
                params.server_no_context_takeover = no_takeover;
                alternate(&params);
            }
        }
    }

    #[test]
    fn one_key_per_window() {
        let key = |bits| {
            let mut params = DeflateParams::default();
            params.server_max_window_bits = bits;
            Sender::server().deflate(&params, &options()).shared_key()
        };
        assert_eq!(key(12), key(12));
        assert_ne!(key(12), key(15));
        assert_eq!(Sender::server().shared_key(), SharedKey::PLAIN);
    }

    #[test]
    fn one_number_per_key() {
        let mut numbers = vec![SharedKey::PLAIN.to_u64()];
        assert_eq!(numbers, [0]);
        for bits in 9..=15 {
            for options in [1, 6, 9].map(|level| options().level(level)) {
                for min_size in [0, 1, 0x0101, 4096] {
                    let mut params = DeflateParams::default();
                    params.server_max_window_bits = bits;
                    let sender = || Sender::server().deflate(&params, &options.min_size(min_size));
                    assert_eq!(sender().shared_key().to_u64(), sender().shared_key().to_u64());
                    numbers.push(sender().shared_key().to_u64());
                }
            }
        }
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "frames of one key would go to sessions of another");
    }

    #[test]
    fn the_window_and_the_level_are_the_sessions() {
        // Worth compressing, and worth most with a window that reaches back to the first half.
        let half: Vec<u8> = Random(3).bytes(2000).iter().map(|byte| b'a' + byte % 16).collect();
        let payload = half.repeat(2);
        let cases = [(9, 9, false), (10, 1, false), (12, 9, true), (15, 9, true)];
        for (bits, level, reaches_back) in cases {
            let mut params = DeflateParams::default();
            params.server_max_window_bits = bits;
            params.server_no_context_takeover = true;
            let mut private = Vec::new();
            let mut server = Sender::server().deflate(&params, &options().level(level));
            server.message_slice(MessageKind::Binary, &payload, true, &mut private).unwrap();
            let frame = SharedFrame::encode(MessageKind::Binary, &payload, server.shared_key());
            assert!(*frame.as_bytes() == private, "{bits} bits: as if it were for this session alone");
            assert_eq!(private.len() < 1500, reaches_back, "{bits} bits: {}", private.len());
        }
    }

    #[test]
    fn frames_of_a_larger_window_are_refused_and_those_of_a_smaller_one_are_not() {
        let mut params = DeflateParams::default();
        let mut wide_server = Sender::server().deflate(&params, &options());
        let wide = wide_server.shared_key();
        params.server_max_window_bits = 10;
        let mut narrow = Sender::server().deflate(&params, &options());
        let frame = SharedFrame::encode(MessageKind::Text, &[b'a'; 100], wide);
        assert_eq!(narrow.put_shared(&frame, &mut Vec::new()), Err(SendError::SharedKeyMismatch));
        assert_eq!(Sender::server().put_shared(&frame, &mut Vec::new()), Err(SendError::SharedKeyMismatch));
        let frame = SharedFrame::encode(MessageKind::Text, &[b'a'; 100], narrow.shared_key());
        assert!(frame.is_compressed());
        assert_eq!(wide_server.put_shared(&frame, &mut Vec::new()), Ok(()));
    }

    #[test]
    fn shared_noise_and_small_ones_go_plain() {
        let key = Sender::server().deflate(&DeflateParams::default(), &options().min_size(50)).shared_key();
        assert!(!SharedFrame::encode(MessageKind::Binary, &Random(1).bytes(500), key).is_compressed());
        assert!(!SharedKey::PLAIN.is_compressed());
        assert!(!SharedFrame::encode(MessageKind::Binary, &[0; 49], key).is_compressed());
        assert!(SharedFrame::encode(MessageKind::Binary, &[0; 50], key).is_compressed());
    }
}

#[test]
fn a_shared_payload_is_delivered_unchanged() {
    let payload = Bytes::from(vec![b'x'; 70_000]);
    let frame = SharedFrame::encode(MessageKind::Binary, &payload, SharedKey::PLAIN);
    let (events, error) = feed(&mut receiver(Role::Client), [&frame.as_bytes()[..]]);
    assert_eq!((events, error), (vec![Incoming::Message(payload.into())], None));
}
