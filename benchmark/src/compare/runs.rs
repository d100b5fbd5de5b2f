//! What the rounds of a workload come to: medians, spread, and ratios within a round.
//!
//! Owns: the arithmetic.
//! In:   one report of the load generator per server and round, or why there is none.
//! Out:  numbers by name.
//! Not here: where the reports come from (`compare`), how numbers are shown (`table`, `markdown`, `plot`, `results`).

use serde_json::{Value, json};

use crate::compare::workload::Workload;
use crate::load::Mode;

/// All runs of one workload.
#[derive(Debug)]
pub struct Measured {
    /// The workload.
    pub workload: Workload,
    /// The server ratios are taken to.
    pub baseline: String,
    /// The servers, in the order they ran.
    pub runs: Vec<Runs>,
}

/// The runs of one server in one workload: one entry per round.
#[derive(Debug, Default)]
pub struct Runs {
    /// The server.
    pub name: String,
    /// What the load generator reported; `None` for a round that failed.
    pub reports: Vec<Option<Value>>,
    /// Why it was given up.
    pub failure: Option<String>,
}

/// A number in a report.
#[derive(Debug, Clone, Copy)]
pub struct Key(&'static [&'static str]);

/// CPU time of the server for one message, in nanoseconds.
pub const CPU: Key = Key(&["server_cpu_ns_per_message"]);
/// Messages per second.
pub const RATE: Key = Key(&["messages_per_second"]);
/// Cores the server was busy.
pub const SERVER_CORES: Key = Key(&["server_cores"]);
/// Bytes of memory for an idle connection.
pub const EACH: Key = Key(&["idle", "bytes_each"]);
/// Percentiles of latency, in nanoseconds, and their names.
pub const LATENCIES: [(&str, Key); 3] = [
    ("p50", Key(&["latency_ns", "p50"])),
    ("p99", Key(&["latency_ns", "p99"])),
    ("p99.9", Key(&["latency_ns", "p99.9"])),
];

impl Key {
    fn of(self, report: &Value) -> Option<f64> {
        self.0.iter().try_fold(report, |value, key| value.get(key))?.as_f64()
    }
}

/// The middle, the least and the most of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these numbers; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// As JSON.
    pub fn object(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl Runs {
    fn values(&self, key: Key) -> Vec<f64> {
        self.reports.iter().flatten().filter_map(|report| key.of(report)).collect()
    }

    /// A number over the rounds; `None` if no round has it.
    pub fn spread(&self, key: Key) -> Option<Spread> {
        Spread::of(&self.values(key))
    }

    /// The ratio of a number to another server's in the same round, over the rounds.
    pub fn ratio(&self, to: &Self, key: Key) -> Option<Spread> {
        let pairs = self.reports.iter().zip(&to.reports);
        let ratios = pairs.filter_map(|(a, b)| Some(key.of(a.as_ref()?)? / key.of(b.as_ref()?)?));
        Spread::of(&ratios.collect::<Vec<_>>())
    }

    /// How many rounds gave a result.
    pub fn results(&self) -> usize {
        self.reports.iter().flatten().count()
    }

    fn rounds_where(&self, holds: impl Fn(&Value) -> bool) -> usize {
        self.reports.iter().flatten().filter(|report| holds(report)).count()
    }
}

impl Measured {
    /// What is compared: memory of idle connections, else CPU time; and its unit.
    pub fn measure(&self) -> (Key, &'static str) {
        match self.workload.mode {
            Mode::Idle => (EACH, "B/connection"),
            Mode::Connect => (CPU, "CPU ns/connection"),
            Mode::Echo | Mode::Open | Mode::Broadcast | Mode::Burst => (CPU, "CPU ns/message"),
        }
    }

    /// The ratio of what is compared to the baseline's.
    pub fn ratio(&self, run: &Runs) -> Option<Spread> {
        let base = self.runs.iter().find(|run| run.name == self.baseline)?;
        run.ratio(base, self.measure().0)
    }

    /// What a reader of the numbers must know: failures, and whose limits were reached.
    pub fn notes(&self) -> Vec<String> {
        self.runs.iter().flat_map(|run| self.notes_on(run)).collect()
    }

    fn notes_on(&self, run: &Runs) -> Vec<String> {
        let (name, results) = (&run.name, run.results());
        if let Some(why) = &run.failure {
            return vec![match results {
                0 => format!("{name}: no result: {why}"),
                _ => format!("{name}: given up after {results} runs: {why}"),
            }];
        }
        if run.spread(self.measure().0).is_none() {
            return vec![format!("{name}: no result: nothing measured")];
        }
        let mut notes = Vec::new();
        let held_back = run.rounds_where(|report| report["generator_was_bottleneck"] == true);
        if held_back > 0 {
            notes.push(match self.workload.rate {
                None => format!(
                    "{name}: in {held_back} of {results} runs the load generator was the bottleneck; its rate could be higher"
                ),
                Some(_) => format!(
                    "{name}: in {held_back} of {results} runs the load generator sent late; its latency could be lower"
                ),
            });
        }
        if let Some(rate) = self.workload.rate {
            let short = run.rounds_where(|r| RATE.of(r).is_some_and(|got| got < 0.98 * f64::from(rate)));
            if short > 0 {
                notes.push(format!("{name}: in {short} of {results} runs it did not keep the rate"));
            }
        }
        notes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs with these CPU times.
    pub(crate) fn runs(name: &str, cpu: &[Option<f64>]) -> Runs {
        let report = |cpu: &f64| {
            json!({ "server_cpu_ns_per_message": cpu, "messages_per_second": 1e9 / cpu, "latency_ns": {},
                    "generator_was_bottleneck": false })
        };
        Runs {
            name: name.into(),
            reports: cpu.iter().map(|cpu| cpu.as_ref().map(report)).collect(),
            failure: None,
        }
    }

    /// A workload with a baseline called `base`.
    pub(crate) fn measured(workload: &str, runs: Vec<Runs>) -> Measured {
        Measured { workload: Workload::named(workload).unwrap(), baseline: "base".into(), runs }
    }

    #[test]
    fn the_middle_of_odd_and_even_counts() {
        let spread = |values: &[f64]| Spread::of(values).map(|s| (s.median, s.min, s.max));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was twice as slow for both: the ratio does not see it.
        let base = runs("base", &[Some(100.0), Some(200.0), Some(100.0)]);
        let ours = runs("ours", &[Some(150.0), Some(300.0), None]);
        let measured = measured("ws-m16", vec![base, ours]);
        let ratio = measured.ratio(&measured.runs[1]).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (1.5, 1.5, 1.5));
        assert_eq!(measured.runs[1].spread(CPU).unwrap().max, 300.0);
        assert_eq!(measured.runs[1].results(), 2);
    }

    #[test]
    fn limits_and_failures_are_noted() {
        let mut dead = runs("dead", &[None]);
        dead.failure = Some("server ended".into());
        let mut held = runs("held", &[Some(1.0), Some(1.0)]);
        held.reports[1].as_mut().unwrap()["generator_was_bottleneck"] = true.into();
        let all = measured("ws-m16", vec![dead, held]);
        let notes = all.notes();
        assert_eq!(notes[0], "dead: no result: server ended");
        assert!(notes[1].starts_with("held: in 1 of 2 runs the load generator was the bottleneck"));

        let slow = runs("slow", &[Some(1e9 / 15_000.0), Some(1e9 / 20_000.0)]);
        let notes = measured("ws-open", vec![slow]).notes();
        assert_eq!(notes, ["slow: in 1 of 2 runs it did not keep the rate"]);
    }
}
