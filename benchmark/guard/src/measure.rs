//! What valgrind counts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cases::{Case, Counts};

/// What one message costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// Instructions in user space.
    pub(crate) instructions: f64,
    /// Allocations and reallocations.
    pub(crate) allocations: f64,
}

/// Where callgrind's output goes if nobody says: beside this program.
pub(crate) fn default_out() -> Result<PathBuf, String> {
    Ok(program()?.with_file_name("guard"))
}

fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))
}

/// What one message of this case costs: the difference of a run and one twice as long, so that what they do once does
/// not count.
pub(crate) fn cost(case: &Case, out: &Path) -> Result<Cost, String> {
    let short = out.join(format!("{}-short.callgrind", case.name));
    let long = out.join(format!("{}.callgrind", case.name));
    let (less, more) = std::thread::scope(|scope| {
        let less = scope.spawn(|| run(case, case.rounds, &short));
        let more = run(case, case.rounds * 2, &long);
        (less.join(), more)
    });
    let (less, more) = (less.map_err(|_| "lost a run")??, more?);
    Ok(difference(less, more))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn difference(less: (u64, Counts), more: (u64, Counts)) -> Cost {
    let messages = (more.1.messages - less.1.messages) as f64;
    Cost {
        instructions: (more.0 as f64 - less.0 as f64) / messages,
        allocations: (more.1.allocations as f64 - less.1.allocations as f64) / messages,
    }
}

/// Instructions of a whole run, and what it counted itself.
fn run(case: &Case, rounds: u64, out: &Path) -> Result<(u64, Counts), String> {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-exitcode=9"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program()?)
        .args(["run", case.name, &rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start valgrind: {e}; on Debian: apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!("{} under valgrind: {}\n{said}", case.name, ran.status));
    }
    let counts = String::from_utf8_lossy(&ran.stdout).parse()?;
    let profile = std::fs::read_to_string(out).map_err(|e| format!("cannot read {}: {e}", out.display()))?;
    Ok((total(&profile).ok_or_else(|| format!("no total in {}", out.display()))?, counts))
}

/// The total of a profile, which ends with it.
fn total(profile: &str) -> Option<u64> {
    profile.lines().rev().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_once_does_not_count() {
        let counts = |messages, allocations| Counts { messages, allocations };
        let cost = difference((1_000_000 + 300 * 10, counts(10, 50)), (1_000_000 + 300 * 20, counts(20, 55)));
        assert_eq!(cost, Cost { instructions: 300.0, allocations: 0.5 });
    }

    #[test]
    fn the_total_of_a_profile() {
        assert_eq!(total("events: Ir\nfn=(1)\n3 17\n\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("events: Ir\n"), None);
    }
}
