//! The SpecRouter paper's scheduler (arXiv 2505.07680, sections 1 and 2.5 of `algorithms.md`).
//!
//! Moving averages of pass times (the replica's profile) and of similarity per pair; f maps
//! similarity to acceptance; every candidate chain and windows is priced as expected round time
//! over expected tokens, stragglers, catch-up and prefill included; the least wins, if it wins by
//! more than the hysteresis. Pairs that have gone stale are looked at again, but only where what
//! could be found there would change the decision.

mod beliefs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::traffic::Traffic;
use crate::chain::{ChainPlan, MAX_MODELS};
use crate::ids::{ModelId, RequestId, Slot};
use crate::policy::price::{Batch, Candidates, Priced, Pricing};
use crate::policy::search::{Limits as SearchLimits, Search};
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy, Probe};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::{Positive, Probability};
use beliefs::Beliefs;

/// Who shares a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every sequence of the batch runs the same chain and windows.
    #[default]
    PerBatch,
    /// Each sequence runs what suits its own acceptance, at the batch's prices.
    PerRequest,
}

/// Parameters of `specrouter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpecRouterConfig {
    /// Who shares a plan.
    pub scope: Scope,
    /// Half-life of the moving average of similarity, in examined positions.
    pub half_life: Positive,
    /// Acceptance believed of a pair that has never been seen.
    pub initial_acceptance: Probability,
    /// Rounds between looks at pairs that have gone stale.
    pub probe_rounds: u32,
    /// Longest window of a level, in tokens.
    pub max_window: u32,
    /// A new plan must be better than the present one by this share.
    pub hysteresis: Probability,
    /// The mapping f from similarity to acceptance as points `[similarity, acceptance]`, linear
    /// between them; none is the identity, which is exact under sampling.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mapping: Vec<[Probability; 2]>,
}

impl Default for SpecRouterConfig {
    fn default() -> Self {
        Self {
            scope: Scope::PerBatch,
            half_life: Positive::constant(64.0),
            initial_acceptance: Probability::constant(0.7),
            probe_rounds: 32,
            max_window: 8,
            hysteresis: Probability::constant(0.005),
            mapping: Vec::new(),
        }
    }
}

impl Recipe for SpecRouterConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "specrouter",
        summary: "chain and windows with the least expected time per token, from pass times and similarities seen",
        source: "SpecRouter, arXiv 2505.07680",
        parameters: &[
            ("scope", "per_batch", "per_batch or per_request"),
            ("half_life", "64", "half-life of the similarity average, in examined positions"),
            ("initial_acceptance", "0.7", "acceptance believed of a pair never seen"),
            ("probe_rounds", "32", "rounds between looks at stale pairs"),
            ("max_window", "8", "longest window of a level in tokens"),
            ("hysteresis", "0.005", "share by which a new plan must be better"),
            ("mapping", "identity", "f: points [similarity, acceptance]"),
        ],
        example: r#"{"specrouter": {"scope": "per_request"}}"#,
    };

    fn label(&self) -> String {
        match self.scope {
            Scope::PerBatch => String::new(),
            Scope::PerRequest => "per_request".to_owned(),
        }
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let mapping: Vec<(f64, f64)> = self.mapping.iter().map(|[s, a]| (s.get(), a.get())).collect();
        if !mapping.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            let expected = "points of rising similarity and acceptance";
            return Err(pool.refuse("mapping", expected, format!("{mapping:?}")));
        }
        let parameters = Parameters {
            per_request: self.scope == Scope::PerRequest,
            probe_rounds: u64::from(pool.at_least_one("probe_rounds", self.probe_rounds)?),
            max_window: pool.window("max_window", self.max_window)?,
            hysteresis: self.hysteresis.get(),
        };
        let models = pool.pool.candidates.models();
        let beliefs = Beliefs::new(models, self.half_life.get(), self.initial_acceptance.get(), mapping);
        Ok(Box::new(SpecRouter::new(pool.pool.candidates, beliefs, parameters)))
    }
}

/// Sequences planned for each search at most: it keeps a decision under 150 ns a row.
const ROWS_PER_SEARCH: u64 = 256;
/// Rounds that a newly joined model is expected to stay: its catch-up is charged over them.
const STAY_ROUNDS: f64 = 512.0;
/// Looks that found nothing new double the time to the next, up to this factor.
const MOST_PATIENCE: u64 = 64;
/// `per_request` tells sequences apart by how far their acceptance is from their pair's, in this
/// many steps of [`SHIFT`] to either side.
const SHIFTS: i32 = 2;
const SHIFT: f64 = 0.1;
/// Positions' worth of trust in the pair's average against the request's own.
const SHRINK: f64 = 32.0;

/// What the scheduler needs to know besides its beliefs.
struct Parameters {
    /// Each sequence by its own acceptance.
    per_request: bool,
    /// Rounds between looks at stale pairs.
    probe_rounds: u64,
    /// Longest window.
    max_window: u32,
    /// Share by which a new plan must be better.
    hysteresis: f64,
}

/// The scheduler.
struct SpecRouter {
    candidates: Candidates,
    parameters: Parameters,
    search: Search,
    beliefs: Beliefs,
    traffic: Traffic,
    /// By load bucket and shift.
    decisions: Vec<[Option<Decision>; 2 * SHIFTS as usize + 1]>,
    /// The plan that most recently ran, per shift.
    current: [Option<ChainPlan>; 2 * SHIFTS as usize + 1],
    /// Rounds of the batch: passes of the target that ended one.
    rounds: u64,
    /// Rows planned since they last paid for a search.
    credit: u64,
    next_look: u64,
    patience: u64,
    books: Vec<Book>,
    /// What the newest search found, charged.
    found: Vec<Decision>,
}

/// What a decision rests on, and what it is.
#[derive(Clone, Copy)]
struct Decision {
    stamp: (u64, u64, u64),
    planned: Planned,
    /// Expected seconds per token of the batch, all charges included.
    price: f64,
}

/// How far one sequence is from its pair's average.
#[derive(Clone, Copy, Default)]
struct Book {
    request: RequestId,
    deviation: f64,
    positions: f64,
}

impl SpecRouter {
    /// A scheduler over the chains that `candidates` allow.
    fn new(candidates: Candidates, beliefs: Beliefs, parameters: Parameters) -> Self {
        Self {
            beliefs,
            candidates,
            search: Search::new(),
            traffic: Traffic::default(),
            decisions: Vec::new(),
            current: Default::default(),
            rounds: 0,
            credit: ROWS_PER_SEARCH,
            next_look: parameters.probe_rounds,
            patience: 1,
            books: Vec::new(),
            found: Vec::new(),
            parameters,
        }
    }

    /// The decision for the present load and a shift; searched anew when what it rests on has
    /// moved and enough rows have been planned to pay for it.
    fn decide(&mut self, ask: &Ask<'_>, shift: usize) -> Planned {
        let bucket = bucket(ask.decoding);
        if bucket >= self.decisions.len() {
            self.decisions.resize(bucket + 1, Default::default());
        }
        let stamp = (ask.costs.version(), self.beliefs.version(), self.traffic.version());
        if let Some(known) = self.decisions[bucket][shift]
            && (known.stamp == stamp || self.credit < ROWS_PER_SEARCH)
        {
            self.current[shift] = Some(known.planned.chain);
            return known.planned;
        }
        self.credit = self.credit.saturating_sub(ROWS_PER_SEARCH);
        let (best, kept) = self.best(ask, shift, false);
        // The present plan stays unless the new one is better by more than the hysteresis.
        let chosen = match kept {
            Some(kept) if best.price > kept.price * (1.0 - self.parameters.hysteresis) => kept,
            _ => best,
        };
        if self.current[shift].is_some_and(|present| present.models() != chosen.planned.chain.models()) {
            self.patience = 1; // The world has moved: look around again soon.
            self.next_look = self.next_look.min(self.rounds + self.parameters.probe_rounds);
        }
        self.current[shift] = Some(chosen.planned.chain);
        self.decisions[bucket][shift] = Some(Decision { stamp, ..chosen });
        chosen.planned
    }

    /// The best plan under the present beliefs (or at their best), and the present plan's price
    /// under the same.
    fn best(&mut self, ask: &Ask<'_>, shift: usize, optimistic: bool) -> (Decision, Option<Decision>) {
        let rows = ask.decoding.max(1);
        let by = (shift as i32 - SHIFTS) as f64 * SHIFT;
        let alpha = if optimistic { self.beliefs.optimistic(self.rounds) } else { self.beliefs.expected(by) };
        let target = self.candidates.target();
        let (costs, traffic) = (ask.costs, &self.traffic);
        let seconds = |model: ModelId, shape: &PassShape| costs.seconds(model, shape);
        let present = self.current[shift];
        let context = ask.context_tokens as f64 / f64::from(ask.running.max(1));
        let batch = Batch {
            catch_up: self.catch_up(ask, rows, present),
            stay_rounds: STAY_ROUNDS,
            ..Batch::of(rows, context)
        };
        let limits = SearchLimits {
            max_window: self.parameters.max_window,
            max_block: ask.limits.max_block,
            ..SearchLimits::default()
        };
        let mut prompts = [0.0; MAX_MODELS];
        for (model, seconds) in prompts.iter_mut().enumerate().take(self.candidates.models() - 1) {
            *seconds = traffic.prompt_seconds(costs, ModelId(model as u8), rows, context as u64);
        }
        // All charges: the prompts that come meanwhile, on the target and on every lower level.
        let charged = |plan: ChainPlan, priced: Priced| {
            let round = traffic.with_prompts(costs, &plan, rows, context as u64, priced.round_seconds);
            let lower = &plan.models()[..plan.depth() - 1];
            let price = round / priced.tokens + lower.iter().map(|model| prompts[model.index()]).sum::<f64>();
            decision(plan, round, priced.tokens, price, rows)
        };
        self.found.clear();
        let ranked = self.search.run(&self.candidates, &alpha, &batch, &seconds, &limits, Pricing::Lockstep);
        self.found.extend(ranked.iter().map(|r| charged(r.plan, r.priced)));
        // A single draft lets prompts ride along, which the search does not know.
        for index in 0..self.found.len() {
            let plan = self.found[index].planned.chain;
            if plan.depth() == 2
                && plan.windows() != [1]
                && let Ok(single) = ChainPlan::new(plan.models(), &[1])
            {
                let priced = self.search.price(&single, &alpha, &batch, &seconds, Pricing::Lockstep);
                self.found.push(charged(single, priced));
            }
        }
        let best = self.found.iter().copied().min_by(|a, b| a.price.total_cmp(&b.price));
        let kept = present
            .map(|plan| charged(plan, self.search.price(&plan, &alpha, &batch, &seconds, Pricing::Lockstep)));
        let alone = || decision(ChainPlan::target_only(target), 0.0, 0.0, f64::INFINITY, rows);
        (best.unwrap_or_else(alone), kept)
    }

    /// Σ lag over the batch of every model that the present plan does not keep up to date, from a
    /// look at the first sequences that start.
    fn catch_up(&self, ask: &Ask<'_>, rows: u32, present: Option<ChainPlan>) -> [f64; MAX_MODELS] {
        let sample = &ask.starting[..ask.starting.len().min(8)];
        let mut lags = [0.0; MAX_MODELS];
        for (model, lag) in lags.iter_mut().enumerate().take(self.candidates.models() - 1) {
            let id = ModelId(model as u8);
            if present.is_some_and(|plan| plan.uses(id)) {
                continue;
            }
            let total: u64 = sample.iter().map(|&slot| u64::from(ask.request(slot).lag(id))).sum();
            *lag = total as f64 / sample.len() as f64 * f64::from(rows);
        }
        lags
    }

    /// Looks at one stale pair if the best it could be would change the decision: a pair with the
    /// target by a probe, a pair below it by letting one sequence run the chain.
    fn look(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if self.rounds < self.next_look {
            return;
        }
        self.next_look = self.rounds + self.parameters.probe_rounds * self.patience;
        self.patience = (2 * self.patience).min(MOST_PATIENCE);
        let middle = SHIFTS as usize;
        let (hoped, _) = self.best(ask, middle, true);
        let Some(known) = self.decisions[bucket(ask.decoding)][middle] else { return };
        if hoped.price > known.price * (1.0 - 2.0 * self.parameters.hysteresis) {
            return;
        }
        let chain = hoped.planned.chain;
        let stale = |pair: &&[ModelId]| {
            self.beliefs
                .age(pair[0], pair[1], self.rounds)
                .is_none_or(|age| age > self.parameters.probe_rounds)
        };
        let Some(pair) = chain.models().windows(2).rev().find(stale) else { return };
        let (drafter, verifier) = (pair[0], pair[1]);
        let lag = |slot: &&Slot| ask.request(**slot).lag(drafter);
        let shortest = ask.starting.iter().filter(|slot| lag(slot) > 0).min_by_key(lag);
        match shortest {
            Some(&slot) if verifier == self.candidates.target() => plan.probe(Probe { slot, model: drafter }),
            _ => {
                // Only a verification can tell; one sequence runs the chain for a round.
                plan.replace(0, ask.starting.len(), hoped.planned);
            }
        }
    }

    fn shift(&self, slot: Slot, request: RequestId) -> usize {
        let book = self.books.get(slot.index()).copied().unwrap_or_default();
        if book.request != request {
            return SHIFTS as usize;
        }
        let steps = libm::round(book.deviation / (book.positions + SHRINK) / SHIFT) as i32;
        (steps.clamp(-SHIFTS, SHIFTS) + SHIFTS) as usize
    }
}

fn decision(plan: ChainPlan, round_seconds: f64, tokens: f64, price: f64, rows: u32) -> Decision {
    let tokens = (tokens / f64::from(rows)) as f32;
    let predicted = Prediction { round_seconds: round_seconds as f32, tokens, propensity: 1.0 };
    Decision { stamp: (0, 0, 0), planned: Planned { chain: plan, predicted: Some(predicted) }, price }
}

/// Batches that are decided alike: each size up to 16, then eight to a doubling.
fn bucket(rows: u32) -> usize {
    let rows = rows.max(1);
    if rows <= 16 {
        return rows as usize;
    }
    let power = 31 - rows.leading_zeros(); // at least 4
    16 + ((power as usize - 4) << 3) + ((rows >> (power - 3)) as usize & 7)
}

impl Policy for SpecRouter {
    fn name(&self) -> &str {
        "specrouter"
    }

    fn needs(&self) -> Needs {
        Needs { rows: self.parameters.per_request, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        self.credit = (self.credit + ask.starting.len() as u64).min(4 * ROWS_PER_SEARCH);
        if self.parameters.per_request {
            for &slot in ask.starting {
                let shift = self.shift(slot, ask.request(slot).id());
                let planned = self.decide(ask, shift);
                plan.push(planned);
            }
            if self.rounds >= self.next_look {
                self.decide(ask, SHIFTS as usize);
            }
        } else {
            let planned = self.decide(ask, SHIFTS as usize);
            plan.set_all(planned);
        }
        self.look(ask, plan);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.traffic.learn(report, self.candidates.target());
        self.rounds += u64::from(report.rounds > 0);
        for pair in report.pairs {
            if let Some(mean) = pair.seen.mean_similarity() {
                self.beliefs.learn(pair.drafter, pair.verifier, mean, pair.seen.examined, self.rounds);
            }
        }
        for row in report.rows.iter().filter(|row| row.examined > 0 && row.drafter != row.verifier) {
            if row.slot.index() >= self.books.len() {
                self.books.resize(row.slot.index() + 1, Book::default());
            }
            let expected = self.beliefs.pair(row.drafter, row.verifier);
            let book = &mut self.books[row.slot.index()];
            if book.request != row.request {
                *book = Book { request: row.request, ..Book::default() };
            }
            book.deviation += f64::from(row.similarity) - expected * f64::from(row.examined);
            book.positions += f64::from(row.examined);
        }
    }
}
