//! What a second server thread brings: the rate with two over the rate with one, in the same round.
//!
//! Owns: which workloads are two of a pair, the ratios.
//! In:   what was measured.
//! Out:  a table below the second of a pair; the same as JSON and Markdown.
//! Not here: running a pair in alternation (`compare`).

use std::fmt::Write;

use serde_json::{Value, json};

use crate::compare::family;
use crate::compare::runs::{CPU, Measured, RATE, SERVER_CORES, Spread};
use crate::compare::table::columns;
use crate::compare::workload::Workload;

/// Cores a server with two threads is to be busy on, or its rate does not tell what two cores can do.
const BUSY: f64 = 1.6;

/// What it brought one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// The server.
    pub name: String,
    /// Rate over rate.
    pub rate: Spread,
    /// CPU time per message over that: what the second thread costs.
    pub cpu: Option<Spread>,
    /// Cores the server was busy, with one thread and with two.
    pub cores: Option<(f64, f64)>,
}

/// A pair of workloads that differ in the threads alone.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    one: &'a Measured,
    two: &'a Measured,
}

/// The pairs among all, by their second.
pub fn pairs(all: &[Measured]) -> impl Iterator<Item = Pair<'_>> {
    all.iter().filter_map(|two| {
        let one = all.iter().find(|one| is_pair(&one.workload, &two.workload))?;
        Some(Pair { one, two })
    })
}

/// Whether the second is the first with another thread.
pub fn is_pair(one: &Workload, two: &Workload) -> bool {
    let (Some(one_name), Some(two_name)) = (one.name.strip_suffix("-t1"), two.name.strip_suffix("-t2"))
    else {
        return false;
    };
    one_name == two_name && (one.threads, two.threads) == (Some(1), Some(2))
}

impl Pair<'_> {
    /// The workload with two threads.
    pub fn workload(&self) -> &Workload {
        &self.two.workload
    }

    /// What the second thread brought the servers that ran with both.
    pub fn gains(&self) -> Vec<Gain> {
        let gain = |two: &crate::compare::runs::Runs| {
            let one = self.one.runs.iter().find(|one| one.name == two.name)?;
            let cores = one.spread(SERVER_CORES).zip(two.spread(SERVER_CORES));
            Some(Gain {
                name: two.name.clone(),
                rate: two.ratio(one, RATE)?,
                cpu: two.ratio(one, CPU),
                cores: cores.map(|(one, two)| (one.median, two.median)),
            })
        };
        self.two.runs.iter().filter_map(gain).collect()
    }

    /// The table; nothing if no server ran with both.
    pub fn text(&self) -> Option<String> {
        let gains = self.gains();
        if gains.is_empty() {
            return None;
        }
        let mut rows = vec![[
            "server".to_owned(),
            "rate (min–max)".to_owned(),
            "CPU/message (min–max)".to_owned(),
            "cores busy".to_owned(),
            "two full cores".to_owned(),
        ]];
        let spread = |s: Spread| format!("{:.2} ({:.2}–{:.2})", s.median, s.min, s.max);
        let mut idle = Vec::new();
        for gain in gains {
            if let Some((_, busy)) = gain.cores.filter(|(_, busy)| *busy < BUSY) {
                idle.push((gain.name.clone(), busy));
            }
            rows.push([
                gain.name,
                spread(gain.rate),
                gain.cpu.map_or("–".into(), spread),
                gain.cores.map_or("–".into(), |(one, two)| format!("{one:.2} and {two:.2}")),
                gain.cpu.map_or("–".into(), |cpu| format!("{:.2}", 2.0 / cpu.median)),
            ]);
        }
        let (one, two) = (self.one.workload.name, self.two.workload.name);
        let mut text = format!("{two} over {one}, in the same round\n{}", columns(&rows));
        for (name, busy) in idle {
            let _ = writeln!(
                text,
                "{name}: with two threads it was busy on {busy:.2} cores: the load or other programs had the rest, or a thread \
                 had nothing to do"
            );
        }
        Some(text)
    }

    /// As JSON.
    pub fn object(&self) -> Value {
        let gain = |gain: Gain| {
            json!({
                "name": gain.name,
                "rate": gain.rate.object(),
                "cpu_per_message": gain.cpu.map(Spread::object),
                "server_cores": gain.cores.map(|(one, two)| [one, two]),
            })
        };
        json!({
            "workload": self.two.workload.name,
            "over": self.one.workload.name,
            "servers": self.gains().into_iter().map(gain).collect::<Vec<_>>(),
        })
    }
}

/// The table of a page; nothing if there is no pair.
pub fn markdown(all: &[Measured]) -> String {
    let pairs: Vec<_> = pairs(all).map(|pair| (pair, pair.gains())).collect();
    let mut names: Vec<&str> = Vec::new();
    for gain in pairs.iter().flat_map(|(_, gains)| gains) {
        let family = family(&gain.name);
        if !names.contains(&family) {
            names.push(family);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let mut text = "\nRate with two server threads over the rate with one.\n\n".to_owned();
    let _ = writeln!(text, "| workload | {} |", names.join(" | "));
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(names.len()));
    for (pair, gains) in &pairs {
        let _ = write!(text, "| `{}`: {} |", pair.workload().name, pair.workload().describe());
        for name in &names {
            let gain = gains.iter().find(|gain| family(&gain.name) == *name);
            let _ = write!(text, " {} |", gain.map_or("–".into(), |gain| format!("{:.2}", gain.rate.median)));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::runs::tests::{measured, runs};

    fn all() -> Vec<Measured> {
        // The second round was half as fast for both numbers of threads: the ratio does not see it.
        vec![
            measured("burst-ws-m1-t1", vec![runs("storm-ws", &[Some(100.0), Some(200.0)])]),
            measured(
                "burst-ws-m1-t2",
                vec![runs("storm-ws", &[Some(50.0), Some(100.0)]), runs("other", &[Some(1.0)])],
            ),
            measured("ws-m1", vec![runs("storm-ws", &[Some(100.0)])]),
        ]
    }

    #[test]
    fn a_pair_is_the_same_workload_with_one_and_two_threads() {
        let named = |name| Workload::named(name).unwrap();
        assert!(is_pair(&named("ws-m16-t1"), &named("ws-m16-t2")));
        assert!(!is_pair(&named("ws-m16-t2"), &named("ws-m16-t1")));
        assert!(!is_pair(&named("tcp-m1-t1"), &named("ws-m16-t2")));
        for two in crate::compare::workload::ALL.iter().filter(|w| w.threads == Some(2)) {
            let one = crate::compare::workload::ALL.iter().find(|one| is_pair(one, two));
            let one = one.unwrap_or_else(|| panic!("{} has no partner", two.name));
            let same = Workload { name: two.name, threads: two.threads, ..*one };
            assert_eq!(same, *two);
        }
    }

    #[test]
    fn rates_are_compared_within_a_round() {
        let all = all();
        let pairs: Vec<_> = pairs(&all).collect();
        assert_eq!(pairs.len(), 1);
        let gains = pairs[0].gains();
        assert_eq!(gains.len(), 1);
        assert_eq!((gains[0].rate.min, gains[0].rate.max, gains[0].cpu.unwrap().median), (2.0, 2.0, 0.5));
        assert_eq!(
            pairs[0].text().unwrap(),
            "burst-ws-m1-t2 over burst-ws-m1-t1, in the same round\n  \
             server      rate (min–max)  CPU/message (min–max)  cores busy  two full cores\n  \
             storm-ws  2.00 (2.00–2.00)       0.50 (0.50–0.50)           –            4.00\n"
        );
        assert_eq!(pairs[0].object()["servers"][0]["rate"]["median"], 2.0);
    }

    #[test]
    fn a_server_without_two_cores_is_noted() {
        let mut all = all();
        for (measured, cores) in all.iter_mut().zip([1.0, 1.2]) {
            for report in measured.runs[0].reports.iter_mut().flatten() {
                report["server_cores"] = cores.into();
            }
        }
        let text = pairs(&all).next().unwrap().text().unwrap();
        assert!(
            text.contains(
                "1.00 and 1.20            4.00\nstorm-ws: with two threads it was busy on 1.20 cores"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_page_has_a_row_for_each_pair() {
        let text = markdown(&all());
        assert!(text.contains("| workload | StormSocket |\n| --- | ---: |\n"), "{text}");
        assert!(text.ends_with(" | 2.00 |\n"), "{text}");
        assert_eq!(markdown(&all()[..1]), "");
    }
}
