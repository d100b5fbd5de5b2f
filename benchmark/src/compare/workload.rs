//! The workloads by name.

use std::time::Duration;

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
    /// WebSocket, compressed messages echoed compressed.
    Deflate,
    /// TLS, bytes echoed as they come.
    Tls,
    /// WebSocket over TLS, messages echoed.
    Wss,
}

impl Kind {
    /// All of them, by the names used on the command line.
    pub const NAMES: [(&str, Self); 7] = [
        ("raw", Self::Raw),
        ("length", Self::Length),
        ("ws", Self::Ws),
        ("broadcast", Self::Broadcast),
        ("deflate", Self::Deflate),
        ("tls", Self::Tls),
        ("wss", Self::Wss),
    ];

    /// What a server of ours, a yardstick or a peer is told besides its usual flags.
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Raw | Self::Length | Self::Ws => None,
            Self::Broadcast => Some("--broadcast"),
            Self::Deflate => Some("--deflate"),
            Self::Tls | Self::Wss => Some("--tls"),
        }
    }
}

/// Workloads that are shown together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its name in file names.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
}

const fn group(name: &'static str, title: &'static str) -> Group {
    Group { name, title }
}

const TCP: Group = group("tcp", "TCP echo");
const LENGTH: Group = group("length", "Length-prefixed echo over TCP");
const WS: Group = group("websocket", "WebSocket echo, small messages");
const LARGE: Group = group("websocket-large", "WebSocket echo, large messages");
const BROADCAST: Group = group("broadcast", "WebSocket broadcast to 1000 connections");
const DEFLATE: Group = group("deflate", "WebSocket echo of compressed JSON");
const TLS: Group = group("tls", "Echo over TLS 1.3");
const LATENCY: Group = group("latency", "Latency");
const CONNECT: Group = group("connect", "Connections and handshakes");
const IDLE: Group = group("idle", "Memory of idle connections");
const SCALING: Group = group("scaling", "One and two server threads");
const BURSTS: Group = group("bursts", "One and two server threads, with cores of their own");

/// One workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is shown with.
    pub group: Group,
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
    /// Messages per second of all clients, in an open loop.
    pub rate: Option<u32>,
    /// Threads of the server, where the workload is about them; its cores are then as many as there are, and the load
    /// generator shares them if none is left.
    pub threads: Option<u16>,
    /// Run if no workload is named.
    pub usual: bool,
}

impl Workload {
    const fn usual(mut self) -> Self {
        self.usual = true;
        self
    }

    const fn threads(mut self, threads: u16) -> Self {
        self.threads = Some(threads);
        self
    }
}

const fn echo(
    name: &'static str,
    group: Group,
    kind: Kind,
    clients: u32,
    in_flight: u32,
    size: u32,
) -> Workload {
    Workload {
        name,
        group,
        kind,
        mode: Mode::Echo,
        clients,
        in_flight,
        size,
        rate: None,
        threads: None,
        usual: false,
    }
}

const fn other(
    name: &'static str,
    group: Group,
    kind: Kind,
    mode: Mode,
    clients: u32,
    in_flight: u32,
) -> Workload {
    let mut workload = echo(name, group, kind, clients, in_flight, 32);
    workload.mode = mode;
    workload
}

const fn open(name: &'static str, kind: Kind, rate: u32) -> Workload {
    let mut workload = other(name, LATENCY, kind, Mode::Open, 100, 1);
    workload.rate = Some(rate);
    workload
}

const fn burst(
    name: &'static str,
    kind: Kind,
    clients: u32,
    in_flight: u32,
    size: u32,
    threads: u16,
) -> Workload {
    let mut workload = echo(name, BURSTS, kind, clients, in_flight, size).threads(threads);
    workload.mode = Mode::Burst;
    workload
}

const KIB: u32 = 1 << 10;

/// All workloads, in the order they run.
pub const ALL: &[Workload] = &[
    echo("tcp-m1", TCP, Kind::Raw, 100, 1, 32).usual(),
    echo("tcp-m16", TCP, Kind::Raw, 100, 16, 32),
    echo("tcp-m1000", TCP, Kind::Raw, 100, 1000, 32).usual(),
    echo("tcp-1k-m16", TCP, Kind::Raw, 100, 16, KIB),
    echo("tcp-16k-m1", TCP, Kind::Raw, 100, 1, 16 * KIB),
    echo("tcp-64k-m16", TCP, Kind::Raw, 20, 16, 64 * KIB),
    echo("tcp-1m-m1", TCP, Kind::Raw, 10, 1, KIB * KIB),
    echo("len-m1", LENGTH, Kind::Length, 100, 1, 32),
    echo("len-m16", LENGTH, Kind::Length, 100, 16, 32).usual(),
    echo("len-m1000", LENGTH, Kind::Length, 100, 1000, 32).usual(),
    echo("len-1k-m16", LENGTH, Kind::Length, 100, 16, KIB),
    echo("len-64k-m16", LENGTH, Kind::Length, 20, 16, 64 * KIB),
    echo("ws-m1", WS, Kind::Ws, 100, 1, 32).usual(),
    echo("ws-m16", WS, Kind::Ws, 100, 16, 32).usual(),
    echo("ws-m1000", WS, Kind::Ws, 100, 1000, 32).usual(),
    echo("ws-1k-m1", WS, Kind::Ws, 100, 1, KIB),
    echo("ws-1k-m16", WS, Kind::Ws, 100, 16, KIB).usual(),
    echo("ws-16k-m1", LARGE, Kind::Ws, 100, 1, 16 * KIB),
    echo("ws-16k-m16", LARGE, Kind::Ws, 20, 16, 16 * KIB),
    echo("ws-64k-m16", LARGE, Kind::Ws, 20, 16, 64 * KIB).usual(),
    echo("ws-1m-m1", LARGE, Kind::Ws, 10, 1, KIB * KIB),
    other("bc-m1", BROADCAST, Kind::Broadcast, Mode::Broadcast, 1000, 1),
    other("bc-m16", BROADCAST, Kind::Broadcast, Mode::Broadcast, 1000, 16).usual(),
    echo("deflate-m1", DEFLATE, Kind::Deflate, 100, 1, KIB),
    echo("deflate-m16", DEFLATE, Kind::Deflate, 100, 16, KIB).usual(),
    echo("deflate-16k-m1", DEFLATE, Kind::Deflate, 100, 1, 16 * KIB),
    echo("tls-m1", TLS, Kind::Tls, 100, 1, 32),
    echo("tls-m16", TLS, Kind::Tls, 100, 16, 32),
    echo("tls-64k-m16", TLS, Kind::Tls, 20, 16, 64 * KIB).usual(),
    echo("wss-m1", TLS, Kind::Wss, 100, 1, 32),
    echo("wss-m16", TLS, Kind::Wss, 100, 16, 32).usual(),
    echo("wss-64k-m16", TLS, Kind::Wss, 20, 16, 64 * KIB),
    other("tcp-c1", LATENCY, Kind::Raw, Mode::Echo, 1, 1),
    open("tcp-open", Kind::Raw, 20_000),
    other("ws-c1", LATENCY, Kind::Ws, Mode::Echo, 1, 1),
    open("ws-open", Kind::Ws, 20_000).usual(),
    other("connect-tcp", CONNECT, Kind::Raw, Mode::Connect, 32, 1),
    other("connect", CONNECT, Kind::Ws, Mode::Connect, 32, 1).usual(),
    other("connect-tls", CONNECT, Kind::Tls, Mode::Connect, 32, 1).usual(),
    other("idle-tcp", IDLE, Kind::Raw, Mode::Idle, 10_000, 1),
    other("idle-ws", IDLE, Kind::Ws, Mode::Idle, 10_000, 1).usual(),
    other("idle-tls", IDLE, Kind::Tls, Mode::Idle, 10_000, 1),
    other("idle-deflate", IDLE, Kind::Deflate, Mode::Idle, 1000, 1),
    other("tcp-m1-t1", SCALING, Kind::Raw, Mode::Echo, 100, 1).threads(1),
    other("tcp-m1-t2", SCALING, Kind::Raw, Mode::Echo, 100, 1).threads(2),
    other("ws-m16-t1", SCALING, Kind::Ws, Mode::Echo, 100, 16).threads(1),
    other("ws-m16-t2", SCALING, Kind::Ws, Mode::Echo, 100, 16).threads(2),
    burst("burst-tcp-m1-t1", Kind::Raw, 10_000, 1, 32, 1),
    burst("burst-tcp-m1-t2", Kind::Raw, 10_000, 1, 32, 2),
    burst("burst-ws-m1-t1", Kind::Ws, 10_000, 1, 32, 1),
    burst("burst-ws-m1-t2", Kind::Ws, 10_000, 1, 32, 2),
    burst("burst-ws-m16-t1", Kind::Ws, 10_000, 16, 32, 1),
    burst("burst-ws-m16-t2", Kind::Ws, 10_000, 16, 32, 2),
    burst("burst-ws-m1000-t1", Kind::Ws, 2000, 1000, 32, 1),
    burst("burst-ws-m1000-t2", Kind::Ws, 2000, 1000, 32, 2),
    burst("burst-ws-1k-m16-t1", Kind::Ws, 6000, 16, KIB, 1),
    burst("burst-ws-1k-m16-t2", Kind::Ws, 6000, 16, KIB, 2),
    burst("burst-ws-16k-m2-t1", Kind::Ws, 3000, 2, 16 * KIB, 1),
    burst("burst-ws-16k-m2-t2", Kind::Ws, 3000, 2, 16 * KIB, 2),
    burst("burst-bc-m1-t1", Kind::Broadcast, 10_000, 1, 32, 1),
    burst("burst-bc-m1-t2", Kind::Broadcast, 10_000, 1, 32, 2),
    burst("burst-bc-m16-t1", Kind::Broadcast, 10_000, 16, 32, 1),
    burst("burst-bc-m16-t2", Kind::Broadcast, 10_000, 16, 32, 2),
    burst("burst-deflate-m16-t1", Kind::Deflate, 300, 16, KIB, 1),
    burst("burst-deflate-m16-t2", Kind::Deflate, 300, 16, KIB, 2),
];

impl Workload {
    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|workload| workload.name == name).copied()
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        let clients = if self.clients == 1 { "1 client".into() } else { format!("{} clients", self.clients) };
        let size = size(self.size);
        let what = match self.mode {
            Mode::Echo => format!("{clients}, {} in flight, {size}", self.in_flight),
            Mode::Open => format!("{clients}, {size}, {} per second in all", self.rate.unwrap_or(0)),
            Mode::Broadcast => format!("{clients}, {} in flight, {size}, to everyone", self.in_flight),
            Mode::Burst => {
                let everyone = if self.kind == Kind::Broadcast { ", to everyone" } else { "" };
                format!("{clients}, {} in a burst, {size}{everyone}", self.in_flight)
            }
            Mode::Idle => format!("{clients}, one message of {size} each, then idle"),
            Mode::Connect => format!("{clients} at a time, connecting again and again"),
        };
        match self.threads {
            Some(1) => format!("{what}, 1 server thread"),
            Some(threads) => format!("{what}, {threads} server threads"),
            None => what,
        }
    }

    /// About how long one run takes beyond its warm-up and measured time: starting, connecting, ending.
    pub fn overhead(&self) -> Duration {
        Duration::from_millis(100) + Duration::from_micros(100) * self.clients
    }

    /// The load generator for it, and its flags.
    pub fn client(&self) -> (&'static str, Vec<String>) {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: u32| flags.extend([flag.to_owned(), value.to_string()]);
        add("--clients", self.clients);
        add("--size", self.size);
        match self.rate {
            Some(rate) => add("--rate", rate),
            None => add("--messages", self.in_flight),
        }
        flags.extend(match self.mode {
            Mode::Echo | Mode::Open | Mode::Broadcast => None,
            Mode::Burst => Some("--burst".to_owned()),
            Mode::Idle => Some("--idle".to_owned()),
            Mode::Connect => Some("--connect".to_owned()),
        });
        let (program, more): (_, &[&str]) = match self.kind {
            Kind::Raw => ("tcp-echo-client", &["--framer", "raw"]),
            Kind::Length => ("tcp-echo-client", &["--framer", "length"]),
            Kind::Tls => ("tcp-echo-client", &["--framer", "raw", "--tls"]),
            Kind::Ws => ("ws-echo-client", &[]),
            Kind::Broadcast => ("ws-echo-client", &["--broadcast"]),
            Kind::Deflate => ("ws-echo-client", &["--deflate"]),
            Kind::Wss => ("ws-echo-client", &["--tls"]),
        };
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        (program, flags)
    }
}

fn size(bytes: u32) -> String {
    match bytes {
        ..KIB => format!("{bytes} B"),
        KIB..1_048_576 => format!("{} KiB", bytes / KIB),
        _ => format!("{} MiB", bytes >> 20),
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
    fn groups_are_not_torn_apart() {
        let mut names: Vec<_> = ALL.iter().map(|workload| workload.group.name).collect();
        names.dedup();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(index));
        }
    }

    #[test]
    fn flags_of_the_generator() {
        let flags = |name| {
            let (program, flags) = Workload::named(name).unwrap().client();
            format!("{program} {}", flags.join(" "))
        };
        assert_eq!(
            flags("len-m1000"),
            "tcp-echo-client --clients 100 --size 32 --messages 1000 --framer length"
        );
        assert_eq!(flags("bc-m16"), "ws-echo-client --clients 1000 --size 32 --messages 16 --broadcast");
        assert_eq!(flags("deflate-m1"), "ws-echo-client --clients 100 --size 1024 --messages 1 --deflate");
        assert_eq!(
            flags("connect-tls"),
            "tcp-echo-client --clients 32 --size 32 --messages 1 --connect --framer raw --tls"
        );
        assert_eq!(
            flags("burst-bc-m16-t2"),
            "ws-echo-client --clients 10000 --size 32 --messages 16 --burst --broadcast"
        );
        assert_eq!(flags("ws-open"), "ws-echo-client --clients 100 --size 32 --rate 20000");
    }

    #[test]
    fn workloads_are_described() {
        let describe = |name| Workload::named(name).unwrap().describe();
        assert_eq!(describe("ws-1m-m1"), "10 clients, 1 in flight, 1 MiB");
        assert_eq!(describe("tcp-open"), "100 clients, 32 B, 20000 per second in all");
        assert_eq!(
            describe("burst-bc-m16-t1"),
            "10000 clients, 16 in a burst, 32 B, to everyone, 1 server thread"
        );
        assert_eq!(describe("ws-m16-t2"), "100 clients, 16 in flight, 32 B, 2 server threads");
    }
}
