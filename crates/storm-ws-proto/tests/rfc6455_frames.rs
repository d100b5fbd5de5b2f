//! RFC 6455 §5: framing, masking, fragmentation, limits.

mod support;

use storm_ws_proto::bytes::BytesMut;
use storm_ws_proto::{CloseCode, Incoming, Limits, ProtocolError, Receiver, Role};
use support::*;

const BOTH: [Role; 2] = [Role::Server, Role::Client];

fn fails(role: Role, wire: &[u8], error: ProtocolError, code: CloseCode) {
    assert_eq!(received(role, wire), (vec![], Some(error)));
    assert_eq!(error.close_code(), code);
}

#[test]
fn section_5_7_examples() {
    assert_eq!(received(Role::Client, b"\x81\x05Hello"), (vec![text("Hello")], None));
    let masked_hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(received(Role::Server, masked_hello), (vec![text("Hello")], None));
    assert_eq!(received(Role::Client, b"\x01\x03Hel\x80\x02lo"), (vec![text("Hello")], None));
    assert_eq!(received(Role::Client, b"\x89\x05Hello"), (vec![ping(b"Hello")], None));
    let masked_pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(received(Role::Server, masked_pong), (vec![pong(b"Hello")], None));
    for len in [256, 65_536] {
        let payload = vec![0xA5; len];
        assert_eq!(received(Role::Client, &plain(0x82, &payload)), (vec![binary(&payload)], None));
    }
}

#[test]
fn every_length_form_is_delivered() {
    for role in BOTH {
        for len in [0, 1, 3, 7, 8, 9, 124, 125, 126, 127, 128, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
            assert_eq!(received(role, &frame(role, 0x82, &payload)), (vec![binary(&payload)], None));
        }
    }
}

#[test]
fn unmasked_client_frames() {
    for first in [0x81, 0x82, 0x89, 0x8A, 0x88] {
        fails(Role::Server, &plain(first, b""), ProtocolError::UnmaskedFrame, CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn masked_server_frames() {
    for first in [0x81, 0x82, 0x89, 0x8A, 0x88] {
        fails(Role::Client, &masked(first, b""), ProtocolError::MaskedFrame, CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn reserved_bits_without_an_extension() {
    for role in BOTH {
        for bits in 1..8_u8 {
            for opcode in [0x1, 0x2, 0x8, 0x9, 0xA] {
                let wire = frame(role, 0x80 | bits << 4 | opcode, b"x");
                fails(role, &wire, ProtocolError::ReservedBits { bits }, CloseCode::PROTOCOL_ERROR);
            }
        }
    }
}

#[test]
fn reserved_opcodes_fail_on_the_head_whatever_length_it_announces() {
    for role in BOTH {
        for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            let mask_bit = if role == Role::Server { 0x80 } else { 0 };
            let wire = head(0x80 | opcode, mask_bit, 1 << 30);
            fails(role, &wire, ProtocolError::ReservedOpcode { opcode }, CloseCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn lengths_in_too_many_bytes() {
    for (role, mask_bit) in [(Role::Server, 0x80), (Role::Client, 0)] {
        let wire = [0x82, mask_bit | 126, 0, 5];
        let error = ProtocolError::NonMinimalLength { len: 5, width: 2 };
        fails(role, &wire, error, CloseCode::PROTOCOL_ERROR);
        let wire = [0x82, mask_bit | 127, 0, 0, 0, 0, 0, 0, 1, 44];
        let error = ProtocolError::NonMinimalLength { len: 300, width: 8 };
        fails(role, &wire, error, CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn top_bit_of_a_64_bit_length() {
    for (role, mask_bit) in [(Role::Server, 0x80), (Role::Client, 0)] {
        let wire = [0x82, mask_bit | 127, 0x80, 0, 0, 0, 0, 0, 0, 1];
        let error = ProtocolError::LengthTopBit { len: (1 << 63) + 1 };
        fails(role, &wire, error, CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn frame_one_above_the_limit_fails_on_its_head() {
    for (max, len) in [(10, 10), (1000, 1000)] {
        let limits = Limits::default().max_frame_size(max);
        let error = ProtocolError::FrameTooBig { len: max + 1, max };
        assert_eq!(error.close_code(), CloseCode::MESSAGE_TOO_BIG);
        for (role, mask_bit, key) in [(Role::Server, 0x80, &KEY[..]), (Role::Client, 0, &[])] {
            let wire = [&head(0x82, mask_bit, max + 1), key].concat();
            assert_eq!(received_within(role, limits, &wire), (vec![], Some(error)));
            let wire = frame(role, 0x82, &vec![7; len + 1]);
            assert_eq!(received_within(role, limits, &wire), (vec![], Some(error)), "whole");
            let payload = vec![7; len];
            let wire = frame(role, 0x82, &payload);
            assert_eq!(received_within(role, limits, &wire), (vec![binary(&payload)], None));
        }
    }
}

#[test]
fn message_above_the_limit_fails_on_the_head_that_makes_it_so() {
    let limits = Limits::default().max_message_size(10);
    let mut wire = [masked(0x02, b"12345"), masked(0x00, b"1234")].concat();
    wire.extend(head(0x80, 0x80, 2));
    wire.extend(KEY);
    let error = ProtocolError::MessageTooBig { len: 11, max: 10 };
    assert_eq!(received_within(Role::Server, limits, &wire), (vec![], Some(error)));
    assert_eq!(error.close_code(), CloseCode::MESSAGE_TOO_BIG);
    let wire = [masked(0x02, b"12345"), masked(0x80, b"12345")].concat();
    assert_eq!(received_within(Role::Server, limits, &wire), (vec![binary(b"1234512345")], None));
    let error = ProtocolError::MessageTooBig { len: 11, max: 10 };
    assert_eq!(received_within(Role::Server, limits, &masked(0x82, &[0; 11])), (vec![], Some(error)));
}

#[test]
fn a_million_empty_continuations_end_at_the_fragment_limit() {
    for (role, payload) in [(Role::Server, &b""[..]), (Role::Server, b"x"), (Role::Client, b"")] {
        let mut receiver = Receiver::new(role, Limits::default());
        let (first, rest) = (frame(role, 0x02, payload), frame(role, 0x00, payload));
        let pieces = std::iter::once(&first[..]).chain(std::iter::repeat_n(&rest[..], 1_000_000));
        let error = ProtocolError::TooManyFragments { max: 16_384 };
        assert_eq!(feed(&mut receiver, pieces), (vec![], Some(error)));
        assert_eq!(error.close_code(), CloseCode::POLICY_VIOLATION);
    }
}

#[test]
fn exactly_the_fragment_limit_is_delivered() {
    let limits = Limits::default().max_fragments(3);
    let wire = [masked(0x02, b"a"), masked(0x00, b"b"), masked(0x80, b"c")].concat();
    assert_eq!(received_within(Role::Server, limits, &wire), (vec![binary(b"abc")], None));
    let wire = [masked(0x02, b"a"), masked(0x00, b"b"), masked(0x00, b"c"), masked(0x80, b"d")].concat();
    let error = ProtocolError::TooManyFragments { max: 3 };
    assert_eq!(received_within(Role::Server, limits, &wire), (vec![], Some(error)));
}

#[test]
fn limits_can_be_switched_off() {
    let limits = Limits::default().max_frame_size(None).max_message_size(None).max_fragments(None);
    let payload = vec![1; (1 << 20) + 1];
    let mut receiver = Receiver::new(Role::Server, limits);
    assert_eq!(feed(&mut receiver, [&masked(0x82, &payload)[..]]), (vec![binary(&payload)], None));
}

#[test]
fn announced_lengths_reserve_nothing() {
    let mut receiver =
        Receiver::new(Role::Server, Limits::default().max_frame_size(None).max_message_size(None));
    let mut wire = BytesMut::from(&[head(0x82, 0x80, 1 << 40), KEY.to_vec()].concat()[..]);
    assert_eq!(receiver.receive(&mut wire), Ok(None));
    assert!(wire.capacity() < 64);
    assert_eq!(receiver.wanted(), 64 * 1024);
    wire.extend_from_slice(&vec![0; 200_000]);
    assert_eq!(receiver.receive(&mut wire), Ok(None));
    assert_eq!(receiver.wanted(), 200_000, "no more than has come already");
}

#[test]
fn wanted_completes_the_frame() {
    let mut receiver = Receiver::new(Role::Client, Limits::default());
    let mut wire = BytesMut::from(&plain(0x82, &[5; 300])[..100]);
    assert_eq!(receiver.receive(&mut wire), Ok(None));
    assert_eq!(receiver.wanted(), 204);
    assert!(receiver.is_mid_message());
    wire.extend_from_slice(&[5; 204]);
    assert_eq!(receiver.receive(&mut wire), Ok(Some(binary(&[5; 300]))));
    assert!(!receiver.is_mid_message());
}

#[test]
fn whole_frames_are_cut_from_the_buffer_without_a_copy() {
    let mut receiver = Receiver::new(Role::Server, Limits::default());
    let mut wire = BytesMut::from(&masked(0x82, &[9; 100])[..]);
    let place = wire.as_ptr().wrapping_add(6);
    let Ok(Some(Incoming::Message(message))) = receiver.receive(&mut wire) else { panic!() };
    assert_eq!(message.data().as_ptr(), place);
}

#[test]
fn pings_of_any_legal_size() {
    for role in BOTH {
        for len in [0, 1, 125] {
            let payload = vec![3; len];
            assert_eq!(received(role, &frame(role, 0x89, &payload)), (vec![ping(&payload)], None));
            assert_eq!(received(role, &frame(role, 0x8A, &payload)), (vec![pong(&payload)], None));
        }
    }
}

#[test]
fn control_frames_of_126_bytes() {
    for role in BOTH {
        for opcode in [0x8, 0x9, 0xA] {
            let error = ProtocolError::ControlTooLong { opcode, max: 125 };
            fails(role, &frame(role, 0x80 | opcode, &[0; 126]), error, CloseCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn fragmented_control_frames() {
    for role in BOTH {
        for opcode in [0x8, 0x9, 0xA] {
            let error = ProtocolError::FragmentedControl { opcode };
            fails(role, &frame(role, opcode, b""), error, CloseCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn control_frames_between_fragments() {
    for role in BOTH {
        let frames = [(0x01, "fr"), (0x89, "1"), (0x00, "ag"), (0x8A, ""), (0x80, "!")];
        let wire = frames.map(|(first, payload)| frame(role, first, payload.as_bytes())).concat();
        assert_eq!(received(role, &wire), (vec![ping(b"1"), pong(b""), text("frag!")], None));
    }
}

#[test]
fn continuation_without_a_start() {
    let error = ProtocolError::UnexpectedContinuation;
    for role in BOTH {
        for first in [0x00, 0x80] {
            fails(role, &frame(role, first, b"x"), error, CloseCode::PROTOCOL_ERROR);
        }
        let wire = [frame(role, 0x01, b"a"), frame(role, 0x80, b"b"), frame(role, 0x80, b"c")].concat();
        assert_eq!(received(role, &wire), (vec![text("ab")], Some(error)));
    }
}

#[test]
fn new_message_inside_a_fragmented_one() {
    for role in BOTH {
        for opcode in [0x1, 0x2] {
            let wire = [frame(role, 0x01, b"a"), frame(role, 0x80 | opcode, b"b")].concat();
            let error = ProtocolError::ExpectedContinuation { opcode };
            fails(role, &wire, error, CloseCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn empty_messages_and_fragments() {
    let wire =
        [masked(0x81, b""), masked(0x82, b""), masked(0x01, b""), masked(0x00, b""), masked(0x80, b"")];
    assert_eq!(received(Role::Server, &wire.concat()), (vec![text(""), binary(b""), text("")], None));
}

#[test]
fn what_came_before_a_violation_is_delivered_first() {
    let wire =
        [masked(0x81, b"good"), masked(0x89, b"p"), masked(0xB1, b"bad"), masked(0x81, b"never")].concat();
    let expected = vec![text("good"), ping(b"p")];
    assert_eq!(received(Role::Server, &wire), (expected, Some(ProtocolError::ReservedBits { bits: 0b011 })));
}

#[test]
fn nothing_is_dispatched_after_an_error() {
    let mut receiver = Receiver::new(Role::Server, Limits::default());
    let mut wire = BytesMut::from(&[plain(0x81, b"bad"), masked(0x81, b"good")].concat()[..]);
    assert_eq!(receiver.receive(&mut wire), Err(ProtocolError::UnmaskedFrame));
    assert!(receiver.is_ended() && wire.is_empty());
    wire.extend_from_slice(&masked(0x81, b"good"));
    assert_eq!(receiver.receive(&mut wire), Ok(None));
    assert!(wire.is_empty(), "discarded, not collected");
}

mod utf8 {
    use super::*;

    const BAD: [(&str, &[u8]); 5] = [
        ("surrogate", b"ab\xED\xA0\x80"),
        ("overlong", b"ab\xC0\x80"),
        ("too large", b"ab\xF4\x90\x80\x80"),
        ("lone continuation", b"ab\x80"),
        ("truncated", b"ab\xE2\x82"),
    ];

    #[test]
    fn in_one_frame() {
        for (role, (_, bytes)) in BOTH.into_iter().flat_map(|role| BAD.map(|bad| (role, bad))) {
            let wire = frame(role, 0x81, bytes);
            fails(role, &wire, ProtocolError::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        }
    }

    #[test]
    fn in_the_first_of_three_fragments_fails_before_the_rest() {
        for role in BOTH {
            for (name, bytes) in &BAD[..4] {
                let wire = frame(role, 0x01, bytes);
                assert_eq!(received(role, &wire), (vec![], Some(ProtocolError::InvalidUtf8)), "{name}");
            }
        }
    }

    #[test]
    fn inside_an_unfinished_frame_fails_at_the_hopeless_byte() {
        for role in BOTH {
            let wire = frame(role, 0x81, &[b"ab\xED\xA0".as_slice(), &[b'x'; 500]].concat());
            let payload = wire.len() - 504;
            let hopeless = received(role, &wire[..payload + 4]);
            assert_eq!(hopeless, (vec![], Some(ProtocolError::InvalidUtf8)), "{role:?}");
            let open = received(role, &wire[..payload + 3]);
            assert_eq!(open, (vec![], None), "{role:?}: ED may still become a letter");
        }
    }

    #[test]
    fn code_point_left_open_at_the_end() {
        let wire = [masked(0x01, b"ab\xE2"), masked(0x80, b"\x82")].concat();
        fails(Role::Server, &wire, ProtocolError::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
    }

    #[test]
    fn code_point_split_across_frames() {
        let euro = "a€𝄞z".as_bytes();
        for at in 0..=euro.len() {
            let wire = [masked(0x01, &euro[..at]), masked(0x89, b""), masked(0x80, &euro[at..])].concat();
            assert_eq!(received(Role::Server, &wire), (vec![ping(b""), text("a€𝄞z")], None));
        }
    }

    #[test]
    fn binary_is_not_checked() {
        assert_eq!(received(Role::Server, &masked(0x82, b"\xFF")), (vec![binary(b"\xFF")], None));
    }
}
