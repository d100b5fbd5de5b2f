//! What is to be run: which workloads on which servers, on which cores, and about how long it takes.
//!
//! Owns: the choice.
//! In:   the flags.
//! Out:  workloads with their servers; or why the flags make no comparison, in words.
//! Not here: running (`compare`), processes (`process`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compare::CompareArgs;
use crate::compare::contender::Contender;
use crate::compare::process::{self, Pins};
use crate::compare::runs::Runs;
use crate::compare::workload::{ALL, Workload};

/// Workloads a name stands for: one, or those of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected(Vec<Workload>);

impl Selected {
    /// The workload or the group of this name.
    ///
    /// # Errors
    /// There is none; says which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found: Vec<_> = ALL.iter().filter(|w| w.name == name || w.group.name == name).copied().collect();
        if found.is_empty() {
            let mut names: Vec<_> = ALL.iter().map(|w| w.name).collect();
            let mut groups: Vec<_> = ALL.iter().map(|w| w.group.name).collect();
            groups.dedup();
            names.append(&mut groups);
            return Err(format!("there are {}", names.join(", ")));
        }
        Ok(Self(found))
    }
}

/// What is to be run.
#[derive(Debug)]
pub struct Plan {
    /// Workloads, each with the servers that can serve it.
    pub steps: Vec<(Workload, Vec<Contender>)>,
    /// Where our programs are.
    pub programs: PathBuf,
    /// Whether server and load have cores of their own.
    pub pinned: bool,
    /// What the person who asked for it should know.
    pub notes: Vec<String>,
    baseline: Option<String>,
    cores: Cores,
    rounds: u32,
    each: Duration,
}

/// The cores to pin to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cores {
    server: String,
    load: String,
    /// How many this process may use.
    available: usize,
}

impl Plan {
    /// The comparison the flags ask for.
    ///
    /// # Errors
    /// It cannot be, in words.
    pub fn new(args: &CompareArgs) -> Result<Self, String> {
        let programs = programs()?;
        for client in ["tcp-echo-client", "ws-echo-client"] {
            if !programs.join(client).is_file() {
                return Err(format!("{client} is not built: cargo build --release -p stormsocket-benchmark"));
            }
        }
        let mut notes = Vec::new();
        let contenders = contenders(args, &programs, &mut notes)?;
        let chosen = workloads(args);
        let steps: Vec<_> = chosen
            .iter()
            .map(|workload| (*workload, contenders.iter().filter(|c| c.serves(workload)).cloned().collect()))
            .filter(|(_, contenders): &(_, Vec<_>)| !contenders.is_empty())
            .collect();
        if steps.is_empty() {
            return Err("none of these servers serves any of these workloads".into());
        }
        let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let unpinned = if args.no_pin {
            Some("as asked")
        } else if available < 2 {
            Some("there is only one core")
        } else if !process::can_pin() {
            Some("there is no taskset program")
        } else {
            None
        };
        if let Some(why) = unpinned {
            notes.push(format!("server and load are not pinned to cores: {why}; expect more spread"));
        }
        Ok(Self {
            steps,
            programs,
            pinned: unpinned.is_none(),
            notes,
            baseline: args.baseline.clone(),
            cores: Cores { server: args.server_cores.clone(), load: args.load_core.clone(), available },
            rounds: args.rounds,
            each: args.warmup + args.seconds,
        })
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.steps.iter().map(|(_, contenders)| contenders.len()).sum::<usize>() * self.rounds as usize
    }

    /// About how long they take.
    pub fn estimate(&self) -> Duration {
        let step = |(workload, contenders): &(Workload, Vec<Contender>)| {
            (self.each + workload.overhead()) * u32::try_from(contenders.len()).unwrap_or(u32::MAX)
        };
        self.steps.iter().map(step).sum::<Duration>() * self.rounds
    }

    /// What is about to be done, and how long it takes.
    pub fn announcement(&self) -> String {
        let seconds = self.estimate().as_secs();
        let time = match seconds {
            ..100 => format!("{} s", seconds.max(1)),
            _ => format!("{} min", seconds.div_ceil(60)),
        };
        format!("{} workloads, {} rounds, {} runs: about {time}", self.steps.len(), self.rounds, self.runs())
    }

    /// The cores of a run. A workload about threads gets as many for the server as there are threads to compare, and the load
    /// one of its own only if there is another.
    pub fn pins(&self, workload: &Workload) -> Pins {
        if !self.pinned {
            return Pins::default();
        }
        if workload.threads.is_none() {
            return Pins { server: Some(self.cores.server.clone()), load: Some(self.cores.load.clone()) };
        }
        Pins { server: Some("0-1".into()), load: (self.cores.available > 2).then(|| "2".into()) }
    }

    /// The server to take ratios to among those that ran.
    pub fn baseline(&self, runs: &[Runs]) -> String {
        let named = |name: &String| runs.iter().any(|run| run.name == *name);
        let asked = self.baseline.as_ref().filter(|name| named(name));
        let yardstick = runs.iter().map(|run| &run.name).find(|name| name.starts_with("yardstick"));
        asked.or(yardstick).or(runs.first().map(|run| &run.name)).cloned().unwrap_or_default()
    }
}

fn workloads(args: &CompareArgs) -> Vec<Workload> {
    if args.workloads.is_empty() {
        return ALL.iter().filter(|workload| args.all || workload.usual).copied().collect();
    }
    let mut chosen: Vec<Workload> = Vec::new();
    for workload in args.workloads.iter().flat_map(|selected| &selected.0) {
        if !chosen.contains(workload) {
            chosen.push(*workload);
        }
    }
    chosen
}

fn contenders(
    args: &CompareArgs,
    programs: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Contender>, String> {
    let built_in = Contender::built_in();
    let mut contenders = Vec::new();
    match &args.servers {
        Some(names) => {
            for name in names.iter().filter(|name| *name != "none") {
                let known = built_in.iter().find(|contender| contender.name == *name);
                let known =
                    known.ok_or_else(|| format!("there is no server called {name}; `list` shows them"))?;
                if !known.is_built(programs) {
                    return Err(format!("{name} is not built; peers need `--features peers`"));
                }
                contenders.push(known.clone());
            }
        }
        None => {
            let (built, missing): (Vec<_>, Vec<_>) =
                built_in.into_iter().partition(|contender| contender.is_built(programs));
            contenders.extend(built.into_iter().filter(|contender| args.all || contender.usual));
            if !missing.is_empty() {
                let names: Vec<_> = missing.iter().filter(|c| c.usual).map(|c| c.name.as_str()).collect();
                notes.push(format!(
                    "not built and left out: {}; peers need `--features peers`",
                    names.join(", ")
                ));
            }
        }
    }
    contenders.extend(args.foreign.iter().cloned());
    for (index, contender) in contenders.iter().enumerate() {
        if contenders[..index].iter().any(|other| other.collides(contender)) {
            return Err(format!("there are two servers called {}", contender.name));
        }
    }
    if let Some(baseline) = &args.baseline
        && !contenders.iter().any(|contender| contender.name == *baseline)
    {
        return Err(format!("the baseline {baseline} is none of the servers"));
    }
    Ok(contenders)
}

/// Where this program is, and so the others.
pub(crate) fn programs() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("cannot find the programs: {e}"))?;
    me.parent().map(Path::to_owned).ok_or_else(|| "cannot find the programs".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workloads: &[&str], available: usize) -> Plan {
        let any = Contender::foreign("any=x {port} {threads}").unwrap();
        Plan {
            steps: workloads.iter().map(|name| (Workload::named(name).unwrap(), vec![any.clone()])).collect(),
            programs: PathBuf::new(),
            pinned: true,
            notes: Vec::new(),
            baseline: None,
            cores: Cores { server: "0".into(), load: "1".into(), available },
            rounds: 3,
            each: Duration::from_millis(1300),
        }
    }

    #[test]
    fn names_stand_for_workloads_and_groups() {
        assert_eq!(Selected::parse("ws-m16").unwrap().0.len(), 1);
        let group = Selected::parse("broadcast").unwrap();
        assert_eq!(group.0.iter().map(|w| w.name).collect::<Vec<_>>(), ["bc-m1", "bc-m16"]);
        assert!(Selected::parse("udp").unwrap_err().starts_with("there are tcp-m1, "));
    }

    #[test]
    fn the_estimate_adds_up() {
        let plan = plan(&["ws-m1", "idle-ws"], 2);
        assert_eq!(plan.runs(), 6);
        // 1.3 s and 0.11 s for a hundred connections, 1.1 s for ten thousand; three times.
        assert_eq!(plan.estimate(), Duration::from_millis(3 * (1410 + 2400)));
        assert_eq!(plan.announcement(), "2 workloads, 3 rounds, 6 runs: about 11 s");
    }

    #[test]
    fn the_usual_choice_takes_minutes() {
        let usual: Vec<_> = ALL.iter().filter(|w| w.usual).map(|w| w.name).collect();
        // One server in each; some eight speak WebSocket.
        assert!(plan(&usual, 2).estimate() < Duration::from_secs(100));
    }

    #[test]
    fn server_and_load_are_apart_where_there_are_cores() {
        let ws = Workload::named("ws-m1").unwrap();
        let scaling = Workload::named("ws-m16-t2").unwrap();
        let pins = |server: &str, load: Option<&str>| Pins {
            server: Some(server.into()),
            load: load.map(str::to_owned),
        };
        assert_eq!(plan(&["ws-m1"], 2).pins(&ws), pins("0", Some("1")));
        assert_eq!(plan(&["ws-m1"], 2).pins(&scaling), pins("0-1", None));
        assert_eq!(plan(&["ws-m1"], 8).pins(&scaling), pins("0-1", Some("2")));
        let unpinned = Plan { pinned: false, ..plan(&["ws-m1"], 8) };
        assert_eq!(unpinned.pins(&ws), Pins::default());
    }
}
