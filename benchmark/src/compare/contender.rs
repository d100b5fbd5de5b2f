//! The servers that can be compared: ours, the yardsticks, the peers, and any command line.
//!
//! Owns: which program a name stands for, and what it speaks.
//! In:   names and `--server` flags.
//! Out:  command lines.
//! Not here: starting them (`process`).

use std::path::Path;

use crate::compare::workload::Kind;

/// A server to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Its name in the table.
    pub name: String,
    kinds: Vec<Kind>,
    program: Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    /// A program beside this one, with flags of its own; it takes ours, and says where it listens.
    Sibling { file: &'static str, flags: &'static [&'static str] },
    /// A command line with `{port}` in it.
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

const WS: &[Kind] = &[Kind::Ws];
const WS_BROADCAST: &[Kind] = &[Kind::Ws, Kind::Broadcast];

/// Built-in names: what they speak, the program, its flags.
const BUILT_IN: &[(&str, &[Kind], &str, &[&str])] = &[
    ("storm-tcp", &[Kind::Raw], "tcp-echo-server", &["--framer", "raw"]),
    ("storm-length", &[Kind::Length], "tcp-echo-server", &["--framer", "length"]),
    ("storm-ws", WS_BROADCAST, "ws-echo-server", &[]),
    ("yardstick-tcp", &[Kind::Raw], "yardstick-tcp", &[]),
    ("yardstick-length", &[Kind::Length], "yardstick-length-codec", &["--mode", "batched"]),
    ("yardstick-length-send", &[Kind::Length], "yardstick-length-codec", &["--mode", "send"]),
    ("yardstick-ws", WS_BROADCAST, "yardstick-ws", &[]),
    ("tungstenite", WS, "peer-tungstenite", &[]),
    ("tungstenite-b", WS, "peer-tungstenite", &["--batched"]),
    ("fastwebsockets", WS, "peer-fastwebsockets", &[]),
    ("tokio-websockets", WS, "peer-tokio-websockets", &[]),
    ("tokio-websockets-b", WS, "peer-tokio-websockets", &["--batched"]),
    ("sockudo", WS, "peer-sockudo", &[]),
    ("sockudo-b", WS, "peer-sockudo", &["--batched"]),
    ("yawc", WS, "peer-yawc", &[]),
    ("yawc-b", WS, "peer-yawc", &["--batched"]),
];

impl Contender {
    /// All built-in ones.
    pub fn built_in() -> Vec<Self> {
        BUILT_IN
            .iter()
            .map(|(name, kinds, file, flags)| Self {
                name: (*name).to_owned(),
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
            known.map(|(_, kind)| *kind).ok_or(format!("`{kind}` is none of raw, length, ws, broadcast"))
        });
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if !words.iter().any(|word| word.contains("{port}")) {
            return Err("the command has no {port} in it".into());
        }
        Ok(Self {
            name: name.to_owned(),
            kinds: kinds.collect::<Result<_, _>>()?,
            program: Program::Foreign { words },
        })
    }

    /// Whether it can serve this.
    pub fn serves(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
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
                if kind == Kind::Broadcast {
                    words.push("--broadcast".into());
                }
                let common = ["--address", "127.0.0.1", "--port", "0", "--threads"];
                words.extend(common.iter().map(|word| (*word).to_owned()));
                words.push(threads.to_string());
                Command { words, announces: true }
            }
            Program::Foreign { words } => {
                let words = words.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
                Command { words, announces: false }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_in_server_is_a_program_beside_this_one() {
        let all = Contender::built_in();
        let storm = all.iter().find(|c| c.name == "storm-ws").unwrap();
        let command = storm.command(Path::new("/bin"), Kind::Broadcast, 9, 1);
        assert_eq!(
            command.words.join(" "),
            "/bin/ws-echo-server --broadcast --address 127.0.0.1 --port 0 --threads 1"
        );
        assert!(command.announces && storm.serves(Kind::Ws) && !storm.serves(Kind::Raw));
        assert!(!storm.is_built(Path::new("/nowhere")));
    }

    #[test]
    fn a_foreign_server_is_a_command_line() {
        let uws = Contender::foreign("uws@ws=./echo --port={port} -x").unwrap();
        assert_eq!(uws.name, "uws");
        assert!(uws.serves(Kind::Ws) && !uws.serves(Kind::Broadcast));
        let command = uws.command(Path::new("/bin"), Kind::Ws, 77, 1);
        assert_eq!(
            command,
            Command { words: vec!["./echo".into(), "--port=77".into(), "-x".into()], announces: false }
        );
        assert!(Contender::foreign("any=x {port}").unwrap().serves(Kind::Length));
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
