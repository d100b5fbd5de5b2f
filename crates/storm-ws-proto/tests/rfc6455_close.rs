//! RFC 6455 §5.5.1, §7: the closing handshake.

mod support;

use storm_ws_proto::bytes::BytesMut;
use storm_ws_proto::{CloseCode, Incoming, Limits, ProtocolError, Receiver, Role, Sender};
use support::*;

fn payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// What a close frame with this payload comes to; both roles must agree.
fn close_of(payload: &[u8]) -> support::Transcript {
    let server = received(Role::Server, &masked(0x88, payload));
    assert_eq!(received(Role::Client, &plain(0x88, payload)), server);
    server
}

#[test]
fn empty_payload_has_no_code() {
    assert_eq!(close_of(b""), (vec![Incoming::Close(None)], None));
}

#[test]
fn one_byte_payload() {
    let error = ProtocolError::CloseTooShort;
    assert_eq!(close_of(b"\x03"), (vec![], Some(error)));
    assert_eq!(error.close_code(), CloseCode::PROTOCOL_ERROR);
}

#[test]
fn codes_that_must_not_be_on_the_wire() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let error = ProtocolError::InvalidCloseCode { code };
        assert_eq!(close_of(&payload(code, b"")), (vec![], Some(error)));
        assert_eq!(error.close_code(), CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn codes_that_may() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        assert_eq!(close_of(&payload(code, b"bye")), (vec![close(code, "bye")], None));
    }
}

#[test]
fn reason_that_is_not_utf8() {
    let error = ProtocolError::InvalidCloseReason;
    assert_eq!(close_of(&payload(1000, b"\xED\xA0\x80")), (vec![], Some(error)));
    assert_eq!(error.close_code(), CloseCode::INVALID_PAYLOAD);
}

#[test]
fn longest_reason() {
    let reason = "r".repeat(123);
    assert_eq!(close_of(&payload(1000, reason.as_bytes())), (vec![close(1000, &reason)], None));
    let error = ProtocolError::ControlTooLong { opcode: 8, max: 125 };
    assert_eq!(close_of(&payload(1000, &[b'r'; 124])), (vec![], Some(error)));
}

#[test]
fn data_and_a_second_close_after_a_close_are_ignored() {
    for role in [Role::Server, Role::Client] {
        let wire = [
            frame(role, 0x81, b"before"),
            frame(role, 0x88, &payload(1000, b"")),
            frame(role, 0x81, b"after"),
            frame(role, 0x88, &payload(1001, b"")),
            vec![0xFF; 20],
        ];
        assert_eq!(received(role, &wire.concat()), (vec![text("before"), close(1000, "")], None));
    }
}

#[test]
fn close_inside_a_fragmented_message_drops_the_message() {
    let wire = [masked(0x01, b"half"), masked(0x88, b""), masked(0x80, b"other half")].concat();
    assert_eq!(received(Role::Server, &wire), (vec![Incoming::Close(None)], None));
}

#[test]
fn a_close_is_echoed_back_to_back() {
    let mut client = Sender::client(|| KEY);
    let mut server = Sender::server();
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    client.close(Some((CloseCode::GOING_AWAY, "tab closed")), &mut up).unwrap();
    let seen = Receiver::new(Role::Server, Limits::default()).receive(&mut up).unwrap();
    let Some(Incoming::Close(Some(frame))) = seen else { panic!("{seen:?}") };
    server.close(Some((frame.code, "")), &mut down).unwrap();
    assert_eq!(received(Role::Client, &down), (vec![close(1001, "")], None));
}
