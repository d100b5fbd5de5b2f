//! What the rounds of a workload come to: medians, spread, and ratios within a round.
//!
//! Owns: the arithmetic and the table.
//! In:   one report of the load generator per server and round, or why there is none.
//! Out:  text and JSON.
//! Not here: where the reports come from (`compare`).

use std::fmt::Write;

use serde_json::{Value, json};

use crate::compare::workload::Workload;
use crate::load::Mode;
use crate::report::{grouped_f, nanos};

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

impl Runs {
    fn values(&self, key: &Key) -> Vec<f64> {
        self.reports.iter().flatten().filter_map(|report| key.of(report)).collect()
    }

    /// Per-round ratios of one number to that of another server.
    fn ratios(&self, to: &Self, key: &Key) -> Vec<f64> {
        let pairs = self.reports.iter().zip(&to.reports);
        pairs.filter_map(|(a, b)| Some(key.of(a.as_ref()?)? / key.of(b.as_ref()?)?)).collect()
    }
}

/// A number in a report.
#[derive(Debug)]
struct Key(&'static [&'static str]);

impl Key {
    fn of(&self, report: &Value) -> Option<f64> {
        self.0.iter().try_fold(report, |value, key| value.get(key))?.as_f64()
    }
}

const CPU: Key = Key(&["server_cpu_ns_per_message"]);
const RATE: Key = Key(&["messages_per_second"]);
const EACH: Key = Key(&["idle", "bytes_each"]);
const P50: Key = Key(&["latency_ns", "p50"]);
const P99: Key = Key(&["latency_ns", "p99"]);

/// The middle, the least and the most of some numbers.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some((median, first, last))
}

/// What is compared: memory of idle connections, else CPU time.
fn measure(workload: &Workload) -> (&'static Key, &'static str) {
    match workload.mode {
        Mode::Idle => (&EACH, "B/connection"),
        Mode::Connect => (&CPU, "CPU ns/connection"),
        Mode::Echo | Mode::Broadcast => (&CPU, "CPU ns/message"),
    }
}

/// The table of one workload.
pub fn text(workload: &Workload, baseline: &str, runs: &[Runs]) -> String {
    let (key, unit) = measure(workload);
    let base = runs.iter().find(|r| r.name == baseline);
    let ratio_title = format!("vs {baseline} (min–max)");
    let mut rows = vec![[
        "server".to_owned(),
        format!("{unit} (min–max)"),
        ratio_title,
        if workload.mode == Mode::Idle { "opened/s" } else { "per second" }.to_owned(),
        "p50/p99 µs".to_owned(),
        "runs".to_owned(),
    ]];
    let mut notes = String::new();
    for run in runs {
        let Some((median, low, high)) = spread(&run.values(key)) else {
            let why = run.failure.as_deref().unwrap_or("nothing measured");
            let _ = writeln!(notes, "{}: no result: {why}", run.name);
            continue;
        };
        if let Some(why) = &run.failure {
            let _ = writeln!(
                notes,
                "{}: given up after {} runs: {why}",
                run.name,
                run.reports.iter().flatten().count()
            );
        }
        let ratio = base.and_then(|base| spread(&run.ratios(base, key)));
        let rate = spread(&run.values(&RATE)).map_or(String::new(), |(rate, ..)| grouped_f(rate));
        let latency = match (spread(&run.values(&P50)), spread(&run.values(&P99))) {
            (Some((p50, ..)), Some((p99, ..))) => format!("{:.0}/{:.0}", p50 / 1e3, p99 / 1e3),
            _ => "–".into(),
        };
        rows.push([
            run.name.clone(),
            format!("{} ({}–{})", nanos(median), nanos(low), nanos(high)),
            ratio.map_or("–".into(), |(mid, low, high)| format!("{mid:.2} ({low:.2}–{high:.2})")),
            rate,
            latency,
            run.values(key).len().to_string(),
        ]);
        let held_back =
            run.reports.iter().flatten().filter(|r| r["generator_was_bottleneck"] == true).count();
        if held_back > 0 {
            let _ = writeln!(
                notes,
                "{}: in {held_back} runs the load generator was the bottleneck; its rate could be higher",
                run.name
            );
        }
    }
    let mut text = format!(
        "{}: {} clients, {} in flight, {} bytes\n",
        workload.name, workload.clients, workload.in_flight, workload.size
    );
    text.push_str(&columns(&rows));
    text.push_str(&notes);
    text
}

fn columns(rows: &[[String; 6]]) -> String {
    let width: Vec<usize> =
        (0..6).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("  {:<w$}", row[0], w = width[0]);
        for column in 1..6 {
            let _ = write!(line, "  {:>w$}", row[column], w = width[column]);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The object of one workload.
pub fn object(workload: &Workload, baseline: &str, runs: &[Runs]) -> Value {
    let (key, unit) = measure(workload);
    let base = runs.iter().find(|r| r.name == baseline);
    let three = |values: Vec<f64>| {
        spread(&values).map(|(median, min, max)| json!({ "median": median, "min": min, "max": max }))
    };
    let servers: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "name": run.name,
                "value": three(run.values(key)),
                "ratio": base.and_then(|base| three(run.ratios(base, key))),
                "rate": three(run.values(&RATE)),
                "failure": run.failure,
                "runs": run.reports,
            })
        })
        .collect();
    json!({
        "workload": workload.name,
        "clients": workload.clients,
        "in_flight": workload.in_flight,
        "size": workload.size,
        "unit": unit,
        "baseline": baseline,
        "servers": servers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &str, cpu: &[Option<f64>]) -> Runs {
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

    #[test]
    fn the_middle_of_odd_and_even_counts() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was twice as slow for both: the ratio does not see it.
        let base = runs("base", &[Some(100.0), Some(200.0), Some(100.0)]);
        let ours = runs("ours", &[Some(150.0), Some(300.0), None]);
        assert_eq!(ours.ratios(&base, &CPU), [1.5, 1.5]);
        let workload = Workload::named("ws-m16").unwrap();
        let object = object(&workload, "base", &[base, ours]);
        assert_eq!(object["servers"][1]["ratio"]["median"], 1.5);
        assert_eq!(object["servers"][1]["value"]["max"], 300.0);
    }

    #[test]
    fn the_table_of_a_workload() {
        let mut dead = runs("dead", &[None]);
        dead.failure = Some("server ended".into());
        let all = [runs("base", &[Some(1000.0)]), runs("ours", &[Some(1500.0)]), dead];
        let text = text(&Workload::named("ws-m16").unwrap(), "base", &all);
        let expected = "\
ws-m16: 100 clients, 16 in flight, 32 bytes
  server  CPU ns/message (min–max)  vs base (min–max)  per second  p50/p99 µs  runs
  base         1,000 (1,000–1,000)   1.00 (1.00–1.00)   1,000,000           –     1
  ours         1,500 (1,500–1,500)   1.50 (1.50–1.50)     666,667           –     1
dead: no result: server ended
";
        assert_eq!(text, expected);
    }
}
