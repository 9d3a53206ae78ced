//! `clairvoyant`: a reference that knows each request's own future, and no other's.
//!
//! At each round it takes, for each starting sequence, the plan after which the sequence is at its end
//! soonest, if prices stay what they are: those of all running sequences on this plan, in phase, as
//! policies price. Two parts:
//!
//! - which models to use from here on: the set with the least of (catching its models up, now) + (the
//!   rest of the output by the dynamic programme of [`crate::bound`], over chains of that set);
//! - which of its plans to run now: each is played through with the sequence's own luck, off the path
//!   too, and the least of (this round) + (the rest from where it leads) is taken.
//!
//! It may be beaten: batches change, a plan of one sequence makes passes dearer for the others, and the
//! rest is priced as if windows could be chosen at every fill.

mod round;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use specrouter_routing::chain::{ChainPlan, MAX_BLOCK};
use specrouter_routing::ids::{ModelId, RequestId, Slot};
use specrouter_routing::luck::Luck;
use specrouter_routing::policy::{Ask, Needs, Plan, Planned, Policy, RequestView};
use specrouter_routing::profile::{PassCosts, PassShape};
use specrouter_routing::record::Prediction;

use crate::acceptance::law::{Coins, Law, Sequence};
use crate::acceptance::{Source, with_law};
use crate::bound::{Least, Text, Verdicts, nanos};
use round::{Round, useful_plans};

/// True output length of a request, in tokens.
pub type OutputOf = Box<dyn Fn(RequestId) -> u32 + Send>;

/// The policy. One for each replica.
pub struct Clairvoyant {
    source: Arc<Source>,
    coins: Coins,
    models: usize,
    output_of: OutputOf,
    quote: Quote,
    /// By slot.
    futures: Vec<Future>,
    least: Least,
    plans: Vec<ChainPlan>,
}

/// Present prices, in nanoseconds.
#[derive(Default)]
struct Quote {
    /// What they are of: rows, context per row in eighths of an octave, version of the costs.
    of: (u32, u32, u64),
    /// Grows with every change.
    number: u64,
    /// `[model][own tokens of each row]`.
    passes: Vec<Vec<u64>>,
}

/// What is to come of one sequence.
#[derive(Clone, Default)]
struct Future {
    /// Whose it is; `None` before the first.
    request: Option<RequestId>,
    sequence: Sequence,
    verdicts: Verdicts,
    /// The prices that `to_go` was computed at.
    quote: u64,
    /// `[set of models below the target][position]`: the least to the end, catch-up aside.
    to_go: Vec<Vec<u64>>,
}

impl Clairvoyant {
    /// Knows who keeps whose tokens in a run with this luck, by `source`, and how long outputs are, by
    /// `output_of`. Reads them, and leaves no mark in either.
    pub fn new(source: Arc<Source>, luck: Luck, models: usize, output_of: OutputOf) -> Self {
        Self {
            source,
            coins: Coins::new(luck),
            models,
            output_of,
            quote: Quote::default(),
            futures: Vec::new(),
            least: Least::default(),
            plans: Vec::new(),
        }
    }

    /// Reads the future of the sequence at `slot`, as far as that is not done.
    fn look(&mut self, slot: Slot, view: RequestView<'_>, max_block: u32) {
        if slot.index() >= self.futures.len() {
            self.futures.resize(slot.index() + 1, Future::default());
        }
        let future = &mut self.futures[slot.index()];
        let most = max_block.min(MAX_BLOCK) as usize;
        if future.request != Some(view.id()) {
            let output = (self.output_of)(view.id()).max(1);
            let text =
                Text { request: view.id(), class: view.class(), output, tokens: output.min(view.limit()) };
            future.request = Some(view.id());
            future.sequence = text.sequence();
            with_law!(&*self.source, law => law.admit(&self.coins, &mut future.sequence));
            future.verdicts.read(&self.source, &self.coins, text, self.models, most);
            future.quote = 0;
        }
        if future.quote != self.quote.number {
            future.quote = self.quote.number;
            let passes = &self.quote.passes;
            self.least.make(&future.verdicts, most, |model, _, prices| {
                let asked = prices.len();
                prices[1..].copy_from_slice(&passes[model][1..asked]);
            });
            let sets = 1 << (self.models - 1);
            future.to_go.resize(sets, Vec::new());
            for (set, to_go) in future.to_go.iter_mut().enumerate() {
                to_go.clear();
                to_go.extend_from_slice(self.least.rest(&future.verdicts, set));
            }
        }
    }

    fn decide(&mut self, ask: &Ask<'_>, slot: Slot) -> Planned {
        let view = ask.request(slot);
        let (position, max_block) = (view.emitted() as usize, ask.limits.max_block);
        self.look(slot, view, max_block);
        let future = &mut self.futures[slot.index()];
        let alone = ChainPlan::target_only(ModelId(self.models as u8 - 1));
        if position == 0 || position >= future.verdicts.tokens() {
            return alone.into();
        }
        // The set of models to go on with.
        let lags: Vec<u64> =
            (0..self.models - 1).map(|m| self.quote.catch_up(ask, m, view.lag(ModelId(m as u8)))).collect();
        let whole = |set: usize| {
            let lags = lags.iter().enumerate().filter(|(m, _)| set >> m & 1 == 1).map(|(_, lag)| lag);
            lags.sum::<u64>() + future.to_go[set][position]
        };
        let set = (0..future.to_go.len()).min_by_key(|&set| whole(set)).unwrap_or(0);
        let to_go = &future.to_go[set];
        // Its plan for now.
        self.plans.clear();
        useful_plans(&future.verdicts, set, position, max_block, &mut self.plans);
        let mut best = (alone, self.quote.passes[self.models - 1][1], 1);
        let committed = position as u32;
        let (source, coins, passes) = (&*self.source, &self.coins, &self.quote.passes);
        with_law!(source, law => {
            law.settle(coins, &mut future.sequence, committed);
            for plan in &self.plans {
                let mut round = Round::new(law, coins, &future.sequence, plan, passes, committed);
                let emitted = round.play().min(future.verdicts.tokens() - position);
                let rest = |emitted: usize| to_go[position + emitted];
                if round.nanos() + rest(emitted) < best.1 + rest(best.2) {
                    best = (*plan, round.nanos(), emitted);
                }
            }
        });
        let (chain, nanos, emitted) = best;
        let predicted =
            Prediction { round_seconds: nanos as f32 * 1e-9, tokens: emitted as f32, propensity: 1.0 };
        Planned { chain, predicted: Some(predicted) }
    }
}

impl Quote {
    /// Prices of passes of all running sequences, in phase.
    fn refresh(&mut self, ask: &Ask<'_>, models: usize) {
        let rows = ask.decoding.max(1);
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        // A mean context that has grown by less is no news.
        let octave = context.max(1).ilog2();
        let context = context >> octave.saturating_sub(3) << octave.saturating_sub(3);
        let of = (rows, context as u32, ask.costs.version());
        if self.number > 0 && self.of == of {
            return;
        }
        (self.of, self.number) = (of, self.number + 1);
        let most = ask.limits.max_block.min(MAX_BLOCK) + 1;
        let price = |model: usize, own: u32| {
            nanos(ask.costs.seconds(ModelId(model as u8), &PassShape::uniform(rows, own, context)))
        };
        self.passes = (0..models)
            .map(|model| (0..=most).map(|own| if own == 0 { 0 } else { price(model, own) }).collect())
            .collect();
    }

    /// What a sequence's lag adds to a drafting pass of the model.
    fn catch_up(&self, ask: &Ask<'_>, model: usize, lag: u32) -> u64 {
        // After a round a drafter lacks a token or two; every pass has them.
        if lag <= 1 {
            return 0;
        }
        let (rows, context, _) = self.of;
        let mut shape = PassShape::uniform(rows, 1, u64::from(context));
        let lag = u64::from(lag);
        shape.new_tokens += lag as u32;
        shape.catch_up_tokens += lag as u32;
        shape.attention_pairs += lag * (lag + 1) / 2;
        nanos(ask.costs.seconds(ModelId(model as u8), &shape)).saturating_sub(self.passes[model][1])
    }
}

impl Policy for Clairvoyant {
    fn name(&self) -> &str {
        "clairvoyant"
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        self.quote.refresh(ask, self.models);
        for &slot in ask.starting {
            plan.push(self.decide(ask, slot));
        }
    }
}
