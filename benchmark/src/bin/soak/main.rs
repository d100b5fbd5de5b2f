//! Soak programs: what only shows with many connections, or after a long time. Each checks its claim and fails if it does
//! not hold.
//!
//! ```text
//! soak broadcast   a tick to many sessions, some of whose peers read nothing, beside the same with none of those
//! soak drain       a shutdown of many sessions with messages still queued: nothing reported as sent is lost
//! soak churn       connects and closes, over and over: memory stays flat
//! ```
//!
//! The server is in this process, its clients in another one (`soak clients`, started by itself): each has its own
//! descriptors and its own memory.

mod broadcast;
mod churn;
mod clients;
mod drain;

use std::process::ExitCode;

use clap::Parser;
use stormsocket_benchmark::serve::raise_file_limit;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(about = "Runs a server for long, or with many connections, and checks what must hold")]
enum Command {
    Broadcast(broadcast::Args),
    Drain(drain::Args),
    Churn(churn::Args),
    /// The other side of these; not for hand use.
    #[command(hide = true)]
    Clients(clients::Args),
}

fn main() -> ExitCode {
    raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = runtime.block_on(async {
        match Command::parse() {
            Command::Broadcast(args) => broadcast::run(&args).await,
            Command::Drain(args) => drain::run(&args).await,
            Command::Churn(args) => churn::run(&args).await,
            Command::Clients(args) => clients::run(args).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}
