//! EXP3Spec (BanditSpec, arXiv 2505.15141): a bandit against a world that may change as it likes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::{ARMS, ArmConfig, plans};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::trial::{Books, Counted, HOLD_ROUNDS, REWARD, RewardConfig, Trial, drawn};
use crate::chain::ChainPlan;
use crate::luck::Draws;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::units::{Positive, Probability};

/// Parameters of `exp3`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exp3Config {
    /// Plans to choose among.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ArmConfig>,
    /// What it wants much of.
    pub reward: RewardConfig,
    /// Rounds that each sequence runs a plan before the next choice.
    pub hold_rounds: u32,
    /// Share of choices that are drawn from all arms alike, γ.
    pub gamma: Probability,
    /// How fast weights follow losses, η.
    pub learning_rate: Positive,
    /// Share of the weights that is dealt out anew after every stretch, so that an arm that was bad
    /// can come back soon (Exp3.S, Auer et al. 2002). 0 as published.
    pub share: Probability,
}

impl Default for Exp3Config {
    fn default() -> Self {
        Self {
            arms: Vec::new(),
            reward: RewardConfig::default(),
            hold_rounds: 8,
            gamma: Probability::constant(0.05),
            learning_rate: Positive::constant(0.1),
            share: Probability::constant(0.001),
        }
    }
}

impl Recipe for Exp3Config {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "exp3",
        summary: "bandit over plans by chances that follow losses, for worlds that change",
        source: "EXP3Spec of BanditSpec, arXiv 2505.15141; Exp3.S, Auer et al. 2002",
        parameters: &[
            ARMS,
            REWARD,
            HOLD_ROUNDS,
            ("gamma", "0.05", "share of choices drawn from all arms alike"),
            ("learning_rate", "0.1", "how fast chances follow losses"),
            ("share", "0.001", "share of the weights dealt out anew after every stretch; 0 as published"),
        ],
        example: r#"{"exp3": {"arms": [{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]}, {"chain": ["small", "medium", "large"], "windows": [2, 4]}]}}"#,
    };

    fn label(&self) -> String {
        match self.reward {
            RewardConfig::TokensPerSecond => String::new(),
            RewardConfig::Accepted => "accepted".to_owned(),
        }
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let arms = plans(pool, &self.arms)?;
        let hold_rounds = pool.at_least_one("hold_rounds", self.hold_rounds)?;
        let longest = arms.iter().map(ChainPlan::block).max().unwrap_or(0);
        let parameters = Parameters {
            gamma: self.gamma.get(),
            learning_rate: self.learning_rate.get(),
            share: self.share.get(),
        };
        Ok(Box::new(Exp3 {
            books: Books::new(Book::new(arms.len(), parameters)),
            seen: Books::new(vec![Counted::default(); arms.len()]),
            planned: arms[0].into(),
            arms,
            trial: Trial::new(hold_rounds),
            reward: self.reward,
            most: f64::from(longest) + 1.0,
            best: Books::new(0.0),
            draws: pool.pool.draws,
            choices: 0,
        }))
    }
}

#[derive(Clone, Copy, Debug)]
struct Parameters {
    gamma: f64,
    learning_rate: f64,
    share: f64,
}

/// Weights of arms at one load.
#[derive(Clone, Debug)]
struct Book {
    parameters: Parameters,
    /// Largest 1.
    weights: Vec<f64>,
    /// `(1 − γ)·w / Σw + γ/K`: what a choice is drawn from.
    chances: Vec<f64>,
}

impl Book {
    fn new(arms: usize, parameters: Parameters) -> Self {
        Self { parameters, weights: vec![1.0; arms], chances: vec![1.0 / arms as f64; arms] }
    }

    /// `arm`, drawn from the present chances, had a loss in `[0, 1]`; NaN counts as 1.
    ///
    /// Losses rather than gains: an arm near the best has little of it, so chances are calm where it
    /// matters. Estimated as loss over chance, which is unbiased for every arm.
    fn learn(&mut self, arm: usize, loss: f64) {
        let Parameters { gamma, learning_rate, share } = self.parameters;
        let loss = if loss.is_nan() { 1.0 } else { loss.clamp(0.0, 1.0) };
        self.weights[arm] *= libm::exp(-learning_rate * loss / self.chances[arm].max(f64::MIN_POSITIVE));
        let arms = self.weights.len() as f64;
        let mean = self.weights.iter().sum::<f64>() / arms;
        self.weights.iter_mut().for_each(|weight| *weight += share * (mean - *weight));
        let most = self.weights.iter().fold(0.0, |most: f64, &weight| most.max(weight));
        if most > 0.0 {
            self.weights.iter_mut().for_each(|weight| *weight /= most);
        } else {
            self.weights.fill(1.0); // All vanished at once: nothing is known of them.
        }
        let sum: f64 = self.weights.iter().sum();
        for (chance, weight) in self.chances.iter_mut().zip(&self.weights) {
            *chance = (1.0 - gamma) * weight / sum + gamma / arms;
        }
    }
}

/// Draws an arm for every stretch and moves the chances by what came of it.
struct Exp3 {
    arms: Vec<ChainPlan>,
    trial: Trial,
    books: Books<Book>,
    /// For predictions.
    seen: Books<Vec<Counted>>,
    planned: Planned,
    reward: RewardConfig,
    /// Most tokens of a round.
    most: f64,
    /// Best rate of a stretch, by load.
    best: Books<f64>,
    draws: Draws,
    choices: u64,
}

impl Policy for Exp3 {
    fn name(&self) -> &str {
        Exp3Config::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if let Some(load) = self.trial.due(ask.decoding) {
            let chances = &self.books.at(load).chances;
            let arm = drawn(chances, self.draws.uniform(self.choices, 0));
            self.choices += 1;
            self.trial.run(arm, load);
            let predicted = Some(self.seen.at(load)[arm].prediction(ask.decoding, chances[arm]));
            self.planned = Planned { chain: self.arms[arm], predicted };
        }
        plan.set_all(self.planned);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let Some(stretch) = self.trial.learn(report) else { return };
        self.seen.at(stretch.load)[stretch.arm].add(&stretch.counted);
        let reward = self.reward.of(&stretch.counted);
        let most = match self.reward {
            RewardConfig::TokensPerSecond => {
                let best = self.best.at(stretch.load);
                *best = best.max(reward);
                *best
            }
            RewardConfig::Accepted => self.most,
        };
        self.books.at(stretch.load).learn(stretch.arm, 1.0 - reward / most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    const PARAMETERS: Parameters = Parameters { gamma: 0.1, learning_rate: 0.2, share: 0.01 };

    #[test]
    fn a_loss_moves_the_weights_by_loss_over_chance() {
        let mut book = Book::new(2, Parameters { share: 0.0, ..PARAMETERS });
        book.learn(0, 0.5);
        // w = (e^(−0.2·0.5/0.5), 1); p = 0.9·w/Σw + 0.05.
        assert!((book.weights[0] - 0.818_730_753_1).abs() < 1e-9, "{:?}", book.weights);
        assert!((book.chances[0] - 0.455_149_402_4).abs() < 1e-9, "{:?}", book.chances);
        let mut book = Book::new(2, Parameters { share: 0.5, ..PARAMETERS });
        book.learn(0, 0.5);
        // Half of the weights is dealt out: 0.8187 and 1 become 0.8641 and 0.9547, whose ratio is 0.9051.
        assert!((book.weights[0] - 0.905_063_1).abs() < 1e-6, "{:?}", book.weights);
    }

    #[test]
    fn chances_are_a_distribution_with_a_floor_whatever_comes() {
        let draws = Luck::new(2).stream(Stream::Test);
        let mut book = Book::new(5, PARAMETERS);
        for step in 0..5000u64 {
            let arm = drawn(&book.chances, draws.uniform(step, 0));
            let loss = [0.0, 0.5, 1.0, f64::NAN, -3.0][draws.bits(step, 1) as usize % 5];
            book.learn(arm, if arm == 2 { 0.1 } else { loss });
            let sum: f64 = book.chances.iter().sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
            assert!(book.chances.iter().all(|&chance| chance >= 0.1 / 5.0), "{:?}", book.chances);
        }
    }

    /// The estimate that weights move by has the mean of the losses, arm by arm.
    #[test]
    fn losses_over_chances_are_unbiased() {
        let (draws, chances, losses) = (Luck::new(3).stream(Stream::Test), [0.7, 0.2, 0.1], [0.3, 0.6, 0.9]);
        let mut sums = [0.0; 3];
        for step in 0..100_000u64 {
            let arm = drawn(&chances, draws.uniform(step, 0));
            sums[arm] += losses[arm] / chances[arm];
        }
        for (sum, loss) in sums.into_iter().zip(losses) {
            assert!((sum / 1e5 - loss).abs() < 0.02, "{sum} {loss}");
        }
    }
}
