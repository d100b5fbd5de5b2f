//! The front door of the benchmarks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stormsocket_benchmark::compare::{self, CompareArgs, Failure};
use stormsocket_benchmark::report;

/// Measures StormSocket beside yardsticks, other libraries and any server with a command line.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run servers in turn under the same load and print their CPU time per message and its ratio.
    Compare(Box<CompareArgs>),
    /// Show the names of workloads and servers.
    List,
}

fn main() -> ExitCode {
    match Flags::parse().command {
        Command::Compare(args) => match compare::run(&args) {
            Ok(code) => code,
            Err(Failure::Usage(error)) => report::refuse(&error),
            Err(Failure::Run(error)) => report::fail(&error),
        },
        Command::List => compare::list(),
    }
}
