//! Progress on stderr when it is a terminal.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Requests ended over requests to come, with ETA.
pub struct Bar {
    bar: ProgressBar,
    jobs: usize,
    done: AtomicU64,
}

/// A bar over the requests of all jobs; hidden when quiet or when stderr is no terminal.
pub fn bar(requests: u64, jobs: usize, quiet: bool) -> Bar {
    let hidden = quiet || !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
    let bar = ProgressBar::with_draw_target(Some(requests), target);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}  {per_sec} requests  ETA {eta}");
    bar.set_style(style.expect("the template is valid"));
    Bar { bar, jobs, done: AtomicU64::new(0) }
}

impl Bar {
    /// `requests` more have ended; their run has seen `events` events.
    pub fn advance(&self, requests: u64, events: u64) {
        self.bar.inc(requests);
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-3);
        let rate = events as f64 * (self.done.load(Ordering::Relaxed) + 1) as f64 / seconds;
        self.bar.set_message(format!(
            "{} of {} runs  {:.1} M events/s",
            self.done.load(Ordering::Relaxed),
            self.jobs,
            rate * 1e-6
        ));
    }

    /// A run is over; `left` of its requests were not told of.
    pub fn job_done(&self, left: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(left);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// One line on stderr.
pub fn say(line: &str) {
    // Nothing is left to do when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
