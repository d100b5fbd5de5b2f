//! Load generator for TCP echo servers.

use std::process::ExitCode;

use clap::Parser;
use stormsocket_benchmark::cli::{ClientArgs, Framer, TcpPort};
use stormsocket_benchmark::load::{Plan, Wire};
use stormsocket_benchmark::report;

/// Load generator for TCP echo servers: sends messages, checks every byte that comes back.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    client: ClientArgs,

    #[command(flatten)]
    port: TcpPort,

    /// How the server cuts messages out of the stream.
    #[arg(long, value_enum, default_value_t = Framer::Raw)]
    framer: Framer,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match Plan::from_flags(&flags.client, flags.port.port, Wire::Tcp(flags.framer), false) {
        Ok(plan) => report::run(&plan, flags.client.json),
        Err(error) => report::refuse(&error),
    }
}
