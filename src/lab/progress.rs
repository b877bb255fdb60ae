//! A progress bar on a terminal's standard error, and nothing anywhere else.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The lab's progress: each profile takes a settling time and then its measuring time.
pub(crate) struct Progress {
    bar: ProgressBar,
    step: Duration,
    index: u32,
    started: Instant,
}

impl Progress {
    /// A bar over `profiles` steps of `step` each; silent when `quiet`, or when nobody looks.
    pub(crate) fn new(profiles: usize, step: Duration, quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(profiles as u64 * millis(step)), target);
        if let Ok(style) = ProgressStyle::with_template("{msg:28} [{bar:40}] {percent:>3} %") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            bar,
            step,
            index: 0,
            started: Instant::now(),
        }
    }

    /// Says what happens now.
    pub(crate) fn say(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Profile number `index`, counted from 0, starts.
    pub(crate) fn begin(&mut self, index: u32) {
        self.index = index;
        self.started = Instant::now();
        self.tick();
    }

    /// Time passes within a profile.
    pub(crate) fn tick(&self) {
        let inside = self.started.elapsed().min(self.step);
        self.bar
            .set_position(u64::from(self.index) * millis(self.step) + millis(inside));
    }

    /// The lab is over.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
