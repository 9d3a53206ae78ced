//! `chain_router`: the chain by exact pricing at the present load, the windows of each sequence by marginal gain.
//!
//! Four decisions, each where it belongs:
//! - **The lead** (`lead`): for each load the chain and windows with the least expected time per token, priced exactly,
//!   stragglers included, under what is believed of the classes that start (`beliefs`), and of a request that runs alone,
//!   with what the chain's lower models pay for the prompts to come. It changes only for a gain worth a change.
//! - **Who joins** (here): a sequence whose drafter lags runs the lag only if what the batch saves over the rest of its
//!   output pays for it. So switching is priced where it is paid, sequence by sequence.
//! - **Windows** (`windows`): under a lead of two levels each sequence drafts as far as its own acceptance pays, at the
//!   rate the batch earns: one budget, spent where a token is worth most.
//! - **Riding** (here): while a prompt runs, the target's next pass comes after the next draft pass, whatever was
//!   planned. Then one draft each is what can be verified in it, and longer drafts would only wait.
//!
//! Pairs that have not been seen for long are looked at when a draw from what is believed of them (Thompson) would
//! change the lead: one with the target by a probe, one below it by letting a sequence run the chain for a few rounds.
//! The passes that looks add, and the catch-up of a sequence that tries a chain, take three thousandths of the time at
//! most; that the chain may be slower is not counted. Looks that promise nothing are spaced further and further apart.

mod beliefs;
mod lead;
mod lengths;
mod looks;
mod requests;
mod windows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::ids::{ModelId, Slot};
use crate::policy::maths::expected_tokens;
use crate::policy::price::Candidates;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::Probability;
use beliefs::Beliefs;
use lead::{Lead, Leads};
use lengths::Lengths;
use looks::Looks;
use windows::{Allotment, Rows, Terms};

/// Parameters of `chain_router`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChainRouterConfig {
    /// Acceptance believed of a pair that has never been seen.
    pub initial_acceptance: Probability,
    /// Rounds between looks at pairs that have gone stale, while looks find something.
    pub probe_rounds: u32,
    /// Longest window of a level, in tokens.
    pub max_window: u32,
}

impl Default for ChainRouterConfig {
    fn default() -> Self {
        Self { initial_acceptance: Probability::constant(0.7), probe_rounds: 32, max_window: 8 }
    }
}

impl Recipe for ChainRouterConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "chain_router",
        summary: "the chain by exact pricing at the present load, each sequence's window by marginal gain, drafts that ride along with prompts",
        source: "specrouter; exact pricing of algorithms.md 2.5, windows after DSpark (arXiv 2607.05147) in a lossless form",
        parameters: &[
            ("initial_acceptance", "0.7", "acceptance believed of a pair never seen"),
            ("probe_rounds", "32", "rounds between looks at stale pairs, while looks find something"),
            ("max_window", "8", "longest window of a level in tokens"),
        ],
        example: r#"{"chain_router": {"max_window": 6}}"#,
    };

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let candidates = pool.pool.candidates;
        let max_window = pool.window("max_window", self.max_window)?;
        let probe_rounds = u64::from(pool.at_least_one("probe_rounds", self.probe_rounds)?);
        Ok(Box::new(ChainRouter {
            candidates,
            max_window: max_window.min(windows::MOST as u32),
            beliefs: Beliefs::new(candidates.models(), self.initial_acceptance.get(), pool.pool.draws),
            leads: Leads::new(candidates, max_window),
            lengths: Lengths::default(),
            looks: Looks::new(probe_rounds),
            rounds: 0,
            rows: Rows::default(),
            allotment: Allotment::default(),
        }))
    }
}

/// A lag of this many tokens is nothing to speak of: it rides along.
const NEAR: u32 = 16;
/// Highest acceptance that windows are planned with.
const MOST_ALPHA: f64 = 0.99;

struct ChainRouter {
    candidates: Candidates,
    max_window: u32,
    beliefs: Beliefs,
    leads: Leads,
    lengths: Lengths,
    looks: Looks,
    /// Rounds of the batch: passes of the target that ended one.
    rounds: u64,
    // Buffers.
    rows: Rows,
    allotment: Allotment,
}

/// The batch at an ask: rows past their prefill, and their mean context.
#[derive(Clone, Copy)]
struct Load {
    rows: u32,
    context: u64,
}

impl Load {
    fn of(ask: &Ask<'_>) -> Self {
        Self { rows: ask.decoding.max(1), context: ask.context_tokens / u64::from(ask.running.max(1)) }
    }
}

impl ChainRouter {
    /// Is `model` up to date for the sequence, or is what it lacks worth running? Catching up adds to the model's
    /// next pass over the batch; the lead saves the batch time on every token that the sequence still has to go.
    fn joins(&self, ask: &Ask<'_>, load: Load, slot: Slot, model: ModelId, lead: &Lead) -> bool {
        let view = ask.request(slot);
        let lag = view.lag(model);
        if lag <= NEAR {
            return true;
        }
        let left = self.lengths.output().min(f64::from(view.limit().saturating_sub(view.emitted())));
        left * (lead.alone - lead.seconds_per_token).max(0.0) > catch_up(ask, load, slot, model)
    }

    /// While a prompt runs: one draft each by the drafter of the lead whose tokens are worth most. False where nothing rides.
    fn ride(&mut self, ask: &Ask<'_>, load: Load, lead: &Lead, plan: &mut Plan) -> bool {
        if ask.running <= ask.decoding || lead.chain().depth() == 1 {
            return false;
        }
        let chain = lead.chain();
        let mut best: Option<(f64, ModelId)> = None;
        for &drafter in &chain.models()[..chain.depth() - 1] {
            if self.candidates.may(drafter, chain.target()) {
                let worth = self.allot(ask, load, drafter, lead, true);
                if best.is_none_or(|(most, _)| worth > most) {
                    best = Some((worth, drafter));
                }
            }
        }
        let Some((_, drafter)) = best else { return false };
        self.allot(ask, load, drafter, lead, true);
        self.push(drafter, plan);
        true
    }

    /// Windows under a chain of two: as far as each sequence's own acceptance pays (or one draft each, beside a
    /// prompt). Answers the tokens of a round less what its time is worth.
    fn allot(&mut self, ask: &Ask<'_>, load: Load, drafter: ModelId, lead: &Lead, riding: bool) -> f64 {
        let target = self.candidates.target();
        self.rows.clear();
        for &slot in ask.starting {
            let joins = self.joins(ask, load, slot, drafter, lead);
            let alpha = joins.then(|| {
                let view = ask.request(slot);
                let ratio = self.beliefs.ratio(slot, view.id());
                let class = self.beliefs.class_pair(view.class().index(), drafter, target);
                (1.0 - ratio * (1.0 - class)).clamp(0.0, MOST_ALPHA)
            });
            self.rows.push(alpha);
        }
        let prompt =
            if riding { PassShape::uniform(1, self.leads.traffic.chunk(), 0) } else { PassShape::default() };
        let mut draft = |n: u32| ask.costs.seconds(drafter, &PassShape::uniform(n, 1, load.context));
        let mut verify = |tokens: u32| {
            let (rows, context) = (u64::from(load.rows), load.context);
            let shape = PassShape {
                rows: load.rows,
                new_tokens: tokens,
                catch_up_tokens: 0,
                context_tokens: rows * context,
                attention_pairs: u64::from(tokens) * (context + u64::from(tokens) / rows / 2),
                logit_rows: tokens,
            };
            ask.costs.seconds(target, &shape.plus(prompt))
        };
        let mut passes = windows::Passes { draft: &mut draft, verify: &mut verify };
        // Where the lead drafts, its passes run for those who are there, however few they still are.
        let sure = match riding || lead.chain().model(0) != drafter {
            true => 0,
            false => lead.chain().windows().first().copied().unwrap_or(0),
        };
        let longest = if riding { 1 } else { self.max_window as u8 };
        let rate = 1.0 / lead.seconds_per_token;
        let weight = f64::from(load.rows) / ask.starting.len() as f64;
        let terms = Terms { weight, sure, longest, rate: riding.then_some(rate) };
        self.allotment.fill(&self.rows, terms, &mut passes);
        self.allotment.tokens - rate * self.allotment.seconds
    }

    /// The windows allotted, as plans.
    fn push(&self, drafter: ModelId, plan: &mut Plan) {
        let target = self.candidates.target();
        for (alpha, window) in self.rows.iter().zip(&self.allotment.windows) {
            let chain = match window {
                0 => None,
                n => ChainPlan::new(&[drafter, target], &[u32::from(*n)]).ok(),
            };
            let tokens = expected_tokens(alpha.unwrap_or(0.0), u32::from(*window)) as f32;
            let predicted =
                Prediction { round_seconds: self.allotment.seconds as f32, tokens, propensity: 1.0 };
            plan.push(Planned {
                chain: chain.unwrap_or(ChainPlan::target_only(target)),
                predicted: Some(predicted),
            });
        }
    }

    /// The lead for those whose caches are up to date or worth it, for the others the best plan that theirs allow.
    fn follow(&self, ask: &Ask<'_>, load: Load, lead: &Lead, plan: &mut Plan) {
        let usable = |slot: Slot, chain: &ChainPlan| {
            let lower = &chain.models()[..chain.depth() - 1];
            lower.iter().all(|&model| self.joins(ask, load, slot, model, lead))
        };
        for &slot in ask.starting {
            if usable(slot, lead.chain()) {
                plan.push(lead.planned);
                continue;
            }
            let other = self.leads.others().iter().find(|chain| usable(slot, chain));
            plan.push(other.copied().unwrap_or(ChainPlan::target_only(self.candidates.target())));
        }
    }
}

/// What running the tokens that `model` lacks of a sequence adds to its pass over the batch, in seconds.
fn catch_up(ask: &Ask<'_>, load: Load, slot: Slot, model: ModelId) -> f64 {
    let lag = ask.request(slot).lag(model);
    let draft = PassShape::uniform(load.rows, 1, load.context);
    let with = draft.plus(PassShape::uniform(1, lag, 0));
    ask.costs.seconds(model, &with) - ask.costs.seconds(model, &draft)
}

impl Policy for ChainRouter {
    fn name(&self) -> &str {
        ChainRouterConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let load = Load::of(ask);
        for &slot in ask.starting {
            let view = ask.request(slot);
            self.lengths.see(slot, view.id(), view.emitted(), view.prompt_tokens());
        }
        let (lead, moved) = self.leads.decide(ask, &self.beliefs, &self.lengths);
        if moved {
            self.looks.wake(self.rounds);
        }
        if !self.ride(ask, load, &lead, plan) {
            if lead.chain().depth() == 2 {
                self.allot(ask, load, lead.chain().model(0), &lead, false);
                self.push(lead.chain().model(0), plan);
            } else {
                self.follow(ask, load, &lead, plan);
            }
        }
        self.look(ask, load, &lead, plan);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.leads.traffic.learn(report, self.candidates.target());
        self.rounds += u64::from(report.rounds > 0);
        for row in report.rows {
            self.beliefs.learn(row, self.rounds);
        }
    }
}
