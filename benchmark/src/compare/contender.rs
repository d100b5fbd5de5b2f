//! The servers that can be compared: ours, the yardsticks, the peers, and any command line.
//!
//! Owns: which program a name stands for, and what it speaks.
//! In:   names and `--server` flags.
//! Out:  command lines.
//! Not here: starting them (`process`).

use std::path::Path;

use crate::compare::workload::{Kind, Workload};

/// A server to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Its name in the table.
    pub name: String,
    /// It is run if no server is named.
    pub usual: bool,
    kinds: Vec<Kind>,
    program: Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    /// A program beside this one, with flags of its own; it takes ours, and says where it listens.
    Sibling { file: &'static str, flags: &'static [&'static str] },
    /// A command line with `{port}` in it, and perhaps `{threads}`.
    Foreign { words: Vec<String> },
}

/// How to start a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Whether it prints `listening on ADDRESS`; else it listens on the given port some time after it started.
    pub announces: bool,
}

/// What every WebSocket server here speaks.
const WS: &[Kind] = &[Kind::Ws, Kind::Broadcast, Kind::Wss];
/// Those with permessage-deflate.
const WS_DEFLATE: &[Kind] = &[Kind::Ws, Kind::Broadcast, Kind::Wss, Kind::Deflate];

/// Ours with a runtime in each thread, which takes part where threads are what is compared.
const PER_CORE: &str = "--per-core";

/// A built-in server.
struct BuiltIn {
    name: &'static str,
    usual: bool,
    kinds: &'static [Kind],
    file: &'static str,
    flags: &'static [&'static str],
}

const fn usual(
    name: &'static str,
    kinds: &'static [Kind],
    file: &'static str,
    flags: &'static [&'static str],
) -> BuiltIn {
    BuiltIn { name, usual: true, kinds, file, flags }
}

/// The same program driven in another way. `-send` is what its documentation does: one `send`, and so one write, per message.
const fn named(
    name: &'static str,
    kinds: &'static [Kind],
    file: &'static str,
    flags: &'static [&'static str],
) -> BuiltIn {
    BuiltIn { name, usual: false, kinds, file, flags }
}

/// Peers under their plain names are driven at their best.
const BUILT_IN: &[BuiltIn] = &[
    usual("storm-tcp", &[Kind::Raw, Kind::Tls], "tcp-echo-server", &["--framer", "raw"]),
    usual("storm-length", &[Kind::Length], "tcp-echo-server", &["--framer", "length"]),
    usual("storm-ws", WS_DEFLATE, "ws-echo-server", &[]),
    usual("storm-tcp-per-core", &[Kind::Raw, Kind::Tls], "tcp-echo-server", &["--framer", "raw", PER_CORE]),
    usual("storm-ws-per-core", WS_DEFLATE, "ws-echo-server", &[PER_CORE]),
    named("storm-ws-autotuned", &[Kind::Ws], "ws-echo-server", &["--socket-buffers", "none"]),
    usual("yardstick-tcp", &[Kind::Raw], "yardstick-tcp", &[]),
    usual("yardstick-tls", &[Kind::Tls], "yardstick-tls", &[]),
    usual("yardstick-length", &[Kind::Length], "yardstick-length-codec", &["--mode", "batched"]),
    named("yardstick-length-send", &[Kind::Length], "yardstick-length-codec", &["--mode", "send"]),
    usual("yardstick-ws", WS_DEFLATE, "yardstick-ws", &[]),
    named("yardstick-ws-64k", &[Kind::Ws], "yardstick-ws", &["--socket-buffers", "65536"]),
    usual("tungstenite", WS, "peer-tungstenite", &["--batched"]),
    named("tungstenite-send", WS, "peer-tungstenite", &[]),
    usual("fastwebsockets", WS, "peer-fastwebsockets", &[]),
    usual("tokio-websockets", WS, "peer-tokio-websockets", &["--batched"]),
    named("tokio-websockets-send", WS, "peer-tokio-websockets", &[]),
    usual("sockudo", WS_DEFLATE, "peer-sockudo", &["--batched"]),
    named("sockudo-send", WS_DEFLATE, "peer-sockudo", &[]),
    usual("yawc", WS_DEFLATE, "peer-yawc", &["--batched"]),
    named("yawc-send", WS_DEFLATE, "peer-yawc", &[]),
];

impl Contender {
    /// All built-in ones.
    pub fn built_in() -> Vec<Self> {
        BUILT_IN
            .iter()
            .map(|BuiltIn { name, usual, kinds, file, flags }| Self {
                name: (*name).to_owned(),
                usual: *usual,
                kinds: kinds.to_vec(),
                program: Program::Sibling { file, flags },
            })
            .collect()
    }

    /// The server of a `--server NAME[@KIND,...]=COMMAND` flag.
    ///
    /// # Errors
    /// What is wrong with the flag, in words.
    pub fn foreign(flag: &str) -> Result<Self, String> {
        let (name, command) = flag.split_once('=').ok_or("must be NAME=COMMAND or NAME@KIND=COMMAND")?;
        let (name, kinds) = name.split_once('@').unwrap_or((name, "raw,length,ws,broadcast"));
        if name.is_empty() {
            return Err("the name is empty".into());
        }
        let kinds = kinds.split(',').map(|kind| {
            let known = Kind::NAMES.iter().find(|(name, _)| *name == kind);
            known
                .map(|(_, kind)| *kind)
                .ok_or(format!("`{kind}` is none of raw, length, ws, broadcast, deflate, tls, wss"))
        });
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if !words.iter().any(|word| word.contains("{port}")) {
            return Err("the command has no {port} in it".into());
        }
        Ok(Self {
            name: name.to_owned(),
            usual: true,
            kinds: kinds.collect::<Result<_, _>>()?,
            program: Program::Foreign { words },
        })
    }

    /// Whether it can serve this, with as many threads as the workload wants.
    pub fn serves(&self, workload: &Workload) -> bool {
        let threads = match &self.program {
            Program::Foreign { words } if workload.threads.is_some() => {
                words.iter().any(|word| word.contains("{threads}"))
            }
            Program::Sibling { flags, .. } if flags.contains(&PER_CORE) => workload.threads.is_some(),
            // Its members are a thread's own.
            Program::Sibling { file: "yardstick-ws", .. } if workload.kind == Kind::Broadcast => {
                workload.threads.is_none()
            }
            _ => true,
        };
        self.kinds.contains(&workload.kind) && threads
    }

    /// Whether it and the other are the same server for some workload.
    pub fn collides(&self, other: &Self) -> bool {
        self.name == other.name && self.kinds.iter().any(|kind| other.kinds.contains(kind))
    }

    /// Whether its program is there.
    pub fn is_built(&self, programs: &Path) -> bool {
        match &self.program {
            Program::Sibling { file, .. } => programs.join(file).is_file(),
            Program::Foreign { .. } => true,
        }
    }

    /// The command that starts it.
    pub fn command(&self, programs: &Path, kind: Kind, port: u16, threads: u16) -> Command {
        match &self.program {
            Program::Sibling { file, flags } => {
                let mut words = vec![programs.join(file).display().to_string()];
                words.extend(flags.iter().map(|flag| (*flag).to_owned()));
                // The yardstick of TLS speaks nothing else.
                words.extend(kind.flag().filter(|_| *file != "yardstick-tls").map(str::to_owned));
                let common = ["--address", "127.0.0.1", "--port", "0", "--threads"];
                words.extend(common.iter().map(|word| (*word).to_owned()));
                words.push(threads.to_string());
                Command { words, announces: true }
            }
            Program::Foreign { words } => {
                let fill = |word: &String| {
                    word.replace("{port}", &port.to_string()).replace("{threads}", &threads.to_string())
                };
                let words = words.iter().map(fill).collect();
                Command { words, announces: false }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(contender: &Contender, workload: &str) -> bool {
        contender.serves(&Workload::named(workload).unwrap())
    }

    #[test]
    fn a_built_in_server_is_a_program_beside_this_one() {
        let all = Contender::built_in();
        let storm = all.iter().find(|c| c.name == "storm-ws").unwrap();
        let command = storm.command(Path::new("/bin"), Kind::Broadcast, 9, 1);
        assert_eq!(
            command.words.join(" "),
            "/bin/ws-echo-server --broadcast --address 127.0.0.1 --port 0 --threads 1"
        );
        assert!(command.announces && serves(storm, "ws-m1") && !serves(storm, "tcp-m1"));
        assert!(!storm.is_built(Path::new("/nowhere")));
        let per_core = all.iter().find(|c| c.name == "storm-ws-per-core").unwrap();
        assert!(!serves(per_core, "ws-m16") && serves(per_core, "ws-m16-t1"));
        let yardstick = all.iter().find(|c| c.name == "yardstick-ws").unwrap();
        assert!(serves(yardstick, "bc-m16") && serves(yardstick, "burst-ws-m1-t2"));
        assert!(!serves(yardstick, "burst-bc-m16-t2"));
    }

    #[test]
    fn a_foreign_server_is_a_command_line() {
        let uws = Contender::foreign("uws@ws=./echo --port={port} -x").unwrap();
        assert_eq!(uws.name, "uws");
        assert!(serves(&uws, "ws-m16") && !serves(&uws, "bc-m1"));
        // It says nothing of threads, so it is left out where they count.
        assert!(!serves(&uws, "ws-m16-t2"));
        let command = uws.command(Path::new("/bin"), Kind::Ws, 77, 1);
        assert_eq!(
            command,
            Command { words: vec!["./echo".into(), "--port=77".into(), "-x".into()], announces: false }
        );
        assert!(serves(&Contender::foreign("any=x {port}").unwrap(), "len-m1"));
        let threads = Contender::foreign("any=x {port} -t={threads}").unwrap();
        assert!(serves(&threads, "ws-m16-t2"));
        assert_eq!(threads.command(Path::new("/"), Kind::Ws, 7, 2).words.join(" "), "x 7 -t=2");
    }

    #[test]
    fn one_name_may_stand_for_several_programs_but_not_in_one_workload() {
        let foreign = |flag| Contender::foreign(flag).unwrap();
        let (echo, broadcast) = (foreign("u@ws=a {port}"), foreign("u@broadcast=b {port}"));
        assert!(!echo.collides(&broadcast));
        assert!(echo.collides(&foreign("u=c {port}")));
        assert!(!echo.collides(&foreign("v=c {port}")));
    }

    #[test]
    fn impossible_foreign_servers_are_refused() {
        for (flag, said) in [
            ("uws", "NAME=COMMAND"),
            ("=x {port}", "name is empty"),
            ("uws=./echo", "no {port}"),
            ("uws@udp=./echo {port}", "`udp` is none of"),
        ] {
            assert!(Contender::foreign(flag).unwrap_err().contains(said), "{flag}");
        }
    }
}
