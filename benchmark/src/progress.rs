//! The bar on stderr while a run goes on; nothing when stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over the time of a run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar `total` long; hidden unless stderr is a terminal.
    pub fn over(total: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(Some(millis(total)), ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{msg:>10} [{wide_bar}] {percent:>3}%");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { bar }
    }

    /// No bar at all.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Moves the bar, and says what is being done.
    pub fn at(&self, done: Duration, phase: &'static str) {
        self.bar.set_message(phase);
        self.bar.set_position(millis(done));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
