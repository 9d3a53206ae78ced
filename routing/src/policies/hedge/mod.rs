//! HedgeSpec ("Not-a-Bandit", arXiv 2510.20064): full information about every plan, from what
//! verifications and probes show, instead of a bandit's view of the one that runs.
//!
//! The paper runs every drafter over the committed text. Here that is a [`Probe`]: now and then a
//! drafter that does not run looks at 32 committed positions. Between looks a drafter is charged with
//! what is known of it. What is left to assumption: the acceptance within a chain of models that never
//! ran under one another (the middle of what the triangle allows), and pass times, which are the
//! profile's as corrected by those observed.

mod windows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::{ARMS, ArmConfig, plans};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::trial::{Books, HOLD_ROUNDS, Trial, drawn};
use crate::chain::{ChainPlan, MAX_MODELS};
use crate::estimate::Ema;
use crate::ids::{ModelId, Slot};
use crate::luck::Draws;
use crate::policy::maths::Lengths;
use crate::policy::price::{AlphaMatrix, Batch, Pricer, Pricing};
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy, Probe};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::{Positive, Probability};
use windows::Drafter;

/// Parameters of `hedge`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HedgeConfig {
    /// Plans to choose among.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ArmConfig>,
    /// Rounds that each sequence runs a plan before the next choice.
    pub hold_rounds: u32,
    /// Rounds of the batch between looks at a drafter that does not run. A look is one pass of the
    /// drafter over the tokens it lags behind on one sequence.
    pub probe_rounds: u32,
    /// Acceptance believed of a drafter that was never seen.
    pub initial_acceptance: Probability,
    /// Rounds after which regrets and windows count half; the paper forgets nothing.
    pub half_life: Positive,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            arms: Vec::new(),
            hold_rounds: 8,
            probe_rounds: 32,
            initial_acceptance: Probability::constant(0.7),
            half_life: Positive::constant(512.0),
        }
    }
}

impl Recipe for HedgeConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "hedge",
        summary: "plans by regret in tokens per second, with probes of the drafters that do not run",
        source: "HedgeSpec (Not-a-Bandit), arXiv 2510.20064; NormalHedge, Chaudhuri et al. 2009",
        parameters: &[
            ARMS,
            HOLD_ROUNDS,
            ("probe_rounds", "32", "rounds between looks at a drafter that does not run"),
            ("initial_acceptance", "0.7", "acceptance believed of a drafter never seen"),
            ("half_life", "512", "rounds after which what was seen counts half"),
        ],
        example: r#"{"hedge": {"arms": [{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]}, {"chain": ["small", "medium", "large"], "windows": [2, 4]}]}}"#,
    };

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let arms = plans(pool, &self.arms)?;
        let hold_rounds = pool.at_least_one("hold_rounds", self.hold_rounds)?;
        let probe_rounds = pool.at_least_one("probe_rounds", self.probe_rounds)?;
        let (target, initial) = (pool.target(), self.initial_acceptance.get());
        let plain = arms.iter().position(|arm| arm.depth() == 1);
        Ok(Box::new(Hedge {
            drafters: vec![Drafter::new(initial); target.index()],
            due: vec![0; target.index()],
            pairs: [[Ema::EMPTY; MAX_MODELS]; MAX_MODELS],
            books: Books::new(Regrets::new(arms.len())),
            quotes: Vec::with_capacity(arms.len()),
            planned: arms[plain.unwrap_or(0)].into(),
            first: plain.unwrap_or(0),
            arms,
            target,
            trial: Trial::new(hold_rounds),
            ended: false,
            pricer: Pricer::new(),
            probe_rounds: u64::from(probe_rounds),
            keep: libm::exp2(-f64::from(hold_rounds) / self.half_life.get()),
            rounds: 0,
            draws: pool.pool.draws,
            choices: 0,
        }))
    }
}

/// Positions that a probe compares, and the fewest that are worth one where looks are that far apart.
const PROBED: u32 = 32;
const LEAST: u64 = 8;
/// Half-life, in positions, of similarities below the target.
const POSITIONS: f64 = 512.0;

/// NormalHedge: regrets against each arm, and the chances that follow from them. No learning rate.
#[derive(Clone, Debug)]
struct Regrets {
    regrets: Vec<f64>,
    chances: Vec<f64>,
    /// Some loss was learned.
    begun: bool,
}

impl Regrets {
    fn new(arms: usize) -> Self {
        Self { regrets: vec![0.0; arms], chances: vec![1.0 / arms as f64; arms], begun: false }
    }

    /// Every arm's loss in a step; what was before counts `keep`.
    fn learn(&mut self, losses: impl Iterator<Item = f64> + Clone, keep: f64) {
        let mixed: f64 = losses.clone().zip(&self.chances).map(|(loss, chance)| loss * chance).sum();
        if !mixed.is_finite() {
            return;
        }
        for (regret, loss) in self.regrets.iter_mut().zip(losses) {
            *regret = *regret * keep + mixed - loss;
        }
        self.begun = true;
        self.weigh();
    }

    /// `p ∝ (R/c)·exp(R²/2c)` over positive regrets R, with c such that the mean of `exp(R²/2c)` over
    /// all arms is e.
    fn weigh(&mut self) {
        let arms = self.regrets.len() as f64;
        let most = self.regrets.iter().fold(0.0, |most: f64, &regret| most.max(regret));
        if most <= 0.0 || !most.is_finite() {
            self.chances.fill(1.0 / arms);
            return;
        }
        // In units of the largest: at ½ no term is above e, at 1 / (2 (1 + ln K)) one alone gives K·e.
        let scaled = |regret: f64| (regret / most).max(0.0);
        let (mut low, mut high) = (0.5 / (1.0 + libm::log(arms)), 0.5);
        for _ in 0..30 {
            let c = (low + high) / 2.0;
            let sum: f64 = self.regrets.iter().map(|&r| libm::exp(scaled(r) * scaled(r) / (2.0 * c))).sum();
            if sum > arms * std::f64::consts::E { low = c } else { high = c }
        }
        for (chance, &regret) in self.chances.iter_mut().zip(&self.regrets) {
            let r = scaled(regret);
            *chance = r * libm::exp(r * r / (2.0 * high));
        }
        let sum: f64 = self.chances.iter().sum();
        self.chances.iter_mut().for_each(|chance| *chance /= sum);
    }
}

/// An arm at the present prices: seconds of a round of the batch, tokens of each of its sequences in
/// the windows since the last step and as known before.
#[derive(Clone, Copy, Debug)]
struct Quote {
    seconds: f64,
    fresh: f64,
    known: f64,
}

/// Draws a plan for every stretch by NormalHedge, whose losses are `1 − rate / best rate` of every
/// plan in tokens per second: a chain does not win by length.
///
/// Before anything was seen it decodes plainly for a stretch and looks at every drafter. Evidence is
/// shared by all loads; regrets are kept for each, and begin with one step of what is known.
struct Hedge {
    arms: Vec<ChainPlan>,
    target: ModelId,
    /// The arm of the first stretch.
    first: usize,
    trial: Trial,
    /// A stretch has ended and was not learned from yet: prices come with the ask.
    ended: bool,
    books: Books<Regrets>,
    /// Per model below the target.
    drafters: Vec<Drafter>,
    /// Round of the batch in which each is to be looked at.
    due: Vec<u64>,
    /// Similarity of pairs below the target.
    pairs: [[Ema; MAX_MODELS]; MAX_MODELS],
    quotes: Vec<Quote>,
    pricer: Pricer,
    planned: Planned,
    probe_rounds: u64,
    /// What a stretch leaves of regrets and windows.
    keep: f64,
    /// Passes of the target that ended a round.
    rounds: u64,
    draws: Draws,
    choices: u64,
}

impl Hedge {
    /// Acceptance of a pair: as seen, or the middle of what the triangle leaves between
    /// `s_i + s_j − 1` and `1 − |s_i − s_j|` for similarities to the target.
    fn pair(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        if verifier == self.target {
            return self.drafters[drafter.index()].similarity();
        }
        self.pairs[drafter.index()][verifier.index()].get().unwrap_or_else(|| {
            let (a, b) = (&self.drafters[drafter.index()], &self.drafters[verifier.index()]);
            let (a, b) = (a.similarity(), b.similarity());
            ((a + b - 1.0).max(0.0) + 1.0 - (a - b).abs()) / 2.0
        })
    }

    /// Prices every arm for the batch of `ask`.
    fn quote(&mut self, ask: &Ask<'_>) {
        let mut alpha = AlphaMatrix::uniform(0.0);
        for verifier in 1..=self.target.0 {
            for drafter in 0..verifier {
                let (d, v) = (ModelId(drafter), ModelId(verifier));
                alpha.set(d, v, self.pair(d, v));
            }
        }
        let batch = Batch::of(ask.decoding.max(1), ask.context_tokens as f64 / f64::from(ask.running.max(1)));
        let costs = |model: ModelId, shape: &PassShape| ask.costs.seconds(model, shape);
        let mut prices = self.pricer.open(&batch, &alpha, &costs, Pricing::Lockstep);
        self.quotes.clear();
        for arm in &self.arms {
            let seconds = prices.price(arm).round_seconds;
            let quote = match arm.models() {
                [.., drafter, _] => {
                    let drafter = &self.drafters[drafter.index()];
                    let (mut fresh, mut known) = (0.0, 0.0);
                    for (n, chance) in block(arm, &alpha).iter() {
                        fresh += chance * drafter.fresh(n);
                        known += chance * drafter.known(n);
                    }
                    Quote { seconds, fresh, known }
                }
                _ => Quote { seconds, fresh: 1.0, known: 1.0 },
            };
            self.quotes.push(quote);
        }
    }

    /// A step of the regrets at a load: what the last stretch showed, or for a load that is new what
    /// is known.
    fn step(&mut self, load: usize) {
        let best = self.quotes.iter().map(|quote| quote.known / quote.seconds).fold(0.0, f64::max);
        let loss = |quote: &Quote| 1.0 - quote.fresh / quote.seconds / best;
        self.books.at(load).learn(self.quotes.iter().map(loss), self.keep);
        self.drafters.iter_mut().for_each(|drafter| drafter.settle(self.keep));
    }

    /// An arm and the chance with which it was chosen.
    fn choose(&mut self, load: usize) -> (usize, f64) {
        if !self.drafters.is_empty() && !self.drafters.iter().any(Drafter::seen) && self.choices == 0 {
            self.choices = 1;
            return (self.first, 1.0);
        }
        if std::mem::take(&mut self.ended) || !self.books.at(load).begun {
            self.step(load);
        }
        let chances = &self.books.at(load).chances;
        let arm = drawn(chances, self.draws.uniform(self.choices, 0));
        self.choices += 1;
        (arm, chances[arm])
    }

    /// Looks at drafters of some arm that are due and do not run, each on the sequence that shows most
    /// at the least catch-up. A look at fewer positions than a probe has holds for as much less time.
    fn look(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for drafter in 0..self.target.0 {
            let model = ModelId(drafter);
            let waits = self.rounds < self.due[model.index()] || self.planned.chain.uses(model);
            if waits || !self.arms.iter().any(|arm| arm.uses(model)) {
                continue;
            }
            // The target's distributions are known where it has decoded; a prompt shows nothing.
            let shows = |slot: Slot| {
                let request = ask.request(slot);
                let lag = request.lag(model);
                (lag.min(request.emitted()).min(PROBED), std::cmp::Reverse(lag), slot)
            };
            let Some((positions, _, slot)) = ask.starting.iter().map(|&slot| shows(slot)).max() else {
                continue;
            };
            if u64::from(positions) >= self.probe_rounds.min(LEAST) {
                let holds = (self.probe_rounds * u64::from(positions)).div_ceil(u64::from(PROBED));
                self.due[model.index()] = self.rounds + holds;
                plan.probe(Probe { slot, model });
            }
        }
    }
}

/// Length of the block that reaches the target.
fn block(arm: &ChainPlan, alpha: &AlphaMatrix) -> Lengths {
    let (models, windows) = (arm.models(), arm.windows());
    let lowest = windows.first().map_or(0, |&window| u32::from(window));
    let mut block = Lengths::exactly(lowest);
    for level in 1..windows.len() {
        let cycle = block.verified(alpha.get(models[level - 1], models[level]));
        block = cycle.fill(u32::from(windows[level]));
    }
    block
}

impl Policy for Hedge {
    fn name(&self) -> &str {
        HedgeConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if let Some(load) = self.trial.due(ask.decoding) {
            self.quote(ask);
            let (arm, chance) = self.choose(load);
            self.trial.run(arm, load);
            let quote = self.quotes[arm];
            let predicted = Prediction {
                round_seconds: quote.seconds as f32,
                tokens: quote.known as f32,
                propensity: chance as f32,
            };
            self.planned = Planned { chain: self.arms[arm], predicted: Some(predicted) };
        }
        plan.set_all(self.planned);
        self.look(ask, plan);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.rounds += u64::from(report.rounds > 0);
        self.ended |= self.trial.learn(report).is_some();
        for row in report.rows.iter().filter(|row| row.drafter < row.verifier) {
            let mean = f64::from(row.similarity) / f64::from(row.examined.max(1));
            let positions = f64::from(row.examined);
            if row.verifier != self.target {
                if positions > 0.0 && mean.is_finite() {
                    self.pairs[row.drafter.index()][row.verifier.index()].add(mean, positions, POSITIONS);
                }
                continue;
            }
            let Some(drafter) = self.drafters.get_mut(row.drafter.index()) else { continue };
            drafter.examined(mean, positions);
            if row.drafted > 0 {
                // Without a token of the target's own the text ended, and nothing was rejected.
                let open = row.accepted >= row.drafted || row.committed <= row.accepted;
                drafter.verified(u32::from(row.accepted), open);
                self.due[row.drafter.index()] = self.rounds + self.probe_rounds;
            } else if positions > 0.0 {
                drafter.probed(mean);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    #[test]
    fn normal_hedge_finds_the_scale_and_leaves_arms_without_regret_alone() {
        let mut book = Regrets::new(3);
        book.regrets = vec![2.0, 1.0, -5.0];
        book.weigh();
        // mean of exp(R²/2c) is e at c = 1.159 068 1.
        let weight = |r: f64, c: f64| r / c * libm::exp(r * r / (2.0 * c));
        let c = 1.159_068_1;
        let sum = weight(2.0, c) + weight(1.0, c);
        assert!((book.chances[0] - weight(2.0, c) / sum).abs() < 1e-6, "{:?}", book.chances);
        assert!(book.chances[2].abs() < 1e-12);
        assert!((book.chances.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        book.regrets = vec![-1.0, 0.0, -2.0];
        book.weigh();
        assert!(book.chances.iter().all(|chance| (chance - 1.0 / 3.0).abs() < 1e-12));
    }

    /// The published bound on regret to the best of K arms after t steps of losses in [0, 1] grows as
    /// √(t ln K); a hand-picked multiple of it holds here.
    #[test]
    fn the_mixture_is_near_the_best_arm_in_hindsight() {
        let draws = Luck::new(4).stream(Stream::Test);
        let mut book = Regrets::new(8);
        let (mut mixed, mut arms) = (0.0, [0.0; 8]);
        let steps = 2000u64;
        for step in 0..steps {
            let losses: Vec<f64> = (0..8).map(|a| draws.uniform(step, a) * (1.0 - 0.02 * a as f64)).collect();
            mixed += losses.iter().zip(&book.chances).map(|(loss, chance)| loss * chance).sum::<f64>();
            arms.iter_mut().zip(&losses).for_each(|(sum, loss)| *sum += loss);
            book.learn(losses.iter().copied(), 1.0);
        }
        let best = arms.into_iter().fold(f64::INFINITY, f64::min);
        let bound = 1.5 * libm::sqrt(steps as f64 * libm::log(8.0));
        assert!(mixed - best < bound, "regret {} against {bound}", mixed - best);
        assert!(book.chances[7] > 0.5, "{:?}", book.chances);
    }

    #[test]
    fn a_loss_that_is_no_number_teaches_nothing() {
        let mut book = Regrets::new(2);
        book.learn([f64::NAN, 0.0].into_iter(), 1.0);
        assert!(!book.begun && book.chances == [0.5, 0.5]);
    }

    #[test]
    fn a_single_arm_is_chosen() {
        let mut book = Regrets::new(1);
        for loss in [0.0, 1.0, -1.0, 0.3] {
            book.learn([loss].into_iter(), 0.9);
            assert_eq!(book.chances, [1.0]);
        }
    }
}
