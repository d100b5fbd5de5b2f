//! The full WebSocket server on port 8080: JSON commands, rooms, a tick each second, logging, a console, and a page with
//! live numbers at <http://localhost:8080>. Another address is the first argument:
//! `cargo run -p ws-server -- 127.0.0.1:9000`.
//!
//! ```text
//!  browser ── GET / ──> page            stdin ──> terminal ──> console ──> sessions, groups
//!     │ JSON                                                      └──> stop
//!     └──> WsServer ──> logging ──> commands ──> names, rooms, admin
//!              ^────── tick and statistics, once a second
//! ```

mod admin;
mod commands;
mod console;
mod fields;
mod logging;
mod names;
mod page;
mod protocol;
mod refusal;
mod rooms;
mod stats;
mod terminal;
mod ticker;

use std::io;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use stormsocket::{
    BoxError, HeartbeatOptions, Limits, RateLimit, ServerHandle, ShutdownReport, SlowConsumerPolicy,
    WsServer, shutdown_signal,
};
use tokio::sync::mpsc;

use crate::admin::Token;
use crate::commands::App;
use crate::console::Reply;
use crate::terminal::Printer;

/// Connections at a time. With what each may cost it bounds what the server as a whole may.
const MAX_CONNECTIONS: usize = 1_000;
/// What may wait for one session. Chat and ticks are live: whoever does not keep up misses some of them.
const MAX_PENDING: usize = 256 * 1024;
/// Commands of one session per second, at most. More are no person, and each may go to everyone.
const MAX_COMMANDS: u32 = 500;
/// How long sessions have to take what is queued for them when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("ws-server: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    if address.starts_with('-') || arguments.next().is_some() {
        return Err(
            format!("usage: ws-server [ADDRESS]; the environment may hold {}", admin::VARIABLE).into()
        );
    }
    let (token, new_token) = match std::env::var(admin::VARIABLE) {
        Ok(given) => (Token::given(&given)?, None),
        Err(_) => {
            let (token, text) = Token::random();
            (token, Some(text))
        }
    };

    let printer = Printer::start();
    let app = Arc::new(App {
        names: names::Names::default(),
        token,
        stats: stats::Stats::default(),
        printer: printer.clone(),
    });
    let server = start(&address, &app).await?;

    let mut signal = pin!(shutdown_signal());
    // With its first poll signals no longer kill: before anyone is told that the server is there to be stopped.
    tokio::select! {
        biased;
        asked = &mut signal => asked?,
        () = std::future::ready(()) => {}
    }
    let at = server.local_addr().map_or(address, |address| address.to_string());
    printer.print(format!("WebSocket server listening on {at}"));
    if let Some(token) = new_token {
        printer.print(format!("admin token: {token}"));
    }
    printer.print("/help lists the commands of this console");

    let ticking = tokio::spawn(ticker::tick(app, server.hub().clone()));
    until_told_to_stop(&server, &printer, signal).await?;
    stop(&server, &printer).await?;
    ticking.abort();
    printer.flush();
    Ok(())
}

async fn start(address: &str, app: &Arc<App>) -> Result<ServerHandle, stormsocket::StartError> {
    let printer = app.printer.clone();
    let flood = RateLimit::per_session(MAX_COMMANDS, Duration::from_secs(1))?
        .on_limited(move |session| printer.print(format!("[{}] floods, and is cut off", session.id())));
    WsServer::bind(address)
        .no_delay(true)
        .max_connections(MAX_CONNECTIONS)
        .max_pending_send_bytes(MAX_PENDING)
        .slow_consumer_policy(SlowConsumerPolicy::Drop)
        .heartbeat(HeartbeatOptions::default().interval(Duration::from_secs(15)))
        .limits(Limits::default().max_message_size(1 << 20))
        .middleware(logging::Logging(app.printer.clone()))
        .middleware(flood)
        .on_http(|request| async move { page::answer(&request) })
        .on_upgrade(|request| async move { page::admit(&request) })
        .handler(commands::Handlers(app.clone()))
        .start()
        .await
}

/// Serves the console until it says stop, or a signal does. The end of the input ends only the console.
async fn until_told_to_stop(
    server: &ServerHandle,
    printer: &Printer,
    mut signal: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> Result<(), BoxError> {
    let mut typed = terminal::read_lines();
    loop {
        let line = tokio::select! {
            line = next_line(&mut typed, printer) => line,
            signal = signal.as_mut() => return Ok(signal?),
        };
        let reply = match line {
            Ok(line) => console::run(server.hub(), &line).await,
            Err(len) => Some(Reply::Print(format!("a line of {len} bytes is too long"))),
        };
        match reply {
            Some(Reply::Print(text)) => printer.print(text),
            Some(Reply::Stop) => return Ok(()),
            None => {}
        }
    }
}

/// The next line; never, once the input has ended.
async fn next_line(
    typed: &mut mpsc::Receiver<Result<String, usize>>,
    printer: &Printer,
) -> Result<String, usize> {
    match typed.recv().await {
        Some(line) => line,
        None => {
            printer.print("the input has ended: no more commands; a signal stops the server");
            std::future::pending().await
        }
    }
}

/// Stops in an orderly way; a second signal means at once.
async fn stop(server: &ServerHandle, printer: &Printer) -> Result<(), BoxError> {
    let sessions = server.sessions().len();
    printer.print(format!("stopping: {sessions} sessions have {} s", DRAIN.as_secs()));
    let report = tokio::select! {
        report = server.shutdown(DRAIN) => report,
        signal = shutdown_signal() => {
            signal?;
            server.shutdown(Duration::ZERO).await
        }
    };
    let ShutdownReport { closed, aborted, lost, refused, unfinished, .. } = report;
    printer.print(format!(
        "stopped: {closed} closed, {aborted} aborted, {lost} lost, {refused} refused, {unfinished} unfinished"
    ));
    Ok(())
}
