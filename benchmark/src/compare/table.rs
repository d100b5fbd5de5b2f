//! The table of one workload.

use std::fmt::Write;

use crate::compare::runs::{LATENCIES, Measured, RATE, Runs, Spread};
use crate::load::Mode;
use crate::report::{grouped_f, nanos};

/// The table, and notes under it.
pub fn text(measured: &Measured) -> String {
    let (key, unit) = measured.measure();
    let mut rows = vec![[
        "server".to_owned(),
        format!("{unit} (min–max)"),
        format!("vs {} (min–max)", measured.baseline),
        if measured.workload.mode == Mode::Idle { "opened/s" } else { "per second" }.to_owned(),
        "p50/p99/p99.9 µs".to_owned(),
        "runs".to_owned(),
    ]];
    for run in &measured.runs {
        let Some(Spread { median, min, max }) = run.spread(key) else { continue };
        let ratio = measured.ratio(run);
        rows.push([
            run.name.clone(),
            format!("{} ({}–{})", nanos(median), nanos(min), nanos(max)),
            ratio.map_or("–".into(), |r| format!("{:.2} ({:.2}–{:.2})", r.median, r.min, r.max)),
            run.spread(RATE).map_or(String::new(), |rate| grouped_f(rate.median)),
            latencies(run).unwrap_or("–".into()),
            run.results().to_string(),
        ]);
    }
    let mut text =
        format!("{}: {}\n{}", measured.workload.name, measured.workload.describe(), columns(&rows));
    for note in measured.notes() {
        let _ = writeln!(text, "{note}");
    }
    text
}

/// The percentiles in microseconds; `None` where none were recorded.
pub fn latencies(run: &Runs) -> Option<String> {
    let each = LATENCIES.map(|(_, key)| Some(format!("{:.0}", run.spread(key)?.median / 1e3)));
    Some(each.into_iter().collect::<Option<Vec<_>>>()?.join("/"))
}

/// Rows under each other, the first column to the left.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("  {:<w$}", row[0], w = width[0]);
        for column in 1..N {
            let _ = write!(line, "  {:>w$}", row[column], w = width[column]);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::runs::tests::{measured, runs};

    #[test]
    fn the_table_of_a_workload() {
        let mut dead = runs("dead", &[None]);
        dead.failure = Some("server ended".into());
        let all = vec![runs("base", &[Some(1000.0)]), runs("ours", &[Some(1500.0)]), dead];
        let expected = "\
ws-m16: 100 clients, 16 in flight, 32 B
  server  CPU ns/message (min–max)  vs base (min–max)  per second  p50/p99/p99.9 µs  runs
  base         1,000 (1,000–1,000)   1.00 (1.00–1.00)   1,000,000                 –     1
  ours         1,500 (1,500–1,500)   1.50 (1.50–1.50)     666,667                 –     1
dead: no result: server ended
";
        assert_eq!(text(&measured("ws-m16", all)), expected);
    }

    #[test]
    fn latencies_are_in_microseconds() {
        let mut run = runs("open", &[Some(1.0)]);
        run.reports[0].as_mut().unwrap()["latency_ns"] =
            serde_json::json!({ "p50": 12_400, "p99": 99_000, "p99.9": 1_000_000 });
        assert_eq!(latencies(&run).as_deref(), Some("12/99/1000"));
    }
}
