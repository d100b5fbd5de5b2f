//! Flags shared by the echo servers and the load generators.
//!
//! Owns: names, defaults and ranges of the flags.
//! In:   the command line.
//! Out:  values which are known to make sense; an impossible flag ends the program with a clear message.
//! Not here: what a run does with them (`load`, `serve`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Largest message the generator sends: its buffers are built in memory, several messages long.
pub const MAX_SIZE: u32 = 64 << 20;

/// Most clients of one run: more would not fit into the ports of one machine.
pub const MAX_CLIENTS: u32 = 200_000;

/// How messages are cut out of a TCP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Framer {
    /// No framing: the server echoes bytes.
    Raw,
    /// A four byte big-endian length before each message.
    Length,
    /// Messages end with a line feed.
    Line,
}

/// Flags of an echo server.
#[derive(Debug, Clone, Copy, Args)]
pub struct ServerArgs {
    /// Address to listen on.
    #[arg(short, long, default_value = "127.0.0.1")]
    pub address: IpAddr,

    /// Worker threads; 1 is a current-thread runtime. Default: one per core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ServerArgs {
    /// The number of threads to run: as asked, else one per core.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(
            || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            usize::from,
        )
    }

    /// The runtime for that number of threads: current-thread for one, multi-thread for more.
    ///
    /// # Errors
    /// The operating system refuses a thread or an epoll instance.
    pub fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        match self.threads() {
            1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            n => tokio::runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build(),
        }
    }
}

/// How our own servers use their threads.
#[derive(Debug, Clone, Copy, Args)]
pub struct PerCore {
    /// A current-thread runtime in each of the threads (`worker_threads`) instead of one runtime over them all.
    #[arg(long)]
    pub per_core: bool,

    /// Let each of these threads accept for itself (`SO_REUSEPORT`).
    #[arg(long, requires = "per_core")]
    pub reuse_port: bool,
}

impl PerCore {
    /// The threads of the server itself, if it is to have any.
    pub fn worker_threads(self, server: &ServerArgs) -> Option<usize> {
        self.per_core.then(|| server.threads())
    }

    /// The runtime the server is started in: with threads of the server's own, one that only accepts.
    ///
    /// # Errors
    /// As [`ServerArgs::runtime`].
    pub fn runtime(self, server: &ServerArgs) -> std::io::Result<tokio::runtime::Runtime> {
        match self.per_core {
            true => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            false => server.runtime(),
        }
    }
}

/// The port of a TCP echo server.
#[derive(Debug, Clone, Copy, Args)]
pub struct TcpPort {
    /// Port; a server takes 0 for any free one.
    #[arg(short, long, default_value_t = 1111)]
    pub port: u16,
}

/// The port of a WebSocket echo server.
#[derive(Debug, Clone, Copy, Args)]
pub struct WsPort {
    /// Port; a server takes 0 for any free one.
    #[arg(short, long, default_value_t = 8080)]
    pub port: u16,
}

/// Flags of a load generator.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Address of the server.
    #[arg(short, long, default_value = "127.0.0.1")]
    pub address: IpAddr,

    /// Clients, each with a connection of its own.
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=MAX_CLIENTS as i64))]
    pub clients: u32,

    /// Messages in flight per client: sent at once at the start, then one for each reply.
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub messages: u32,

    /// Bytes of one message.
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MAX_SIZE as i64))]
    pub size: u32,

    /// Seconds to measure, after the warm-up.
    #[arg(short = 'z', long, default_value = "10", value_parser = positive_seconds)]
    pub seconds: Duration,

    /// Seconds of load before measuring begins.
    #[arg(long, default_value = "0", value_parser = seconds)]
    pub warmup: Duration,

    /// Process id of the server, on this machine: adds its CPU time and memory to the report.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,

    /// Open loop: messages per second of all clients together, sent when they are due whether replies have come or not.
    /// Latency then counts from the moment a message was due.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000),
          conflicts_with_all = ["messages", "idle", "connect"])]
    pub rate: Option<u32>,

    /// Bursts: stop the server, send every client's messages, let it go on, and sleep until all replies are there. The
    /// rate is that of a server which has all cores to itself.
    #[arg(long, requires = "server_pid", conflicts_with_all = ["rate", "idle", "connect", "tls"])]
    pub burst: bool,

    /// Open the connections, echo one message on each, then hold them idle for the measured time.
    #[arg(long, conflicts_with = "connect")]
    pub idle: bool,

    /// Open and close connections all the time, and count those.
    #[arg(long)]
    pub connect: bool,

    /// Speak TLS 1.3 with a server whose certificate nobody knows.
    #[arg(long)]
    pub tls: bool,

    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

impl ClientArgs {
    /// The server to connect to, or why these flags cannot be a run.
    ///
    /// # Errors
    /// A sentence for the person who typed the flags.
    pub fn target(&self, port: u16) -> Result<SocketAddr, String> {
        if port == 0 {
            return Err("port 0 is for servers; give the port the server printed".into());
        }
        let in_flight = u64::from(self.messages) * u64::from(self.size) * u64::from(self.clients);
        if in_flight > 64 << 30 {
            return Err(format!(
                "{} clients x {} messages x {} bytes keep {} GiB in flight; give less than 64",
                self.clients,
                self.messages,
                self.size,
                in_flight >> 30
            ));
        }
        Ok(SocketAddr::new(self.address, port))
    }
}

/// Parses a duration in seconds, fractions allowed.
///
/// # Errors
/// Not a number, negative, or longer than a day.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&value) {
        return Err("must be between 0 and 86400 seconds".into());
    }
    Ok(Duration::from_secs_f64(value))
}

/// As [`seconds`], but zero is refused too: a rate needs time to be measured over.
///
/// # Errors
/// As [`seconds`], or zero.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        value if value < Duration::from_millis(1) => Err("must be at least 0.001 seconds".into()),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Client {
        #[command(flatten)]
        args: ClientArgs,
        #[command(flatten)]
        port: TcpPort,
    }

    #[derive(Debug, Parser)]
    struct Server {
        #[command(flatten)]
        args: ServerArgs,
        #[command(flatten)]
        port: WsPort,
    }

    fn client(flags: &[&str]) -> Result<Client, String> {
        Client::try_parse_from([&["client"], flags].concat()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let c = client(&[]).unwrap();
        assert_eq!(c.args.address.to_string(), "127.0.0.1");
        assert_eq!((c.port.port, c.args.clients, c.args.messages, c.args.size), (1111, 100, 1000, 32));
        assert_eq!(c.args.seconds, Duration::from_secs(10));
        assert_eq!(c.args.warmup, Duration::ZERO);
        let s = Server::try_parse_from(["server"]).unwrap();
        assert_eq!((s.args.address.to_string().as_str(), s.port.port), ("127.0.0.1", 8080));
    }

    #[test]
    fn short_and_long_flags_are_the_same() {
        let short = client(&["-a", "::1", "-p", "9", "-c", "2", "-m", "3", "-s", "4", "-z", "0.5"]).unwrap();
        let long = client(&[
            "--address",
            "::1",
            "--port",
            "9",
            "--clients",
            "2",
            "--messages",
            "3",
            "--size",
            "4",
            "--seconds",
            "0.5",
        ])
        .unwrap();
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert_eq!(short.args.seconds, Duration::from_millis(500));
    }

    #[test]
    fn impossible_flags_are_refused_with_a_reason() {
        for (flags, said) in [
            (&["-c", "0"][..], "1..=200000"),
            (&["-m", "0"], "1..=1000000"),
            (&["-s", "0"], "1..="),
            (&["-s", "99999999999"], "1..="),
            (&["-z", "0"], "at least 0.001"),
            (&["-z", "-1"], ""),
            (&["-z", "nan"], "between 0 and 86400"),
            (&["-z", "soon"], "not a number"),
            (&["-a", "nowhere"], "invalid IP address"),
            (&["-p", "65536"], "65536"),
            (&["--idle", "--connect"], "cannot be used with"),
            (&["--rate", "0"], "1..=10000000"),
            (&["--rate", "100", "--messages", "2"], "cannot be used with"),
            (&["--rate", "100", "--idle"], "cannot be used with"),
            (&["--burst"], "--server-pid"),
            (&["--burst", "--server-pid", "1", "--tls"], "cannot be used with"),
            (&["--burst", "--server-pid", "1", "--rate", "9"], "cannot be used with"),
        ] {
            let error = client(flags).unwrap_err();
            assert!(error.contains(said), "{flags:?}: {error}");
        }
        assert!(Server::try_parse_from(["server", "--threads", "0"]).is_err());
    }

    #[test]
    fn targets_that_cannot_be_are_refused() {
        let c = client(&[]).unwrap();
        assert!(c.args.target(0).unwrap_err().contains("port 0"));
        let c = client(&["-c", "1000", "-m", "1000", "-s", "1048576"]).unwrap();
        assert!(c.args.target(1).unwrap_err().contains("GiB in flight"));
    }

    #[test]
    fn one_thread_is_a_current_thread_runtime() {
        let s = Server::try_parse_from(["server", "--threads", "1"]).unwrap();
        let kind = s.args.runtime().unwrap().handle().runtime_flavor();
        assert_eq!(kind, tokio::runtime::RuntimeFlavor::CurrentThread);
    }
}
