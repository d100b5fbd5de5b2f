//! All results, and as JSON, each single run included.
//!
//! Owns: the shape of the JSON.
//! In:   what was measured, on what and how; or the JSON of an earlier comparison.
//! Out:  the other of the two.
//! Not here: drawings and pages, which are made of this (`plot`, `markdown`).

use serde_json::{Value, json};

use crate::compare::machine::Machine;
use crate::compare::runs::{LATENCIES, Measured, RATE, Runs};
use crate::compare::scaling;
use crate::compare::workload::Workload;

/// A comparison that was made.
#[derive(Debug)]
pub struct Results {
    /// What it was made on.
    pub machine: Machine,
    /// How it was made.
    pub settings: Settings,
    /// What was measured.
    pub workloads: Vec<Measured>,
}

/// How a comparison was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Rounds.
    pub rounds: u64,
    /// Seconds of load before measuring, in each run.
    pub warmup: f64,
    /// Seconds measured in each run.
    pub seconds: f64,
    /// Threads of the servers, where the workload does not say.
    pub threads: u64,
    /// Server and load had cores of their own.
    pub pinned: bool,
    /// What else a reader should know.
    pub notes: Vec<String>,
}

impl Results {
    /// As JSON.
    pub fn object(&self) -> Value {
        let Settings { rounds, warmup, seconds, threads, pinned, notes } = &self.settings;
        json!({
            "machine": self.machine.object(),
            "rounds": rounds,
            "warmup": warmup,
            "seconds": seconds,
            "threads": threads,
            "pinned": pinned,
            "notes": notes,
            "workloads": self.workloads.iter().map(workload).collect::<Vec<_>>(),
            "scaling": scaling::pairs(&self.workloads).map(|pair| pair.object()).collect::<Vec<_>>(),
        })
    }

    /// From the JSON of an earlier comparison.
    ///
    /// # Errors
    /// It is none, or one with workloads this program does not know.
    pub fn read(object: &Value) -> Result<Self, String> {
        let read = || {
            Some(Self {
                machine: Machine::read(&object["machine"])?,
                settings: Settings {
                    rounds: object["rounds"].as_u64()?,
                    warmup: object["warmup"].as_f64()?,
                    seconds: object["seconds"].as_f64()?,
                    threads: object["threads"].as_u64()?,
                    pinned: object["pinned"].as_bool()?,
                    notes: strings(&object["notes"])?,
                },
                workloads: Vec::new(),
            })
        };
        let mut results = read().ok_or("it is not the --json of a comparison")?;
        for workload in object["workloads"].as_array().into_iter().flatten() {
            let name = workload["workload"].as_str().unwrap_or_default();
            let measured = measured(workload).ok_or_else(|| format!("workload `{name}` cannot be read"))?;
            results.workloads.push(measured);
        }
        Ok(results)
    }
}

/// An array of strings.
pub(crate) fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
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

/// The reverse: what can be computed is computed anew.
fn measured(workload: &Value) -> Option<Measured> {
    let runs = |server: &Value| {
        Some(Runs {
            name: server["name"].as_str()?.to_owned(),
            reports: server["runs"]
                .as_array()?
                .iter()
                .map(|run| run.is_object().then(|| run.clone()))
                .collect(),
            failure: server["failure"].as_str().map(str::to_owned),
        })
    };
    Some(Measured {
        workload: Workload::named(workload["workload"].as_str()?)?,
        baseline: workload["baseline"].as_str()?.to_owned(),
        runs: workload["servers"].as_array()?.iter().map(runs).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::runs::tests::{measured, runs};

    /// These workloads, measured here.
    pub(crate) fn results(workloads: Vec<Measured>) -> Results {
        let settings = Settings {
            rounds: 3,
            warmup: 0.25,
            seconds: 1.0,
            threads: 1,
            pinned: true,
            notes: vec!["By hand.".into()],
        };
        Results { machine: Machine::this(), settings, workloads }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut dead = runs("dead", &[None]);
        dead.failure = Some("server ended".into());
        let written =
            results(vec![measured("ws-m16", vec![runs("base", &[Some(1.0), None, Some(3.0)]), dead])]);
        let read = Results::read(&written.object()).unwrap();
        assert_eq!(read.settings, written.settings);
        assert_eq!(read.object(), written.object());
        assert_eq!(read.object()["workloads"][0]["servers"][0]["value"]["median"], 2.0);
    }

    #[test]
    fn other_objects_are_refused() {
        assert!(Results::read(&json!({ "rounds": 3 })).unwrap_err().contains("not the --json"));
        let mut object = results(vec![measured("ws-m16", Vec::new())]).object();
        object["workloads"][0]["workload"] = "udp-m1".into();
        assert!(Results::read(&object).unwrap_err().contains("`udp-m1`"));
    }
}
