//! Estimates with intervals over requests.

use serde::Serialize;
use specrouter_routing::estimate::{ClusteredMean, Share};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{CONFIDENCE, Fitted, LEAST_REQUESTS, Shortage};

/// A mean over positions with its 95 % interval over requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean: every position counts once.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Standard error, clustered by request.
    pub standard_error: f64,
    /// Requests behind it.
    pub requests: usize,
    /// Positions behind it, or tokens judged.
    pub positions: f64,
}

impl Estimate {
    /// The mean over the positions of all `shares`, one share per request, in `[0, 1]`. Student's t with
    /// requests − 1 degrees of freedom.
    ///
    /// # Errors
    /// [`super::Shortage`] below [`LEAST_REQUESTS`] requests.
    pub fn of(shares: &[Share]) -> Fitted<Self> {
        let found = ClusteredMean::of(shares);
        let requests = found.map_or(0, |mean| mean.clusters);
        let (mean, standard_error) = found
            .and_then(|mean| Some((mean, mean.standard_error?)))
            .filter(|_| requests >= LEAST_REQUESTS)
            .ok_or(Shortage { what: "requests", got: requests as u64, needed: LEAST_REQUESTS as u64 })?;
        let half = quantile(requests - 1) * standard_error;
        Ok(Self {
            mean: mean.mean,
            low: (mean.mean - half).max(0.0),
            high: (mean.mean + half).min(1.0),
            standard_error,
            requests,
            positions: mean.weight,
        })
    }
}

/// The quantile of Student's t that leaves [`CONFIDENCE`] between it and its mirror image.
fn quantile(freedom: usize) -> f64 {
    let law = StudentsT::new(0.0, 1.0, freedom.max(1) as f64).expect("degrees of freedom are at least 1");
    law.inverse_cdf(0.5 + CONFIDENCE / 2.0)
}
