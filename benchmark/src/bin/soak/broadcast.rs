//! A tick to everyone must not be held up by those who read nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stormsocket::{ServerHandle, SlowConsumerPolicy, WsServer, WsSession};

use crate::Failure;
use crate::clients::{self, Clients, STALLED};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Sessions that read.
    #[arg(long, default_value_t = 9_900)]
    readers: usize,
    /// Sessions that read nothing, in the second half.
    #[arg(long, default_value_t = 100)]
    stalled: usize,
    /// Ticks in each half.
    #[arg(long, default_value_t = 50)]
    ticks: u64,
    /// Bytes of a tick.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How much longer a tick may take with stalled sessions than without.
    #[arg(long, default_value_t = 1.2)]
    most: f64,
    /// What becomes of a tick for a session that is full.
    #[arg(long, value_enum, default_value_t = Policy::Drop)]
    policy: Policy,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Policy {
    Wait,
    Drop,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let none = median(half(args, args.readers + args.stalled, 0).await?);
    let some = median(half(args, args.readers + args.stalled, args.stalled).await?);
    let ratio = some.as_secs_f64() / none.as_secs_f64();
    println!(
        "{} sessions, median of {} ticks: {none:.2?} with none stalled, {some:.2?} to the others with {} stalled: {ratio:.2} times",
        args.readers + args.stalled,
        args.ticks,
        args.stalled,
    );
    if ratio > args.most {
        return Err(format!("{ratio:.2} is more than {:.2}", args.most).into());
    }
    Ok(())
}

async fn half(args: &Args, count: usize, stalled: usize) -> Result<Vec<Duration>, Failure> {
    let policy = match args.policy {
        Policy::Wait => SlowConsumerPolicy::Wait,
        Policy::Drop => SlowConsumerPolicy::Drop,
    };
    let server = WsServer::bind("127.0.0.1:0")
        .backlog(4096)
        .no_delay(true)
        .max_pending_send_bytes(64 * 1024)
        .slow_consumer_policy(policy)
        .start()
        .await?;
    let target = server.local_addr().ok_or("no address")?;
    let mut clients = Clients::start(&clients::Args { target, count, stalled, cycles: None, idle: 0 })?;
    clients.say("ready").await?;
    let tick = "t".repeat(args.size);
    fill(&server, stalled).await?;
    let mut took = Vec::new();
    for nth in 1..=args.ticks {
        let began = Instant::now();
        let sending = tokio::spawn({
            let (server, tick) = (server.clone(), tick.clone());
            async move { server.broadcast_text(tick).await }
        });
        while clients.say("all").await? != nth {}
        took.push(began.elapsed());
        if !matches!(args.policy, Policy::Wait) {
            let report = sending.await?;
            if (report.sent, report.dropped) != (count - stalled, stalled) {
                return Err(format!("not as expected: {report:?}").into());
            }
        }
    }
    clients.end().await?;
    server.shutdown(Duration::from_secs(1)).await;
    Ok(took)
}

/// Sends to the sessions that read nothing until all of them are full, and stay so.
async fn fill(server: &ServerHandle, stalled: usize) -> Result<(), Failure> {
    let sessions: Vec<_> = server
        .sessions()
        .iter()
        .filter_map(|session| WsSession::of(&session))
        .filter(|session| session.path() == STALLED)
        .collect();
    if sessions.len() != stalled {
        return Err(format!("{} sessions are stalled instead of {stalled}", sessions.len()).into());
    }
    let filler = Bytes::from(vec![0; 16 * 1024]);
    let mut rounds_full = 0;
    while rounds_full < 5 {
        rounds_full += 1;
        for session in &sessions {
            while !session.is_backpressured() {
                rounds_full = 0;
                session.send(filler.clone()).await?;
            }
        }
        // The kernel may take a little more.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of[of.len() / 2]
}
