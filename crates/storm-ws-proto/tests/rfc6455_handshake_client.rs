//! RFC 6455 §4.1: the upgrade in the client role.

mod support;

use storm_ws_proto::handshake::{ClientRequest, Connected, HeadLimits, RequestError, ResponseError};
use storm_ws_proto::http::StatusCode;

const NONCE: [u8; 16] = *b"the sample nonce";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn request(uri: &str) -> ClientRequest {
    ClientRequest::new(&uri.parse().unwrap()).unwrap()
}

fn encoded(request: &ClientRequest) -> String {
    String::from_utf8(request.encode(NONCE, HeadLimits::default()).0.to_vec()).unwrap()
}

/// What a client that sent `request` makes of this response, however it is split.
fn answer(request: &ClientRequest, lines: &[&str]) -> Result<Connected, ResponseError> {
    let head = lines.join("\r\n") + "\r\n\r\n";
    let whole = request.encode(NONCE, HeadLimits::default()).1.read(head.as_bytes());
    let mut handshake = request.encode(NONCE, HeadLimits::default()).1;
    let piecewise = (0..=head.len()).map(|end| handshake.read(&head.as_bytes()[..end]));
    let piecewise = piecewise.into_iter().find(|read| !matches!(read, Ok(None))).unwrap();
    assert_eq!(whole.as_ref().err(), piecewise.as_ref().err(), "one byte at a time");
    let (connected, taken) = whole?.expect("a whole head");
    assert_eq!(taken, head.len());
    Ok(connected)
}

fn good<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut lines =
        vec!["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", ACCEPT];
    lines.extend(more);
    lines
}

#[test]
fn section_1_2_example() {
    let request =
        request("ws://server.example.com/chat").protocol("chat").unwrap().protocol("superchat").unwrap();
    assert_eq!(
        encoded(&request),
        "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\n\r\n"
    );
    let connected = answer(&request, &good(&["Sec-WebSocket-Protocol: chat"])).unwrap();
    assert_eq!(connected.protocol.as_deref(), Some("chat"));
}

#[test]
fn hosts_and_targets() {
    for (uri, host, target) in [
        ("ws://a.example", "a.example", "/"),
        ("ws://a.example:80/x", "a.example", "/x"),
        ("ws://a.example:8080/x?y=z", "a.example:8080", "/x?y=z"),
        ("wss://a.example:443", "a.example", "/"),
        ("wss://a.example:80", "a.example:80", "/"),
        ("ws://a.example?q", "a.example", "/?q"),
        ("ws://[::1]:9000/", "[::1]:9000", "/"),
        ("ws://user:secret@a.example/", "a.example", "/"),
        ("ws://user:99999@a.example:8080/", "a.example:8080", "/"),
        ("ws://user:99999@[::1]/", "[::1]", "/"),
        ("ws://a.example:/", "a.example", "/"),
        ("ws://a.example:080/", "a.example", "/"),
        ("ws://a.example/x#fragment", "a.example", "/x"),
        ("ws://a.example/gr\u{fc}n?q=\u{20ac}%20", "a.example", "/gr%C3%BCn?q=%E2%82%AC%20"),
    ] {
        let wire = encoded(&request(uri));
        assert!(wire.starts_with(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n")), "{uri}: {wire}");
    }
    for uri in [
        "http://a.example",
        "/chat",
        "a.example:80",
        "mailto:a",
        "ws://a.example:99999/",
        "wss://a.example:port",
        "ws://me@[::1]:70000",
    ] {
        assert_eq!(
            uri.parse()
                .map_err(|_| RequestError::InvalidUri)
                .and_then(|uri| ClientRequest::new(&uri))
                .map(|_| ()),
            Err(RequestError::InvalidUri),
            "{uri}"
        );
    }
}

#[test]
fn extra_headers_are_checked_before_a_byte_is_sent() {
    let wire = encoded(
        &request("ws://a/")
            .header("Authorization", "Bearer x")
            .unwrap()
            .header("Origin", "http://b")
            .unwrap(),
    );
    assert!(wire.ends_with("authorization: Bearer x\r\norigin: http://b\r\n\r\n"), "{wire}");
    for (name, value) in [
        ("X", "a\r\nY: b"),
        ("X", "a\rb"),
        ("X", "a\nb"),
        ("X", "a\0b"),
        ("X:", "a"),
        ("", "a"),
        ("a b", "c"),
    ] {
        assert!(
            matches!(request("ws://a/").header(name, value), Err(RequestError::InvalidHeader { .. })),
            "{name:?}"
        );
    }
    for name in [
        "Sec-WebSocket-Key",
        "upgrade",
        "Connection",
        "Host",
        "sec-websocket-version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Content-Length",
        "Transfer-Encoding",
        "Trailer",
    ] {
        assert!(
            matches!(request("ws://a/").header(name, "a"), Err(RequestError::ReservedHeader { .. })),
            "{name}"
        );
    }
}

#[test]
fn subprotocols_are_tokens() {
    for protocol in ["", "a b", "a,b", "a\r\nX: y", "é"] {
        assert!(matches!(request("ws://a/").protocol(protocol), Err(RequestError::InvalidProtocol { .. })));
    }
    assert!(request("ws://a/").protocol("a").unwrap().protocol("a").is_err());
}

#[test]
fn accept_must_match() {
    let wrong = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for lines in [
        vec![],
        vec![wrong],
        vec![ACCEPT, ACCEPT],
        vec!["Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO="],
    ] {
        let mut response = good(&lines);
        response.remove(3);
        let error = answer(&request("ws://a/"), &response).unwrap_err();
        assert!(matches!(error, ResponseError::AcceptMismatch { .. }), "{error}");
        assert_eq!(error.status(), Some(StatusCode::SWITCHING_PROTOCOLS));
        assert_eq!(error.headers().unwrap()["upgrade"], "websocket");
    }
}

#[test]
fn other_statuses_carry_status_and_headers() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 302 Found", 302),
        ("HTTP/1.1 401 Unauthorized", 401),
        ("HTTP/1.1 503", 503),
        ("HTTP/1.0 400 Bad Request", 400),
    ] {
        let error =
            answer(&request("ws://a/"), &[line, "Location: http://b/", "Retry-After: 3"]).unwrap_err();
        assert_eq!(error.status().unwrap().as_u16(), status);
        assert_eq!(error.headers().unwrap()["retry-after"], "3");
        let ResponseError::Status { body_at, .. } = error else { panic!("{error}") };
        let head = [line, "Location: http://b/", "Retry-After: 3", "", ""].join("\r\n");
        assert_eq!(body_at, head.len());
    }
}

#[test]
fn upgrade_and_connection_must_be_there() {
    for (at, value, ok) in [
        (1, "Upgrade: WebSocket", true),
        (1, "Upgrade: h2c", false),
        (1, "X: y", false),
        (2, "Connection: keep-alive, upgrade", true),
        (2, "Connection: Upgraded", false),
        (2, "Connection: close", false),
    ] {
        let mut response = good(&[]);
        response[at] = value;
        let result = answer(&request("ws://a/"), &response);
        assert_eq!(result.is_ok(), ok, "{value}");
        match (at, result) {
            (1, Err(error)) => assert!(matches!(error, ResponseError::UpgradeMissing { .. })),
            (2, Err(error)) => assert!(matches!(error, ResponseError::ConnectionMissing { .. })),
            _ => {}
        }
    }
}

#[test]
fn subprotocol_only_from_the_offer() {
    let offered = request("ws://a/").protocol("a").unwrap().protocol("b").unwrap();
    assert_eq!(
        answer(&offered, &good(&["Sec-WebSocket-Protocol: b"])).unwrap().protocol.as_deref(),
        Some("b")
    );
    assert_eq!(answer(&offered, &good(&[])).unwrap().protocol, None);
    for value in ["c", "B", "a, b", ""] {
        let line = format!("Sec-WebSocket-Protocol: {value}");
        let error = answer(&offered, &good(&[&line])).unwrap_err();
        assert!(matches!(error, ResponseError::InvalidProtocol { .. }), "{value}");
    }
    let twice = ["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"];
    assert!(answer(&offered, &good(&twice)).is_err());
    assert!(answer(&request("ws://a/"), &good(&twice[..1])).is_err(), "nothing was offered");
}

#[test]
fn extensions_that_were_not_offered() {
    for value in ["permessage-deflate", "x-foo", "a b", ""] {
        let line = format!("Sec-WebSocket-Extensions: {value}");
        let error = answer(&request("ws://a/"), &good(&[&line])).unwrap_err();
        assert!(matches!(error, ResponseError::InvalidExtensions { .. }), "{value}");
    }
}

#[cfg(feature = "deflate")]
#[test]
fn deflate_is_offered_and_checked() {
    use storm_ws_proto::DeflateOptions;
    let request = request("ws://a/").deflate(DeflateOptions::default().client_max_window_bits(12));
    assert!(
        encoded(&request)
            .contains("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n")
    );
    assert_eq!(answer(&request, &good(&[])).unwrap().deflate, None);
    let line =
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=11; server_no_context_takeover";
    let params = answer(&request, &good(&[line])).unwrap().deflate.unwrap();
    assert_eq!((params.client_max_window_bits, params.server_no_context_takeover), (11, true));
    for value in [
        "permessage-deflate; client_max_window_bits=13",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; what",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate, x-foo",
    ] {
        let line = format!("Sec-WebSocket-Extensions: {value}");
        let error = answer(&request, &good(&[&line])).unwrap_err();
        assert!(matches!(error, ResponseError::InvalidExtensions { .. }), "{value}");
    }
}

#[test]
fn interim_answers_come_before_the_one_that_counts() {
    let request = request("ws://a.example");
    let interim = ["HTTP/1.1 103 Early Hints", "Link: </a>", "", "HTTP/1.1 100 Continue", ""];
    answer(&request, &[&interim[..], &good(&[])[..]].concat()).unwrap();
    let refused =
        answer(&request, &[&interim[..], &["HTTP/1.1 403 Forbidden", "X: y"]].concat()).unwrap_err();
    let ResponseError::Status { status, headers, body_at } = refused else { panic!("{refused:?}") };
    assert_eq!((status, headers.len()), (StatusCode::FORBIDDEN, 1));
    let heads = [interim.join("\r\n"), "HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n".to_owned()];
    assert_eq!(body_at, heads.join("\r\n").len());
    // All of them together are bounded.
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let read = request.encode(NONCE, HeadLimits::default()).1.read(endless.as_bytes());
    assert_eq!(read.map(|_| ()), Err(ResponseError::HeadTooLarge { max: 16_384 }));
}

#[test]
fn garbage_and_limits() {
    let read = |limits, head: &[u8]| request("ws://a/").encode(NONCE, limits).1.read(head).map(|_| ());
    let limits = HeadLimits::default();
    for head in [
        &b"\x15\x03\x01"[..],
        b"SSH-2.0",
        b"HTTP/1.1 101 x\nA: b\n\n",
        b"HTTP/1.1 1x1 y\r\n\r\n",
        b"HTTP/2 101 x\r\n\r\n",
    ] {
        assert_eq!(read(limits, head), Err(ResponseError::Malformed));
    }
    let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'a'; 20_000]].concat();
    assert_eq!(read(limits, &endless), Err(ResponseError::HeadTooLarge { max: 16_384 }));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    assert_eq!(read(limits, many.as_bytes()), Err(ResponseError::TooManyHeaders { max: 100 }));
    let unlimited = limits.max_headers(usize::MAX);
    assert!(matches!(read(unlimited, many.as_bytes()), Err(ResponseError::Status { .. })));
    let mut old = good(&[]);
    old[0] = "HTTP/1.0 101 Switching Protocols";
    assert_eq!(answer(&request("ws://a/"), &old).unwrap_err(), ResponseError::Malformed);
}

#[test]
fn frames_behind_the_head_are_left_alone() {
    let head = good(&[]).join("\r\n") + "\r\n\r\n";
    let wire = [head.as_bytes(), b"\x81\x02hi"].concat();
    let (_, taken) = request("ws://a/").encode(NONCE, HeadLimits::default()).1.read(&wire).unwrap().unwrap();
    assert_eq!(&wire[taken..], b"\x81\x02hi");
}
