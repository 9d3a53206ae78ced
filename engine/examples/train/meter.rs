//! Where the time of a step goes, and the trainer's only clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Work {
    /// Matrix products.
    Gemm,
    /// RMS norms and the sums of the residual stream.
    Norm,
    /// Splitting, turning and joining heads.
    Heads,
    /// Attention's softmax.
    Softmax,
    /// silu and product.
    Silu,
    /// Cross-entropy over the vocabulary.
    Loss,
    /// Gathering gradients of parameters.
    Gather,
    /// The optimizer.
    Adam,
}

/// Every part, in the order of the table.
pub const PARTS: [(Work, &str); 8] = [
    (Work::Gemm, "matrix products"),
    (Work::Norm, "norms, residual"),
    (Work::Heads, "heads, rope"),
    (Work::Softmax, "softmax"),
    (Work::Silu, "silu-mul"),
    (Work::Loss, "cross-entropy"),
    (Work::Gather, "gather gradients"),
    (Work::Adam, "AdamW"),
];

/// Nanoseconds by part, summed over workers.
#[derive(Debug, Default)]
pub struct Meter([AtomicU64; PARTS.len()]);

impl Meter {
    /// Runs `job` and adds its time to `part`.
    pub fn time<T>(&self, part: Work, job: impl FnOnce() -> T) -> T {
        let clock = Clock::start();
        let out = job();
        self.0[part as usize].fetch_add((clock.seconds() * 1e9) as u64, Ordering::Relaxed);
        out
    }

    /// Seconds of one part so far.
    pub fn seconds(&self, part: Work) -> f64 {
        self.0[part as usize].load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// Back to zero.
    pub fn clear(&self) {
        for part in &self.0 {
            part.store(0, Ordering::Relaxed);
        }
    }
}

/// Seconds since a moment. Times decide when to stop and what is printed, never a weight.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::disallowed_types,
    reason = "the trainer is no part of the library, and this is its only clock"
)]
pub struct Clock(std::time::Instant);

impl Clock {
    /// Starts now.
    #[allow(clippy::disallowed_types, reason = "as above")]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
