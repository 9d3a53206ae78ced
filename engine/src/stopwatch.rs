//! The engine's only clock.

#![allow(clippy::disallowed_types, reason = "the one place that reads the wall clock")]

use std::time::{Duration, Instant};

use specrouter_routing::units::Time;

use crate::backend::Clock;

/// Wall time since it was started. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    start: Instant,
}

impl Stopwatch {
    /// Starts at 0.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start.
    pub fn read(&self) -> Time {
        // 2^64 nanoseconds are 584 years.
        Time::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Sleeps until `time`, or for `most` if that is sooner.
    pub fn wait_until(&self, time: Time, most: Duration) {
        let left = time.nanos().saturating_sub(self.read().nanos());
        std::thread::sleep(Duration::from_nanos(left).min(most));
    }
}

impl Clock for Stopwatch {
    fn now(&mut self) -> Time {
        self.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_waiting_ends_when_it_should() {
        let watch = Stopwatch::start();
        let before = watch.read();
        watch.wait_until(Time::from_nanos(before.nanos() + 2_000_000), Duration::from_secs(1));
        assert!(watch.read().nanos() >= before.nanos() + 2_000_000);
        watch.wait_until(Time::from_nanos(u64::MAX), Duration::from_millis(1));
        assert!(watch.clone().now() > before);
    }
}
