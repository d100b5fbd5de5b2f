//! Compares servers: each in turn, in rounds, under the same load, in one run.
//!
//! ```text
//!  for each workload
//!    for each round                A B C  A B C  A B C ...
//!      for each server             start ── load ── stop
//!    medians, and ratios to the baseline within each round
//! ```
//!
//! Rounds alternate because machines have phases: what is compared ran within seconds of each other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

pub mod contender;
pub mod process;
pub mod table;
pub mod workload;

use crate::cli;
use contender::Contender;
use process::Runner;
use table::Runs;
use workload::{ALL, Workload};

/// Time a run may take beyond its warm-up and measured time: connecting, draining, starting.
const SLACK: Duration = Duration::from_secs(90);

/// Flags of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Workloads, by name; all if none is given. `list` shows them.
    #[arg(value_parser = parse_workload)]
    pub workloads: Vec<Workload>,

    /// Built-in servers to compare, by name; all that are built if not given. `none` for only those of --server.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub servers: Option<Vec<String>>,

    /// Another server: NAME=COMMAND or NAME@KIND,...=COMMAND, KIND being raw, length, ws or broadcast. {port} in
    /// the command becomes the port to listen on. The command must be the server itself, not a shell around it.
    #[arg(long = "server", value_parser = Contender::foreign, value_name = "NAME=COMMAND")]
    pub foreign: Vec<Contender>,

    /// Server to take ratios to, where it takes part; else the yardstick, else the first.
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,

    /// Rounds: each runs every server once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Seconds of load before measuring, in each run.
    #[arg(long, default_value = "0.3", value_parser = cli::seconds)]
    pub warmup: Duration,

    /// Seconds measured in each run.
    #[arg(short = 'z', long, default_value = "2", value_parser = cli::positive_seconds)]
    pub seconds: Duration,

    /// Threads of the servers that can be told.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Cores for the server, as `taskset -c` takes them.
    #[arg(long, default_value = "0")]
    pub server_cores: String,

    /// Core for the load generator.
    #[arg(long, default_value = "1")]
    pub load_core: String,

    /// Leave the choice of cores to the system.
    #[arg(long)]
    pub no_pin: bool,

    /// Write all results, each run's too, to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Show what servers and load generators write to stderr.
    #[arg(long)]
    pub verbose: bool,
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Prints the workloads and servers there are.
pub fn list() -> ExitCode {
    println!("workloads:");
    for w in ALL {
        println!("  {:<12} {} clients, {} in flight, {} bytes", w.name, w.clients, w.in_flight, w.size);
    }
    println!("servers:");
    let programs = programs().unwrap_or_default();
    for contender in Contender::built_in() {
        let built = if contender.is_built(&programs) { "" } else { "  (not built)" };
        println!("  {}{built}", contender.name);
    }
    ExitCode::SUCCESS
}

/// Compares, prints a table per workload. Fails if any run failed.
///
/// # Errors
/// There is nothing to compare, or it was interrupted.
pub fn run(args: &CompareArgs) -> Result<ExitCode, String> {
    let comparison = Comparison::new(args)?;
    let workloads = if args.workloads.is_empty() { ALL } else { &args.workloads[..] };
    let plan: Vec<(Workload, Vec<&Contender>)> = workloads
        .iter()
        .map(|workload| {
            (*workload, comparison.contenders.iter().filter(|c| c.serves(workload.kind)).collect())
        })
        .filter(|(_, contenders): &(_, Vec<_>)| !contenders.is_empty())
        .collect();
    if plan.is_empty() {
        return Err("none of these servers serves any of these workloads".into());
    }
    let total: usize = plan.iter().map(|(_, contenders)| contenders.len() * args.rounds as usize).sum();
    let bar = bar(total);
    let mut objects = Vec::new();
    let mut failed = false;
    for (workload, contenders) in &plan {
        let runs = comparison.workload(workload, contenders, &bar)?;
        let baseline = comparison.baseline(&runs);
        failed |= runs.iter().any(|run| run.failure.is_some());
        bar.suspend(|| println!("{}", table::text(workload, &baseline, &runs)));
        objects.push(table::object(workload, &baseline, &runs));
    }
    bar.finish_and_clear();
    if let Some(file) = &args.json {
        let all = json!({ "machine": machine(), "rounds": args.rounds, "pinned": comparison.runner.cores.is_some(),
                          "warmup": args.warmup.as_secs_f64(), "seconds": args.seconds.as_secs_f64(),
                          "workloads": objects });
        std::fs::write(file, format!("{all:#}\n"))
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One comparison.
#[derive(Debug)]
struct Comparison<'a> {
    args: &'a CompareArgs,
    contenders: Vec<Contender>,
    programs: PathBuf,
    runner: Runner,
}

impl<'a> Comparison<'a> {
    fn new(args: &'a CompareArgs) -> Result<Self, String> {
        let programs = programs()?;
        for client in ["tcp-echo-client", "ws-echo-client"] {
            if !programs.join(client).is_file() {
                return Err(format!("{client} is not built: cargo build --release -p stormsocket-benchmark"));
            }
        }
        let mut contenders = chosen(args.servers.as_deref(), &programs)?;
        contenders.extend(args.foreign.iter().cloned());
        for (index, contender) in contenders.iter().enumerate() {
            if contenders[..index].iter().any(|other| other.name == contender.name) {
                return Err(format!("there are two servers called {}", contender.name));
            }
        }
        if let Some(baseline) = &args.baseline
            && !contenders.iter().any(|contender| contender.name == *baseline)
        {
            return Err(format!("the baseline {baseline} is none of the servers"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))
                .map_err(|e| format!("cannot handle signals: {e}"))?;
        }
        let runner = Runner { cores: cores(args), verbose: args.verbose, stop };
        Ok(Self { args, contenders, programs, runner })
    }

    fn workload(
        &self,
        workload: &Workload,
        contenders: &[&Contender],
        bar: &ProgressBar,
    ) -> Result<Vec<Runs>, String> {
        let mut runs: Vec<Runs> =
            contenders.iter().map(|c| Runs { name: c.name.clone(), ..Runs::default() }).collect();
        for _ in 0..self.args.rounds {
            for (contender, run) in contenders.iter().zip(&mut runs) {
                bar.set_message(format!("{} {}", workload.name, contender.name));
                // What failed once is not tried again: it may have taken its time to fail.
                let report = if run.failure.is_some() { None } else { Some(self.once(workload, contender)) };
                run.reports.push(match report {
                    Some(Ok(report)) => Some(report),
                    Some(Err(error)) => {
                        run.failure = Some(error);
                        None
                    }
                    None => None,
                });
                if self.runner.stop.load(Ordering::Relaxed) {
                    bar.finish_and_clear();
                    return Err("interrupted; everything started has been stopped".into());
                }
                bar.inc(1);
            }
        }
        Ok(runs)
    }

    /// Starts the server, puts the load on it, stops it.
    fn once(&self, workload: &Workload, contender: &Contender) -> Result<Value, String> {
        let port = process::free_port()?;
        let command = contender.command(&self.programs, workload.kind, port, self.args.threads);
        let mut server = self.runner.start(&command, port)?;
        let (client, mut flags) = workload.client();
        flags.extend(["--json".into(), "--address".into(), server.address.ip().to_string()]);
        for (flag, value) in [
            ("--port", server.address.port().to_string()),
            ("--server-pid", server.id().to_string()),
            ("--warmup", self.args.warmup.as_secs_f64().to_string()),
            ("--seconds", self.args.seconds.as_secs_f64().to_string()),
        ] {
            flags.extend([flag.to_owned(), value]);
        }
        let mut words = vec![self.programs.join(client).display().to_string()];
        words.extend(flags);
        let report = self.runner.load(&words, self.args.warmup + self.args.seconds + SLACK);
        match (server.ended(), report) {
            (Some(end), Err(error)) => Err(format!("{end}: {error}")),
            (Some(end), Ok(_)) => Err(end),
            (None, report) => report,
        }
    }

    fn baseline(&self, runs: &[Runs]) -> String {
        let named = |name: &String| runs.iter().any(|run| run.name == *name);
        let asked = self.args.baseline.as_ref().filter(|name| named(name));
        let yardstick = runs.iter().map(|run| &run.name).find(|name| name.starts_with("yardstick"));
        asked.or(yardstick).or(runs.first().map(|run| &run.name)).cloned().unwrap_or_default()
    }
}

fn chosen(names: Option<&[String]>, programs: &Path) -> Result<Vec<Contender>, String> {
    let built_in = Contender::built_in();
    let Some(names) = names else {
        return Ok(built_in.into_iter().filter(|contender| contender.is_built(programs)).collect());
    };
    names
        .iter()
        .filter(|name| *name != "none")
        .map(|name| {
            let known = built_in.iter().find(|contender| contender.name == *name);
            let known =
                known.ok_or_else(|| format!("there is no server called {name}; `list` shows them"))?;
            if !known.is_built(programs) {
                return Err(format!("{name} is not built; peers need `--features peers`"));
            }
            Ok(known.clone())
        })
        .collect()
}

/// Where this program is, and so the others.
fn programs() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("cannot find the programs: {e}"))?;
    me.parent().map(Path::to_owned).ok_or_else(|| "cannot find the programs".into())
}

fn cores(args: &CompareArgs) -> Option<(String, String)> {
    let why = if args.no_pin {
        "as asked"
    } else if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        "there is only one core"
    } else if !process::can_pin() {
        "there is no taskset program"
    } else {
        return Some((args.server_cores.clone(), args.load_core.clone()));
    };
    eprintln!("server and load are not pinned to cores: {why}; expect more spread");
    None
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{pos}/{len} [{wide_bar}] {eta} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// What the numbers were measured on.
fn machine() -> Value {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    json!({
        "cpu": cpu.map(|(_, name)| name.trim()),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
