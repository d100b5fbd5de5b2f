//! Starts servers and load generators, and makes sure they end.
//!
//! Owns: child processes, from start to reaped; pinning to cores.
//! In:   command lines.
//! Out:  a listening server; the report of a load generator; or what went wrong, in words.
//! Not here: what runs when (`compare`).

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compare::contender;

/// Longest time for a server to listen.
const START: Duration = Duration::from_secs(10);

/// Time between two looks at something that has no better way to tell.
const LOOK: Duration = Duration::from_millis(5);

/// What all processes of a comparison share.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Let servers write to our stderr.
    pub verbose: bool,
    /// Set when the comparison is to end.
    pub stop: Arc<AtomicBool>,
}

/// The cores of a run, as `taskset -c` takes them; `None` leaves the choice to the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Those of the server.
    pub server: Option<String>,
    /// Those of the load generator.
    pub load: Option<String>,
}

/// A process which ends with this value.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    process: Guard,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.0.try_wait().ok()??;
        Some(format!("server ended with {status}"))
    }
}

/// A port that was free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("no free port: {e}"))?;
    Ok(listener.local_addr().map_err(|e| format!("no free port: {e}"))?.port())
}

/// Whether the `taskset` program is there.
pub fn can_pin() -> bool {
    Command::new("taskset").arg("--version").output().is_ok_and(|output| output.status.success())
}

impl Runner {
    fn spawn(&self, words: &[String], core: Option<&String>, stdout: Stdio) -> Result<Guard, String> {
        // taskset replaces itself by the program, so the process id stays that of the program.
        let pin = core.map(|core| ["taskset".to_owned(), "-c".to_owned(), core.clone()]);
        let all: Vec<&String> = pin.iter().flatten().chain(words).collect();
        let [program, arguments @ ..] = &all[..] else {
            return Err("empty command".into());
        };
        let stderr = if self.verbose { Stdio::inherit() } else { Stdio::null() };
        let child =
            Command::new(program).args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        child.map(Guard).map_err(|e| format!("cannot start {}: {e}", words[0]))
    }

    fn interrupted(&self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }

    /// Starts a server; `port` is that of a foreign one.
    ///
    /// # Errors
    /// It does not start, or does not listen in time.
    pub fn start(&self, command: &contender::Command, port: u16, pins: &Pins) -> Result<Server, String> {
        let stdout = if command.announces { Stdio::piped() } else { Stdio::null() };
        let mut process = self.spawn(&command.words, pins.server.as_ref(), stdout)?;
        let lines = process.0.stdout.take().map(lines_of);
        let mut server = Server { process, address: (Ipv4Addr::LOCALHOST, port).into() };
        let deadline = Instant::now() + START;
        loop {
            match &lines {
                Some(lines) => match lines.recv_timeout(LOOK) {
                    Ok(line) => {
                        if let Some(address) = line.strip_prefix("listening on ") {
                            let bad = |e| format!("server says it listens on {address}: {e}");
                            server.address = address.trim().parse().map_err(bad)?;
                            return Ok(server);
                        }
                    }
                    // Its end is found below.
                    Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                },
                None => {
                    if TcpStream::connect_timeout(&server.address, START).is_ok() {
                        return Ok(server);
                    }
                    thread::sleep(LOOK);
                }
            }
            self.interrupted()?;
            if let Some(end) = server.ended() {
                return Err(format!("{end} before it listened"));
            }
            if Instant::now() > deadline {
                return Err("server does not listen".into());
            }
        }
    }

    /// Runs a load generator to its end, which must come within `limit`; gives its report.
    ///
    /// # Errors
    /// It does not run or end, or what it reports is no result.
    pub fn load(&self, words: &[String], limit: Duration, pins: &Pins) -> Result<Value, String> {
        let mut process = self.spawn(words, pins.load.as_ref(), Stdio::piped())?;
        let mut stdout = process.0.stdout.take().ok_or("load generator has no output")?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let deadline = Instant::now() + limit;
        while process.0.try_wait().map_err(|e| format!("load generator lost: {e}"))?.is_none() {
            self.interrupted()?;
            if Instant::now() > deadline {
                return Err("load generator does not end".into());
            }
            thread::sleep(LOOK);
        }
        let text = reader.join().map_err(|_| "output lost")?.map_err(|e| format!("output lost: {e}"))?;
        if text.is_empty() {
            return Err("load generator could not run; --verbose shows why".into());
        }
        let report: Value = serde_json::from_str(&text).map_err(|e| format!("report is not JSON: {e}"))?;
        if report["result"] != true {
            return Err(report["first_error"].as_str().unwrap_or("no result").to_owned());
        }
        Ok(report)
    }
}

/// The lines of a server, read to their end so that it never blocks on them.
fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens any more once the server is ready.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner() -> Runner {
        Runner { verbose: false, stop: Arc::default() }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error() {
        let command = contender::Command { words: words(&["false"]), announces: true };
        assert!(runner().start(&command, 0, &Pins::default()).unwrap_err().contains("before it listened"));
        let command = contender::Command { words: words(&["./not-there"]), announces: true };
        assert!(runner().start(&command, 0, &Pins::default()).unwrap_err().contains("cannot start"));
    }

    #[test]
    fn an_announced_address_is_used_and_the_process_ends_with_its_guard() {
        let script = "echo hello; echo listening on 127.0.0.1:4321; exec sleep 100";
        let command = contender::Command { words: words(&["sh", "-c", script]), announces: true };
        let server = runner().start(&command, 0, &Pins::default()).unwrap();
        assert_eq!(server.address.port(), 4321);
        let proc = format!("/proc/{}", server.id());
        assert!(std::path::Path::new(&proc).exists());
        drop(server);
        assert!(!std::path::Path::new(&proc).exists());
    }

    #[test]
    fn a_report_with_errors_is_no_result() {
        let load =
            |script| runner().load(&words(&["sh", "-c", script]), Duration::from_secs(5), &Pins::default());
        assert!(load("echo '{\"result\":true,\"messages\":7}'").is_ok());
        assert_eq!(load("echo '{\"result\":false,\"first_error\":\"gone\"}'").unwrap_err(), "gone");
        assert!(load("exit 1").unwrap_err().contains("could not run"));
        assert!(load("echo nonsense").unwrap_err().contains("not JSON"));
        let slow = runner().load(&words(&["sleep", "100"]), Duration::from_millis(50), &Pins::default());
        assert!(slow.unwrap_err().contains("does not end"));
    }

    #[test]
    fn an_interruption_ends_what_runs() {
        let runner = runner();
        runner.stop.store(true, Ordering::Relaxed);
        assert_eq!(
            runner.load(&words(&["sleep", "100"]), START, &Pins::default()).unwrap_err(),
            "interrupted"
        );
    }
}
