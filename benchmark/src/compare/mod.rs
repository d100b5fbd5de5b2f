//! Compares servers: each in turn, in rounds, under the same load, in one run.
//!
//! ```text
//!  flags ── plan ──> for each workload
//!                      for each round                A B C  A B C  A B C ...
//!                        for each server             start ── load ── stop
//!                      runs: medians, and ratios to the baseline within each round
//!                        └─> table; results (JSON), plot (SVG), markdown
//! ```
//!
//! Rounds alternate because machines have phases: what is compared ran within seconds of each other.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

pub mod contender;
pub mod machine;
pub mod markdown;
pub mod plan;
pub mod plot;
pub mod process;
pub mod results;
pub mod runs;
pub mod scaling;
pub mod table;
pub mod workload;

use crate::{cli, report};
use contender::Contender;
use machine::Machine;
use plan::{Plan, Selected};
use process::{Pins, Runner};
use results::{Results, Settings};
use runs::{Measured, Runs};
use workload::{ALL, Workload};

/// Time a run may take beyond its warm-up and measured time: connecting, draining, starting.
const SLACK: Duration = Duration::from_secs(90);

/// Flags of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Workloads, by name or by the name of their group; a few minutes' choice of them if none is given. `list` shows
    /// them.
    #[arg(value_parser = Selected::parse)]
    pub workloads: Vec<Selected>,

    /// All workloads where none is named, all servers where none is: takes an hour or so.
    #[arg(long)]
    pub all: bool,

    /// Built-in servers to compare, by name; if not given those that are built, each driven at its best. `none` for only
    /// those of --server.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub servers: Option<Vec<String>>,

    /// Another server: NAME=COMMAND or NAME@KIND,...=COMMAND, KIND being raw, length, ws, broadcast, deflate, tls or wss;
    /// the first four if none is given. {port} in the command becomes the port to listen on, {threads} the number of threads. The command must be the server itself,
    /// not a shell around it.
    #[arg(long = "server", value_parser = Contender::foreign, value_name = "NAME=COMMAND")]
    pub foreign: Vec<Contender>,

    /// Server to take ratios to, where it takes part; else the yardstick, else the first.
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,

    /// Rounds: each runs every server once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Seconds of load before measuring, in each run.
    #[arg(long, default_value = "0.3", value_parser = cli::seconds)]
    pub warmup: Duration,

    /// Seconds measured in each run.
    #[arg(short = 'z', long, default_value = "1", value_parser = cli::positive_seconds)]
    pub seconds: Duration,

    /// Threads of the servers that can be told, where the workload does not say.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Cores for the server, as `taskset -c` takes them.
    #[arg(long, default_value = "0", value_name = "CORES")]
    pub server_cores: String,

    /// Core for the load generator.
    #[arg(long, default_value = "1", value_name = "CORE")]
    pub load_core: String,

    /// Leave the choice of cores to the system.
    #[arg(long)]
    pub no_pin: bool,

    #[command(flatten)]
    outputs: Outputs,

    /// A sentence for the page, such as the version of a server of --server.
    #[arg(long, value_name = "TEXT")]
    pub note: Vec<String>,

    /// Show what servers and load generators write to stderr.
    #[arg(long)]
    pub verbose: bool,
}

/// Where results go besides the terminal.
#[derive(Debug, Clone, Args)]
pub struct Outputs {
    /// Write all results, each run's too, to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw the results into this directory: a file for each group of workloads, and `overview.svg`.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,

    /// Write a page of Markdown, with the machine, the versions and the ratios, to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Flags of `show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// What `compare --json` wrote; of several files the workloads come behind each other, and all else is the first one's.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    outputs: Outputs,
}

/// Why there is no comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// What was asked for cannot be.
    Usage(String),
    /// It could not go on.
    Run(String),
}

/// Whose server it is, which its name says; those that are driven in another way than at their best stand for themselves.
pub(crate) fn family(name: &str) -> &str {
    match name {
        _ if name.ends_with("-send") || name.ends_with("-per-core") => name,
        _ if name.starts_with("storm-") => "StormSocket",
        _ if name.starts_with("yardstick-") => "yardstick",
        _ => name,
    }
}

/// Prints the workloads and servers there are.
pub fn list() -> ExitCode {
    report::print(catalogue());
    ExitCode::SUCCESS
}

fn catalogue() -> String {
    let mut text = String::from("workloads, those marked * if none is named:\n");
    let mut group = "";
    for w in ALL {
        if w.group.name != group {
            group = w.group.name;
            text += &format!(" {group}: {}\n", w.group.title);
        }
        text += &format!(" {} {:<14} {}\n", if w.usual { "*" } else { " " }, w.name, w.describe());
    }
    text += "servers, those marked * if none is named:\n";
    let programs = plan::programs().unwrap_or_default();
    for contender in Contender::built_in() {
        let built = if contender.is_built(&programs) { "" } else { "  (not built)" };
        text += &format!("  {} {}{built}\n", if contender.usual { "*" } else { " " }, contender.name);
    }
    text
}

/// Compares, prints a table per workload. Fails if any run failed.
///
/// # Errors
/// There is nothing to compare, or it was interrupted.
pub fn run(args: &CompareArgs) -> Result<ExitCode, Failure> {
    let plan = Plan::new(args).map_err(Failure::Usage)?;
    args.outputs.check().map_err(Failure::Usage)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Failure::Run(format!("cannot handle signals: {e}")))?;
    }
    let comparison = Comparison { args, plan, runner: Runner { verbose: args.verbose, stop } };
    comparison.run().map_err(Failure::Run)
}

/// Prints the tables of comparisons made before, and writes their other outputs.
///
/// # Errors
/// A file cannot be read or written.
pub fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    args.outputs.check().map_err(Failure::Usage)?;
    let read = |file: &PathBuf| {
        let text = std::fs::read(file).map_err(|e| e.to_string())?;
        let object = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        Results::read(&object)
    };
    let mut all: Option<Results> = None;
    for file in &args.files {
        let results =
            read(file).map_err(|e| Failure::Usage(format!("cannot read {}: {e}", file.display())))?;
        match &mut all {
            Some(first) => first.workloads.extend(results.workloads),
            None => all = Some(results),
        }
    }
    let results = all.ok_or_else(|| Failure::Usage("no file was given".into()))?;
    print(&results.workloads);
    args.outputs.write(&results).map_err(Failure::Run)?;
    Ok(ExitCode::SUCCESS)
}

impl Outputs {
    /// Finds out before the measuring, and not after it, whether there is a place for its results.
    fn check(&self) -> Result<(), String> {
        if let Some(dir) = &self.svg {
            std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        }
        for file in [&self.json, &self.report].into_iter().flatten() {
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(file)
                .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        }
        Ok(())
    }

    fn write(&self, results: &Results) -> Result<(), String> {
        let write = |file: &PathBuf, text: String| {
            std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
        };
        if let Some(file) = &self.json {
            write(file, format!("{:#}\n", results.object()))?;
        }
        if let Some(file) = &self.report {
            write(file, markdown::text(results))?;
        }
        if let Some(dir) = &self.svg {
            plot::write(dir, results)?;
        }
        Ok(())
    }
}

/// One comparison.
#[derive(Debug)]
struct Comparison<'a> {
    args: &'a CompareArgs,
    plan: Plan,
    runner: Runner,
}

impl Comparison<'_> {
    fn run(&self) -> Result<ExitCode, String> {
        for note in &self.plan.notes {
            eprintln!("{note}");
        }
        eprintln!("{}", self.plan.announcement());
        let bar = bar(self.plan.runs());
        let mut all = Vec::new();
        let mut steps = &self.plan.steps[..];
        while let [first, rest @ ..] = steps {
            // One thread and two are compared with each other, so they take turns, too.
            let together = match rest {
                [second, ..] if scaling::is_pair(&first.0, &second.0) => 2,
                _ => 1,
            };
            let measured = self.workloads(&steps[..together], &bar)?;
            bar.suspend(|| print(&measured));
            all.extend(measured);
            steps = &steps[together..];
        }
        bar.finish_and_clear();
        let settings = Settings {
            rounds: self.args.rounds.into(),
            warmup: self.args.warmup.as_secs_f64(),
            seconds: self.args.seconds.as_secs_f64(),
            threads: self.args.threads.into(),
            pinned: self.plan.pinned,
            notes: self.args.note.clone(),
        };
        let results = Results { machine: Machine::this(), settings, workloads: all };
        self.args.outputs.write(&results)?;
        let failed =
            results.workloads.iter().flat_map(|measured| &measured.runs).any(|run| run.failure.is_some());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Runs workloads, in turn within a round.
    fn workloads(
        &self,
        steps: &[(Workload, Vec<Contender>)],
        bar: &ProgressBar,
    ) -> Result<Vec<Measured>, String> {
        let named = |c: &Contender| Runs { name: c.name.clone(), ..Runs::default() };
        let mut all: Vec<Vec<Runs>> =
            steps.iter().map(|(_, contenders)| contenders.iter().map(named).collect()).collect();
        for _ in 0..self.args.rounds {
            for ((workload, contenders), runs) in steps.iter().zip(&mut all) {
                self.round(workload, contenders, runs, bar)?;
            }
        }
        let measured = steps.iter().zip(all).map(|((workload, _), runs)| Measured {
            workload: *workload,
            baseline: self.plan.baseline(&runs),
            runs,
        });
        Ok(measured.collect())
    }

    /// Runs each server once.
    fn round(
        &self,
        workload: &Workload,
        contenders: &[Contender],
        runs: &mut [Runs],
        bar: &ProgressBar,
    ) -> Result<(), String> {
        for (contender, run) in contenders.iter().zip(runs) {
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
        Ok(())
    }

    /// Starts the server, puts the load on it, stops it.
    fn once(&self, workload: &Workload, contender: &Contender) -> Result<Value, String> {
        let port = process::free_port()?;
        let pins: Pins = self.plan.pins(workload);
        let threads = workload.threads.unwrap_or(self.args.threads);
        let command = contender.command(&self.plan.programs, workload.kind, port, threads);
        let mut server = self.runner.start(&command, port, &pins)?;
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
        let mut words = vec![self.plan.programs.join(client).display().to_string()];
        words.extend(flags);
        let report = self.runner.load(&words, self.args.warmup + self.args.seconds + SLACK, &pins);
        match (server.ended(), report) {
            (Some(end), Err(error)) => Err(format!("{end}: {error}")),
            (Some(end), Ok(_)) => Err(end),
            (None, report) => report,
        }
    }
}

/// Prints the tables, and below the second of a pair what its second thread brought.
fn print(all: &[Measured]) {
    for measured in all {
        report::print(format_args!("{}\n", table::text(measured)));
        let pair = scaling::pairs(all).find(|pair| pair.workload() == &measured.workload);
        if let Some(text) = pair.and_then(|pair| pair.text()) {
            report::print(format_args!("{text}\n"));
        }
    }
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{pos}/{len} [{wide_bar}] {eta} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}
