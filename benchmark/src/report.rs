//! A run as a table for people or an object for programs.
//!
//! Owns: wording, units, the shape of the JSON.
//! In:   an `Outcome`.
//! Out:  text.
//! Not here: what was measured, and how (`load`).

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Latency, Mode, Outcome, Plan};

/// The percentiles shown.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Runs the plan of a load generator and prints what came of it: the table, or the object if `json`.
///
/// Fails if it could not run, if there was a single error, or if nothing was measured.
pub fn run(plan: &Plan, json: bool) -> ExitCode {
    match plan.run() {
        Ok(outcome) => {
            print(if json { format!("{}\n", object(plan, &outcome)) } else { table(plan, &outcome) });
            if outcome.is_result() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&error),
    }
}

/// Prints to stdout, as long as someone reads it: who has seen enough (`head`) does not end what else is to be done.
pub fn print(text: impl Display) {
    let mut out = io::stdout().lock();
    let printed = write!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = printed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("error: stdout: {error}");
    }
}

/// Says on stderr what went wrong; the exit code of a program that failed.
pub fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Says on stderr why what was asked for cannot be; the exit code of such flags.
pub fn refuse(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

/// The plain table.
pub fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mut rows: Vec<(&str, String)> = vec![("Errors", outcome.errors.to_string())];
    if let Some(error) = &outcome.first_error {
        rows.push(("First error", error.clone()));
    }
    if !outcome.is_result() {
        rows.push(("Result", "none: a run with errors or without replies measures nothing".into()));
        return aligned(&rows);
    }
    let connections = plan.mode == Mode::Connect;
    rows.push(("Total time", format!("{:.3} s", outcome.elapsed.as_secs_f64())));
    if connections {
        rows.push(("Total connections", grouped(outcome.messages)));
        rows.push(("Connections per second", format!("{} /s", grouped_f(outcome.rate()))));
    } else {
        rows.push(("Total data", mib(outcome.bytes as f64)));
        rows.push(("Total messages", grouped(outcome.messages)));
        rows.push(("Data throughput", format!("{}/s", mib(outcome.rate() * plan.size as f64))));
        rows.push(("Message throughput", format!("{} msg/s", grouped_f(outcome.rate()))));
    }
    if plan.mode == Mode::Open {
        rows.push(("Rate asked for", format!("{} msg/s", grouped(plan.rate.into()))));
    }
    for (label, times) in [("Latency", &outcome.latency), ("Sent late by", &outcome.lateness)] {
        for (name, share) in PERCENTILES {
            if let Some(time) = times.percentile(share) {
                rows.push((label, format!("{name} {}", duration(time))));
            }
        }
    }
    if let Some(cpu) = outcome.server_cpu_per_message() {
        let each = if connections { "connection" } else { "message" };
        rows.push(("Server CPU", format!("{} per {each}", duration(Duration::from_nanos(round(cpu))))));
    }
    if let Some(memory) = outcome.server_memory {
        rows.push(("Server memory", mib(memory as f64)));
    }
    if let Some(idle) = outcome.idle {
        rows.push(("Memory per idle connection", format!("{} B", grouped_f(idle.each()))));
    }
    if let Some(share) = outcome.own_share() {
        rows.push(("Load generator", format!("{:.0} % of a core", share * 100.0)));
    }
    let mut text = aligned(&rows);
    if outcome.generator_was_bottleneck() {
        text.push_str("The load generator was the bottleneck: the server could have done more.\n");
    }
    text
}

/// The object of `--json`.
pub fn object(plan: &Plan, outcome: &Outcome) -> Value {
    let nanos = |time: Option<Duration>| time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
    let percentiles = |times: &Latency| -> serde_json::Map<String, Value> {
        let known =
            |(name, share): &(&str, f64)| Some(((*name).to_owned(), json!(nanos(times.percentile(*share))?)));
        PERCENTILES.iter().filter_map(known).collect()
    };
    json!({
        "mode": format!("{:?}", plan.mode).to_lowercase(),
        "tls": plan.tls,
        "clients": plan.clients,
        "in_flight": plan.in_flight,
        "size": plan.size,
        "result": outcome.is_result(),
        "errors": outcome.errors,
        "first_error": outcome.first_error,
        "seconds": outcome.elapsed.as_secs_f64(),
        "messages": outcome.messages,
        "bytes": outcome.bytes,
        "messages_per_second": outcome.rate(),
        "mib_per_second": outcome.bytes as f64 / outcome.elapsed.as_secs_f64().max(1e-9) / f64::from(1 << 20),
        "rate": (plan.mode == Mode::Open).then_some(plan.rate),
        "latency_ns": percentiles(&outcome.latency),
        "lateness_ns": percentiles(&outcome.lateness),
        "server_cpu_ns": nanos(outcome.server_cpu),
        "server_cpu_ns_per_message": outcome.server_cpu_per_message(),
        "server_cores": outcome.server_share(),
        "server_memory": outcome.server_memory,
        "generator_cpu_ns": nanos(outcome.own_cpu),
        "generator_cores": outcome.own_share(),
        "generator_was_bottleneck": outcome.generator_was_bottleneck(),
        "idle": outcome.idle.map(|idle| json!({
            "connections": idle.connections,
            "before": idle.before,
            "held": idle.held,
            "bytes_each": idle.each(),
        })),
    })
}

fn aligned(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    let mut last = "";
    for (name, value) in rows {
        let label = if *name == last { String::new() } else { format!("{name}:") };
        let _ = writeln!(text, "{label:<width$}  {value}");
        last = name;
    }
    text
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As [`grouped`], rounded.
pub fn grouped_f(number: f64) -> String {
    grouped(round(number))
}

/// Nanoseconds with three digits or so.
pub fn nanos(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { grouped_f(value) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, NaN becomes 0")]
fn round(number: f64) -> u64 {
    number.round() as u64
}

fn mib(bytes: f64) -> String {
    format!("{:.3} MiB", bytes / f64::from(1 << 20))
}

fn duration(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    match time.as_nanos() {
        ..1_000 => format!("{nanos:.0} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanos / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", nanos / 1e6),
        _ => format!("{:.3} s", nanos / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Framer;
    use crate::load::{Idle, Wire};

    fn plan() -> Plan {
        Plan {
            target: ([127, 0, 0, 1], 1111).into(),
            wire: Wire::Tcp(Framer::Raw),
            tls: false,
            mode: Mode::Echo,
            to_everyone: false,
            clients: 100,
            in_flight: 1,
            size: 32,
            rate: 0,
            warmup: Duration::ZERO,
            measure: Duration::from_secs(2),
            server_pid: None,
            progress: false,
        }
    }

    fn outcome() -> Outcome {
        let mut outcome = Outcome {
            elapsed: Duration::from_millis(2000),
            messages: 4_194_304,
            bytes: 4_194_304 * 32,
            own_cpu: Some(Duration::from_millis(1900)),
            server_cpu: Some(Duration::from_millis(1000)),
            server_memory: Some(3 << 20),
            ..Outcome::default()
        };
        outcome.latency.record(Duration::from_nanos(100));
        outcome
    }

    #[test]
    fn the_table_of_a_run() {
        let expected = "\
Errors:              0
Total time:          2.000 s
Total data:          128.000 MiB
Total messages:      4,194,304
Data throughput:     64.000 MiB/s
Message throughput:  2,097,152 msg/s
Latency:             p50 100 ns
                     p90 100 ns
                     p99 100 ns
                     p99.9 100 ns
                     max 100 ns
Server CPU:          238 ns per message
Server memory:       3.000 MiB
Load generator:      95 % of a core
The load generator was the bottleneck: the server could have done more.
";
        let mut outcome = outcome();
        // 100 is in the bucket of 100 and 101.
        let text = table(&plan(), &outcome).replace("101 ns", "100 ns");
        assert_eq!(text, expected);
        outcome.idle = Some(Idle { connections: 1000, before: 0, held: 1_279_000 });
        assert!(table(&plan(), &outcome).contains("Memory per idle connection:  1,279 B\n"));
    }

    #[test]
    fn a_run_with_errors_shows_no_numbers() {
        let mut outcome = outcome();
        outcome.errors = 2;
        outcome.first_error = Some("client 3: server closed the connection".into());
        let text = table(&plan(), &outcome);
        assert!(text.starts_with("Errors:       2\nFirst error:  client 3: server closed"));
        assert!(text.contains("Result:") && !text.contains("throughput"));
        let object = object(&plan(), &outcome);
        assert_eq!((&object["result"], &object["errors"]), (&json!(false), &json!(2)));
    }

    #[test]
    fn the_object_of_a_run() {
        let object = object(&plan(), &outcome());
        assert_eq!(object["result"], true);
        assert_eq!(object["messages"], 4_194_304);
        assert_eq!(object["mib_per_second"], 64.0);
        assert_eq!(object["server_cpu_ns"], 1_000_000_000);
        assert_eq!(object["generator_was_bottleneck"], true);
        assert!(object["latency_ns"]["p99"].is_u64());
        assert!(object["idle"].is_null());
    }

    #[test]
    fn connections_are_called_connections() {
        let text = table(&Plan { mode: Mode::Connect, ..plan() }, &outcome());
        assert!(text.contains("Connections per second:  2,097,152 /s"));
        assert!(text.contains("per connection") && !text.contains("message"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1000), grouped(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!([nanos(9.54), nanos(1234.5)], ["9.5", "1,235"]);
    }
}
