//! UCBSpec (BanditSpec, arXiv 2505.15141): the arm whose reward could be highest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::{ARMS, ArmConfig, plans};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::trial::{Books, Counted, HOLD_ROUNDS, REWARD, RewardConfig, Trial, largest};
use crate::chain::ChainPlan;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::units::{NonNegative, Probability};

/// Parameters of `ucb`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UcbConfig {
    /// Plans to choose among.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ArmConfig>,
    /// What it wants much of.
    pub reward: RewardConfig,
    /// Rounds that each sequence runs a plan before the next choice.
    pub hold_rounds: u32,
    /// Chance, above 0, that the published bound on an arm's mean fails: smaller is more curious.
    pub delta: Probability,
    /// Factor on the published radius. 1 is the published one, which is safe for every law of
    /// rewards between 0 and their most, and so wide that ten arms are told apart after ten thousand rounds.
    pub exploration: NonNegative,
}

impl Default for UcbConfig {
    fn default() -> Self {
        Self {
            arms: Vec::new(),
            reward: RewardConfig::default(),
            hold_rounds: 8,
            delta: Probability::constant(0.05),
            exploration: NonNegative::constant(0.3),
        }
    }
}

impl Recipe for UcbConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "ucb",
        summary: "bandit over plans: the one whose reward could be highest, at the present load",
        source: "UCBSpec of BanditSpec, arXiv 2505.15141, with a reward that knows of time",
        parameters: &[
            ARMS,
            REWARD,
            HOLD_ROUNDS,
            ("delta", "0.05", "chance that the bound on an arm's mean fails"),
            ("exploration", "0.3", "factor on the published radius; 1 as published"),
        ],
        example: r#"{"ucb": {"arms": [{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]}, {"chain": ["small", "medium", "large"], "windows": [2, 4]}]}}"#,
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
        let delta = self.delta.get();
        if delta <= 0.0 {
            return Err(pool.refuse("delta", "above 0", delta));
        }
        let longest = arms.iter().map(ChainPlan::block).max().unwrap_or(0);
        Ok(Box::new(Ucb {
            books: Books::new(vec![Counted::default(); arms.len()]),
            planned: arms[0].into(),
            arms,
            trial: Trial::new(hold_rounds),
            reward: self.reward,
            longest: f64::from(longest.max(1)),
            delta,
            exploration: self.exploration.get(),
        }))
    }
}

/// Every arm once, then the argmax of mean reward plus radius.
///
/// Times a plan was played are counted in rounds of single sequences, as published, though a choice
/// holds for many: each is a draw of its own. Arms are tried anew at each load.
struct Ucb {
    arms: Vec<ChainPlan>,
    trial: Trial,
    /// By load, then arm.
    books: Books<Vec<Counted>>,
    planned: Planned,
    reward: RewardConfig,
    /// Most tokens that a round of any arm drafts, L.
    longest: f64,
    delta: f64,
    exploration: f64,
}

impl Ucb {
    fn choose(&mut self, load: usize) -> usize {
        let book = self.books.at(load);
        if let Some(untried) = book.iter().position(|arm| arm.rounds <= 0.0) {
            return untried;
        }
        let reward = self.reward;
        let all = || book.iter().map(|arm| reward.of(arm));
        // Tokens a round lie between 1 and L + 1, shares of the best rate about between 0 and 1.
        let (unit, range) = match reward {
            RewardConfig::TokensPerSecond => (all().fold(0.0, f64::max), 1.0),
            RewardConfig::Accepted => (1.0, self.longest),
        };
        let rounds: f64 = book.iter().map(|arm| arm.rounds).sum();
        let (arms, delta, exploration) = (book.len() as f64, self.delta, self.exploration);
        let index = |arm: &Counted| {
            reward.of(arm) / unit + exploration * radius(range, arm.rounds, arms, rounds, delta)
        };
        largest(book.iter().map(index))
    }
}

/// `(L/2)·√((1+n)/n² · (1 + 2·ln(K·t²·√(1+n)/δ)))`: how far the mean of `n` rewards within a range of
/// `range` L may be from the truth, for K `arms` at time `t`, but for chance δ.
///
/// Source: BanditSpec, UCBSpec; where its radicals end is read from a linearised text: that of 1 + n
/// over itself alone, as bounds of self-normalised sums have it.
fn radius(range: f64, n: f64, arms: f64, t: f64, delta: f64) -> f64 {
    let log = libm::log(arms * t * t * libm::sqrt(1.0 + n) / delta);
    range / 2.0 * libm::sqrt((1.0 + n) / (n * n) * (1.0 + 2.0 * log))
}

impl Policy for Ucb {
    fn name(&self) -> &str {
        UcbConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if let Some(load) = self.trial.due(ask.decoding) {
            let arm = self.choose(load);
            self.trial.run(arm, load);
            let seen = self.books.at(load)[arm];
            let predicted = (seen.rounds > 0.0).then(|| seen.prediction(ask.decoding, 1.0));
            self.planned = Planned { chain: self.arms[arm], predicted };
        }
        plan.set_all(self.planned);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        if let Some(stretch) = self.trial.learn(report) {
            self.books.at(stretch.load)[stretch.arm].add(&stretch.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ModelId;

    #[test]
    fn the_radius_is_the_published_one_and_shrinks() {
        assert!((radius(4.0, 10.0, 5.0, 100.0, 0.05) - 3.694_959_162_3).abs() < 1e-9);
        assert!((radius(1.0, 80.0, 13.0, 1000.0, 0.05) - 0.373_742_345_0).abs() < 1e-9);
        let by_n = (1..500).map(|n| radius(1.0, f64::from(n), 13.0, 1000.0, 0.05));
        assert!(by_n.clone().zip(by_n.skip(1)).all(|(a, b)| b < a && b > 0.0));
        let by_t = (1..500).map(|t| radius(1.0, 9.0, 13.0, f64::from(t), 0.05));
        assert!(by_t.clone().zip(by_t.skip(1)).all(|(a, b)| b > a), "neglect makes curious");
    }

    fn ucb(arms: usize) -> Ucb {
        let arms = vec![ChainPlan::target_only(ModelId(0)); arms];
        Ucb {
            books: Books::new(vec![Counted::default(); arms.len()]),
            planned: arms[0].into(),
            arms,
            trial: Trial::new(1),
            reward: RewardConfig::TokensPerSecond,
            longest: 1.0,
            delta: 0.05,
            exploration: 0.3,
        }
    }

    #[test]
    fn every_load_has_a_choice_of_its_own_after_every_arm_was_tried_there() {
        let mut ucb = ucb(3);
        let seen = |tokens| Counted { rounds: 10_000.0, tokens, seconds: 1.0 };
        *ucb.books.at(0) = vec![seen(1.0), seen(2.0), seen(3.0)];
        *ucb.books.at(6) = vec![seen(30.0), seen(20.0), seen(10.0)];
        assert_eq!([0, 6, 3].map(|load| ucb.choose(load)), [2, 0, 0]);
        ucb.books.at(3)[0] = seen(1.0);
        assert_eq!(ucb.choose(3), 1, "untried at this load");
    }

    #[test]
    fn what_is_little_known_is_tried_again_and_no_number_is_never_the_best() {
        let mut ucb = ucb(2);
        *ucb.books.at(0) = vec![
            Counted { rounds: 10_000.0, tokens: 10.0, seconds: 1.0 },
            Counted { rounds: 8.0, tokens: 7.0, seconds: 1.0 },
        ];
        assert_eq!(ucb.choose(0), 1);
        ucb.books.at(0)[1].tokens = f64::NAN;
        assert_eq!(ucb.choose(0), 0);
        ucb.books.at(0).iter_mut().for_each(|arm| arm.tokens = 0.0);
        assert_eq!(ucb.choose(0), 0, "nothing was committed by anyone");
    }
}
