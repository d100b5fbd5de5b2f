//! The workloads by name.

use crate::load::Mode;

/// What a server must speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP, bytes echoed as they come.
    Raw,
    /// TCP, messages behind a length of four bytes.
    Length,
    /// WebSocket, messages echoed.
    Ws,
    /// WebSocket, messages sent to everyone.
    Broadcast,
}

impl Kind {
    /// All of them, by the names used on the command line.
    pub const NAMES: [(&str, Self); 4] =
        [("raw", Self::Raw), ("length", Self::Length), ("ws", Self::Ws), ("broadcast", Self::Broadcast)];
}

/// One workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What the server must speak.
    pub kind: Kind,
    /// What the clients do.
    pub mode: Mode,
    /// How many of them.
    pub clients: u32,
    /// Messages in flight per client.
    pub in_flight: u32,
    /// Bytes of one message.
    pub size: u32,
}

const fn echo(name: &'static str, kind: Kind, clients: u32, in_flight: u32, size: u32) -> Workload {
    Workload { name, kind, mode: Mode::Echo, clients, in_flight, size }
}

const fn other(name: &'static str, kind: Kind, mode: Mode, clients: u32, in_flight: u32) -> Workload {
    Workload { name, kind, mode, clients, in_flight, size: 32 }
}

/// All workloads, in the order they run.
pub const ALL: &[Workload] = &[
    echo("tcp-m1", Kind::Raw, 100, 1, 32),
    echo("tcp-m1000", Kind::Raw, 100, 1000, 32),
    echo("len-m1", Kind::Length, 100, 1, 32),
    echo("len-m1000", Kind::Length, 100, 1000, 32),
    echo("ws-m1", Kind::Ws, 100, 1, 32),
    echo("ws-m16", Kind::Ws, 100, 16, 32),
    echo("ws-m1000", Kind::Ws, 100, 1000, 32),
    echo("ws-1k-m16", Kind::Ws, 100, 16, 1 << 10),
    echo("ws-16k-m1", Kind::Ws, 100, 1, 16 << 10),
    echo("ws-64k-m16", Kind::Ws, 20, 16, 64 << 10),
    echo("ws-1m-m1", Kind::Ws, 10, 1, 1 << 20),
    other("bc-m1", Kind::Broadcast, Mode::Broadcast, 1000, 1),
    other("bc-m16", Kind::Broadcast, Mode::Broadcast, 1000, 16),
    other("idle-tcp", Kind::Raw, Mode::Idle, 10_000, 1),
    other("idle-ws", Kind::Ws, Mode::Idle, 10_000, 1),
    other("connect", Kind::Ws, Mode::Connect, 32, 1),
];

impl Workload {
    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|workload| workload.name == name).copied()
    }

    /// The load generator for it, and its flags.
    pub fn client(&self) -> (&'static str, Vec<String>) {
        let mut flags: Vec<String> =
            [("--clients", self.clients), ("--messages", self.in_flight), ("--size", self.size)]
                .iter()
                .flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()])
                .collect();
        flags.extend(match self.mode {
            Mode::Echo => None,
            Mode::Broadcast => Some("--broadcast".to_owned()),
            Mode::Idle => Some("--idle".to_owned()),
            Mode::Connect => Some("--connect".to_owned()),
        });
        let program = match self.kind {
            Kind::Raw | Kind::Length => {
                let framer = if self.kind == Kind::Raw { "raw" } else { "length" };
                flags.extend(["--framer".to_owned(), framer.to_owned()]);
                "tcp-echo-client"
            }
            Kind::Ws | Kind::Broadcast => "ws-echo-client",
        };
        (program, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (index, workload) in ALL.iter().enumerate() {
            assert_eq!(ALL.iter().position(|w| w.name == workload.name), Some(index));
            assert_eq!(Workload::named(workload.name), Some(*workload));
        }
        assert_eq!(Workload::named("nonsense"), None);
    }

    #[test]
    fn flags_of_the_generator() {
        let (program, flags) = Workload::named("len-m1000").unwrap().client();
        assert_eq!(program, "tcp-echo-client");
        assert_eq!(flags.join(" "), "--clients 100 --messages 1000 --size 32 --framer length");
        let (program, flags) = Workload::named("bc-m16").unwrap().client();
        assert_eq!(program, "ws-echo-client");
        assert_eq!(flags.join(" "), "--clients 1000 --messages 16 --size 32 --broadcast");
    }
}
