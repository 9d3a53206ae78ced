//! What arrives: requests with arrival times, lengths, classes and targets.
//!
//! [`WorkloadConfig`] is the `workload:` block as written. [`WorkloadConfig::resolve`] checks it,
//! joins it with what a file holds, and makes a [`Workload`]; [`Workload::stream`] then yields the
//! requests of one seed in arrival order. Every draw is keyed by the request's id, so a stream can
//! be read in any portions, and its memory does not grow with the number of requests.

mod arrivals;
mod clients;
mod config;
mod lengths;
mod resolve;
mod stream;

pub use clients::{ClientLoad, ClientLoadError, ClientWindow, GapShape, Histogram};
pub use config::{
    Arrivals, ClassConfig, Format, Lengths, Lognormal, MAX_LENGTH, MAX_REQUESTS, Piece, SloConfig,
    WorkloadConfig, WorkloadError,
};
pub use lengths::{LengthLaw, normal_quantile};
pub use resolve::{Class, FileRow, FileSource, FileWorkload, Size, Surroundings, Terms, Workload};
pub use stream::RequestStream;
