//! The hot paths that are measured, each as a connection over a stream in memory.
//!
//! Owns: the messages, the handlers, what must have been written in the end.
//! In:   a case and how many batches of it.
//! Out:  messages and allocations counted, or what went wrong.
//! Not here: instructions, which only valgrind sees (`measure`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use storm_core::driver::Driver;
use storm_core::events::{Adapter, Chain, Events, Handled, NoEvents, TcpHandler};
use storm_core::message::MessageRef;
use storm_core::middleware::MiddlewareChain;
use storm_core::{BoxError, Hub, Message, Role, Session, SessionOptions};
use storm_framing::{LengthPrefixFramer, MessageFramer, RawFramer};
use storm_transport::ws::{Agreed, WsHandler};
use storm_transport::{Connection, Framed, FramedEncode, Protocol, WsOptions, WsProtocol, WsSession};
use storm_ws_proto::{DeflateOptions, DeflateParams, MessageKind, Sender};

use crate::alloc;
use crate::memory::Memory;

/// Sessions of a broadcast.
const MEMBERS: u64 = 100;

/// One hot path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Its name on the command line and in the bounds.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) what: &'static str,
    /// Batches of the shorter of the two runs that are compared.
    pub(crate) rounds: u64,
    path: Path,
    /// Messages that one read brings.
    batch: u32,
    /// Bytes of a message.
    size: usize,
    /// The handler answers from where the message lies.
    in_place: bool,
}

impl Case {
    const fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Raw,
    Length,
    Ws,
    Deflate,
    Broadcast,
}

const fn case(
    name: &'static str,
    what: &'static str,
    path: Path,
    batch: u32,
    size: usize,
    rounds: u64,
) -> Case {
    Case { name, what, rounds, path, batch, size, in_place: false }
}

/// All of them.
pub(crate) const CASES: &[Case] = &[
    case("tcp-m1", "TCP echo, 32 bytes per read", Path::Raw, 1, 32, 3000),
    case("len-m1", "length-prefixed echo, a message of 32 bytes per read", Path::Length, 1, 32, 3000),
    case("len-m1000", "length-prefixed echo, 1000 messages of 32 bytes per read", Path::Length, 1000, 32, 30),
    case("ws-m1", "WebSocket echo, a message of 32 bytes per read", Path::Ws, 1, 32, 3000),
    case("ws-m16", "WebSocket echo, 16 messages of 32 bytes per read", Path::Ws, 16, 32, 500),
    case("ws-m1000", "WebSocket echo, 1000 messages of 32 bytes per read", Path::Ws, 1000, 32, 30),
    case("ws-1k-m16", "WebSocket echo, 16 messages of 1 KiB per read", Path::Ws, 16, 1 << 10, 500),
    case("ws-64k-m1", "WebSocket echo, a message of 64 KiB per wake-up", Path::Ws, 1, 64 << 10, 300),
    case("bc-m1", "WebSocket broadcast to 100, per delivery", Path::Broadcast, 1, 32, 60),
    case(
        "bc-m16",
        "WebSocket broadcast to 100, 16 messages per read, per delivery",
        Path::Broadcast,
        16,
        32,
        20,
    ),
    case(
        "deflate-json",
        "WebSocket echo of compressed JSON, 16 messages of about 1 KiB per read",
        Path::Deflate,
        16,
        1 << 10,
        15,
    ),
    case("tcp-m1-ref", "tcp-m1, answered in place", Path::Raw, 1, 32, 3000).in_place(),
    case("len-m1000-ref", "len-m1000, answered in place", Path::Length, 1000, 32, 30).in_place(),
    case("ws-m1-ref", "ws-m1, answered in place", Path::Ws, 1, 32, 3000).in_place(),
    case("ws-m16-ref", "ws-m16, answered in place", Path::Ws, 16, 32, 500).in_place(),
    case("ws-m1000-ref", "ws-m1000, answered in place", Path::Ws, 1000, 32, 30).in_place(),
];

/// What a run counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages echoed, or deliveries.
    pub(crate) messages: u64,
    /// Allocations of the whole process.
    pub(crate) allocations: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages {} allocations", self.messages, self.allocations)
    }
}

impl std::str::FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no count");
        let numbers = text.trim().strip_suffix(" allocations").ok_or_else(bad)?;
        let (messages, allocations) = numbers.split_once(" messages ").ok_or_else(bad)?;
        let number = |text: &str| text.parse().map_err(|_| bad());
        Ok(Self { messages: number(messages)?, allocations: number(allocations)? })
    }
}

impl Case {
    /// Runs so many batches through a connection.
    pub(crate) fn run(&self, rounds: u64) -> Result<Counts, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default());
        let hub = hub.map_err(|e| e.to_string())?;
        let written = Arc::new(AtomicU64::new(0));
        let peer = Memory::sending(self.wire(), rounds, &written);
        runtime.block_on(async {
            match self.path {
                Path::Raw => framed(&hub, RawFramer, peer, self.in_place).await,
                Path::Length => framed(&hub, LengthPrefixFramer::new(), peer, self.in_place).await,
                Path::Ws | Path::Deflate => websocket(&hub, self.path, peer, self.in_place).await,
                Path::Broadcast => {
                    for _ in 1..MEMBERS {
                        tokio::spawn(websocket(&hub, self.path, Memory::silent(&written), false));
                    }
                    websocket(&hub, self.path, peer, self.in_place).await;
                    // What was published last is on its way to the others.
                    for _ in 0..MEMBERS {
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        let receivers = if self.path == Path::Broadcast { MEMBERS } else { 1 };
        let messages = rounds * u64::from(self.batch) * receivers;
        self.verify(messages, written.load(Ordering::Relaxed))?;
        Ok(Counts { messages, allocations: alloc::count() })
    }

    /// The bytes of one batch as a client sends them.
    fn wire(&self) -> Bytes {
        let mut wire = BytesMut::new();
        let params = deflate();
        let mut client = Sender::client(|| [1, 2, 3, 4]);
        if self.path == Path::Deflate {
            client = client.deflate(&params, &DeflateOptions::default());
        }
        for number in 0..self.batch {
            let payload = self.payload(number);
            match self.path {
                Path::Raw => wire.put(payload),
                Path::Length => LengthPrefixFramer::new().encode(payload, &mut wire).expect("fits a length"),
                Path::Ws | Path::Broadcast => {
                    client.message(MessageKind::Binary, payload, false, &mut wire).expect("open");
                }
                Path::Deflate => {
                    client.message(MessageKind::Text, payload, true, &mut wire).expect("open");
                }
            }
        }
        wire.freeze()
    }

    fn payload(&self, number: u32) -> Bytes {
        if self.path == Path::Deflate {
            json(number, self.size).into()
        } else {
            let byte = |at: usize| u8::try_from((at + number as usize) % 251).expect("below 251");
            (0..self.size).map(byte).collect()
        }
    }

    /// A run that did not do all of its work would look cheap.
    fn verify(&self, messages: u64, written: u64) -> Result<(), String> {
        let head = match (self.path, self.size) {
            (Path::Raw, _) => 0,
            (Path::Length, _) | (_, 126..=0xFFFF) => 4,
            (_, ..126) => 2,
            _ => 10,
        };
        // A server answers the end of the stream with a close frame.
        let goodbye = if matches!(self.path, Path::Raw | Path::Length) { 0 } else { 4 };
        let plain = messages * (head + self.size as u64) + goodbye;
        let right = if self.path == Path::Deflate {
            (messages * 16..plain / 2).contains(&written)
        } else {
            written == plain
        };
        right.then_some(()).ok_or_else(|| format!("{}: {written} bytes written of {plain}", self.name))
    }
}

/// About `size` bytes of JSON that repeats itself as JSON does, different for each number.
fn json(number: u32, size: usize) -> String {
    let mut text = format!("{{\"channel\":\"trades\",\"sequence\":{number},\"trades\":[");
    let mut state = number;
    while text.len() + 80 < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (price, quantity, side) =
            (state >> 18, state >> 8 & 0xFFF, ["buy", "sell"][(state >> 31) as usize]);
        text += &format!(
            "{{\"id\":{state},\"price\":\"{price}.25\",\"quantity\":{quantity},\"side\":\"{side}\"}},"
        );
    }
    text.pop();
    text + "]}"
}

/// What client and server agreed on: only the server keeps its window, so that a batch can come again.
fn deflate() -> DeflateParams {
    let mut params = DeflateParams::default();
    params.client_no_context_takeover = true;
    params
}

struct Echo;

impl TcpHandler for Echo {
    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        session.send(data).await?;
        Ok(())
    }
}

impl WsHandler for Echo {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

/// Answers from where the message lies in the read buffer.
struct InPlace;

impl TcpHandler for InPlace {
    fn on_data_ref(&self, session: &Session, data: &[u8]) -> Handled {
        session.try_send_ref(data).map_or(Handled::Pass, |_| Handled::Done)
    }

    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        session.send(data).await?;
        Ok(())
    }
}

impl WsHandler for InPlace {
    fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        session.try_send_ref(message).map_or(Handled::Pass, |_| Handled::Done)
    }

    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

struct ToEveryone;

impl WsHandler for ToEveryone {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.server().broadcast(message).await;
        Ok(())
    }
}

async fn framed<F>(hub: &Arc<Hub>, framer: F, peer: Memory, in_place: bool)
where
    F: MessageFramer + Clone + Sync,
{
    let driver = Driver::register(hub, Role::Server, None, FramedEncode::new(framer.clone(), None));
    if in_place {
        connection(peer, Framed::new(framer), driver, InPlace).await;
    } else {
        connection(peer, Framed::new(framer), driver, Echo).await;
    }
}

fn websocket(hub: &Arc<Hub>, path: Path, peer: Memory, in_place: bool) -> impl Future<Output = ()> + use<> {
    let mut agreed = Agreed::default();
    let mut options = WsOptions::default();
    if path == Path::Deflate {
        agreed.deflate = Some(deflate());
        options = options.deflate(DeflateOptions::default());
    }
    let (protocol, driver) = WsProtocol::register(hub, Role::Server, None, agreed, &options, None);
    async move {
        match path {
            Path::Broadcast => connection(peer, protocol, driver, ToEveryone).await,
            _ if in_place => connection(peer, protocol, driver, InPlace).await,
            _ => connection(peer, protocol, driver, Echo).await,
        }
    }
}

/// A connection in a task of its own, as servers have them.
async fn connection<P, H>(peer: Memory, protocol: P, driver: Driver, handler: H)
where
    P: Protocol,
    Chain<NoEvents, Adapter<H>>: Events<P::Session, P::Message>,
{
    let events = Arc::new(Chain(NoEvents, Adapter(handler)));
    let task = tokio::spawn(Connection::new(peer, protocol, driver, BytesMut::new()).run(events));
    task.await.expect("no panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_all_of_its_work() {
        for case in CASES {
            let counts = case.run(5).unwrap();
            assert!(counts.messages >= 5, "{}: {counts}", case.name);
        }
    }

    #[test]
    fn a_run_that_wrote_too_little_is_an_error() {
        let case = CASES.iter().find(|case| case.name == "ws-m16").unwrap();
        assert!(case.verify(16, 16 * 34 + 4).is_ok());
        assert!(case.verify(16, 15 * 34 + 4).unwrap_err().contains("of 548"));
    }

    #[test]
    fn counts_are_read_back() {
        let counts = Counts { messages: 48, allocations: 7 };
        assert_eq!(counts.to_string().parse(), Ok(counts));
        assert!("48 messages".parse::<Counts>().is_err());
    }

    #[test]
    fn json_has_the_size_asked_for_and_is_never_the_same() {
        assert!((900..=1024).contains(&json(3, 1024).len()));
        assert_ne!(json(3, 1024), json(4, 1024));
    }
}
