//! The lead: for each load, and class where all are of one, the chain and windows with the least expected time per token.

use super::beliefs::Beliefs;
use super::lengths::Lengths;
use crate::chain::{ChainPlan, MAX_MODELS};
use crate::ids::{ModelId, Slot};
use crate::policies::traffic::Traffic;
use crate::policy::price::{AlphaMatrix, Batch, Candidates, Priced, Pricing};
use crate::policy::search::{Limits, Search};
use crate::policy::{Ask, Planned};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;

/// Sequences planned for each search at most: searching stays a small part of deciding.
const ROWS_PER_SEARCH: u64 = 16;
/// A lead with other windows must be better by this share, one with other models by more: those have caches to fill.
const WINDOWS_GAIN: f64 = 0.005;
const MODELS_GAIN: f64 = 0.015;
/// A lone request's ratio is told apart in steps of one over this.
const RATIO_STEPS: f64 = 10.0;
/// Starting sequences whose classes are counted.
const SAMPLE: usize = 64;
/// Classes told apart.
const MOST_CLASSES: usize = 16;

/// A plan for the whole batch, and its price.
#[derive(Clone, Copy)]
pub(super) struct Lead {
    pub planned: Planned,
    /// Expected seconds per token of the batch, with what prompts to come cost the chain's lower models.
    pub price: f64,
    /// The same without.
    pub seconds_per_token: f64,
    /// What plain decoding takes.
    pub alone: f64,
}

impl Lead {
    pub fn chain(&self) -> &ChainPlan {
        &self.planned.chain
    }
}

/// What a decision rests on: the versions of costs and beliefs, and steps of a lone request's ratio.
type Stamp = (u64, u64, u8);

/// What was decided at a load, and what it rests on.
#[derive(Clone)]
struct Standing {
    stamp: Stamp,
    lead: Lead,
}

/// The leads by load.
pub(super) struct Leads {
    candidates: Candidates,
    max_window: u32,
    search: Search,
    /// What prompts did to the target's passes.
    pub traffic: Traffic,
    /// By load and class.
    by_load: Vec<Option<Standing>>,
    /// The lead that most recently led.
    present: Option<ChainPlan>,
    /// Plans of the newest search, best first.
    others: Vec<(ChainPlan, f64)>,
    chains: Vec<ChainPlan>,
    /// Rows planned since they last paid for a search.
    credit: u64,
}

impl Leads {
    pub fn new(candidates: Candidates, max_window: u32) -> Self {
        Self {
            candidates,
            max_window,
            search: Search::new(),
            traffic: Traffic::default(),
            by_load: Vec::new(),
            present: None,
            others: Vec::new(),
            chains: Vec::new(),
            credit: ROWS_PER_SEARCH,
        }
    }

    /// Plans of the newest search, best first.
    pub fn others(&self) -> &[ChainPlan] {
        &self.chains
    }

    /// The lead for the present load, and whether it brought other models there; searched anew when what it rests on has
    /// moved and enough rows have been planned to pay for it.
    pub fn decide(&mut self, ask: &Ask<'_>, beliefs: &Beliefs, lengths: &Lengths) -> (Lead, bool) {
        self.credit = (self.credit + ask.starting.len() as u64).min(4 * ROWS_PER_SEARCH);
        let load = bucket(ask.decoding) * (MOST_CLASSES + 1) + only_class(ask);
        if load >= self.by_load.len() {
            self.by_load.resize(load + 1, None);
        }
        let ratio = lone_ratio(ask, beliefs);
        let stamp = (ask.costs.version(), beliefs.version(), (ratio * RATIO_STEPS + 0.5) as u8);
        if let Some(known) = &self.by_load[load]
            && (known.stamp == stamp || self.credit < ROWS_PER_SEARCH)
        {
            self.present = Some(*known.lead.chain());
            return (known.lead, false);
        }
        self.credit = self.credit.saturating_sub(ROWS_PER_SEARCH);
        let present = self.present;
        let alpha = mixed(ask, self.candidates.models(), ratio, |class| beliefs.of_class(class));
        let (best, kept) = self.best(ask, &alpha, lengths, present);
        self.others.sort_by(|a, b| a.1.total_cmp(&b.1));
        self.chains.clear();
        self.chains.extend(self.others.iter().map(|(chain, _)| *chain));
        let lead = match kept {
            Some(kept) => {
                let same = kept.chain().models() == best.chain().models();
                let gain = if same { WINDOWS_GAIN } else { MODELS_GAIN };
                if best.price > kept.price * (1.0 - gain) { kept } else { best }
            }
            None => best,
        };
        let before = self.by_load[load].as_ref().map(|known| *known.lead.chain());
        let moved = before.is_some_and(|before| before.models() != lead.chain().models());
        self.present = Some(*lead.chain());
        self.by_load[load] = Some(Standing { stamp, lead });
        (lead, moved)
    }

    /// The best lead under so many draws, in a round, of what pairs may be.
    pub fn hoped(
        &mut self,
        ask: &Ask<'_>,
        beliefs: &Beliefs,
        lengths: &Lengths,
        (round, draws): (u64, u64),
    ) -> Lead {
        let ratio = lone_ratio(ask, beliefs);
        let mut lead = |draw: u64| {
            let drawn = |class| beliefs.drawn(class, round, draw);
            let alpha = mixed(ask, self.candidates.models(), ratio, drawn);
            self.best(ask, &alpha, lengths, None).0
        };
        let first = lead(0);
        (1..draws).map(lead).fold(first, |best, lead| if lead.price < best.price { lead } else { best })
    }

    /// The best plan at these acceptances, and the chain that leads at present with the windows that suit it now.
    fn best(
        &mut self,
        ask: &Ask<'_>,
        alpha: &AlphaMatrix,
        lengths: &Lengths,
        present: Option<ChainPlan>,
    ) -> (Lead, Option<Lead>) {
        let rows = ask.decoding.max(1);
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        let costs = ask.costs;
        let seconds = |model: ModelId, shape: &PassShape| costs.seconds(model, shape);
        // What each committed token costs a lower model for the prompts of requests to come.
        let mut prompts = [0.0; MAX_MODELS];
        for (model, charge) in prompts.iter_mut().enumerate().take(self.candidates.models() - 1) {
            let (id, draft) = (ModelId(model as u8), PassShape::uniform(rows, 1, context));
            let with = draft.plus(PassShape::uniform(1, lengths.prompt() as u32, 0));
            *charge = (costs.seconds(id, &with) - costs.seconds(id, &draft)).max(0.0) / lengths.output();
        }
        let batch = Batch::of(rows, context as f64);
        let limits =
            Limits { max_window: self.max_window, max_block: ask.limits.max_block, ..Limits::default() };
        let target = self.candidates.target();
        let alone = costs.seconds(target, &PassShape::uniform(rows, 1, context)) / f64::from(rows);
        let lead = |plan: ChainPlan, priced: Priced| {
            let lower = &plan.models()[..plan.depth() - 1];
            let charge: f64 = lower.iter().map(|model| prompts[model.index()]).sum();
            let tokens = (priced.tokens / f64::from(rows)) as f32;
            let predicted =
                Prediction { round_seconds: priced.round_seconds as f32, tokens, propensity: 1.0 };
            Lead {
                planned: Planned { chain: plan, predicted: Some(predicted) },
                price: priced.seconds_per_token + charge,
                seconds_per_token: priced.seconds_per_token,
                alone,
            }
        };
        let ranked = self.search.run(&self.candidates, alpha, &batch, &seconds, &limits, Pricing::Lockstep);
        let leads = || ranked.iter().map(|r| lead(r.plan, r.priced));
        self.others.clear();
        self.others.extend(leads().map(|lead| (*lead.chain(), lead.price)));
        let best = leads().min_by(|a, b| a.price.total_cmp(&b.price));
        let kept = present.and_then(|plan| leads().find(|lead| lead.chain().models() == plan.models()));
        let plain = || {
            lead(
                ChainPlan::target_only(target),
                Priced {
                    round_seconds: alone * f64::from(rows),
                    tokens: f64::from(rows),
                    seconds_per_token: alone,
                },
            )
        };
        (best.unwrap_or_else(plain), kept)
    }
}

/// How a request that runs alone differs from its class; 1 where several run: windows tell those apart.
fn lone_ratio(ask: &Ask<'_>, beliefs: &Beliefs) -> f64 {
    match (ask.decoding, ask.starting) {
        (0 | 1, &[slot]) => beliefs.ratio(slot, ask.request(slot).id()),
        _ => 1.0,
    }
}

/// The mean acceptance of the sequences that start, class by class, where they reject `ratio` times what their classes do.
fn mixed(ask: &Ask<'_>, models: usize, ratio: f64, of_class: impl Fn(usize) -> AlphaMatrix) -> AlphaMatrix {
    let mut counts = [0u32; MOST_CLASSES];
    for &slot in &ask.starting[..ask.starting.len().min(SAMPLE)] {
        counts[ask.request(slot).class().index().min(MOST_CLASSES - 1)] += 1;
    }
    let total: u32 = counts.iter().sum();
    let mut sums = [[0.0; MAX_MODELS]; MAX_MODELS];
    for (class, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let own = of_class(class);
        for (d, v) in pairs(models) {
            sums[d][v] += f64::from(count) * own.get(ModelId(d as u8), ModelId(v as u8));
        }
    }
    let mut out = AlphaMatrix::uniform(0.0);
    for (d, v) in pairs(models) {
        let rejected = 1.0 - sums[d][v] / f64::from(total.max(1));
        out.set(ModelId(d as u8), ModelId(v as u8), (1.0 - ratio * rejected).max(0.0));
    }
    out
}

/// The class of all that start; `MOST_CLASSES` if they differ.
fn only_class(ask: &Ask<'_>) -> usize {
    let class = |slot: &Slot| ask.request(*slot).class().index().min(MOST_CLASSES - 1);
    let mut classes = ask.starting.iter().take(SAMPLE).map(class);
    let first = classes.next().unwrap_or(MOST_CLASSES);
    if classes.all(|class| class == first) { first } else { MOST_CLASSES }
}

/// Drafters under verifiers, by index.
fn pairs(models: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..models).flat_map(|v| (0..v).map(move |d| (d, v)))
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
