//! What the numbers were measured on, and what with.

use std::time::SystemTime;

use serde_json::{Value, json};

/// The dependencies this program was built with.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Crates whose versions matter to the numbers, by the alphabet.
const CRATES: [&str; 9] = [
    "fastwebsockets",
    "rustls",
    "sockudo-ws",
    "tokio",
    "tokio-tungstenite",
    "tokio-util",
    "tokio-websockets",
    "yawc",
    "zlib-rs",
];

/// The machine, the compiler, the libraries, the day.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The model of the processor.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// The operating system's kernel.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// Libraries and their versions.
    pub versions: Vec<(String, String)>,
    /// Day, month and year, UTC.
    pub date: String,
}

impl Machine {
    /// This one, now.
    pub fn this() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cpu: cpu.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/ostype").trim(),
                read("/proc/sys/kernel/osrelease").trim()
            ),
            rustc: env!("RUSTC_VERSION").to_owned(),
            versions: CRATES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), version(LOCK, name)?.to_owned())))
                .collect(),
            // Without the day of the week and the time of day.
            date: httpdate::fmt_http_date(SystemTime::now())[5..16].to_owned(),
        }
    }

    /// As JSON.
    pub fn object(&self) -> Value {
        let versions: serde_json::Map<String, Value> =
            self.versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "rustc": self.rustc,
            "versions": versions,
            "date": self.date,
        })
    }

    /// The reverse; `None` if it is none.
    pub fn read(object: &Value) -> Option<Self> {
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        let versions = object["versions"].as_object()?.iter();
        Some(Self {
            cpu: text("cpu")?,
            cores: usize::try_from(object["cores"].as_u64()?).ok()?,
            kernel: text("kernel")?,
            rustc: text("rustc")?,
            versions: versions
                .map(|(name, v)| Some((name.clone(), v.as_str()?.to_owned())))
                .collect::<Option<_>>()?,
            date: text("date")?,
        })
    }
}

/// The version of a package in a lock file.
fn version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&entry)?;
    rest.split_once('"').map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"tokio-util\"\nversion = \"0.7.1\"\n\n[[package]]\nname = \"tokio\"\nversion = \"1.2.3\"\n";
        assert_eq!(version(lock, "tokio"), Some("1.2.3"));
        assert_eq!(version(lock, "tokio-util"), Some("0.7.1"));
        assert_eq!(version(lock, "yawc"), None);
        assert!(version(LOCK, "tokio").is_some());
    }

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::this();
        assert!(machine.rustc.starts_with("rustc "));
        assert!(machine.cores > 0 && machine.date.contains(" 20"));
    }
}
