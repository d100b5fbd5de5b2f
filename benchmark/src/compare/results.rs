//! All results as one JSON object, each single run included.

use serde_json::{Value, json};

use crate::compare::CompareArgs;
use crate::compare::machine::Machine;
use crate::compare::runs::{LATENCIES, Measured, RATE};

/// The object of a comparison.
pub fn object(args: &CompareArgs, machine: &Machine, pinned: bool, all: &[Measured]) -> Value {
    json!({
        "machine": machine.object(),
        "rounds": args.rounds,
        "warmup": args.warmup.as_secs_f64(),
        "seconds": args.seconds.as_secs_f64(),
        "threads": args.threads,
        "pinned": pinned,
        "workloads": all.iter().map(workload).collect::<Vec<_>>(),
    })
}

fn workload(measured: &Measured) -> Value {
    let (key, unit) = measured.measure();
    let servers: Vec<Value> = measured
        .runs
        .iter()
        .map(|run| {
            let latency: serde_json::Map<String, Value> = LATENCIES
                .iter()
                .filter_map(|(name, key)| Some(((*name).to_owned(), run.spread(*key)?.object())))
                .collect();
            json!({
                "name": run.name,
                "value": run.spread(key).map(|spread| spread.object()),
                "ratio": measured.ratio(run).map(|spread| spread.object()),
                "rate": run.spread(RATE).map(|spread| spread.object()),
                "latency_ns": latency,
                "failure": run.failure,
                "runs": run.reports,
            })
        })
        .collect();
    let w = &measured.workload;
    json!({
        "workload": w.name,
        "group": w.group.name,
        "description": w.describe(),
        "clients": w.clients,
        "in_flight": w.in_flight,
        "size": w.size,
        "rate": w.rate,
        "server_threads": w.threads,
        "unit": unit,
        "baseline": measured.baseline,
        "notes": measured.notes(),
        "servers": servers,
    })
}
