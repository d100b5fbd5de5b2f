//! RFC 6455 §4.2: the upgrade in the server role.

mod support;

use storm_ws_proto::handshake::{
    Accept, AnswerError, HandshakeError, HeadLimits, OriginList, Reject, Request, RequestReader, Upgrade,
};
use storm_ws_proto::http::{Method, StatusCode};

const GOOD: [&str; 6] = [
    "GET /chat?room=1 HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// The good request with every line that starts with `instead_of` replaced by `lines`.
fn with(instead_of: &str, lines: &[&str]) -> String {
    let kept = GOOD.iter().filter(|line| instead_of.is_empty() || !line.starts_with(instead_of));
    let mut head = String::new();
    let first = if instead_of == "GET" { lines[0] } else { GOOD[0] };
    head.push_str(&format!("{first}\r\n"));
    for line in kept.filter(|line| !line.starts_with("GET")) {
        head.push_str(&format!("{line}\r\n"));
    }
    for line in lines.iter().filter(|line| instead_of != "GET" || **line != first) {
        head.push_str(&format!("{line}\r\n"));
    }
    head + "\r\n"
}

fn read_within(limits: HeadLimits, head: &[u8]) -> Result<Option<(Request, usize)>, HandshakeError> {
    let whole = RequestReader::new(limits).read(head);
    let mut reader = RequestReader::new(limits);
    let piecewise =
        (0..=head.len()).map(|end| reader.read(&head[..end])).find(|read| !matches!(read, Ok(None)));
    let shown = |read: &Result<Option<(Request, usize)>, HandshakeError>| match read {
        Ok(found) => Ok(found.as_ref().map(|found| found.1)),
        Err(error) => Err(error.clone()),
    };
    assert_eq!(shown(&piecewise.unwrap_or(Ok(None))), shown(&whole), "one byte at a time");
    whole
}

fn upgrade(head: &str) -> Result<Upgrade, HandshakeError> {
    let (request, taken) = read_within(HeadLimits::default(), head.as_bytes())?.expect("a whole head");
    assert_eq!(taken, head.len());
    request.upgrade()
}

fn refused(head: &str, status: u16) -> String {
    let error = upgrade(head).map(|_| ()).expect_err(head);
    assert_eq!(error.status().as_u16(), status, "{error} for {head}");
    let answer = String::from_utf8(error.reject().to_bytes().to_vec()).unwrap();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("close\r\n") && answer.contains("content-length: "), "{answer}");
    answer
}

fn response(upgrade: &Upgrade, accept: &Accept) -> String {
    String::from_utf8(upgrade.accept(accept).unwrap().response.to_vec()).unwrap()
}

#[test]
fn section_1_2_example() {
    let upgrade = upgrade(&with("", &[])).unwrap();
    assert_eq!((upgrade.path(), upgrade.query()), ("/chat", Some("room=1")));
    assert_eq!(
        response(&upgrade, &Accept::new()),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn frames_behind_the_head_are_left_alone() {
    let head = with("", &[]);
    let wire = [head.as_bytes(), b"\x81\x80abcd"].concat();
    let (_, taken) = RequestReader::new(HeadLimits::default()).read(&wire).unwrap().unwrap();
    assert_eq!(taken, head.len());
}

#[test]
fn other_methods_get_405_with_allow() {
    for method in ["POST", "HEAD", "OPTIONS", "PUT"] {
        let answer = refused(&with("GET", &[&format!("{method} / HTTP/1.1")]), 405);
        assert!(answer.contains("allow: GET\r\n"), "{answer}");
    }
    let answer = refused(&with("GET", &["CONNECT server.example.com:80 HTTP/1.1"]), 405);
    assert!(answer.contains("allow: GET\r\n"), "{answer}");
    let error = upgrade(&with("GET", &["POST / HTTP/1.1"])).map(|_| ()).unwrap_err();
    assert_eq!(error, HandshakeError::MethodNotAllowed { method: Method::POST });
}

#[test]
fn other_versions_get_505() {
    for version in ["HTTP/1.0", "HTTP/2.0", "HTTP/3", "HTPP/1.1", "http/1.1", "1.1"] {
        refused(&with("GET", &[&format!("GET / {version}")]), 505);
    }
}

#[test]
fn garbage_gets_400() {
    for head in [
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "\r\n\r\n",
    ] {
        refused(head, 400);
    }
    for first in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03"[..], b"\x00", b"{", b"GET / HTTP/1.1\nHost: a\n\n"]
    {
        let error = read_within(HeadLimits::default(), first).map(|_| ());
        assert_eq!(error, Err(HandshakeError::Malformed), "refused before any limit or deadline");
    }
    let folded = with("Host", &["Host: a", " b"]);
    refused(&folded, 400);
}

#[test]
fn host_exactly_once() {
    refused(&with("Host", &[]), 400);
    refused(&with("", &["Host: other.example.com"]), 400);
    for host in ["", "a b", "user@host", "a/b", "[::1"] {
        refused(&with("Host", &[&format!("Host: {host}")]), 400);
    }
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "xn--bcher-kva.example"] {
        upgrade(&with("Host", &[&format!("Host: {host}")])).unwrap();
    }
}

#[test]
fn connection_is_a_list_of_tokens() {
    for value in ["keep-alive, Upgrade", "UPGRADE", "upgrade,keep-alive", "a , upgrade , b"] {
        upgrade(&with("Connection", &[&format!("Connection: {value}")])).unwrap();
    }
    upgrade(&with("Connection", &["Connection: keep-alive", "Connection: upgrade"])).unwrap();
    for value in ["Upgraded", "X-Upgrade", "keep-alive", "up grade", ""] {
        refused(&with("Connection", &[&format!("Connection: {value}")]), 400);
    }
    refused(&with("Connection", &[]), 400);
}

#[test]
fn upgrade_is_a_list_of_tokens() {
    for value in ["WebSocket", "h2c, websocket"] {
        upgrade(&with("Upgrade", &[&format!("Upgrade: {value}")])).unwrap();
    }
    for lines in [&[][..], &["Upgrade: h2c"], &["Upgrade: websockets"], &["Upgrade: websocket/13"]] {
        let answer = refused(&with("Upgrade", lines), 426);
        assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
        assert!(answer.contains("connection: upgrade, close\r\n"), "{answer}");
    }
}

#[test]
fn plain_requests_can_be_told_apart() {
    let read = |head: &str| read_within(HeadLimits::default(), head.as_bytes()).unwrap().unwrap().0;
    let request = read("GET /health?full HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!request.wants_websocket());
    assert_eq!((request.path(), request.query()), ("/health", Some("full")));
    assert!(read(&with("Sec-WebSocket-Key", &[])).wants_websocket(), "asks badly, but asks");
}

#[test]
fn websocket_version_must_be_13() {
    for lines in [
        &[][..],
        &["Sec-WebSocket-Version: 8"],
        &["Sec-WebSocket-Version: 13, 8"],
        &["Sec-WebSocket-Version: "],
    ] {
        let answer = refused(&with("Sec-WebSocket-Version", lines), 426);
        assert!(answer.contains("sec-websocket-version: 13\r\n"), "{answer}");
    }
    refused(&with("", &["Sec-WebSocket-Version: 13"]), 400);
}

#[test]
fn key_must_be_16_bytes_in_base64_once() {
    for key in [
        "",
        "AAECAwQFBgcICQoLDA0O",                         // 15 bytes
        "AAECAwQFBgcICQoLDA0ODxA=",                     // 17 bytes
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", // 32 bytes
        "dGhlIHNhbXBsZSBub25jZQ",                       // no padding
        "dGhlIHNhbXBsZSBub25jZR==",                     // stray bits
        "not base64 at all!!!!!!!",
    ] {
        refused(&with("Sec-WebSocket-Key", &[&format!("Sec-WebSocket-Key: {key}")]), 400);
    }
    refused(&with("Sec-WebSocket-Key", &[]), 400);
    refused(&with("", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), 400);
}

#[test]
fn bodies_are_refused() {
    for line in ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: x", "Content-Length: 00"]
    {
        refused(&with("", &[line]), 400);
    }
    refused(&with("", &["Content-Length: 0", "Content-Length: 0"]), 400);
    upgrade(&with("", &["Content-Length: 0"])).unwrap();
}

#[test]
fn heads_above_the_limit_get_431() {
    let limits = HeadLimits::default();
    assert_eq!((limits.max_bytes, limits.max_headers), (16 * 1024, 100));
    let endless = vec![b'a'; 20_000];
    let error = RequestReader::new(limits).read(&endless).map(|_| ()).unwrap_err();
    assert_eq!(error, HandshakeError::HeadTooLarge { max: 16_384 });
    assert_eq!(error.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    // A whole head that is too long is no better.
    let long = with("", &[&format!("X: {}", "a".repeat(17_000))]);
    assert_eq!(RequestReader::new(limits).read(long.as_bytes()).map(|_| ()).unwrap_err(), error);
    let exact = with("", &[]);
    assert!(read_within(limits.max_bytes(exact.len()), exact.as_bytes()).is_ok());
    let error = read_within(limits.max_bytes(exact.len() - 1), exact.as_bytes()).map(|_| ()).unwrap_err();
    assert_eq!(error.status().as_u16(), 431);
}

#[test]
fn more_headers_than_the_limit_get_431() {
    let lines = vec!["X: y"; 96];
    refused(&with("", &lines), 431);
    upgrade(&with("", &lines[..95])).unwrap();
    // However many that is, no room is made for more than there can be.
    let lines = vec!["X:"; 3000];
    let unlimited = HeadLimits::default().max_headers(usize::MAX);
    assert!(matches!(read_within(unlimited, with("", &lines).as_bytes()), Ok(Some(_))));
}

#[test]
fn a_slow_long_head_costs_linear_time() {
    // With a scan from the start for every byte this would be 10^11 steps.
    let head = with("", &[&format!("X: {}", "a".repeat(300_000))]);
    let limits = HeadLimits::default().max_bytes(1 << 20);
    let mut reader = RequestReader::new(limits);
    for end in 0..head.len() {
        assert!(reader.read(&head.as_bytes()[..end]).unwrap().is_none());
    }
    assert!(reader.read(head.as_bytes()).unwrap().is_some());
}

#[test]
fn targets() {
    for (target, path) in
        [("/", "/"), ("http://a.example/b?c", "/b"), ("http://a.example", "/"), ("/%C3%BC", "/%C3%BC")]
    {
        assert_eq!(upgrade(&with("GET", &[&format!("GET {target} HTTP/1.1")])).unwrap().path(), path);
    }
    for target in ["*", "a.example:80", "/a#b", "chat"] {
        refused(&with("GET", &[&format!("GET {target} HTTP/1.1")]), 400);
    }
}

#[test]
fn origins() {
    let list = OriginList::new(["https://good.com"]).unwrap();
    let check = |lines: &[&str]| upgrade(&with("", lines)).unwrap().check_origin(&list);
    assert_eq!(check(&["Origin: https://GOOD.com"]), Ok(()));
    for lines in
        [&[][..], &["Origin: null"], &["Origin: https://good.com.evil.com"], &["Origin: http://good.com"]]
    {
        let error = check(lines).unwrap_err();
        assert_eq!((error.status().as_u16(), &error), (403, &HandshakeError::OriginNotAllowed));
    }
    refused(&with("", &["Origin: https://good.com", "Origin: https://good.com"]), 400);
}

#[test]
fn subprotocols_only_from_the_offer() {
    let upgrade = upgrade(&with("", &["Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: c"])).unwrap();
    assert_eq!(upgrade.protocols(), ["a", "b", "c"]);
    assert!(response(&upgrade, &Accept::new().protocol("b")).contains("\r\nSec-WebSocket-Protocol: b\r\n"));
    assert!(!response(&upgrade, &Accept::new()).contains("Protocol: "));
    for protocol in ["d", "A", "a, b", "a\r\nX: y", ""] {
        let error = upgrade.accept(&Accept::new().protocol(protocol)).map(|_| ());
        assert_eq!(error, Err(AnswerError::ProtocolNotOffered { protocol: protocol.to_owned() }));
    }
}

#[test]
fn malformed_subprotocol_offers() {
    for value in ["a b", "a, a", "a/b", "a;q=1"] {
        refused(&with("", &[&format!("Sec-WebSocket-Protocol: {value}")]), 400);
    }
}

#[test]
fn malformed_extension_offers() {
    for value in ["a b", "a;", "a;x=\"", "a;=", ","] {
        refused(&with("", &[&format!("Sec-WebSocket-Extensions: {value}")]), 400);
    }
}

#[test]
fn unknown_extensions_are_declined() {
    let upgrade = upgrade(&with("", &["Sec-WebSocket-Extensions: x-foo; bar=1"])).unwrap();
    assert!(!response(&upgrade, &Accept::new()).contains("Extensions"));
}

#[cfg(feature = "deflate")]
#[test]
fn the_first_acceptable_offer_wins() {
    use storm_ws_proto::DeflateOptions;
    let offers = [
        "Sec-WebSocket-Extensions: x-foo, permessage-deflate; server_max_window_bits=8",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, permessage-deflate",
    ];
    let upgrade = upgrade(&with("", &offers)).unwrap();
    let accepted = upgrade.accept(&Accept::new().deflate(DeflateOptions::default())).unwrap();
    assert_eq!(accepted.deflate.unwrap().server_max_window_bits, 10);
    let response = String::from_utf8(accepted.response.to_vec()).unwrap();
    assert!(response.contains("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n"));
    assert!(upgrade.accept(&Accept::new()).unwrap().deflate.is_none(), "not without being asked to");
}

#[test]
fn extra_headers_cannot_inject_or_override() {
    let accept = Accept::new().header("X-Session", "42").unwrap().header("Set-Cookie", "a=b").unwrap();
    let answer = response(&upgrade(&with("", &[])).unwrap(), &accept);
    assert!(answer.ends_with("x-session: 42\r\nset-cookie: a=b\r\n\r\n"), "{answer}");
    for (name, value) in
        [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\0"), ("X\r\nY", "a"), ("", "a"), ("X Y", "a")]
    {
        assert!(matches!(Accept::new().header(name, value), Err(AnswerError::InvalidHeader { .. })));
        assert!(matches!(
            Reject::new(StatusCode::FORBIDDEN).header(name, value),
            Err(AnswerError::InvalidHeader { .. })
        ));
    }
    for name in [
        "Upgrade",
        "connection",
        "Sec-WebSocket-Accept",
        "SEC-WEBSOCKET-PROTOCOL",
        "Sec-WebSocket-Extensions",
        "Content-Length",
        "Transfer-Encoding",
        "Trailer",
    ] {
        assert!(matches!(Accept::new().header(name, "a"), Err(AnswerError::ReservedHeader { .. })));
        assert!(matches!(
            Reject::new(StatusCode::FORBIDDEN).header(name, "a"),
            Err(AnswerError::ReservedHeader { .. })
        ));
    }
}

#[test]
fn both_forms_of_an_answer_say_the_same() {
    let request = with("", &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate"]);
    let accept = Accept::new().protocol("chat").header("Set-Cookie", "a=1").unwrap();
    let accept = accept.header("X-Spaces", "  between  ").unwrap().header("Set-Cookie", "b=2").unwrap();
    #[cfg(feature = "deflate")]
    let accept = accept.deflate(storm_ws_proto::DeflateOptions::default());
    let accepted = upgrade(&request).unwrap().accept(&accept).unwrap();
    let http = accepted.to_http();
    assert_eq!(http.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut headers: Vec<_> =
        http.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    let response = String::from_utf8(accepted.response.to_vec()).unwrap();
    let mut lines: Vec<_> = response
        .split_terminator("\r\n")
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
        .collect();
    headers.sort();
    lines.sort();
    assert_eq!(headers, lines);
    assert_eq!(headers.len(), 7 + usize::from(cfg!(feature = "deflate")));
}

#[test]
fn refusals_are_whole_responses() {
    let reject = Reject::new(StatusCode::UNAUTHORIZED)
        .reason("Who are you")
        .unwrap()
        .header("WWW-Authenticate", "Bearer")
        .unwrap()
        .text("no");
    assert_eq!(
        &reject.to_bytes()[..],
        b"HTTP/1.1 401 Who are you\r\nwww-authenticate: Bearer\r\ncontent-type: text/plain; charset=utf-8\r\n\
          content-length: 2\r\nconnection: close\r\n\r\nno"
    );
    assert_eq!(
        &Reject::new(StatusCode::NO_CONTENT).body("x").to_bytes()[..],
        b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(Reject::new(StatusCode::SWITCHING_PROTOCOLS).status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn reasons_cannot_inject() {
    for reason in ["a\r\nSet-Cookie: b", "a\nb", "a\0", "é", "\x7F"] {
        assert_eq!(Reject::new(StatusCode::FORBIDDEN).reason(reason), Err(AnswerError::InvalidReason));
    }
}
