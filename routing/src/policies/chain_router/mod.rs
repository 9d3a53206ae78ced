//! `chain_router`: the chain by exact pricing, the windows by marginal gain.

mod beliefs;
mod windows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::traffic::Traffic;
use crate::chain::{ChainPlan, MAX_MODELS};
use crate::ids::{ModelId, RequestId, Slot};
use crate::policy::price::{AlphaMatrix, Batch, Candidates, Pricing};
use crate::policy::search::{Limits as SearchLimits, Search};
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy, Probe};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::Probability;
use beliefs::Beliefs;

/// Parameters of `chain_router`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChainRouterConfig {
    /// Acceptance believed of a pair that has never been seen.
    pub initial_acceptance: Probability,
    /// Rounds between looks at pairs that have gone stale.
    pub probe_rounds: u32,
    /// Longest window of a level, in tokens.
    pub max_window: u32,
    /// Debug: bits of features.
    pub features: u32,
}

impl Default for ChainRouterConfig {
    fn default() -> Self {
        Self {
            initial_acceptance: Probability::constant(0.7),
            probe_rounds: 32,
            max_window: 8,
            features: 0x3f,
        }
    }
}

impl Recipe for ChainRouterConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "chain_router",
        summary: "chain by exact pricing at the present load, windows of each sequence by marginal gain",
        source: "specrouter",
        parameters: &[
            ("initial_acceptance", "0.7", "acceptance believed of a pair never seen"),
            ("probe_rounds", "32", "rounds between looks at stale pairs"),
            ("max_window", "8", "longest window of a level in tokens"),
            ("features", "63", "bits"),
        ],
        example: r#"{"chain_router": {"max_window": 6}}"#,
    };

    fn label(&self) -> String {
        if self.features == 0x3f { String::new() } else { format!("{:x}", self.features) }
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let candidates = pool.pool.candidates;
        Ok(Box::new(ChainRouter {
            candidates,
            max_window: pool.window("max_window", self.max_window)?,
            probe_rounds: u64::from(pool.at_least_one("probe_rounds", self.probe_rounds)?),
            beliefs: Beliefs::new(candidates.models(), self.initial_acceptance.get()),
            search: Search::new(),
            traffic: Traffic::default(),
            decisions: Vec::new(),
            current: None,
            rounds: 0,
            credit: ROWS_PER_SEARCH,
            next_look: u64::from(self.probe_rounds),
            patience: 1,
            lengths: Lengths { books: Vec::new(), mean: 128.0, weight: 0.0, prompts: 0.0, requests: 0.0 },
            alphas: Vec::new(),
            others: Vec::new(),
            joins: Vec::new(),
            allotted: Vec::new(),
            features: self.features,
        }))
    }
}

/// Sequences planned for each search at most.
const ROWS_PER_SEARCH: u64 = 256;
const MOST_PATIENCE: u64 = 64;
const HYSTERESIS: f64 = 0.005;

struct ChainRouter {
    candidates: Candidates,
    max_window: u32,
    probe_rounds: u64,
    beliefs: Beliefs,
    search: Search,
    traffic: Traffic,
    /// By load bucket.
    decisions: Vec<Option<Decision>>,
    current: Option<ChainPlan>,
    rounds: u64,
    credit: u64,
    next_look: u64,
    patience: u64,
    lengths: Lengths,
    alphas: Vec<f64>,
    /// Plans of the newest search, best first, with their prices.
    others: Vec<(ChainPlan, f64)>,
    /// Of the starting rows: how many, from the first, may draft with the drafter asked about.
    joins: Vec<bool>,
    allotted: Vec<u8>,
    features: u32,
}

#[derive(Clone, Copy)]
struct Decision {
    stamp: (u64, u64, u64),
    planned: Planned,
    /// Expected seconds per token of the batch, all charges included.
    price: f64,
    /// The same, without charges.
    bare: f64,
}

/// How long outputs are.
struct Lengths {
    books: Vec<(RequestId, u32)>,
    mean: f64,
    weight: f64,
    prompts: f64,
    requests: f64,
}

impl Lengths {
    fn see(&mut self, slot: Slot, request: RequestId, emitted: u32, prompt: u32) {
        if slot.index() >= self.books.len() {
            self.books.resize(slot.index() + 1, (RequestId(u64::MAX), 0));
        }
        let book = &mut self.books[slot.index()];
        if book.0 != request {
            let ended = f64::from(book.1);
            if book.1 > 0 {
                self.weight = (self.weight + 1.0).min(64.0);
                self.mean += (ended - self.mean) / self.weight.max(8.0);
            }
            *book = (request, emitted);
            self.requests = (self.requests + 1.0).min(64.0);
            self.prompts += (f64::from(prompt) - self.prompts) / self.requests;
        }
        book.1 = emitted;
    }
}

impl ChainRouter {
    fn alpha(&self, ask: &Ask<'_>, optimistic: bool) -> AlphaMatrix {
        let mut counts = [0u32; 16];
        for &slot in &ask.starting[..ask.starting.len().min(64)] {
            counts[ask.request(slot).class().index().min(15)] += 1;
        }
        let total: u32 = counts.iter().sum();
        let mut sums = [[0.0; MAX_MODELS]; MAX_MODELS];
        let models = self.candidates.models();
        for (class, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let own = if optimistic {
                self.beliefs.hoped(class, self.rounds)
            } else {
                self.beliefs.of_class(class)
            };
            for v in 1..models {
                for d in 0..v {
                    sums[d][v] += f64::from(n) * own.get(ModelId(d as u8), ModelId(v as u8));
                }
            }
        }
        let mut out = AlphaMatrix::uniform(0.0);
        for v in 1..models {
            for d in 0..v {
                out.set(ModelId(d as u8), ModelId(v as u8), sums[d][v] / f64::from(total.max(1)));
            }
        }
        out
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Decision {
        let bucket = bucket(ask.decoding);
        if bucket >= self.decisions.len() {
            self.decisions.resize(bucket + 1, Default::default());
        }
        let stamp = (ask.costs.version(), self.beliefs.version(), self.traffic.version());
        if let Some(known) = self.decisions[bucket]
            && (known.stamp == stamp || self.credit < ROWS_PER_SEARCH)
        {
            self.current = Some(known.planned.chain);
            return known;
        }
        self.credit = self.credit.saturating_sub(ROWS_PER_SEARCH);
        let (best, kept) = self.best(ask, false);
        let chosen = match kept {
            Some(kept)
                if best.price
                    > kept.price
                        * (1.0
                            - if kept.planned.chain.models() == best.planned.chain.models()
                                || self.features & 1 == 0
                            {
                                HYSTERESIS
                            } else {
                                0.015
                            }) =>
            {
                kept
            }
            _ => best,
        };
        if self.current.is_some_and(|present| present.models() != chosen.planned.chain.models()) {
            self.patience = 1;
            self.next_look = self.next_look.min(self.rounds + self.probe_rounds);
        }
        self.current = Some(chosen.planned.chain);
        let decision = Decision { stamp, ..chosen };
        self.decisions[bucket] = Some(decision);
        decision
    }

    fn best(&mut self, ask: &Ask<'_>, optimistic: bool) -> (Decision, Option<Decision>) {
        let rows = ask.decoding.max(1);
        let alpha = self.alpha(ask, optimistic);
        let (costs, traffic) = (ask.costs, &self.traffic);
        let seconds = |model: ModelId, shape: &PassShape| costs.seconds(model, shape);
        let context = ask.context_tokens as f64 / f64::from(ask.running.max(1));
        let batch = if self.features & 1 != 0 {
            Batch::of(rows, context)
        } else {
            Batch {
                catch_up: self.catch_up(ask, rows, self.current),
                stay_rounds: 512.0,
                ..Batch::of(rows, context)
            }
        };
        let limits = SearchLimits {
            max_window: self.max_window,
            max_block: ask.limits.max_block,
            ..SearchLimits::default()
        };
        let mut prompts = [0.0; MAX_MODELS];
        for (model, seconds) in prompts.iter_mut().enumerate().take(self.candidates.models() - 1) {
            *seconds = if self.features & 32 != 0 {
                let id = ModelId(model as u8);
                let draft = PassShape::uniform(rows, 1, context as u64);
                let with =
                    costs.seconds(id, &draft.plus(PassShape::uniform(1, self.lengths.prompts as u32, 0)));
                (with - costs.seconds(id, &draft)).max(0.0) / self.lengths.mean
            } else {
                traffic.prompt_seconds(costs, ModelId(model as u8), rows, context as u64)
            };
        }
        let features = self.features;
        let charged = |plan: ChainPlan, priced: crate::policy::price::Priced| {
            let round = if features & 2 != 0 {
                priced.round_seconds
            } else {
                traffic.with_prompts(costs, &plan, rows, context as u64, priced.round_seconds)
            };
            let lower = &plan.models()[..plan.depth() - 1];
            let price = round / priced.tokens + lower.iter().map(|model| prompts[model.index()]).sum::<f64>();
            decision(plan, round, priced.tokens, price, rows)
        };
        let ranked = self.search.run(&self.candidates, &alpha, &batch, &seconds, &limits, Pricing::Lockstep);
        if !optimistic {
            self.others.clear();
            self.others.extend(ranked.iter().map(|r| (r.plan, charged(r.plan, r.priced).price)));
            self.others.sort_by(|a, b| a.1.total_cmp(&b.1));
        }
        let best =
            ranked.iter().map(|r| charged(r.plan, r.priced)).min_by(|a, b| a.price.total_cmp(&b.price));
        let own =
            self.current.and_then(|plan| ranked.iter().find(|r| r.plan.models() == plan.models()).copied());
        let kept = match (self.current, own) {
            // The present chain, with the windows that suit it now.
            (Some(_), Some(r)) if features & 4 != 0 => Some(charged(r.plan, r.priced)),
            (Some(plan), _) => {
                Some(charged(plan, self.search.price(&plan, &alpha, &batch, &seconds, Pricing::Lockstep)))
            }
            _ => None,
        };
        let target = self.candidates.target();
        let alone = || decision(ChainPlan::target_only(target), 0.0, 0.0, f64::INFINITY, rows);
        (best.unwrap_or_else(alone), kept)
    }

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

    fn look(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if self.rounds < self.next_look {
            return;
        }
        self.next_look = self.rounds + self.probe_rounds * self.patience;
        self.patience = (2 * self.patience).min(MOST_PATIENCE);
        let (hoped, _) = self.best(ask, true);
        let Some(known) = self.decisions[bucket(ask.decoding)] else { return };
        if hoped.price > known.price * (1.0 - 2.0 * HYSTERESIS) {
            return;
        }
        let chain = hoped.planned.chain;
        let stale = |pair: &&[ModelId]| {
            self.beliefs.age(pair[0], pair[1], self.rounds).is_none_or(|age| age > self.probe_rounds)
        };
        let Some(pair) = chain.models().windows(2).rev().find(stale) else { return };
        let (drafter, verifier) = (pair[0], pair[1]);
        let lag = |slot: &&Slot| ask.request(**slot).lag(drafter);
        let shortest = ask.starting.iter().filter(|slot| lag(slot) > 0).min_by_key(lag);
        match shortest {
            Some(&slot) if verifier == self.candidates.target() => plan.probe(Probe { slot, model: drafter }),
            _ => plan.replace(0, ask.starting.len(), hoped.planned),
        }
    }

    /// While a prompt runs, the target's next pass comes after the next draft pass: one draft rides along with it.
    fn ride(&mut self, ask: &Ask<'_>, lead: &Decision, plan: &mut Plan) -> bool {
        let chain = lead.planned.chain;
        if ask.running <= ask.decoding || chain.depth() == 1 {
            return false;
        }
        // Of the chain's models, all up to date, the one whose tokens are worth most.
        let mut best: Option<(f64, ModelId)> = None;
        for &drafter in &chain.models()[..chain.depth() - 1] {
            if !self.candidates.may(drafter, chain.target()) {
                continue;
            }
            let (seconds, tokens) = self.allot(ask, drafter, 1, lead, true);
            let worth = tokens - seconds / lead.bare;
            if best.is_none_or(|(most, _)| worth > most) {
                best = Some((worth, drafter));
            }
        }
        let Some((_, drafter)) = best else { return false };
        self.allot(ask, drafter, 1, lead, true);
        self.push(drafter, chain.target(), lead, plan);
        true
    }

    /// Windows of each sequence under a chain of two.
    fn windows(&mut self, ask: &Ask<'_>, lead: &Decision, plan: &mut Plan) -> bool {
        let chain = lead.planned.chain;
        if chain.depth() != 2 {
            return false;
        }
        self.allot(ask, chain.model(0), self.max_window as usize, lead, false);
        self.push(chain.model(0), chain.target(), lead, plan);
        true
    }

    fn allot(
        &mut self,
        ask: &Ask<'_>,
        drafter: ModelId,
        longest: usize,
        lead: &Decision,
        beside: bool,
    ) -> (f64, f64) {
        let target = self.candidates.target();
        let rows = ask.decoding.max(1);
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        self.alphas.clear();
        self.joins.clear();
        for &slot in ask.starting {
            let view = ask.request(slot);
            let joins = self.features & 1 == 0 || self.joins(ask, slot, drafter, lead);
            self.joins.push(joins);
            if !joins {
                continue;
            }
            let class = self.beliefs.of_class(view.class().index()).get(drafter, target);
            let ratio = self.beliefs.ratio(slot, view.id(), view.class());
            self.alphas.push((1.0 - ratio * (1.0 - class)).clamp(0.0, 0.99));
        }
        if self.alphas.is_empty() {
            self.allotted.clear();
            return (0.0, 0.0);
        }
        let weight = f64::from(rows) / ask.starting.len() as f64;
        let others = (ask.starting.len() - self.alphas.len()) as f64 * weight;
        let sure = if !beside && lead.planned.chain.models().first() == Some(&drafter) {
            lead.planned.chain.windows().first().copied().unwrap_or(0)
        } else {
            0
        };
        let prompt =
            if beside { PassShape::uniform(1, self.traffic.chunk(), 0) } else { PassShape::default() };
        let mut draft = |n: u32| ask.costs.seconds(drafter, &PassShape::uniform(n, 1, context));
        let mut verify = |tokens: u32| {
            let (r, t) = (f64::from(rows), f64::from(tokens) + others);
            let tokens = t as u32;
            let context = context as f64;
            let shape = PassShape {
                rows,
                new_tokens: tokens,
                catch_up_tokens: 0,
                context_tokens: (r * context) as u64,
                attention_pairs: (t * (context + t / r / 2.0)) as u64,
                logit_rows: tokens,
            };
            ask.costs.seconds(target, &shape.plus(prompt))
        };
        let mut passes = windows::Passes { draft: &mut draft, verify: &mut verify };
        windows::allot(
            &self.alphas,
            weight,
            longest,
            usize::from(sure),
            1.0 / lead.bare,
            !beside,
            &mut passes,
            &mut self.allotted,
        )
    }

    /// Is `model` up to date for the sequence, or what it lacks worth running?
    fn joins(&self, ask: &Ask<'_>, slot: Slot, model: ModelId, lead: &Decision) -> bool {
        let view = ask.request(slot);
        let lag = view.lag(model);
        if lag <= 16 {
            return true;
        }
        let left = self.lengths.mean.min(f64::from(view.limit().saturating_sub(view.emitted())));
        // What catching up adds to the model's next pass over the batch, against what the batch saves for each token
        // of the row.
        let target = lead.planned.chain.target();
        let rows = ask.decoding.max(1);
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        let draft = PassShape::uniform(rows, 1, context);
        let catch_up = ask.costs.seconds(model, &draft.plus(PassShape::uniform(1, lag, 0)))
            - ask.costs.seconds(model, &draft);
        let alone = ask.costs.seconds(target, &PassShape::uniform(rows, 1, context));
        let saved = (alone / f64::from(rows) - lead.bare).max(0.0);
        left * saved > catch_up
    }

    fn push(&self, drafter: ModelId, target: ModelId, lead: &Decision, plan: &mut Plan) {
        let mut drafting = self.allotted.iter().zip(&self.alphas);
        for &joins in &self.joins {
            let (window, alpha) =
                if joins { drafting.next().map_or((0, 0.0), |(w, a)| (*w, *a)) } else { (0, 0.0) };
            let chain = match window {
                0 => None,
                n => ChainPlan::new(&[drafter, target], &[u32::from(n)]).ok(),
            };
            let tokens = crate::policy::maths::expected_tokens(alpha, u32::from(window)) as f32;
            plan.push(Planned {
                chain: chain.unwrap_or(ChainPlan::target_only(target)),
                predicted: lead.planned.predicted.map(|p| Prediction { tokens, ..p }),
            });
        }
    }

    /// The lead for those whose caches are up to date, for the others the best plan that theirs allow.
    fn lead(&self, ask: &Ask<'_>, lead: &Decision, plan: &mut Plan) {
        let target = lead.planned.chain.target();
        let usable = |slot: Slot, chain: &ChainPlan| {
            chain.models()[..chain.depth() - 1].iter().all(|&model| self.joins(ask, slot, model, lead))
        };
        for &slot in ask.starting {
            if usable(slot, &lead.planned.chain) {
                plan.push(lead.planned);
                continue;
            }
            let other = self.others.iter().find(|(chain, _)| usable(slot, chain));
            let chain = other.map_or(ChainPlan::target_only(target), |(chain, _)| *chain);
            plan.push(Planned { chain, predicted: lead.planned.predicted });
        }
    }
}

fn decision(plan: ChainPlan, round_seconds: f64, tokens: f64, price: f64, rows: u32) -> Decision {
    let bare = round_seconds / tokens;
    let tokens = (tokens / f64::from(rows)) as f32;
    let predicted = Prediction { round_seconds: round_seconds as f32, tokens, propensity: 1.0 };
    Decision { stamp: (0, 0, 0), planned: Planned { chain: plan, predicted: Some(predicted) }, price, bare }
}

fn bucket(rows: u32) -> usize {
    let rows = rows.max(1);
    if rows <= 16 {
        return rows as usize;
    }
    let power = 31 - rows.leading_zeros();
    16 + ((power as usize - 4) << 3) + ((rows >> (power - 3)) as usize & 7)
}

impl Policy for ChainRouter {
    fn name(&self) -> &str {
        "chain_router"
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        self.credit = (self.credit + ask.starting.len() as u64).min(4 * ROWS_PER_SEARCH);
        for &slot in ask.starting {
            let view = ask.request(slot);
            self.lengths.see(slot, view.id(), view.emitted(), view.prompt_tokens());
        }
        let lead = self.decide(ask);
        let done = self.features & 8 != 0 && self.ride(ask, &lead, plan)
            || self.features & 16 != 0 && self.windows(ask, &lead, plan);
        if !done && self.features & 1 != 0 {
            self.lead(ask, &lead, plan);
        } else if !done {
            plan.set_all(lead.planned);
        }
        self.look(ask, plan);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.traffic.learn(report, self.candidates.target());
        self.rounds += u64::from(report.rounds > 0);
        for row in report.rows {
            self.beliefs.learn(row, self.rounds);
        }
    }
}
