//! Load generator for WebSocket echo and broadcast servers.

use std::process::ExitCode;

use clap::Parser;
use stormsocket_benchmark::cli::{ClientArgs, WsPort};
use stormsocket_benchmark::load::{Plan, Wire};
use stormsocket_benchmark::report;

/// Load generator for WebSocket servers: sends frames, checks every byte that comes back.
///
/// Frames are built once, with one fixed mask. That is fine for measuring and for nothing else.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    client: ClientArgs,

    #[command(flatten)]
    port: WsPort,

    /// The server sends each message to everyone: the first client sends, deliveries are counted.
    #[arg(long)]
    broadcast: bool,

    /// Send text messages rather than binary ones.
    #[arg(long)]
    text: bool,

    /// Send JSON, compressed, and have replies compressed, too (permessage-deflate).
    #[arg(long, conflicts_with = "broadcast")]
    deflate: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let wire = if flags.deflate { Wire::Deflate } else { Wire::WebSocket { text: flags.text } };
    match Plan::from_flags(&flags.client, flags.port.port, wire, flags.broadcast) {
        Ok(plan) => report::run(&plan, flags.client.json),
        Err(error) => report::refuse(&error),
    }
}
