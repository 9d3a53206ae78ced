//! From what a calibration measured to a heterogeneous source: the nearest matrix that models can have, and
//! the spreads in the source's own terms.

use std::collections::BTreeMap;

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::record::{pair_index, pairs};
use specrouter_routing::units::{NonNegative, OutOfRange, Positive, Probability};

use super::beta;
use super::config::{AcceptanceError, HeterogeneousConfig, Pairs, RegimeConfig};
use super::constant::Matrix;
use super::heterogeneous::SHARE;
use super::set_system::{MOST_MODELS, SetSystem};

/// Files write six decimals; a matrix on the edge of what is possible is drawn inside by more than their
/// rounding.
const DECIMALS: f64 = 1e6;
const INSIDE: f64 = 1e-4;
/// The largest half distance of two regimes.
const MOST_SWING: f64 = 0.5;

/// What was measured of one class.
#[derive(Clone, Debug)]
pub struct FittedClass {
    /// Its name, or `all`.
    pub name: String,
    /// Acceptance of each pair, in the order of [`pairs`].
    pub rates: Vec<f64>,
    /// What a change of each costs, above 0: the inverse of its standard error.
    pub weights: Vec<f64>,
    /// Its share of what the variation was measured on; 0 for one that stands for others.
    pub share: f64,
}

/// How the acceptance of drafts by the target varies: of one that is rejected as often as their mean.
#[derive(Clone, Copy, Debug, Default)]
pub struct FittedVariation {
    /// Standard deviation between requests.
    pub request_spread: f64,
    /// Half the distance of two regimes, and their mean run in tokens.
    pub regime: Option<(f64, f64)>,
    /// Rank correlation of signals with acceptance; `None` leaves the default.
    pub signal_correlation: Option<f64>,
}

/// A source's configuration, and what had to give for it.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Ready for a scenario.
    pub config: HeterogeneousConfig,
    /// Largest change of an acceptance, by class; 0 where the matrix was possible as it came.
    pub distances: Vec<(String, f64)>,
    /// The spread between requests that was asked for, where the matrices leave room for less.
    pub spread_cut: Option<f64>,
}

/// A class in the source's terms.
struct Possible {
    rates: Vec<f64>,
    distance: f64,
    /// Mean of π.
    agreement: f64,
    /// Mean rejection of the drafts by the target.
    rejected: f64,
}

impl Possible {
    /// What one unit of π moves the drafts' mean acceptance by.
    fn per_pi(&self) -> f64 {
        self.rejected / (1.0 - self.agreement)
    }
}

/// Projects each class's matrix onto those that have a set system, and puts spread and regime into its terms.
///
/// # Errors
/// [`AcceptanceError::PoolTooLarge`], and numbers that are none.
pub fn project(
    pool: &[String],
    classes: &[FittedClass],
    variation: &FittedVariation,
) -> Result<Projected, AcceptanceError> {
    let models = pool.len();
    if models > MOST_MODELS {
        return Err(AcceptanceError::PoolTooLarge { most: MOST_MODELS, got: models });
    }
    let possible: Vec<Possible> = classes.iter().map(|class| nearest(models, class)).collect();
    let largest = possible.iter().map(|p| {
        let pi = p.agreement;
        p.per_pi() * libm::sqrt(beta::MOST_VARIANCE * pi * (1.0 - pi))
    });
    let room = 0.99 * largest.fold(f64::INFINITY, f64::min);
    let spread = variation.request_spread.min(room);
    let regime = match variation.regime {
        Some((measured, stay)) => {
            let spread = rounded(swing(&possible, classes, spread, measured));
            Some(RegimeConfig {
                stay_tokens: Positive::new(rounded(stay.max(1.0))).map_err(wrong)?,
                spread: Probability::new(spread).map_err(wrong)?,
            })
        }
        None => None,
    };
    let mut matrix = BTreeMap::new();
    for (class, possible) in classes.iter().zip(&possible) {
        let mut named: Pairs<Probability> = BTreeMap::new();
        for (rate, (i, k)) in possible.rates.iter().zip(pairs(models)) {
            let rate = Probability::new(*rate).map_err(wrong)?;
            named.entry(pool[i].clone()).or_default().insert(pool[k].clone(), rate);
        }
        matrix.insert(class.name.clone(), named);
    }
    let signals = variation.signal_correlation.unwrap_or(0.5).clamp(0.0, 1.0);
    let config = HeterogeneousConfig {
        matrix,
        request_spread: NonNegative::new(rounded(spread)).map_err(wrong)?,
        regime,
        depth: BTreeMap::new(),
        signal_correlation: Probability::new(rounded(signals)).map_err(wrong)?,
        drift: None,
    };
    let distances = classes.iter().zip(&possible).map(|(class, p)| (class.name.clone(), p.distance));
    let spread_cut = (spread < variation.request_spread).then_some(variation.request_spread);
    Ok(Projected { config, distances: distances.collect(), spread_cut })
}

fn wrong(error: OutOfRange) -> AcceptanceError {
    AcceptanceError::Number(error)
}

fn rounded(value: f64) -> f64 {
    libm::round(value * DECIMALS) / DECIMALS
}

fn nearest(models: usize, class: &FittedClass) -> Possible {
    let as_matrix = |rates: &[f64]| -> Matrix {
        let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
        pairs(models).zip(rates).for_each(|((i, k), &rate)| matrix[i][k] = Some(rate));
        matrix
    };
    let mut rates: Vec<f64> = class.rates.iter().map(|&rate| rounded(rate)).collect();
    let mut system = SetSystem::solve(models, &as_matrix(&rates));
    let mut distance = 0.0;
    if system.is_none() {
        let mut weights = [[1.0; MOST_MODELS]; MOST_MODELS];
        pairs(models).zip(&class.weights).for_each(|((i, k), &weight)| weights[i][k] = weight.max(1e-9));
        let found = SetSystem::nearest(models, &as_matrix(&rates), &weights);
        for (rate, (i, k)) in rates.iter_mut().zip(pairs(models)) {
            // Every set with the same mass is the middle of what is possible, and has one half everywhere.
            let edge = found.mass(1 << i | 1 << k).clamp(0.0, 1.0);
            *rate = rounded(edge + INSIDE * (0.5 - edge));
        }
        let changes = rates.iter().zip(&class.rates).map(|(now, before)| libm::fabs(now - before));
        distance = changes.fold(0.0, f64::max);
        system = SetSystem::solve(models, &as_matrix(&rates));
    }
    let agreement = SHARE * system.map_or(0.0, |system| system.agreement());
    let target = models.saturating_sub(1);
    let accepted: f64 = (0..target).map(|i| rates[pair_index(models, i, target)]).sum();
    let rejected = 1.0 - accepted / target.max(1) as f64;
    Possible { rates, distance, agreement, rejected }
}

/// The swing of π with which the drafts' mean acceptance has the regime deviation `measured`, over all classes
/// by their shares. A request near 0 or 1 swings less, so the source's own law of requests is asked.
fn swing(possible: &[Possible], classes: &[FittedClass], request_spread: f64, measured: f64) -> f64 {
    let shares: f64 = classes.iter().map(|class| class.share).sum();
    let laws: Vec<(f64, f64, Vec<f64>)> = possible
        .iter()
        .zip(classes)
        .filter(|(p, class)| class.share > 0.0 && p.per_pi() > 0.0)
        .map(|(p, class)| {
            let atoms = beta::atoms(p.agreement, request_spread / p.per_pi());
            (class.share / shares, p.per_pi(), atoms)
        })
        .collect();
    let variance = |swing: f64| -> f64 {
        let of_law = |(share, per_pi, atoms): &(f64, f64, Vec<f64>)| {
            let own = |&pi: &f64| {
                let own = swing.min(pi).min(1.0 - pi) * per_pi;
                own * own
            };
            share * atoms.iter().map(own).sum::<f64>() / atoms.len() as f64
        };
        laws.iter().map(of_law).sum()
    };
    let (mut low, mut high) = (0.0, MOST_SWING);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if variance(middle) < measured * measured { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(models: usize) -> Vec<String> {
        (0..models).map(|m| format!("m{m}")).collect()
    }

    fn class(rates: &[f64], weights: &[f64]) -> FittedClass {
        FittedClass { name: "all".into(), rates: rates.into(), weights: weights.into(), share: 1.0 }
    }

    fn rates(projected: &Projected, models: usize) -> Vec<f64> {
        let of =
            |(i, k): (usize, usize)| projected.config.matrix["all"][&format!("m{i}")][&format!("m{k}")].get();
        pairs(models).map(of).collect()
    }

    #[test]
    fn a_matrix_that_models_can_have_stays() {
        let found =
            project(&names(3), &[class(&[0.8, 0.6, 0.8], &[1.0; 3])], &FittedVariation::default()).unwrap();
        assert_eq!((rates(&found, 3), found.distances[0].1), (vec![0.8, 0.6, 0.8], 0.0));
    }

    #[test]
    fn what_is_known_least_moves() {
        // The triangle asks that 02 is at least .8 (01 + 12 - 1) = .9 + .9 - 1; it came as .7.
        let impossible = [0.9, 0.7, 0.9];
        let moved = |weights: &[f64; 3]| {
            let found =
                project(&names(3), &[class(&impossible, weights)], &FittedVariation::default()).unwrap();
            assert!((found.distances[0].1 - 0.1).abs() < 1e-3, "{:?}", found.distances);
            rates(&found, 3)
                .iter()
                .zip(impossible)
                .map(|(a, b)| ((a - b) * 100.0).round())
                .collect::<Vec<_>>()
        };
        assert_eq!(moved(&[50.0, 1.0, 50.0]), [0.0, 10.0, 0.0]);
        assert_eq!(moved(&[1.0, 50.0, 50.0]), [-10.0, 0.0, 0.0]);
    }

    #[test]
    fn a_spread_past_what_the_matrix_allows_is_cut_and_said() {
        let wide = FittedVariation { request_spread: 0.9, ..FittedVariation::default() };
        let found = project(&names(2), &[class(&[0.7], &[1.0])], &wide).unwrap();
        assert_eq!(found.spread_cut, Some(0.9));
        assert!(found.config.request_spread.get() < 0.5);
    }

    #[test]
    fn a_pool_past_the_set_system_is_refused() {
        let many = class(&[0.5; 21], &[1.0; 21]);
        insta::assert_snapshot!(project(&names(7), &[many], &FittedVariation::default()).unwrap_err(), @"acceptance.heterogeneous takes pools of at most 6 models, got 7");
    }

    proptest! {
        /// Whatever was measured, what comes back can be simulated, and a possible matrix is not moved.
        #[test]
        fn every_projection_has_a_set_system(models in 2usize..=5, raw in prop::collection::vec(0.0f64..=1.0, 10), weights in prop::collection::vec(0.1f64..100.0, 10)) {
            let count = pairs(models).count();
            let found = project(&names(models), &[class(&raw[..count], &weights[..count])], &FittedVariation::default()).unwrap();
            let now = rates(&found, models);
            let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
            pairs(models).zip(&now).for_each(|((i, k), &rate)| matrix[i][k] = Some(rate));
            prop_assert!(SetSystem::solve(models, &matrix).is_some(), "{now:?}");
            let again = project(&names(models), &[class(&now, &weights[..count])], &FittedVariation::default()).unwrap();
            prop_assert!(again.distances[0].1 == 0.0 && rates(&again, models) == now);
        }
    }
}
