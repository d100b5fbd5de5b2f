//! Every type of the public signatures can be named through `stormsocket` alone.

// What goes by this name does not matter here, only that it is the one meant.
extern crate tokio as futures;

use std::sync::Arc;

use stormsocket::events::{Adapter, Chain, NoEvents};
use stormsocket::future::{Broadcasting, Closed, Delivering};
use stormsocket::{
    BindAddr, BoxError, Bytes, BytesMut, ConfigError, Error, Events, Failures, FramingError, HandlerOutcome,
    Hub, IntoHandlerOutcome, Message, MessageFramer, Middleware, MiddlewareChain, OpenListener, PanicMessage,
    Session, SessionOptions, TcpHandler, Wire,
};

/// What a handler of an application may return.
enum Verdict {
    Fine,
    Failed(&'static str),
}

impl IntoHandlerOutcome for Verdict {
    fn into_outcome(self) -> HandlerOutcome {
        match self {
            Self::Fine => Ok(()),
            Self::Failed(why) => Err(Failures::from(BoxError::from(why))),
        }
    }
}

#[test]
fn handlers_return_types_of_their_own() {
    assert!(Verdict::Fine.into_outcome().is_ok());
    let failures: Failures = Verdict::Failed("no such room").into_outcome().expect_err("it failed");
    assert_eq!(failures.into_errors()[0].to_string(), "no such room");
}

#[derive(Clone)]
struct Lines;

impl MessageFramer for Lines {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        let Some(end) = buffer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        Ok(Some(buffer.split_to(end + 1).freeze()))
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_bytes(message);
        Ok(())
    }
}

#[test]
fn a_framer_needs_no_other_crate() {
    let mut buffer = BytesMut::from(&b"one\ntwo"[..]);
    assert_eq!(Lines.decode(&mut buffer).expect("no limit").as_deref(), Some(&b"one\n"[..]));
}

struct Mute;

impl Middleware for Mute {}

#[test]
fn a_hub_takes_a_chain() -> Result<(), ConfigError> {
    let mut chain = MiddlewareChain::default();
    chain.push(Mute);
    let hub: Arc<Hub> = Hub::new(SessionOptions::default(), chain)?;
    let delivering: Delivering = hub.deliver_broadcasts();
    let broadcasting: Broadcasting<'_> = hub.broadcast("nobody").into_future();
    drop((delivering, broadcasting));
    Ok(())
}

/// The text of a panic that reached `on_error`.
fn panicked_with(error: &Error) -> Option<String> {
    error.cause().downcast_ref::<PanicMessage>().map(ToString::to_string)
}

#[test]
fn a_panic_is_known_by_its_type() {
    let error = Error::new(stormsocket::ErrorKind::Panic, PanicMessage::from_payload(&"what now"));
    assert_eq!(panicked_with(&error).as_deref(), Some("what now"));
}

#[expect(dead_code, reason = "it need only compile")]
fn closed(session: &Session) -> Closed<'_> {
    session.closed()
}

/// All of our names at once, beside a crate that many programs have.
mod globbed {
    use futures::io::AsyncRead;
    use stormsocket::*;

    #[expect(dead_code, reason = "it need only compile")]
    fn bytes_of(message: Message, _: &dyn AsyncRead) -> Bytes {
        message.into_data()
    }
}

#[expect(dead_code, reason = "it need only compile")]
fn open_listener(addr: BindAddr) -> Option<OpenListener> {
    match addr {
        BindAddr::Open(listener) => Some(listener),
        _ => None,
    }
}

struct Quiet;

impl TcpHandler for Quiet {}

type Handlers = Chain<NoEvents, Adapter<Quiet>>;

fn are_handlers<E: Events<Session, Bytes>>(_: &E) {}

#[test]
fn handlers_have_a_type() {
    let handlers: Handlers = Chain(NoEvents, Adapter(Quiet));
    are_handlers(&handlers);
    assert!(Message::from("x").is_text());
}

#[cfg(feature = "client")]
mod client {
    use stormsocket::future::ClientSending;
    use stormsocket::{
        AddressesFailed, ClientHandle, ConnectError, HttpConnectError, LookupFailed, PanicMessage,
        ProxyError, Socks5Error, Socks5Reply, TargetError, TcpClient,
    };

    use super::{Handlers, Quiet};

    #[expect(dead_code, reason = "it need only compile")]
    enum Why {
        Panicked(PanicMessage),
        Http(HttpConnectError),
        Socks(Socks5Error),
        Target(TargetError),
        Other,
    }

    #[expect(dead_code, reason = "it need only compile")]
    fn why(error: ConnectError) -> Why {
        match error {
            ConnectError::Panic(panic) => Why::Panicked(panic),
            ConnectError::Proxy(ProxyError::Http(error)) => Why::Http(error),
            ConnectError::Proxy(ProxyError::Socks5(error)) => Why::Socks(error),
            ConnectError::Proxy(ProxyError::Target(error)) => Why::Target(error),
            _ => Why::Other,
        }
    }

    #[expect(dead_code, reason = "it need only compile")]
    fn reply(error: &ProxyError) -> Option<Socks5Reply> {
        error.reply()
    }

    #[expect(dead_code, reason = "it need only compile")]
    fn sending(client: &ClientHandle) -> ClientSending<'_> {
        client.send("x")
    }

    #[expect(dead_code, reason = "it need only compile")]
    fn is_about_the_name(error: &std::io::Error) -> bool {
        LookupFailed::of(error).is_some()
            || AddressesFailed::of(error).is_some_and(|failed| failed.attempts().is_empty())
    }

    #[test]
    fn a_client_to_be_can_be_kept() {
        let client: TcpClient<Handlers> = TcpClient::new("127.0.0.1:1").handler(Quiet);
        drop(client);
    }
}

#[cfg(feature = "ws")]
mod ws {
    use stormsocket::http::{HeaderName, Uri};
    use stormsocket::{HeaderMap, StatusCode};

    #[cfg(feature = "client")]
    #[expect(dead_code, reason = "it need only compile")]
    fn answer(error: &stormsocket::ResponseError) -> (Option<StatusCode>, Option<&HeaderMap>) {
        (error.status(), error.headers())
    }

    #[cfg(feature = "client")]
    #[test]
    fn a_request_is_made_of_a_uri() {
        let uri: Uri = "ws://localhost/chat".parse().expect("a uri");
        assert!(stormsocket::ClientRequest::new(&uri).is_ok());
        let headers: HeaderMap = HeaderMap::new();
        assert!(headers.get(HeaderName::from_static("retry-after")).is_none());
    }
}

#[cfg(feature = "deflate")]
#[expect(dead_code, reason = "it need only compile")]
fn deflate(agreed: &stormsocket::Agreed) -> Option<stormsocket::DeflateParams> {
    agreed.deflate
}

#[cfg(feature = "codec")]
#[expect(dead_code, reason = "it need only compile")]
fn codec(error: &Error) -> Option<&stormsocket::CodecError> {
    error.cause().downcast_ref()
}
