//! The results as Markdown, to be pasted into a page: what they were measured on, ratios, latencies, what to know.

use std::fmt::Write;

use crate::compare::family;
use crate::compare::machine::Machine;
use crate::compare::results::{Results, Settings};
use crate::compare::runs::{Measured, Runs};
use crate::compare::scaling;
use crate::compare::table::latencies;
use crate::report::grouped_f;

/// The page.
pub fn text(results: &Results) -> String {
    let all = &results.workloads;
    let mut text = provenance(&results.machine, &results.settings);
    text.push_str(&ratios(all));
    text.push_str(&latency(all));
    text.push_str(&scaling::markdown(all));
    let notes: Vec<String> = all
        .iter()
        .flat_map(|m| m.notes().into_iter().map(|note| format!("- `{}`: {note}\n", m.workload.name)))
        .collect();
    if !notes.is_empty() {
        text.push('\n');
        text.extend(notes);
    }
    text
}

/// On what, when and how.
fn provenance(machine: &Machine, settings: &Settings) -> String {
    let Machine { cpu, cores, kernel, rustc, versions, date } = machine;
    let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut text = format!("{date}. {cpu}, {cores} cores, {kernel}. {rustc}; {}.\n", versions.join(", "));
    for note in &settings.notes {
        let _ = writeln!(text, "{note}");
    }
    let Settings { rounds, warmup, seconds, threads, pinned, .. } = settings;
    let threads = if *threads == 1 { "one thread".into() } else { format!("{threads} threads") };
    let pinned = if *pinned { "server and load generator on a core each" } else { "not pinned to cores" };
    let _ = writeln!(
        text,
        "{rounds} alternating rounds of {seconds} s after {warmup} s of warm-up, servers with {threads}, {pinned}; medians.\n"
    );
    text
}

/// The names of columns: families of servers, in the order they ran.
fn columns<'a>(all: impl Iterator<Item = &'a Measured>) -> Vec<&'a str> {
    let mut columns = Vec::new();
    for run in all.flat_map(|measured| &measured.runs) {
        let family = family(&run.name);
        if !columns.contains(&family) {
            columns.push(family);
        }
    }
    columns
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<_> = cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn head(first: &str, columns: &[&str]) -> String {
    let names = [first].into_iter().chain(columns.iter().copied()).map(str::to_owned);
    row(names) + &row(["---".to_owned()].into_iter().chain(columns.iter().map(|_| "---:".to_owned())))
}

fn of_family<'a>(measured: &'a Measured, column: &str) -> Option<&'a Runs> {
    measured.runs.iter().find(|run| family(&run.name) == column)
}

/// The table of ratios, with the value itself where it is the baseline's or ours.
fn ratios(all: &[Measured]) -> String {
    let columns = columns(all.iter());
    let mut text = "Server CPU per message or connection, or memory per idle connection, relative to the baseline; below 1 is \
                    cheaper.\n\n"
        .to_owned();
    text += &head("workload", &columns);
    for measured in all {
        let (key, unit) = measured.measure();
        let unit = if unit.starts_with("CPU") { "ns" } else { "B" };
        let cell = |column: &&str| {
            let run = of_family(measured, column)?;
            let (value, ratio) = (run.spread(key)?.median, measured.ratio(run));
            let with_value = run.name == measured.baseline || *column == "StormSocket";
            Some(match (ratio, with_value) {
                (Some(ratio), true) => format!("{:.2} ({} {unit})", ratio.median, grouped_f(value)),
                (Some(ratio), false) => format!("{:.2}", ratio.median),
                (None, _) => format!("{} {unit}", grouped_f(value)),
            })
        };
        let name = format!("`{}`: {}", measured.workload.name, measured.workload.describe());
        text += &row([name].into_iter().chain(columns.iter().map(|c| cell(c).unwrap_or("–".into()))));
    }
    text
}

/// The table of latencies; nothing if none were recorded.
fn latency(all: &[Measured]) -> String {
    let with_latency = || all.iter().filter(|m| m.runs.iter().any(|run| latencies(run).is_some()));
    let columns = columns(with_latency());
    if columns.is_empty() {
        return String::new();
    }
    let mut text = "\nLatency in µs: p50/p99/p99.9.\n\n".to_owned();
    text += &head("workload", &columns);
    for measured in with_latency() {
        let cell = |column: &&str| of_family(measured, column).and_then(latencies).unwrap_or("–".into());
        let name = format!("`{}`: {}", measured.workload.name, measured.workload.describe());
        text += &row([name].into_iter().chain(columns.iter().map(cell)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;
    use crate::compare::runs::tests::{measured, runs};
    use serde_json::json;

    #[test]
    fn a_row_for_each_workload_and_a_column_for_each_family() {
        let all = [
            measured("tcp-m1", vec![runs("storm-tcp", &[Some(1100.0)]), runs("base", &[Some(1000.0)])]),
            measured("ws-m16", vec![runs("base", &[Some(100.0)]), runs("storm-ws", &[Some(150.0)])]),
            measured("ws-m1", vec![runs("base", &[None]), runs("storm-ws", &[Some(7.0)])]),
        ];
        let expected = "\
| workload | StormSocket | base |
| --- | ---: | ---: |
| `tcp-m1`: 100 clients, 1 in flight, 32 B | 1.10 (1,100 ns) | 1.00 (1,000 ns) |
| `ws-m16`: 100 clients, 16 in flight, 32 B | 1.50 (150 ns) | 1.00 (100 ns) |
| `ws-m1`: 100 clients, 1 in flight, 32 B | 7 ns | – |
";
        let text = ratios(&all);
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(latency(&all), "");
    }

    #[test]
    fn the_page_says_on_what_and_how() {
        let page = text(&results(vec![measured("ws-m16", vec![runs("base", &[Some(1.0)])])]));
        assert!(page.contains(
            "By hand.\n3 alternating rounds of 1 s after 0.25 s of warm-up, servers with one thread"
        ));
        assert!(page.contains("rustc ") && page.contains("tokio "));
    }

    #[test]
    fn latencies_have_a_table_of_their_own() {
        let mut open = runs("storm-ws", &[Some(10.0)]);
        open.reports[0].as_mut().unwrap()["latency_ns"] =
            json!({ "p50": 12_400, "p99": 99_000, "p99.9": 1_000_000 });
        let text = latency(&[measured("ws-open", vec![open]), measured("ws-m16", vec![runs("yawc", &[])])]);
        assert!(text.contains("| workload | StormSocket |\n"), "{text}");
        assert!(text.ends_with("| 12/99/1000 |\n"), "{text}");
    }
}
