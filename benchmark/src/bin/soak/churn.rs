//! Connects and closes, over and over: memory and descriptors stay where they were.

use std::time::{Duration, Instant};

use stormsocket::WsServer;
use stormsocket_benchmark::proc::Process;

use crate::Failure;
use crate::clients::{self, Clients};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections in all.
    #[arg(long, default_value_t = 1_000_000)]
    cycles: u64,
    /// Connections at a time.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// How much more memory than after the first fifth is too much, in KiB.
    #[arg(long, default_value_t = 1024)]
    most: u64,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let server = WsServer::bind("127.0.0.1:0")
        .backlog(4096)
        .no_delay(true)
        .on_connected(|session| async move { session.join("everyone") })
        .on_message(|session, message| async move { session.send(message).await })
        .start()
        .await?;
    let target = server.local_addr().ok_or("no address")?;
    let descriptors = open_descriptors();
    let began = Instant::now();
    let plan = clients::Args { target, count: args.at_once, stalled: 0, cycles: Some(args.cycles), idle: 0 };
    let mut clients = Clients::start(&plan)?;
    let me = Process::this();
    let mut samples = Vec::new();
    for fifth in 1..=5 {
        let until = args.cycles / 5 * fifth;
        while server.metrics().total_connections < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let resident = me.resident().ok_or("the system does not tell")? >> 10;
        println!("{until} connections, {:.1?}: {resident} KiB resident", began.elapsed());
        samples.push(resident);
    }
    clients.say("received").await?;
    clients.end().await?;
    let report = server.shutdown(Duration::from_secs(10)).await;
    let metrics = server.metrics();
    println!(
        "{} sessions, {} of {} messages, disconnects {:?}",
        metrics.total_connections, metrics.messages_sent, args.cycles, metrics.disconnects
    );
    if metrics.disconnects.total() != args.cycles || !server.sessions().is_empty() || report.unfinished > 0 {
        return Err(format!("not every session has ended: {metrics:?}").into());
    }
    if !server.groups().names().is_empty() {
        return Err("a group is left behind".into());
    }
    if open_descriptors() > descriptors {
        return Err("descriptors are left behind".into());
    }
    let grown = samples[4].saturating_sub(samples[0]);
    println!("memory grew by {grown} KiB after the first fifth");
    if grown > args.most {
        return Err(format!("{grown} KiB is more than {}", args.most).into());
    }
    Ok(())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
