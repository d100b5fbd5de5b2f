//! Clients behind proxies: what is asked, what refusals come to, and that the tunnel is nobody's business above it.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stormsocket::{
    BoxError, ConnectError, DelimiterFramer, DisconnectReason, ErrorKind, Proxy, ProxyError,
    ReconnectOptions, TcpClient, WsClient, WsServer,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;

/// A proxy on a port of its own: `serve` gets each connection. It ends with the test's runtime.
async fn proxy<Fut>(serve: impl Fn(TcpStream) -> Fut + Send + 'static) -> SocketAddr
where
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve(stream);
            // What goes wrong here is seen at the client.
            tokio::spawn(async move { drop(served.await) });
        }
    });
    addr
}

/// Reads as many bytes as `expected` has, which must be those.
async fn expect(stream: &mut TcpStream, expected: impl AsRef<[u8]>) -> Result<(), BoxError> {
    let mut read = vec![0; expected.as_ref().len()];
    stream.read_exact(&mut read).await?;
    match read == expected.as_ref() {
        true => Ok(()),
        false => {
            eprintln!("the proxy was asked {}", read.escape_ascii());
            Err("asked for something else".into())
        }
    }
}

async fn lead_on(mut stream: TcpStream, target: SocketAddr, first: &[u8]) -> Result<(), BoxError> {
    let mut onward = TcpStream::connect(target).await?;
    // The proxy's answer and the first words of the target come in one piece.
    let mut greeting = vec![0; 6];
    onward.read_exact(&mut greeting).await?;
    stream.write_all(&[first, &greeting].concat()).await?;
    copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}

#[tokio::test]
async fn http_connect_with_credentials_and_a_server_that_speaks_first() {
    let server = local_server()
        .framer(DelimiterFramer::default())
        .on_connected(|session| async move { session.send("hello").await })
        .on_data(|session, line| async move { session.send(line).await })
        .start()
        .await
        .expect("it starts");
    let target = addr_of(&server);
    let proxy = proxy(move |mut stream| async move {
        let request = "CONNECT server.test:7 HTTP/1.1\r\nHost: server.test:7\r\n\
                       Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
        expect(&mut stream, request).await?;
        lead_on(stream, target, b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n").await
    })
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (told, mut lines) = unbounded_channel();
    let client = TcpClient::new("server.test:7")
        .framer(DelimiterFramer::default())
        .proxy(Proxy::new(format!("http://me:secret@proxy.test:{}", proxy.port())).expect("valid"))
        .resolver(move |host, port| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_eq!(host, "proxy.test", "the server's name is the proxy's to look up");
                Ok(vec![([127, 0, 0, 1], port).into()])
            }
        })
        .on_data(move |_, line| std::future::ready(told.send(line)))
        .connect();
    let client = soon(client).await.expect("the proxy leads on");
    assert_eq!(soon(lines.recv()).await.as_deref(), Some(&b"hello"[..]), "nothing of it was lost");
    client.send("through the tunnel").await.expect("it is open");
    assert_eq!(soon(lines.recv()).await.as_deref(), Some(&b"through the tunnel"[..]));
    assert_eq!(client.session().remote_addr(), Some(proxy));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn socks5_with_a_password_byte_by_byte_for_a_websocket() {
    let server = WsServer::bind("127.0.0.1:0")
        .on_message(|session, message| async move { session.send(message).await })
        .start()
        .await
        .expect("it starts");
    let target = addr_of(&server);
    let proxy = proxy(move |mut stream| async move {
        stream.set_nodelay(true)?;
        let conversation: [(&[u8], &[u8]); 3] = [
            (b"\x05\x02\x00\x02", b"\x05\x02"),
            (b"\x01\x02me\x06secret", b"\x01\x00"),
            (b"\x05\x01\x00\x03\x0bserver.test\x1f\x90", b"\x05\x00\x00\x03\x04here\x00\x07"),
        ];
        for (asked, answer) in conversation {
            expect(&mut stream, asked).await?;
            for byte in answer.chunks(1) {
                stream.write_all(byte).await?;
                tokio::task::yield_now().await;
            }
        }
        let mut onward = TcpStream::connect(target).await?;
        copy_bidirectional(&mut stream, &mut onward).await?;
        Ok(())
    })
    .await;
    let (told, mut messages) = unbounded_channel();
    let client = WsClient::new("ws://server.test:8080/chat")
        .proxy(Proxy::new(format!("socks5://{proxy}")).expect("valid").credentials("me", "secret"))
        .on_message(move |_, message| std::future::ready(told.send(message)))
        .connect();
    let client = soon(client).await.expect("the proxy leads on");
    client.send_text("hello").await.expect("it is open");
    assert_eq!(soon(messages.recv()).await.expect("an echo").text(), Some("hello"));
    soon(client.disconnect()).await;
    stop(&server).await;
}

/// What a client gets when its proxy answers the first thing it reads with `answer`, and then waits.
async fn refused(scheme: &str, answer: &'static [u8]) -> ConnectError {
    let proxy = proxy(move |mut stream| async move {
        stream.read_u8().await?;
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    })
    .await;
    let client =
        TcpClient::new("server.test:7").proxy(Proxy::new(format!("{scheme}://{proxy}")).expect("valid"));
    soon(client.connect()).await.expect_err("refused")
}

#[tokio::test]
async fn refusals_carry_the_proxys_status() {
    for (answer, status) in [
        (&b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nlogin"[..], 407),
        (b"HTTP/1.0 403 Forbidden\r\n\r\n", 403),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n", 302),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503\r\n\r\n", 503),
    ] {
        let error = refused("http", answer).await;
        let ConnectError::Proxy(error) = error else { panic!("{status}: {error:?}") };
        assert_eq!(error.status(), Some(status), "{error:?}");
        assert_eq!(error.is_target_unreachable(), status == 503);
        let source = std::error::Error::source(&error).expect("the protocol's error");
        assert!(source.to_string().contains(&status.to_string()), "{source}");
    }
    let error = refused("socks5", b"\x05\x00\x05\x05\x00\x01\0\0\0\0\0\0").await;
    let ConnectError::Proxy(error) = error else { panic!("{error:?}") };
    assert_eq!(error.reply().expect("a reply").to_string(), "connection refused");
    let error = refused("socks5", b"\x05\xFF").await;
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Socks5(_))), "{error:?}");
}

#[tokio::test]
async fn garbage_and_ends_are_typed_errors() {
    for garbage in [&b"SSH-2.0-OpenSSH\r\n"[..], b"\x05\x00", &[b'H'; 20]] {
        let error = refused("http", garbage).await;
        assert!(matches!(error, ConnectError::Proxy(ProxyError::Http(_))), "{error:?}");
    }
    let endless: &'static [u8] =
        Box::leak([&b"HTTP/1.1 200 "[..], &[b'x'; 20_000]].concat().into_boxed_slice());
    let error = refused("http", endless).await;
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Http(_))), "{error:?}");
    let error = refused("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Socks5(_))), "{error:?}");
    for (scheme, cut) in [
        ("http", &b"HTTP/1.1 200 OK\r\n"[..]),
        ("http", b""),
        ("socks5", b"\x05"),
        ("socks5", b"\x05\x00\x05"),
    ] {
        let error = refused(scheme, cut).await;
        assert!(matches!(error, ConnectError::Proxy(ProxyError::Io(_))), "{scheme}: {error:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_says_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let client =
        TcpClient::new("server.test:7").proxy(Proxy::new(format!("http://{closed}")).expect("valid"));
    let error = soon(client.connect()).await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Io(_))), "{error:?}");

    let silent = proxy(|mut stream| async move {
        // Reads, and never answers.
        while stream.read(&mut [0; 64]).await? > 0 {}
        Ok(())
    })
    .await;
    let budget = Duration::from_millis(100);
    for scheme in ["http", "socks5"] {
        let client = WsClient::new("ws://server.test/")
            .connect_timeout(budget)
            .proxy(Proxy::new(format!("{scheme}://{silent}")).expect("valid"));
        let error = soon(client.connect()).await.expect_err("no answer");
        assert!(matches!(error, ConnectError::TimedOut(after) if after == budget), "{error:?}");
    }
}

#[tokio::test]
async fn exceptions_go_directly_and_bad_targets_nowhere() {
    let server = local_server().start().await.expect("it starts");
    let nowhere = proxy(|_| async { Ok(()) }).await;
    let proxy = Proxy::new(format!("http://{nowhere}")).expect("valid");
    let direct = proxy.clone().except("127.0.0.0/8").expect("valid");
    let client = soon(TcpClient::new(addr_of(&server)).proxy(direct).connect()).await.expect("directly");
    soon(client.disconnect()).await;
    let error =
        soon(TcpClient::new(addr_of(&server)).proxy(proxy.clone()).connect()).await.expect_err("no tunnel");
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Io(_))), "{error:?}");
    let evil = TcpClient::new("a\r\nX-Evil: yes:80").proxy(proxy.clone());
    let error = soon(evil.connect()).await.expect_err("no host name");
    assert!(matches!(error, ConnectError::Proxy(ProxyError::Target(_))), "{error:?}");
    let unsendable = TcpClient::new("server.test:80").proxy(proxy.credentials("a\r\nb", ""));
    let error = soon(unsendable.connect()).await.expect_err("no header");
    assert!(matches!(error, ConnectError::Config(_)), "{error:?}");
    stop(&server).await;
}

#[tokio::test]
async fn reconnecting_goes_through_the_proxy_again() {
    let (recorder, mut at_server) = recorder();
    let server = local_server().handler(recorder).start().await.expect("it starts");
    let target = addr_of(&server);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let proxy = proxy(move |mut stream| {
        let attempt = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            expect(&mut stream, request).await?;
            let answer: &[u8] = match attempt {
                // The server is not back yet: to be expected. The proxy is in trouble itself: not so.
                1 => b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
                2 => b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\n\r\n",
            };
            stream.write_all(answer).await?;
            if answer.starts_with(b"HTTP/1.1 200") {
                let mut onward = TcpStream::connect(target).await?;
                copy_bidirectional(&mut stream, &mut onward).await?;
            }
            Ok(())
        }
    })
    .await;
    let (recorder, mut log) = support::recorder();
    let client = TcpClient::new(target)
        .proxy(Proxy::new(format!("http://{proxy}")).expect("valid"))
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .handler(recorder)
        .connect();
    let client = soon(client).await.expect("the proxy leads on");
    let first = log.connected().await;
    at_server.connected().await;
    first.abort();
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    assert_eq!(log.error().await, ErrorKind::Connect);
    log.connected().await;
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    soon(client.disconnect()).await;
    stop(&server).await;
}
