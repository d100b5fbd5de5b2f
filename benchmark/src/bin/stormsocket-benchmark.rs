//! The front door of the benchmarks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stormsocket_benchmark::compare::{self, CompareArgs, Failure, ShowArgs};
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
    /// Print the tables of results of `compare --json`, and draw or write them anew.
    Show(ShowArgs),
    /// Show the names of workloads and servers.
    List,
}

fn main() -> ExitCode {
    let result = match Flags::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::Show(args) => compare::show(&args),
        Command::List => Ok(compare::list()),
    };
    match result {
        Ok(code) => code,
        Err(Failure::Usage(error)) => report::refuse(&error),
        Err(Failure::Run(error)) => report::fail(&error),
    }
}
