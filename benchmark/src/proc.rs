//! CPU time and memory of a process, as the kernel counts them.
//!
//! Owns: reading `/proc`.
//! In:   a process id, or none for this process.
//! Out:  nanoseconds on a core, bytes resident; `None` where the system does not tell.
//! Not here: what is made of them (`load`, `report`).

use std::fs;
use std::time::Duration;

/// Nanoseconds of one tick of `utime` and `stime`: `USER_HZ` is 100 on every Linux there is.
const TICK: u64 = 10_000_000;

/// A process under observation.
#[derive(Debug, Clone)]
pub struct Process {
    root: String,
}

impl Process {
    /// The process with this id.
    pub fn with_id(pid: u32) -> Self {
        Self { root: format!("/proc/{pid}") }
    }

    /// This process.
    pub fn this() -> Self {
        Self { root: "/proc/self".into() }
    }

    /// Time all its threads have spent on a core.
    ///
    /// `schedstat` counts nanoseconds, but per thread, and loses threads which have ended; where it is not
    /// there, the 10 ms ticks of `stat` have to do.
    pub fn cpu(&self) -> Option<Duration> {
        self.cpu_by_schedstat().or_else(|| self.cpu_by_ticks())
    }

    /// Bytes resident in memory.
    pub fn resident(&self) -> Option<u64> {
        // The rollup counts page tables exactly; statm and status lag behind by batched counters.
        let text = fs::read_to_string(format!("{}/smaps_rollup", self.root))
            .or_else(|_| fs::read_to_string(format!("{}/status", self.root)))
            .ok()?;
        kib_of(&text, "Rss:").or_else(|| kib_of(&text, "VmRSS:"))
    }

    /// Whether all its threads have been stopped by a signal.
    pub fn is_stopped(&self) -> Option<bool> {
        for task in fs::read_dir(format!("{}/task", self.root)).ok()? {
            // A thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("stat")) else {
                continue;
            };
            match text.rsplit_once(") ")?.1.as_bytes().first()? {
                b'T' => {}
                b'Z' | b'X' => return None,
                _ => return Some(false),
            }
        }
        Some(true)
    }

    fn cpu_by_schedstat(&self) -> Option<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("{}/task", self.root)).ok()? {
            // A thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else {
                continue;
            };
            total += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
        (total > 0).then_some(Duration::from_nanos(total))
    }

    fn cpu_by_ticks(&self) -> Option<Duration> {
        let text = fs::read_to_string(format!("{}/stat", self.root)).ok()?;
        // The second field is the name in parentheses, and may itself hold spaces and parentheses.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_nanos((user + system) * TICK))
    }
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_this_process_work() {
        let me = Process::this();
        // Other tests' threads take their time with them when they end, so one look may see less than the one before.
        let sees_work = || {
            let before = me.cpu().unwrap();
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(60) {
                std::hint::black_box(0);
            }
            me.cpu().unwrap() > before
        };
        assert!((0..50).any(|_| sees_work()));
        assert!(me.cpu_by_ticks().is_some());
        assert!(me.resident().unwrap() > 100 << 10);
    }

    #[test]
    fn a_process_that_is_gone_has_no_numbers() {
        let gone = Process::with_id(u32::MAX);
        assert_eq!((gone.cpu(), gone.resident(), gone.is_stopped()), (None, None, None));
        assert_eq!(Process::this().is_stopped(), Some(false));
    }

    #[test]
    fn reads_the_kernels_lines() {
        assert_eq!(kib_of("Name: x\nRss:    12 kB\n", "Rss:"), Some(12 << 10));
        assert_eq!(kib_of("Name: x\n", "Rss:"), None);
    }
}
