//! The server as a child of the test: JSON over WebSocket from clients of this library, the console through its pipes.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use stormsocket::{ClientHandle, CloseFrame, ConnectError, Message, WsClient};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "a token of this test";

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

struct Server {
    child: Child,
    /// Until it is closed.
    console: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|command| command.env("ADMIN_TOKEN", TOKEN)).await
    }

    async fn start_with(configure: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ws-server"));
        command.arg("127.0.0.1:0").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = configure(&mut command).spawn().expect("the program was built");
        let console = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = soon(lines.next_line()).await.expect("a pipe").expect("a line");
        let addr = first.rsplit(' ').next().and_then(|addr| addr.parse().ok()).expect("its address");
        Self { child, console, lines, addr }
    }

    async fn type_in(&mut self, line: &str) {
        let console = self.console.as_mut().expect("it is open");
        soon(console.write_all(format!("{line}\n").as_bytes())).await.expect("it reads");
    }

    /// The next line on the console that contains `part`.
    async fn says(&mut self, part: &str) -> String {
        loop {
            let line = soon(self.lines.next_line()).await.expect("a pipe");
            let line = line.unwrap_or_else(|| panic!("it ended before it said `{part}`"));
            if line.contains(part) {
                return line;
            }
        }
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = soon(TcpStream::connect(self.addr)).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr);
        soon(stream.write_all(request.as_bytes())).await.expect("it reads");
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.expect("an answer");
        answer
    }

    /// Stops it by the console, and sees it end well.
    async fn stop(mut self) {
        self.type_in("/stop").await;
        self.says("stopped: ").await;
        assert!(soon(self.child.wait()).await.expect("a child").success());
    }
}

struct Client {
    handle: ClientHandle,
    events: UnboundedReceiver<Value>,
    id: u64,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let (sender, events) = unbounded_channel();
        let handle = WsClient::new(format!("ws://{}/", server.addr))
            .on_message(move |_, message| {
                let event = serde_json::from_str(message.text().expect("text")).expect("JSON");
                // Nobody listens once the test is over.
                let _ = sender.send(event);
                async {}
            })
            .connect()
            .await
            .expect("it lets us in");
        let mut client = Self { handle, events, id: 0 };
        client.id = client.next("welcome").await["id"].as_u64().expect("a number");
        client
    }

    async fn send(&self, command: Value) {
        self.send_raw(command.to_string()).await;
    }

    async fn send_raw(&self, message: impl Into<Message>) {
        soon(self.handle.send(message)).await.expect("it is connected");
    }

    /// The next event of this type. Others are passed over, errors only if this is what is waited for.
    async fn next(&mut self, kind: &str) -> Value {
        loop {
            let event = soon(self.events.recv()).await.expect("an event");
            if event["type"] == kind {
                return event;
            }
            assert_ne!(event["type"], "error", "{event} instead of {kind}");
        }
    }

    async fn ask(&mut self, command: Value, kind: &str) -> Value {
        self.send(command).await;
        self.next(kind).await
    }

    /// Sends what must be refused, and nothing else may come of it.
    async fn refused(&mut self, message: impl Into<Message>) -> (String, String) {
        self.send_raw(message).await;
        let error = self.next("error").await;
        (
            error["code"].as_str().expect("a code").to_owned(),
            error["message"].as_str().expect("a text").to_owned(),
        )
    }
}

#[tokio::test]
async fn names_chat_and_whispers() {
    let server = Server::start().await;
    let (mut ann, mut ben) = (Client::connect(&server).await, Client::connect(&server).await);
    assert_eq!(ann.ask(json!({"type": "setName", "name": " Ann "}), "nameSet").await["name"], "Ann");
    assert_eq!(ben.next("system").await["message"], format!("guest-{} is now Ann", ann.id));

    ann.send(json!({"type": "chat", "message": "hello\nall"})).await;
    let expected = json!({"type": "chat", "from": "Ann", "fromId": ann.id, "message": "hello\nall"});
    assert_eq!((ann.next("chat").await, ben.next("chat").await), (expected.clone(), expected));

    let sent = ben.ask(json!({"type": "whisper", "to": ann.id, "message": "psst"}), "whisperSent").await;
    assert_eq!(sent, json!({"type": "whisperSent", "to": ann.id, "message": "psst"}));
    let expected =
        json!({"type": "whisper", "from": format!("guest-{}", ben.id), "fromId": ben.id, "message": "psst"});
    assert_eq!(ann.next("whisper").await, expected);

    let list = ann.ask(json!({"type": "list"}), "userList").await;
    assert_eq!((list["total"].as_u64(), list["users"][0]["name"].as_str()), (Some(2), Some("Ann")));
    let info = ann.ask(json!({"type": "myInfo"}), "myInfo").await;
    assert_eq!(
        (&info["id"], &info["name"], &info["state"]),
        (&json!(ann.id), &json!("Ann"), &json!("Connected"))
    );
    assert!(
        info["address"].as_str().expect("its own").starts_with("127.0.0.1:")
            && list["users"][0]["address"].is_null()
    );

    // A name is free again when its session is gone.
    assert_eq!(ben.refused(json!({"type": "setName", "name": "aNN"}).to_string()).await.0, "nameTaken");
    assert_eq!(ben.refused(json!({"type": "setName", "name": "Guest-999"}).to_string()).await.0, "nameTaken");
    soon(ann.handle.disconnect()).await;
    assert_eq!(ben.next("system").await["message"], "Ann is gone");
    ben.ask(json!({"type": "setName", "name": "ann"}), "nameSet").await;
    server.stop().await;
}

#[tokio::test]
async fn rooms() {
    let server = Server::start().await;
    let (mut ann, mut ben) = (Client::connect(&server).await, Client::connect(&server).await);
    let message = json!({"type": "roomMsg", "room": "den", "message": "hi"});
    assert_eq!(ann.refused(message.to_string()).await.0, "notInRoom");
    assert_eq!(ann.ask(json!({"type": "join", "room": "den"}), "joined").await["members"], 1);
    // A second time is no second membership.
    assert_eq!(ann.ask(json!({"type": "join", "room": "den"}), "joined").await["members"], 1);
    assert_eq!(ben.ask(json!({"type": "join", "room": "den"}), "joined").await["members"], 2);
    let event = ann.next("system").await;
    assert_eq!(
        (&event["room"], &event["message"]),
        (&json!("den"), &json!(format!("guest-{} joined den", ben.id)))
    );

    ann.send(message.clone()).await;
    assert_eq!(
        (&ben.next("chat").await["room"], &ann.next("chat").await["room"]),
        (&json!("den"), &json!("den"))
    );
    let rooms = ann.ask(json!({"type": "rooms"}), "roomList").await;
    assert_eq!((&rooms["rooms"], &rooms["total"]), (&json!([{"room": "den", "members": 2}]), &json!(1)));

    assert_eq!(ben.ask(json!({"type": "leave", "room": "den"}), "left").await["room"], "den");
    assert_eq!(ben.refused(message.to_string()).await.0, "notInRoom");
    assert_eq!(ben.refused(json!({"type": "leave", "room": "den"}).to_string()).await.0, "notInRoom");
    // The groups of the server itself are no rooms.
    ben.ask(json!({"type": "watch"}), "watching").await;
    assert_eq!(ben.refused(json!({"type": "leave", "room": "watchers"}).to_string()).await.0, "notInRoom");

    for room in 1..16 {
        ann.ask(json!({"type": "join", "room": format!("room {room}")}), "joined").await;
    }
    assert_eq!(ann.refused(json!({"type": "join", "room": "one more"}).to_string()).await.0, "tooManyRooms");
    ann.ask(json!({"type": "leave", "room": "room 1"}), "left").await;
    ann.ask(json!({"type": "join", "room": "one more"}), "joined").await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_refused_concerns_its_sender_only() {
    let server = Server::start().await;
    let (mut ann, mut ben) = (Client::connect(&server).await, Client::connect(&server).await);
    let deep = format!("{}{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    for (hostile, code) in [
        ("hello".to_owned(), "notJson"),
        (deep, "notJson"),
        ("[1]".to_owned(), "notAnObject"),
        ("{}".to_owned(), "invalid"),
        (json!({"type": "drop table", "x": 1}).to_string(), "invalid"),
        (json!({"type": "chat"}).to_string(), "invalid"),
        (json!({"type": "chat", "message": {"$gt": ""}}).to_string(), "invalid"),
        (json!({"type": "chat", "message": "\u{1b}[2J"}).to_string(), "invalid"),
        (json!({"type": "chat", "message": "x".repeat(2_001)}).to_string(), "invalid"),
        (json!({"type": "chat", "message": "x".repeat(900_000)}).to_string(), "tooLong"),
        (json!({"type": "setName", "name": "\u{202e}nimda"}).to_string(), "invalid"),
        (json!({"type": "join", "room": "x".repeat(33)}).to_string(), "invalid"),
        (json!({"type": "whisper", "to": u64::MAX, "message": "x"}).to_string(), "noSession"),
        (json!({"type": "whisper", "to": "1", "message": "x"}).to_string(), "invalid"),
        (json!({"type": "kick", "id": ben.id}).to_string(), "notAdmin"),
        (json!({"type": "broadcast", "message": "x"}).to_string(), "notAdmin"),
    ] {
        let shown: String = hostile.chars().take(60).collect();
        assert_eq!(ann.refused(hostile).await.0, code, "{shown}");
    }
    assert_eq!(ann.refused(Message::binary(vec![0; 100])).await.0, "binary");

    // All of it is dealt with; the other has heard of nothing but ticks.
    ann.send(json!({"type": "chat", "message": "done"})).await;
    loop {
        let event = soon(ben.events.recv()).await.expect("an event");
        match event["type"].as_str() {
            Some("tick") => {}
            Some("chat") => break,
            _ => panic!("{event}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn ticks_and_statistics() {
    let server = Server::start().await;
    let (mut ann, mut ben) = (Client::connect(&server).await, Client::connect(&server).await);
    let (first, second) = (ann.next("tick").await, ann.next("tick").await);
    assert_eq!(first["tick"].as_u64().map(|tick| tick + 1), second["tick"].as_u64());
    assert!(second["timestamp"].as_u64() > first["timestamp"].as_u64() && second["online"] == 2);

    assert!(ann.ask(json!({"type": "watch"}), "watching").await["history"].is_array());
    let stats = ann.next("stats").await;
    assert_eq!((&stats["sample"]["online"], &stats["sessions"][1]["id"]), (&json!(2), &json!(ben.id)));
    assert!(stats["sample"]["messagesOut"].as_u64() > Some(0) && stats["sessions"][0]["address"].is_null());

    // Addresses are for admins.
    ann.ask(json!({"type": "admin", "token": TOKEN}), "admin").await;
    loop {
        let stats = ann.next("stats").await;
        if let Some(address) = stats["sessions"][1]["address"].as_str() {
            assert!(address.starts_with("127.0.0.1:"));
            break;
        }
    }
    // Who does not watch gets ticks only.
    ben.next("tick").await;
    while let Ok(event) = ben.events.try_recv() {
        assert_ne!(event["type"], "stats");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_read_misses_messages_and_is_seen_to() {
    let server = Server::start().await;
    let mut idler = soon(TcpStream::connect(server.addr)).await.expect("it listens");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        server.addr
    );
    soon(idler.write_all(request.as_bytes())).await.expect("it reads");

    let mut ann = Client::connect(&server).await;
    ann.ask(json!({"type": "watch"}), "watching").await;
    let text = "x".repeat(2_000);
    let slow = soon(async {
        loop {
            for _ in 0..200 {
                ann.ask(json!({"type": "chat", "message": text}), "chat").await;
            }
            let stats = ann.next("stats").await;
            if stats["totals"]["dropped"].as_u64() > Some(0) {
                break stats;
            }
        }
    })
    .await;
    // Ann has had an answer to each of hers meanwhile.
    assert_eq!((&slow["sample"]["slow"], &slow["sessions"][0]["slow"]), (&json!(1), &json!(true)), "{slow}");
    assert_ne!(slow["sessions"][0]["id"], ann.id);
    assert!(slow["sessions"][0]["pending"].as_u64() <= Some(256 * 1024 + 4 * 1024), "{slow}");
    drop(idler);
    server.stop().await;
}

#[tokio::test]
async fn who_floods_is_cut_off_and_nobody_else() {
    let mut server = Server::start().await;
    let (mut ann, eve) = (Client::connect(&server).await, Client::connect(&server).await);
    let session = eve.handle.session();
    let command = json!({"type": "myInfo"}).to_string();
    // Until the reset is here, and then no more.
    while session.send(command.clone()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.says(&format!("[{}] floods, and is cut off", eve.id)).await;
    server.says("left: rate_limited").await;
    ann.ask(json!({"type": "myInfo"}), "myInfo").await;
    server.stop().await;
}

#[tokio::test]
async fn admins_kick_and_broadcast() {
    let mut server = Server::start().await;
    let (mut ann, mut ben) = (Client::connect(&server).await, Client::connect(&server).await);
    ann.ask(json!({"type": "admin", "token": TOKEN}), "admin").await;
    ann.send(json!({"type": "broadcast", "message": "soon"})).await;
    assert_eq!(
        (&ann.next("announcement").await["message"], &ben.next("announcement").await["message"]),
        (&json!("soon"), &json!("soon"))
    );

    assert_eq!(ann.refused(json!({"type": "kick", "id": ann.id}).to_string()).await.0, "yourself");
    assert_eq!(ann.refused(json!({"type": "kick", "id": 0}).to_string()).await.0, "noSession");
    let kicked = ben.handle.session();
    ann.ask(json!({"type": "kick", "id": ben.id}), "kicked").await;
    soon(kicked.closed()).await;
    assert_eq!(close_frame(&kicked), (1008, "kicked by an admin".to_owned()));
    server.says(&format!("[{}] kicked {}", ann.id, ben.id)).await;
    server.stop().await;
}

#[tokio::test]
async fn guessing_tokens_ends_after_three() {
    let mut server = Server::start().await;
    let mut eve = Client::connect(&server).await;
    let session = eve.handle.session();
    for left in [2, 1, 0] {
        let guess = json!({"type": "admin", "token": format!("{TOKEN}{left}")}).to_string();
        assert_eq!(
            eve.refused(guess).await,
            ("wrongToken".to_owned(), format!("wrong admin token, {left} more attempts"))
        );
        server.says("presented a wrong admin token").await;
    }
    soon(session.closed()).await;
    assert_eq!(close_frame(&session), (1008, "too many wrong tokens".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn the_console() {
    let mut server = Server::start().await;
    let mut ann = Client::connect(&server).await;
    ann.ask(json!({"type": "setName", "name": "Ann"}), "nameSet").await;
    ann.ask(json!({"type": "join", "room": "den"}), "joined").await;
    server.says("connected from 127.0.0.1:").await;
    for (typed, says) in [
        ("/sessions", format!("[{}] Ann, ", ann.id)),
        ("/rooms", "den: 1".to_owned()),
        ("/info 0", "there is no session 0".to_owned()),
        ("/frobnicate", "there is no command `/frobnicate`; /help lists them".to_owned()),
        ("hello", "a command begins with a slash".to_owned()),
        ("/help", "/broadcast TEXT".to_owned()),
    ] {
        server.type_in(typed).await;
        server.says(&says).await;
    }
    server.type_in(&format!("/info {}", ann.id)).await;
    assert_eq!(server.says("name ").await.split_whitespace().last(), Some("Ann"));
    assert_eq!(server.says("rooms ").await.split_whitespace().last(), Some("den"));
    server.type_in(&"x".repeat(100_000)).await;
    server.says("a line of 100000 bytes is too long").await;
    server.type_in("/broadcast  good evening ").await;
    assert_eq!(ann.next("announcement").await["message"], "good evening");
    server.says("said to 1").await;

    let session = ann.handle.session();
    server.type_in(&format!("/kick {}", ann.id)).await;
    server.says(&format!("kicked {}", ann.id)).await;
    soon(session.closed()).await;
    assert_eq!(close_frame(&session).0, 1008);
    server.says("Ann left: closed_by_server").await;
    server.stop().await;
}

#[tokio::test]
async fn stopping_lets_leave_what_is_queued() {
    let mut server = Server::start().await;
    let ann = Client::connect(&server).await;
    let session = ann.handle.session();
    server.type_in("/broadcast the last word").await;
    server.type_in("/stop").await;
    server.says("stopping: 1 sessions have 10 s").await;
    server.says("stopped: 1 closed, 0 aborted, 0 lost, 0 refused, 0 unfinished").await;
    soon(session.closed()).await;
    assert_eq!(close_frame(&session).0, 1001);
    let mut ann = ann;
    assert_eq!(ann.next("announcement").await["message"], "the last word");
    assert!(soon(server.child.wait()).await.expect("a child").success());
}

#[cfg(unix)]
#[tokio::test]
async fn without_input_it_serves_on_and_a_signal_stops_it() {
    let mut server = Server::start().await;
    server.console = None;
    server.says("the input has ended").await;
    let mut ann = Client::connect(&server).await;
    ann.ask(json!({"type": "myInfo"}), "myInfo").await;
    let pid = server.child.id().expect("it runs").to_string();
    assert!(
        soon(Command::new("kill").args(["-TERM", &pid]).status()).await.expect("a kill command").success()
    );
    server.says("stopped: 1 closed").await;
    assert!(soon(server.child.wait()).await.expect("a child").success());
}

#[tokio::test]
async fn the_page_and_who_may_connect_from_one() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("<title>StormSocket server</title>"),
        "{page}"
    );
    assert!(
        page.contains("default-src 'none'") && page.contains("x-content-type-options: nosniff"),
        "{page}"
    );
    assert!(server.get("/main.js?v=1").await.contains("content-type: text/javascript"));
    assert!(server.get("/health").await.ends_with("ok\n"));
    for path in ["/nothing", "/../Cargo.toml", "/page/index.html"] {
        assert!(server.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let from =
        |origin: &str| WsClient::new(format!("ws://{}/", server.addr)).header("origin", origin).connect();
    soon(from(&format!("http://{}", server.addr))).await.expect("its own page").disconnect().await;
    let refused = soon(from("http://elsewhere.example")).await.expect_err("another page");
    assert!(matches!(&refused, ConnectError::Refused { .. }), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_made_if_none_is_given_and_a_weak_one_is_refused() {
    let mut server = Server::start_with(|command| command.env_remove("ADMIN_TOKEN")).await;
    let said = server.says("admin token: ").await;
    let token = said.rsplit(' ').next().expect("a token");
    let mut ann = Client::connect(&server).await;
    ann.ask(json!({"type": "admin", "token": token}), "admin").await;
    server.stop().await;

    let mut weak = Command::new(env!("CARGO_BIN_EXE_ws-server"));
    weak.arg("127.0.0.1:0").env("ADMIN_TOKEN", "hunter2").kill_on_drop(true);
    let ended = soon(weak.output()).await.expect("it runs");
    assert!(!ended.status.success());
    assert_eq!(
        String::from_utf8_lossy(&ended.stderr),
        "ws-server: ADMIN_TOKEN must be 16 to 128 bytes long\n"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("it has one").to_string();
    let mut program = Command::new(env!("CARGO_BIN_EXE_ws-server"));
    let ended = soon(program.arg(&addr).kill_on_drop(true).output()).await.expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        !ended.status.success() && said.starts_with("ws-server: cannot listen on") && said.contains(&addr),
        "{said}"
    );
}

fn close_frame(session: &stormsocket::Session) -> (u16, String) {
    let session = stormsocket::WsSession::of(session).expect("a WebSocket session");
    let CloseFrame { code, reason, .. } = session.close_frame().expect("the server said goodbye");
    (code.into(), reason.to_string())
}
