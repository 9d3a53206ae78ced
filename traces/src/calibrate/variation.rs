//! How acceptance varies: between requests, between stretches of a text, and from token to token.
//!
//! Of two positions h apart in one text, drawn from the whole, the covariance about the class's mean is
//! `τ² + s²·ρ^h` for h ≥ 1: τ² between requests (the same at any distance), s² of two regimes that are
//! equally likely, ρ = 1 − 2 / stay for runs of `stay` tokens; what more there is at h = 0 is noise of single
//! tokens. One curve gives all four, and sampling within a request is not taken for spread between requests.

use std::collections::BTreeMap;

use serde::Serialize;
use specrouter_routing::estimate::Share;
use specrouter_routing::record::{pair_index, pairs};

use super::evidence::{Cluster, Evidence, Text};
use super::{Fitted, LEAST_REQUESTS, enough};

/// Farthest positions that are compared.
const MOST_LAG: usize = 256;
/// Parts of the requests, each left out in turn for the errors.
const GROUPS: usize = 20;
/// The shortest mean run that is looked for, in tokens.
const SHORTEST: f64 = 1.5;
/// A lag counts while at least this share of the texts reaches it.
const LEAST_SHARE: f64 = 0.1;
/// Tokens below which a request's own mean is not shown.
const LEAST_TOKENS: f64 = 16.0;
/// A regime is there when its variance is this many standard errors above 0.
const CLEAR: f64 = 2.0;

/// A number with its jackknife error over groups of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// Two regimes along the output, equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Regime {
    /// Half the distance between the regimes' acceptances: the deviation within a text.
    pub spread: Measured,
    /// Mean length of a run in tokens.
    pub stay_tokens: Measured,
}

/// How the acceptance of a text's drafts varies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variation {
    /// Standard deviation of requests' own means, sampling within a request taken out.
    pub request_spread: Measured,
    /// Two regimes, where they are clear.
    pub regime: Option<Regime>,
    /// Standard deviation from token to token that neither explains.
    pub noise: f64,
    /// Covariance by distance in tokens, from 0; measured, and as fitted.
    pub covariance: Vec<(f64, f64)>,
}

/// Sums over pairs of positions, by distance.
#[derive(Clone, Debug, Default)]
struct Lags {
    texts: f64,
    reach: Vec<f64>,
    products: Vec<f64>,
    counts: Vec<f64>,
}

impl Lags {
    fn add(&mut self, values: &[f64]) {
        let lags = values.len().min(MOST_LAG);
        if self.products.len() < lags {
            self.products.resize(lags, 0.0);
            self.counts.resize(lags, 0.0);
            self.reach.resize(lags, 0.0);
        }
        self.texts += 1.0;
        for lag in 0..lags {
            self.products[lag] += values.iter().zip(&values[lag..]).map(|(a, b)| a * b).sum::<f64>();
            self.counts[lag] += (values.len() - lag) as f64;
            self.reach[lag] += 1.0;
        }
    }

    /// Adds `other`, `sign` times.
    fn merge(&mut self, other: &Self, sign: f64) {
        let lags = self.products.len().max(other.products.len());
        self.texts += sign * other.texts;
        for (mine, theirs) in [
            (&mut self.products, &other.products),
            (&mut self.counts, &other.counts),
            (&mut self.reach, &other.reach),
        ] {
            mine.resize(lags, 0.0);
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += sign * theirs);
        }
    }

    /// `(covariance, pairs)` by lag, as far as enough texts reach.
    fn curve(&self) -> Vec<(f64, f64)> {
        let rows = self.products.iter().zip(&self.counts).zip(&self.reach);
        rows.map_while(|((product, count), reach)| {
            (*reach >= LEAST_SHARE * self.texts && *count > 0.5).then(|| (product / count, *count))
        })
        .collect()
    }
}

/// τ², s² and the stay that fit a curve best.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    between: f64,
    regime: f64,
    stay: f64,
}

/// The longest mean run that a curve can tell: a longer one is a difference between requests.
fn longest(curve: &[(f64, f64)]) -> f64 {
    (curve.len() as f64 / 2.0).max(4.0)
}

/// Searches the mean run length on a grid, then between the best point's neighbours.
fn parts(curve: &[(f64, f64)]) -> Parts {
    const GRID: u32 = 60;
    let longest = longest(curve);
    let step = (longest / SHORTEST).ln() / f64::from(GRID);
    let miss = |log: f64| at_stay(curve, log.exp()).1;
    let points = (0..=GRID).map(|i| SHORTEST.ln() + step * f64::from(i));
    let best = points.min_by(|a, b| miss(*a).total_cmp(&miss(*b))).unwrap_or(0.0);
    let (mut low, mut high) = ((best - step).max(SHORTEST.ln()), (best + step).min(longest.ln()));
    for _ in 0..30 {
        let third = (high - low) / 3.0;
        if miss(low + third) < miss(high - third) { high -= third } else { low += third }
    }
    at_stay(curve, ((low + high) / 2.0).exp()).0
}

/// The fit without regimes: at a run of two tokens nothing is left of one at any distance.
fn alike(curve: &[(f64, f64)]) -> Parts {
    at_stay(curve, 2.0).0
}

/// The jackknife's error over fits that each left a group out.
fn error(trials: &[Parts], value: &dyn Fn(&Parts) -> f64) -> f64 {
    let n = trials.len() as f64;
    let mean = trials.iter().map(value).sum::<f64>() / n;
    (trials.iter().map(|t| (value(t) - mean).powi(2)).sum::<f64>() * (n - 1.0) / n).sqrt()
}

/// The best τ² and s² at a mean run length, neither negative, and the weighted squares left.
fn at_stay(curve: &[(f64, f64)], stay: f64) -> (Parts, f64) {
    let rho = 1.0 - 2.0 / stay;
    let (mut gram, mut right, mut squares) = ([[0.0; 2]; 2], [0.0; 2], 0.0);
    let mut power = 1.0;
    for &(covariance, count) in curve.iter().skip(1) {
        power *= rho;
        let x = [1.0, power];
        for i in 0..2 {
            right[i] += count * x[i] * covariance;
            (0..2).for_each(|j| gram[i][j] += count * x[i] * x[j]);
        }
        squares += count * covariance * covariance;
    }
    let [between, regime] = super::squares::non_negative(&gram, &right);
    (Parts { between, regime, stay }, squares - right[0] * between - right[1] * regime)
}

/// Mean overlap of each of the pairs over all positions, by class.
fn class_means(texts: &[&Text], pairs_of: &[usize]) -> Vec<Vec<f64>> {
    let classes = texts.iter().map(|text| text.class + 1).max().unwrap_or(0);
    let mut sums = vec![vec![Share::default(); pairs_of.len()]; classes];
    for text in texts {
        for (share, &pair) in sums[text.class].iter_mut().zip(pairs_of) {
            text.overlaps[pair].iter().for_each(|&overlap| share.add(f64::from(overlap), 1.0));
        }
    }
    let mean = |share: Share| if share.weight > 0.0 { share.sum / share.weight } else { 0.0 };
    sums.into_iter().map(|shares| shares.into_iter().map(mean).collect()).collect()
}

/// Lag sums of the texts' deviations from their class's mean, in [`GROUPS`] groups of whole requests; every pair
/// counts alike.
///
/// A pair that is rejected twice as often as the mean pair swings twice as far with a text, so its deviation
/// is brought to that of the mean pair. A mean over the pairs would hide what each of them does on its own, and
/// a chain lives by one or two of them.
fn lags(texts: &[&Text], pairs_of: &[usize]) -> Vec<Lags> {
    let means = class_means(texts, pairs_of);
    let mut groups = vec![Lags::default(); GROUPS];
    for text in texts {
        let means = &means[text.class];
        let rejected = means.iter().map(|mean| 1.0 - mean).sum::<f64>() / means.len() as f64;
        for (&pair, mean) in pairs_of.iter().zip(means) {
            // A pair that is never rejected does not vary.
            let scale = if *mean < 1.0 { rejected / (1.0 - mean) } else { 0.0 };
            let deviations = text.overlaps[pair].iter().map(|&overlap| (f64::from(overlap) - mean) * scale);
            let values: Vec<f64> = deviations.collect();
            groups[(text.cluster.1 as usize + text.cluster.0) % GROUPS].add(&values);
        }
    }
    groups
}

/// How the acceptance of drafts by the target varies, classes' means taken out: of a pair that is rejected as often
/// as the mean over the drafts.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_REQUESTS`] scored requests, and for a pool of one.
pub fn of_drafts(evidence: &Evidence) -> Fitted<Variation> {
    let models = evidence.pool.len();
    enough("models", models, 2)?;
    let drafts: Vec<usize> = (0..models - 1).map(|i| pair_index(models, i, models - 1)).collect();
    of_pairs(&evidence.texts.iter().collect::<Vec<_>>(), &drafts)
}

fn of_pairs(texts: &[&Text], pairs_of: &[usize]) -> Fitted<Variation> {
    enough("scored requests", requests(texts), LEAST_REQUESTS)?;
    let groups = lags(texts, pairs_of);
    let mut all = Lags::default();
    groups.iter().for_each(|group| all.merge(group, 1.0));
    let curve = all.curve();
    enough("tokens a text", curve.len(), 4)?;
    let rest: Vec<Vec<(f64, f64)>> = groups
        .iter()
        .filter(|group| group.texts > 0.0)
        .map(|group| {
            let mut rest = all.clone();
            rest.merge(group, -1.0);
            rest.curve()
        })
        .collect();
    let (mut whole, mut trials): (Parts, Vec<Parts>) =
        (parts(&curve), rest.iter().map(|c| parts(c)).collect());
    let clear = whole.regime > CLEAR * error(&trials, &|p| p.regime)
        && whole.regime > 1e-8
        && whole.stay < 0.95 * longest(&curve);
    if !clear {
        whole = alike(&curve);
        trials = rest.iter().map(|curve| alike(curve)).collect();
    }
    let measured = |value: &dyn Fn(&Parts) -> f64| Measured {
        value: value(&whole),
        standard_error: error(&trials, value),
    };
    let regime =
        clear.then(|| Regime { spread: measured(&|p| p.regime.sqrt()), stay_tokens: measured(&|p| p.stay) });
    let fitted = |lag: usize| whole.between + whole.regime * (1.0 - 2.0 / whole.stay).powi(lag as i32);
    Ok(Variation {
        request_spread: measured(&|p| p.between.sqrt()),
        regime,
        noise: (curve[0].0 - fitted(0)).max(0.0).sqrt(),
        covariance: curve.iter().enumerate().map(|(lag, (measured, _))| (*measured, fitted(lag))).collect(),
    })
}

/// Requests with scored texts.
fn requests(texts: &[&Text]) -> usize {
    let mut clusters: Vec<_> = texts.iter().map(|text| text.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    clusters.len()
}

/// A Beta law across requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The pair, by place in the order of [`pairs`].
    pub pair: usize,
    /// Mean of the requests' own means.
    pub mean: f64,
    /// Their deviation, sampling within a request taken out.
    pub deviation: f64,
    /// The Beta law with that mean and deviation; `None` where there is no spread.
    pub beta: Option<(f64, f64)>,
    /// Means of requests as observed, sampling included, ascending.
    pub observed: Vec<f64>,
}

/// The spread across the requests of `class` of each pair's acceptance.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_REQUESTS`] scored requests of the class.
pub fn spreads(evidence: &Evidence, class: usize) -> Fitted<Vec<Spread>> {
    let texts: Vec<&Text> = evidence.texts.iter().filter(|text| text.class == class).collect();
    enough("scored requests", requests(&texts), LEAST_REQUESTS)?;
    let mut spreads = Vec::new();
    for (pair, _) in pairs(evidence.pool.len()).enumerate() {
        let deviation = of_pairs(&texts, &[pair])?.request_spread.value;
        let mut own: BTreeMap<Cluster, Share> = BTreeMap::new();
        for text in &texts {
            let share = own.entry(text.cluster).or_default();
            text.overlaps[pair].iter().for_each(|&overlap| share.add(f64::from(overlap), 1.0));
        }
        // Means over few tokens are mostly luck; those who have them still count above.
        let long = own.into_values().filter(|share| share.weight >= LEAST_TOKENS);
        let mut observed: Vec<f64> = long.map(|share| share.sum / share.weight).collect();
        observed.sort_by(f64::total_cmp);
        let mean = observed.iter().sum::<f64>() / observed.len().max(1) as f64;
        spreads.push(Spread { pair, mean, deviation, beta: beta(mean, deviation), observed });
    }
    Ok(spreads)
}

/// The Beta law of a mean and a deviation, by moments; `None` where there is none.
pub fn beta(mean: f64, deviation: f64) -> Option<(f64, f64)> {
    let concentration = mean * (1.0 - mean) / (deviation * deviation) - 1.0;
    (concentration.is_finite() && concentration > 0.0 && mean > 0.0 && mean < 1.0)
        .then_some((mean * concentration, (1.0 - mean) * concentration))
}

#[cfg(test)]
#[path = "variation_tests.rs"]
mod tests;
