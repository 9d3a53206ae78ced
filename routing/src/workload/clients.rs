//! Arrivals of many clients, each with its own rates, gaps and lengths: the ServeGen form.
//!
//! Per client and window: as many requests as the rate says, with gaps drawn from the fitted law
//! and rescaled so that they fill the window (n requests leave n + 1 gaps, so that exponential gaps
//! give exactly uniform arrivals), and lengths from the client's histogram of that time.
//!
//! One window is made at a time; that is all the memory a run of any length needs.
//!
//! Source: ServeGen, arXiv 2505.09999.

use std::sync::Arc;

use super::arrivals::{Gamma, exponential};
use super::config::{MAX_LENGTH, MAX_REQUESTS};
use crate::luck::Draws;
use crate::units::Span;

/// Most requests of one window over all clients: they are held while the window lasts.
const MAX_WINDOW_REQUESTS: u64 = 10_000_000;

/// The shape of a client's gaps; their scale follows from the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GapShape {
    /// Independent arrivals.
    Exponential,
    /// Gamma with this shape, 0.01 to 1000.
    Gamma(f64),
    /// Weibull with this shape, 0.01 to 1000.
    Weibull(f64),
}

/// A client in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientWindow {
    /// The client, as the file names it.
    pub client: u32,
    /// Which window, from 0.
    pub window: u32,
    /// Requests in the window.
    pub requests: u32,
    /// Law of the gaps.
    pub gaps: GapShape,
    /// Index of its length histograms.
    pub histogram: u32,
}

/// Prompt and output lengths with their shares, independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    prompt: Bins,
    output: Bins,
}

/// `(tokens, share of this length or less)`, rising to 1.
#[derive(Clone, Debug, PartialEq)]
struct Bins(Vec<(u32, f64)>);

/// Client data that no stream can be drawn from. The file's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientLoadError {
    /// A histogram's bin.
    #[error(
        "expected bins of 1 to {MAX_LENGTH} tokens with finite shares, 0 or more, got [{tokens}, {share}]"
    )]
    Bin {
        /// Its length.
        tokens: u32,
        /// Its share.
        share: f64,
    },
    /// A histogram without weight.
    #[error("expected at least one bin with a share above 0, got {bins} bins that sum to {sum}")]
    NoWeight {
        /// How many bins.
        bins: usize,
        /// Their sum.
        sum: f64,
    },
    /// A shape outside of what can be drawn.
    #[error("expected a shape of 0.01 to 1000, got {shape} (client {client}, window {window})")]
    Shape {
        /// The shape.
        shape: f64,
        /// Whose.
        client: u32,
        /// When.
        window: u32,
    },
    /// A histogram that is not there: a bug of the reader.
    #[error("client {client}, window {window}: no histogram {histogram}")]
    Histogram {
        /// Whose.
        client: u32,
        /// When.
        window: u32,
        /// Its index.
        histogram: u32,
    },
    /// One client twice in one window.
    #[error("client {client} has two rates in window {window}")]
    Twice {
        /// Whose.
        client: u32,
        /// When.
        window: u32,
    },
    /// More than is held or run.
    #[error("expected at most {limit} requests {place}, got {requests}")]
    TooMany {
        /// In one window or in all.
        place: &'static str,
        /// The most.
        limit: u64,
        /// What came.
        requests: u64,
    },
    /// Nothing to run.
    #[error("expected at least one client and window with requests, got none")]
    Empty,
    /// A window without length, or an end past 584 years.
    #[error("expected windows of a length above 0 that end within 584 years, got {windows} of {window}")]
    Window {
        /// Length of a window.
        window: Span,
        /// How many.
        windows: u64,
    },
}

impl Histogram {
    /// From `(tokens, share)` bins in any order; shares are divided by their sum.
    ///
    /// # Errors
    /// [`ClientLoadError::Bin`] and [`ClientLoadError::NoWeight`].
    pub fn new(prompt: &[(u32, f64)], output: &[(u32, f64)]) -> Result<Self, ClientLoadError> {
        Ok(Self { prompt: Bins::new(prompt)?, output: Bins::new(output)? })
    }
}

impl Bins {
    fn new(bins: &[(u32, f64)]) -> Result<Self, ClientLoadError> {
        for &(tokens, share) in bins {
            if !(1..=MAX_LENGTH).contains(&tokens) || !share.is_finite() || share < 0.0 {
                return Err(ClientLoadError::Bin { tokens, share });
            }
        }
        let mut bins = bins.to_vec();
        bins.retain(|bin| bin.1 > 0.0);
        bins.sort_by_key(|bin| bin.0);
        let sum = bins.iter().fold(0.0, |sum, bin| sum + bin.1);
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(ClientLoadError::NoWeight { bins: bins.len(), sum });
        }
        let mut below = 0.0;
        for bin in &mut bins {
            below += bin.1;
            bin.1 = below / sum;
        }
        Ok(Self(bins))
    }

    fn at(&self, u: f64) -> u32 {
        // Rounding may leave the last share a hair under 1.
        let index = self.0.partition_point(|bin| bin.1 <= u).min(self.0.len() - 1);
        self.0[index].0
    }

    fn mean(&self) -> f64 {
        let mut below = 0.0;
        let mut sum = 0.0;
        for &(tokens, share) in &self.0 {
            sum += f64::from(tokens) * (share - below);
            below = share;
        }
        sum
    }
}

/// The clients of a workload file.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientLoad {
    /// By window, then client.
    rows: Vec<ClientWindow>,
    histograms: Vec<Histogram>,
    window: Span,
}

impl ClientLoad {
    /// Clients in windows of length `window`, in any order.
    ///
    /// # Errors
    /// [`ClientLoadError`], for everything that a stream could stumble on.
    pub fn new(
        mut rows: Vec<ClientWindow>,
        histograms: Vec<Histogram>,
        window: Span,
    ) -> Result<Self, ClientLoadError> {
        rows.sort_by_key(|row| (row.window, row.client));
        for row in &rows {
            let ClientWindow { client, window, gaps, histogram, .. } = *row;
            if let GapShape::Gamma(shape) | GapShape::Weibull(shape) = gaps
                && !(0.01..=1000.0).contains(&shape)
            {
                return Err(ClientLoadError::Shape { shape, client, window });
            }
            if histogram as usize >= histograms.len() {
                return Err(ClientLoadError::Histogram { client, window, histogram });
            }
        }
        if let Some(pair) = rows.windows(2).find(|p| (p[0].window, p[0].client) == (p[1].window, p[1].client))
        {
            return Err(ClientLoadError::Twice { client: pair[0].client, window: pair[0].window });
        }
        let count = |rows: &[ClientWindow]| rows.iter().map(|row| u64::from(row.requests)).sum::<u64>();
        let all = count(&rows);
        let largest = rows.chunk_by(|a, b| a.window == b.window).map(count).max().unwrap_or(0);
        let windows = rows.last().map_or(0, |row| u64::from(row.window) + 1);
        let too_many = |place, limit, requests| Err(ClientLoadError::TooMany { place, limit, requests });
        match all {
            0 => Err(ClientLoadError::Empty),
            _ if all > MAX_REQUESTS => too_many("in all", MAX_REQUESTS, all),
            _ if largest > MAX_WINDOW_REQUESTS => too_many("in one window", MAX_WINDOW_REQUESTS, largest),
            _ if window.nanos() == 0 || window.nanos().checked_mul(windows).is_none() => {
                Err(ClientLoadError::Window { window, windows })
            }
            _ => {
                rows.retain(|row| row.requests > 0);
                Ok(Self { rows, histograms, window })
            }
        }
    }

    /// Requests in all windows.
    pub fn requests(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.requests)).sum()
    }

    /// End of the last window, from the beginning.
    pub fn span(&self) -> Span {
        let windows = self.rows.last().map_or(0, |row| u64::from(row.window) + 1);
        Span::from_nanos(self.window.nanos() * windows) // `new` has checked the product.
    }

    /// Mean prompt and output lengths in tokens.
    pub(super) fn mean_lengths(&self) -> (f64, f64) {
        let (mut prompt, mut output) = (0.0, 0.0);
        for row in &self.rows {
            let (histogram, share) = (&self.histograms[row.histogram as usize], f64::from(row.requests));
            prompt += share * histogram.prompt.mean();
            output += share * histogram.output.mean();
        }
        let all = self.requests() as f64;
        (prompt / all, output / all)
    }

    /// Prompt and output lengths at two quantiles of histogram `index`.
    pub(super) fn lengths(&self, index: u32, (u, v): (f64, f64)) -> (u32, u32) {
        let histogram = &self.histograms[index as usize];
        (histogram.prompt.at(u), histogram.output.at(v))
    }
}

/// Where a stream of clients stands: the arrivals of one window.
#[derive(Clone, Debug)]
pub(super) struct ClientClock {
    /// `(nanoseconds, histogram)` of the window, in order of arrival. Shared, so that a copied
    /// stream costs nothing.
    held: Arc<Vec<(u64, u32)>>,
    next: usize,
    /// The first row that is not in `held`.
    row: usize,
}

impl ClientClock {
    pub(super) fn new() -> Self {
        Self { held: Arc::default(), next: 0, row: 0 }
    }

    /// The next arrival: nanoseconds since the beginning, and the histogram of its lengths.
    pub(super) fn advance(&mut self, load: &ClientLoad, draws: &Draws) -> Option<(u64, u32)> {
        while self.next == self.held.len() {
            let window = load.rows.get(self.row)?.window;
            let rows = load.rows[self.row..].partition_point(|row| row.window == window);
            let mut held = Vec::new();
            for index in self.row..self.row + rows {
                place(load, index, draws, &mut held);
            }
            // Stable: arrivals of the same nanosecond stay in order of client.
            held.sort_by_key(|arrival: &(u64, u32)| arrival.0);
            (self.held, self.next, self.row) = (Arc::new(held), 0, self.row + rows);
        }
        self.next += 1;
        Some(self.held[self.next - 1])
    }
}

/// Puts the arrivals of row `index` into `held`.
fn place(load: &ClientLoad, index: usize, draws: &Draws, held: &mut Vec<(u64, u32)>) {
    let row = load.rows[index];
    let count = row.requests as usize;
    // A key of its own for every gap: the row above, the gap below.
    let key = |gap: usize| ((index as u64) << 32) | gap as u64;
    let gap = |at: usize| match row.gaps {
        GapShape::Exponential => exponential(draws, key(at), 0),
        GapShape::Gamma(shape) => Gamma::new(shape).draw(draws, key(at), 0),
        GapShape::Weibull(shape) => libm::pow(exponential(draws, key(at), 0), 1.0 / shape),
    };
    let from = held.len();
    let mut ends = Vec::with_capacity(count);
    let mut sum = 0.0;
    for at in 0..count {
        sum += gap(at);
        ends.push(sum);
    }
    sum += gap(count);
    let start = load.window.nanos() * u64::from(row.window);
    let length = load.window.nanos() as f64;
    for (at, end) in ends.into_iter().enumerate() {
        // Very small shapes can make every gap of a short row 0: spread those evenly.
        let share = if sum > 0.0 { end / sum } else { (at + 1) as f64 / (count + 1) as f64 };
        // Short of the window's end, so that windows stay in order.
        let offset = ((share * length) as u64).min(load.window.nanos() - 1);
        held.push((start + offset, row.histogram));
    }
    debug_assert_eq!(held.len() - from, count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    fn histogram() -> Histogram {
        Histogram::new(&[(10, 0.25), (5, 0.5), (90, 0.25)], &[(1, 2.0), (3, 6.0)]).unwrap()
    }

    fn row(client: u32, window: u32, requests: u32, gaps: GapShape) -> ClientWindow {
        ClientWindow { client, window, requests, gaps, histogram: 0 }
    }

    const WINDOW: Span = Span::from_nanos(600_000_000_000);

    fn load(rows: &[ClientWindow]) -> Result<ClientLoad, ClientLoadError> {
        ClientLoad::new(rows.to_vec(), vec![histogram()], WINDOW)
    }

    fn arrivals(load: &ClientLoad) -> Vec<u64> {
        let (draws, mut clock) = (Luck::new(1).stream(Stream::Arrival), ClientClock::new());
        std::iter::from_fn(|| clock.advance(load, &draws)).map(|arrival| arrival.0).collect()
    }

    #[test]
    fn every_window_holds_exactly_its_requests_in_order() {
        let load = load(&[
            row(7, 2, 500, GapShape::Weibull(0.012)),
            row(3, 0, 40, GapShape::Gamma(0.01)),
            row(3, 2, 11, GapShape::Exponential),
            row(7, 0, 1, GapShape::Gamma(900.0)),
        ])
        .unwrap();
        let times = arrivals(&load);
        assert!(times.is_sorted());
        let window = |w: u64| times.iter().filter(|t| **t / WINDOW.nanos() == w).count();
        assert_eq!([window(0), window(1), window(2), window(3)], [41, 0, 511, 0]);
        assert_eq!((load.requests(), load.span()), (552, Span::from_nanos(3 * WINDOW.nanos())));
    }

    #[test]
    fn exponential_gaps_fill_a_window_uniformly() {
        let n = 50_000;
        let times = arrivals(&load(&[row(0, 0, n, GapShape::Exponential)]).unwrap());
        let distance = times
            .iter()
            .enumerate()
            .map(|(i, t)| ((i as f64 + 0.5) / f64::from(n) - *t as f64 / WINDOW.nanos() as f64).abs())
            .fold(0.0, f64::max);
        assert!(distance < 2.23 / f64::from(n).sqrt(), "Kolmogorov distance {distance}");
    }

    #[test]
    fn lengths_follow_their_histogram() {
        let load = load(&[row(0, 0, 1, GapShape::Exponential)]).unwrap();
        let at = |u| load.lengths(0, (u, u));
        assert_eq!(
            [at(0.0), at(0.3), at(0.49), at(0.6), at(0.9), at(1.0 - 1e-16)].map(|l| l.0),
            [5, 5, 5, 10, 90, 90]
        );
        assert_eq!([at(0.0), at(0.24), at(0.26)].map(|l| l.1), [1, 1, 3]);
        assert_eq!(load.mean_lengths(), (27.5, 2.5));
    }

    #[test]
    fn client_data_that_cannot_be_drawn_from_is_refused() {
        let refused = |rows: &[ClientWindow]| load(rows).unwrap_err().to_string();
        let plain = row(4, 0, 5, GapShape::Exponential);
        insta::assert_snapshot!(refused(&[]), @"expected at least one client and window with requests, got none");
        insta::assert_snapshot!(refused(&[plain, plain]), @"client 4 has two rates in window 0");
        insta::assert_snapshot!(refused(&[row(4, 0, 5, GapShape::Weibull(f64::NAN))]), @"expected a shape of 0.01 to 1000, got NaN (client 4, window 0)");
        insta::assert_snapshot!(refused(&[row(4, 0, 20_000_000, GapShape::Exponential)]), @"expected at most 10000000 requests in one window, got 20000000");
        insta::assert_snapshot!(refused(&[ClientWindow { histogram: 3, ..plain }]), @"client 4, window 0: no histogram 3");
        insta::assert_snapshot!(refused(&[row(4, u32::MAX, 5, GapShape::Exponential)]), @"expected windows of a length above 0 that end within 584 years, got 4294967296 of 600.000000 s");
        insta::assert_snapshot!(Histogram::new(&[(0, 1.0)], &[(1, 1.0)]).unwrap_err(), @"expected bins of 1 to 16777216 tokens with finite shares, 0 or more, got [0, 1]");
        insta::assert_snapshot!(Histogram::new(&[(1, f64::NAN)], &[(1, 1.0)]).unwrap_err(), @"expected bins of 1 to 16777216 tokens with finite shares, 0 or more, got [1, NaN]");
        insta::assert_snapshot!(Histogram::new(&[(1, 1.0)], &[(1, 0.0)]).unwrap_err(), @"expected at least one bin with a share above 0, got 0 bins that sum to 0");
    }
}
