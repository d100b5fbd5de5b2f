//! What a message costs on the hot paths, in instructions and allocations, against committed bounds.
//!
//! ```text
//!  check ── for each case ──> valgrind --tool=callgrind ... run CASE 1000 ──┐
//!    │                        valgrind --tool=callgrind ... run CASE 2000 ──┴─> difference / messages ──> bounds.txt
//!    └── report                                             │
//!                                                           └─> our connection loop over a stream in memory
//! ```
//!
//! Times need a quiet machine and instruction counts do not: the same program on the same input gives the same count
//! to a fraction of a percent. They are no times either; the comparison (`stormsocket-benchmark`) measures those.

mod alloc;
mod bounds;
mod cases;
mod measure;
mod memory;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use bounds::{Bounds, Verdict};
use cases::{CASES, Case};

/// Instructions and allocations per message on the hot paths, compared with committed bounds.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure under valgrind and compare with the bounds; fails if a case is above its own.
    Check(Check),
    /// Run one case, as valgrind is given it, and print what it counted.
    Run {
        /// The case.
        #[arg(value_parser = parse_case)]
        case: Case,
        /// Reads that bring a batch of messages.
        rounds: u64,
    },
    /// Show the cases.
    List,
}

#[derive(Debug, Args)]
struct Check {
    /// Cases, by name; all if none is given.
    #[arg(value_parser = parse_case)]
    cases: Vec<Case>,

    /// Where the bounds are.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/bounds.txt"))]
    bounds: PathBuf,

    /// Replace the bounds of what is measured by what it is.
    #[arg(long)]
    write: bool,

    /// Where callgrind's output goes, for callgrind_annotate. Default: `guard` beside this program.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn parse_case(name: &str) -> Result<Case, String> {
    CASES.iter().find(|case| case.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        format!("there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let done = match Flags::parse().command {
        Command::Check(check) => check.run(),
        Command::Run { case, rounds } => case.run(rounds).map(|counts| {
            println!("{counts}");
            true
        }),
        Command::List => {
            for case in CASES {
                println!("{:<14} {}", case.name, case.what);
            }
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

impl Check {
    /// Whether nothing is above its bound.
    fn run(&self) -> Result<bool, String> {
        let mut bounds = Bounds::read(&self.bounds)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            None => measure::default_out()?,
        };
        std::fs::create_dir_all(&out).map_err(|e| format!("cannot make {}: {e}", out.display()))?;
        let cases = if self.cases.is_empty() { CASES } else { &self.cases[..] };
        let mut fits = true;
        println!(
            "{:<14} {:>12} {:>12} {:>8} {:>12}",
            "per message", "instructions", "bound", "", "allocations"
        );
        for case in cases {
            let cost = measure::cost(case, &out)?;
            let bound = bounds.get(case.name);
            let change = bound.map_or(String::new(), |bound| {
                format!("{:+.1} %", (cost.instructions / bound.instructions - 1.0) * 100.0)
            });
            let verdict = bound.map_or(Verdict::Unbound, |bound| bound.verdict(&cost));
            println!(
                "{:<14} {:>12.1} {:>12} {change:>8} {:>12.3}{verdict}",
                case.name,
                cost.instructions,
                bound.map_or("-".to_owned(), |bound| format!("{:.1}", bound.instructions)),
                cost.allocations,
            );
            if self.write {
                bounds.set(case.name, cost);
            } else {
                fits &= !matches!(verdict, Verdict::TooMany(_) | Verdict::Unbound);
            }
        }
        println!("callgrind_annotate --auto=yes {}/CASE.callgrind shows where they go", out.display());
        if self.write {
            bounds.write(&self.bounds, CASES.iter().map(|case| case.name))?;
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_bound_and_every_bound_a_case() {
        let bounds = Bounds::read(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bounds.txt")).unwrap();
        for case in CASES {
            assert!(bounds.get(case.name).is_some(), "{}", case.name);
        }
        assert_eq!(bounds.len(), CASES.len());
    }

    #[test]
    fn unknown_cases_are_refused_by_name() {
        let refused = Flags::try_parse_from(["guard", "check", "udp"]).unwrap_err().to_string();
        assert!(refused.contains("ws-m16"), "{refused}");
        assert!(Flags::try_parse_from(["guard", "run", "ws-m16", "-1"]).is_err());
    }
}
