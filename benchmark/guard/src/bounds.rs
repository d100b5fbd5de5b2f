//! The committed bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::measure::Cost;

/// More than this above the bound fails.
const ABOVE: f64 = 0.03;
/// This much below it, the bound can be lowered.
const BELOW: f64 = 0.05;
/// Allocations per message are told apart from this on: what happens once may fall into either run.
const ALLOCATIONS: f64 = 0.01;

const HEADER: &str = "\
# Instructions and allocations per message. `check` fails 3 % above; after a change that is worth its cost, or to keep a
# gain, write them anew: .ci/guard --write
# x86_64, the toolchain of `rust-version`, valgrind 3.19 or later.
";

/// Bounds by case.
#[derive(Debug, Default)]
pub(crate) struct Bounds(BTreeMap<String, Bound>);

/// What a message may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bound {
    /// Instructions in user space.
    pub(crate) instructions: f64,
    allocations: f64,
}

/// How a cost stands to its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it was.
    Fits,
    /// Much below: the bound can be lowered.
    Slack,
    /// Above, in this.
    TooMany(&'static str),
    /// There is no bound.
    Unbound,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits => Ok(()),
            Self::Slack => f.write_str("  the bound can be lowered: .ci/guard --write"),
            Self::TooMany(what) => write!(f, "  TOO MANY {what}"),
            Self::Unbound => f.write_str("  NO BOUND: .ci/guard --write"),
        }
    }
}

impl Bound {
    /// How `cost` stands to it.
    pub(crate) fn verdict(&self, cost: &Cost) -> Verdict {
        if cost.allocations > self.allocations + ALLOCATIONS {
            Verdict::TooMany("allocations")
        } else if cost.instructions > self.instructions * (1.0 + ABOVE) {
            Verdict::TooMany("instructions")
        } else if cost.instructions < self.instructions * (1.0 - BELOW)
            || cost.allocations < self.allocations * (1.0 - BELOW) - ALLOCATIONS
        {
            Verdict::Slack
        } else {
            Verdict::Fits
        }
    }
}

impl Bounds {
    /// Reads a file of bounds.
    ///
    /// # Errors
    /// It is not there, or a line of it is no bound.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        Self::parse(&text).map_err(|line| format!("{}: `{line}` is no bound", file.display()))
    }

    fn parse(text: &str) -> Result<Self, &str> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let bound = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let mut number = || words.next()?.parse::<f64>().ok().filter(|number| *number >= 0.0);
            let bound = Bound { instructions: number()?, allocations: number()? };
            words.next().is_none().then_some((name, bound))
        };
        lines.map(|line| bound(line).ok_or(line)).collect::<Result<_, _>>().map(Self)
    }

    /// The bound of this case.
    pub(crate) fn get(&self, case: &str) -> Option<Bound> {
        self.0.get(case).copied()
    }

    /// Makes what was measured the bound.
    pub(crate) fn set(&mut self, case: &str, cost: Cost) {
        self.0.insert(
            case.to_owned(),
            Bound { instructions: cost.instructions, allocations: cost.allocations.max(0.0) },
        );
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes the bounds of these cases, in this order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write<'a>(&self, file: &Path, cases: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let lines = cases.filter_map(|case| {
            let bound = self.get(case)?;
            Some(format!("{case:<14} {:>10.1} {:>8.3}\n", bound.instructions, bound.allocations))
        });
        let text = HEADER.to_owned() + &lines.collect::<String>();
        std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_percent_are_allowed_and_five_are_worth_a_word() {
        let bound = Bound { instructions: 1000.0, allocations: 0.0 };
        let verdict = |instructions, allocations| bound.verdict(&Cost { instructions, allocations });
        assert_eq!(verdict(1029.0, 0.0), Verdict::Fits);
        assert_eq!(verdict(1031.0, 0.0), Verdict::TooMany("instructions"));
        assert_eq!(verdict(951.0, 0.0), Verdict::Fits);
        assert_eq!(verdict(949.0, 0.0), Verdict::Slack);
        assert_eq!(verdict(900.0, 0.02), Verdict::TooMany("allocations"));
        assert_eq!(verdict(1000.0, -0.001), Verdict::Fits);
    }

    #[test]
    fn bounds_are_read_and_bad_lines_named() {
        let bounds = Bounds::parse("# a comment\n\nws-m1  900.5 0.25\n").unwrap();
        assert_eq!(bounds.get("ws-m1"), Some(Bound { instructions: 900.5, allocations: 0.25 }));
        assert_eq!(bounds.get("ws-m2"), None);
        for bad in ["ws-m1", "ws-m1 many 0", "ws-m1 900", "ws-m1 900 0 0", "ws-m1 -1 0"] {
            assert_eq!(Bounds::parse(bad).unwrap_err(), bad);
        }
    }
}
