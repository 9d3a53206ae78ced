//! Thompson sampling over plans: each is chosen as often as it may be the best.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::{ARMS, ArmConfig, plans};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::trial::{Books, Counted, HOLD_ROUNDS, RewardConfig, Trial, largest};
use crate::chain::ChainPlan;
use crate::luck::Draws;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::units::Probability;

/// Parameters of `thompson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ThompsonConfig {
    /// Plans to choose among.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ArmConfig>,
    /// Rounds that each sequence runs a plan before the next choice.
    pub hold_rounds: u32,
    /// What a stretch leaves of the weight of those before it, at its load: 0.99 remembers some 100.
    pub discount: Probability,
}

impl Default for ThompsonConfig {
    fn default() -> Self {
        Self { arms: Vec::new(), hold_rounds: 8, discount: Probability::constant(0.99) }
    }
}

impl Recipe for ThompsonConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "thompson",
        summary: "bandit over plans: each is chosen as often as it may have the most tokens per second",
        source: "Thompson 1933; discounted for worlds that change, Raj and Kalyani, arXiv 1707.09727",
        parameters: &[
            ARMS,
            HOLD_ROUNDS,
            ("discount", "0.99", "what a stretch leaves of the weight of those before it"),
        ],
        example: r#"{"thompson": {"arms": [{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]}, {"chain": ["small", "medium", "large"], "windows": [2, 4]}]}}"#,
    };

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let arms = plans(pool, &self.arms)?;
        let hold_rounds = pool.at_least_one("hold_rounds", self.hold_rounds)?;
        Ok(Box::new(Thompson {
            books: Books::new(vec![Belief::default(); arms.len()]),
            posterior: Vec::with_capacity(arms.len()),
            planned: arms[0].into(),
            arms,
            trial: Trial::new(hold_rounds),
            discount: self.discount.get(),
            draws: pool.pool.draws,
            choices: 0,
        }))
    }
}

/// Spread of a stretch's rate around its arm's, relative to it, believed before any was seen, and the
/// number of stretches that this belief is worth.
const SPREAD: f64 = 0.2;
const TRUST: f64 = 4.0;

/// What is believed of an arm at one load.
#[derive(Clone, Copy, Debug, Default)]
struct Belief {
    /// Stretches, discounted.
    stretches: f64,
    /// Σ rate and Σ rate² over them, rates in tokens per second.
    rates: f64,
    squares: f64,
    /// For predictions; discounted too.
    counted: Counted,
}

impl Belief {
    fn mean(&self) -> f64 {
        self.rates / self.stretches
    }

    fn forget(&mut self, discount: f64) {
        self.stretches *= discount;
        self.rates *= discount;
        self.squares *= discount;
        let Counted { rounds, tokens, seconds } = self.counted;
        self.counted =
            Counted { rounds: rounds * discount, tokens: tokens * discount, seconds: seconds * discount };
    }

    fn add(&mut self, counted: &Counted) {
        let rate = RewardConfig::TokensPerSecond.of(counted);
        self.stretches += 1.0;
        self.rates += rate;
        self.squares += rate * rate;
        self.counted.add(counted);
    }
}

/// A mean and its standard deviation.
type Normal = (f64, f64);

/// The posterior of every arm's rate: normal, flat before. Arms share one relative spread of
/// stretches, estimated within arms; the mean of n of them has it over √n.
fn posterior(book: &[Belief], out: &mut Vec<Normal>) {
    let (mut squares, mut freedom) = (TRUST * SPREAD * SPREAD, TRUST);
    for arm in book.iter().filter(|arm| arm.stretches > 1.0 && arm.rates > 0.0) {
        let mean = arm.mean();
        squares += (arm.squares / (mean * mean) - arm.stretches).max(0.0);
        freedom += arm.stretches - 1.0;
    }
    let spread = libm::sqrt(squares / freedom);
    out.clear();
    out.extend(book.iter().map(|arm| (arm.mean(), arm.mean() * spread / libm::sqrt(arm.stretches))));
}

/// Chance that `arm`'s draw is the largest: `∫ φ(z)·Π_j Φ((x(z) − m_j)/s_j) dz` by the trapezoid rule.
fn chance(posterior: &[Normal], arm: usize) -> f64 {
    const STEPS: i32 = 32;
    const FAR: f64 = 4.0;
    let (mean, deviation) = posterior[arm];
    let (mut sum, mut whole) = (0.0, 0.0);
    for step in -STEPS..=STEPS {
        let z = FAR * f64::from(step) / f64::from(STEPS);
        let x = mean + z * deviation;
        let density = libm::exp(-z * z / 2.0);
        let others = posterior.iter().enumerate().filter(|&(other, _)| other != arm);
        let below = others.map(|(_, &(m, s))| {
            if s > 0.0 {
                0.5 * libm::erfc((m - x) / (s * std::f64::consts::SQRT_2))
            } else {
                f64::from(u8::from(x > m))
            }
        });
        sum += density * below.product::<f64>();
        whole += density;
    }
    sum / whole
}

/// Every arm once, then the largest of one draw from each arm's posterior.
///
/// Forgetting widens the posterior of arms that are not played until they may be the best again: the
/// worse an arm was, the longer that takes.
struct Thompson {
    arms: Vec<ChainPlan>,
    trial: Trial,
    /// By load, then arm.
    books: Books<Vec<Belief>>,
    posterior: Vec<Normal>,
    planned: Planned,
    discount: f64,
    draws: Draws,
    choices: u64,
}

impl Thompson {
    /// An arm and the chance with which it was chosen.
    fn choose(&mut self, load: usize) -> (usize, f64) {
        let book = self.books.at(load);
        // Weights may fade to nothing where the discount is sharp: as good as untried.
        if let Some(untried) = book.iter().position(|arm| arm.stretches < 1e-6) {
            return (untried, 1.0);
        }
        posterior(book, &mut self.posterior);
        let (draws, key) = (self.draws, self.choices);
        self.choices += 1;
        let draw =
            |(arm, &(mean, deviation)): (usize, &Normal)| mean + deviation * draws.normal(key, arm as u64);
        let arm = largest(self.posterior.iter().enumerate().map(draw));
        (arm, chance(&self.posterior, arm))
    }
}

impl Policy for Thompson {
    fn name(&self) -> &str {
        ThompsonConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if let Some(load) = self.trial.due(ask.decoding) {
            let (arm, chance) = self.choose(load);
            self.trial.run(arm, load);
            let seen = self.books.at(load)[arm].counted;
            let predicted = (seen.rounds > 0.0).then(|| seen.prediction(ask.decoding, chance));
            self.planned = Planned { chain: self.arms[arm], predicted };
        }
        plan.set_all(self.planned);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        if let Some(stretch) = self.trial.learn(report) {
            let (book, discount) = (self.books.at(stretch.load), self.discount);
            book.iter_mut().for_each(|arm| arm.forget(discount));
            book[stretch.arm].add(&stretch.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    fn seen(rates: &[f64]) -> Belief {
        let mut arm = Belief::default();
        rates.iter().for_each(|&rate| arm.add(&Counted { rounds: 8.0, tokens: rate, seconds: 1.0 }));
        arm
    }

    #[test]
    fn the_posterior_shares_one_relative_spread() {
        let mut out = Vec::new();
        posterior(&[seen(&[90.0, 110.0]), seen(&[50.0])], &mut out);
        // (4·0.2² + 2·0.1²) / (4 + 1) = 0.036.
        let spread = libm::sqrt(0.036);
        assert!(
            (out[0].0 - 100.0).abs() < 1e-9 && (out[0].1 - 100.0 * spread / libm::sqrt(2.0)).abs() < 1e-9
        );
        assert!((out[1].0 - 50.0).abs() < 1e-9 && (out[1].1 - 50.0 * spread).abs() < 1e-9);
    }

    #[test]
    fn chances_of_choice_add_up_and_are_those_of_the_draws() {
        let posterior = [(1.0, 0.1), (0.9, 0.2), (0.95, 0.05), (0.3, 0.0)];
        let chances = [0, 1, 2, 3].map(|arm| chance(&posterior, arm));
        assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{chances:?}");
        let (draws, n) = (Luck::new(6).stream(Stream::Test), 50_000u64);
        let mut wins = [0.0; 4];
        for key in 0..n {
            let draw = |(arm, &(mean, deviation)): (usize, &Normal)| {
                mean + deviation * draws.normal(key, arm as u64)
            };
            wins[largest(posterior.iter().enumerate().map(draw))] += 1.0 / n as f64;
        }
        for (won, chance) in wins.into_iter().zip(chances) {
            assert!((won - chance).abs() < 0.01, "{wins:?} {chances:?}");
        }
    }

    #[test]
    fn what_is_forgotten_is_less_certain_and_no_other() {
        let mut out = Vec::new();
        let mut arm = seen(&[100.0, 100.0, 100.0]);
        posterior(&[arm], &mut out);
        let before = out[0];
        (0..200).for_each(|_| arm.forget(0.99));
        posterior(&[arm], &mut out);
        assert!((out[0].0 - before.0).abs() < 1e-9 && out[0].1 > 2.0 * before.1, "{before:?} {:?}", out[0]);
    }
}
