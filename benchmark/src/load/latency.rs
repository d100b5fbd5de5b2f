//! Latencies in buckets of about one percent.

use std::time::Duration;

/// Buckets per power of two.
const FINE: u32 = 64;

/// Counts durations, from a nanosecond up, and answers with percentiles.
#[derive(Debug, Default, Clone)]
pub struct Latency {
    buckets: Vec<u64>,
    count: u64,
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, time: Duration) {
        let index = bucket(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
    }

    /// The time which this share of them (0 to 1) took at most; `None` if there were none.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let wanted = share * self.count as f64;
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if count > 0 && seen as f64 >= wanted {
                return Some(Duration::from_nanos(highest(index)));
            }
        }
        None
    }
}

fn bucket(nanos: u64) -> usize {
    let octave = nanos.max(1).ilog2().saturating_sub(FINE.ilog2());
    let low = nanos >> octave;
    octave as usize * FINE as usize + usize::try_from(low).unwrap_or(usize::MAX)
}

fn highest(index: usize) -> u64 {
    let fine = FINE as usize;
    let octave = (index / fine).saturating_sub(1);
    let low = (index - octave * fine) as u64;
    ((low + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_two_percent() {
        let mut l = Latency::default();
        for micros in 1..=1000 {
            l.record(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = l.percentile(share).unwrap().as_secs_f64() * 1e6;
            assert!((got / micros - 1.0).abs() < 0.02, "{share}: {got}");
        }
    }

    #[test]
    fn none_recorded_none_answered() {
        assert_eq!(Latency::default().percentile(0.5), None);
    }

    #[test]
    fn every_time_is_in_the_bucket_it_names() {
        for n in [0, 1, 63, 64, 65, 127, 128, 129, 1_000_003, u64::MAX / 3] {
            let top = highest(bucket(n));
            assert!(top >= n && (top - n) as f64 <= n as f64 / 50.0, "{n} -> {top}");
        }
    }
}
