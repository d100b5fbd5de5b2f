//! A shutdown of many sessions whose peers have not read yet: everything that was reported as sent arrives.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stormsocket::{SendOutcome, SocketOptions, WsServer};

use crate::Failure;
use crate::clients::{self, Clients};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Sessions.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Messages of 16 KiB queued for each.
    #[arg(long, default_value_t = 16)]
    messages: usize,
    /// Seconds the shutdown has.
    #[arg(long, default_value_t = 60)]
    deadline: u64,
    /// Milliseconds before the clients begin to read.
    #[arg(long, default_value_t = 5_000)]
    idle: u64,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let mut socket = SocketOptions::default();
    // What the kernel holds is no longer ours to lose: let it be little.
    socket.send_buffer_size = Some(16 * 1024);
    let server = WsServer::bind("127.0.0.1:0").backlog(4096).socket(socket).start().await?;
    let target = server.local_addr().ok_or("no address")?;
    let count = args.sessions;
    let mut clients =
        Clients::start(&clients::Args { target, count, stalled: 0, cycles: None, idle: args.idle })?;
    clients.say("ready").await?;
    let message = Bytes::from(vec![0; 16 * 1024]);
    let mut sent = 0;
    for session in server.sessions().iter() {
        for _ in 0..args.messages {
            if session.send(message.clone()).await? == SendOutcome::Sent {
                sent += 1;
            }
        }
    }
    let pending: usize = server.sessions().iter().map(|session| session.pending_send_bytes()).sum();
    let deadline = Duration::from_secs(args.deadline);
    let began = Instant::now();
    let report = server.shutdown(deadline).await;
    let took = began.elapsed();
    let received = clients.say("received").await?;
    println!(
        "{count} sessions, {} MiB queued: {report:?} in {took:.2?} of {deadline:?}; {sent} messages sent, {received} received",
        pending >> 20,
    );
    if took >= deadline || report.closed != count || report.aborted + report.lost + report.unfinished > 0 {
        return Err("not everyone was closed in order before the deadline".into());
    }
    if received != sent {
        return Err(format!("{} messages were reported as sent and lost", sent - received).into());
    }
    Ok(())
}
