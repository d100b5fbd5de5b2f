//! Tries our client on a WebSocket server of another library, which the repository's `conformance/interop` starts.
//!
//! Arguments: the server's address (`ws://127.0.0.1:9001`), and `--deflate` if the server compresses. What the server does
//! depends on the path: `/` echoes, `/closed` tells how the next of those connections was closed, the others are below.

use std::time::{Duration, Instant};

use stormsocket::{
    BoxError, ClientHandle, CloseCode, CloseFrame, DeflateOptions, DisconnectReason, Limits, Message,
    WsClient, WsOptions, WsSession,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// One connection, and what happens on it.
struct Peer {
    client: ClientHandle,
    session: WsSession,
    happened: mpsc::UnboundedReceiver<Happened>,
}

#[derive(Debug, PartialEq)]
enum Happened {
    Connected(WsSession),
    Received(Message),
    Disconnected(DisconnectReason, Option<CloseFrame>),
}

impl Peer {
    async fn connect(url: &str, deflate: Option<DeflateOptions>) -> Result<Self, BoxError> {
        let (tell, mut happened) = mpsc::unbounded_channel();
        let (connected, received, disconnected) = (tell.clone(), tell.clone(), tell);
        let limits = Limits::default().max_frame_size(None).max_message_size(None);
        let client = WsClient::new(url)
            .ws(WsOptions::default().limits(limits).deflate(deflate))
            .on_connected(move |session| {
                let told = connected.send(Happened::Connected(session));
                async move { told.map_err(BoxError::from) }
            })
            .on_message(move |_, message| {
                let told = received.send(Happened::Received(message));
                async move { told.map_err(BoxError::from) }
            })
            .on_disconnected(move |session, reason| {
                let told = disconnected.send(Happened::Disconnected(reason, session.close_frame()));
                async move { told.map_err(BoxError::from) }
            })
            .connect()
            .await?;
        let Some(Happened::Connected(session)) = timeout(PATIENCE, happened.recv()).await? else {
            return Err("the first event is not that it has connected".into());
        };
        Ok(Self { client, session, happened })
    }

    async fn next(&mut self) -> Result<Happened, BoxError> {
        Ok(timeout(PATIENCE, self.happened.recv()).await?.ok_or("there is no more to come")?)
    }

    async fn expect(&mut self, message: impl Into<Message>) -> Result<(), BoxError> {
        let (message, happened) = (message.into(), self.next().await?);
        if happened == Happened::Received(message) {
            return Ok(());
        }
        Err(format!("not the message that was expected: {:.200}", format!("{happened:?}")).into())
    }

    async fn echo(&mut self, message: impl Into<Message>) -> Result<(), BoxError> {
        let message = message.into();
        self.client.send(message.clone()).await?;
        self.expect(message).await
    }
}

/// A server and whether it compresses; each check has connections of its own.
struct Check {
    server: String,
    compresses: bool,
    offered: Option<DeflateOptions>,
}

impl Check {
    async fn peer(&self, path: &str) -> Result<Peer, BoxError> {
        Peer::connect(&format!("{}{path}", self.server), self.offered).await
    }

    async fn agreed(&self) -> Result<(), BoxError> {
        let mut peer = self.peer("/extensions").await?;
        let Happened::Received(agreed) = peer.next().await? else { return Err("no answer".into()) };
        let agreed = agreed.text().unwrap_or_default();
        println!("    agreed: {agreed:?}");
        if agreed.starts_with("permessage-deflate") == (self.compresses && self.offered.is_some()) {
            return Ok(());
        }
        Err("not what was offered".into())
    }

    async fn messages(&self) -> Result<(), BoxError> {
        let mut peer = self.peer("/").await?;
        peer.echo("Grüße, 世界 🌍").await?;
        peer.echo("").await?;
        peer.echo(Vec::new()).await?;
        peer.echo((0..70_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).await?;
        peer.echo("never the same river twice ".repeat(310_000)).await
    }

    async fn many(&self) -> Result<(), BoxError> {
        let mut peer = self.peer("/").await?;
        let message =
            |number: usize| format!("{{\"number\":{number},\"text\":\"{}\"}}", "abc".repeat(number));
        for number in 0..500 {
            peer.client.send(message(number)).await?;
        }
        for number in 0..500 {
            peer.expect(message(number)).await?;
        }
        Ok(())
    }

    async fn fragments(&self) -> Result<(), BoxError> {
        let mut peer = self.peer("/").await?;
        let mut writer = peer.session.text_writer();
        for part in ["one, ", "two, ", "three"] {
            writer.write(part).await?;
        }
        writer.finish().await?;
        peer.expect("one, two, three").await?;
        self.peer("/fragments").await?.expect("part 0;part 1;part 2;part 3;part 4;").await
    }

    async fn pings(&self) -> Result<(), BoxError> {
        self.peer("/ping").await?.expect("pong are you there?").await?;
        let peer = self.peer("/").await?;
        peer.session.ping("and you?")?;
        let began = Instant::now();
        while peer.session.round_trip().is_none() {
            if began.elapsed() > PATIENCE {
                return Err("no pong".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn we_close(&self) -> Result<(), BoxError> {
        for code in [1000, 1001, 1011, 3000, 4999] {
            let mut peer = self.peer("/").await?;
            let code = CloseCode::new(code).ok_or("a code that is not for the wire")?;
            peer.session.close_with(code, "bis spät").await;
            let Happened::Disconnected(DisconnectReason::ClosedByClient, Some(answer)) = peer.next().await?
            else {
                return Err("not closed by us with an answer".into());
            };
            if answer.code != code {
                return Err(format!("{code} was answered with {}", answer.code).into());
            }
            self.peer("/closed").await?.expect(format!("{code} bis spät")).await?;
        }
        Ok(())
    }

    async fn they_close(&self) -> Result<(), BoxError> {
        match self.peer("/close").await?.next().await? {
            Happened::Disconnected(DisconnectReason::ClosedByServer, Some(frame))
                if u16::from(frame.code) == 4002 && &*frame.reason == "grün" =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}").into()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let server = std::env::args().nth(1).ok_or("the server's address is missing")?;
    let compresses = std::env::args().any(|arg| arg == "--deflate");
    let whole = DeflateOptions::default().min_size(0);
    let settings = [
        ("no compression offered", None),
        ("compression offered", Some(whole)),
        (
            "no window to be kept",
            Some(whole.server_no_context_takeover(true).client_no_context_takeover(true)),
        ),
        ("small windows", Some(whole.server_max_window_bits(9).client_max_window_bits(10))),
    ];
    let mut failed = 0;
    // A server that does not compress declines every offer alike.
    for (name, offered) in settings.into_iter().take(if compresses { 4 } else { 2 }) {
        println!("  {name}");
        let check = Check { server: server.clone(), compresses, offered };
        let checks: [(&str, Result<(), BoxError>); 7] = [
            ("what was agreed", check.agreed().await),
            ("messages of each kind and size", check.messages().await),
            ("many messages", check.many().await),
            ("fragments both ways", check.fragments().await),
            ("pings both ways", check.pings().await),
            ("we close", check.we_close().await),
            ("they close", check.they_close().await),
        ];
        for (what, result) in checks {
            match result {
                Ok(()) => println!("    ok: {what}"),
                Err(error) => {
                    failed += 1;
                    println!("    FAILED: {what}: {error}");
                }
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} checks failed").into()) }
}
