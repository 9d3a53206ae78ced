//! Which chain and windows give a batch its tokens fastest.
//!
//! The renewal recursion ranks every chain and its windows in O(Γ) a level; it ignores surplus and
//! stragglers, so it only says where to look. Exact pricing ([`Quotes`]) chooses: all windows
//! of a two-level chain, and by walking downhill over the windows of deeper ones (algorithms.md,
//! 2.5).

use crate::chain::{ChainPlan, MAX_BLOCK, MAX_LEVELS, MAX_MODELS};
use crate::ids::ModelId;
use crate::policy::maths::renewal;
use crate::policy::price::{AlphaMatrix, Batch, Candidates, Costs, Priced, Pricer, Pricing, Quotes};

/// Chains whose renewal price, times this, is above the best exact price found so far keep the
/// windows of the recursion. Over random pools the exact optimum of a chain was never below 0.85
/// of its renewal optimum (a test holds that), so such a chain cannot win.
const HOPE: f64 = 0.8;

/// What the search may propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest window of a level.
    pub max_window: u32,
    /// Most tokens that the windows of a chain may add up to.
    pub max_block: u32,
    /// Most levels of a chain.
    pub max_levels: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_window: 8, max_block: MAX_BLOCK, max_levels: MAX_LEVELS as u32 }
    }
}

/// A chain with the best windows found for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The chain and its windows.
    pub plan: ChainPlan,
    /// What a round of it costs and brings.
    pub priced: Priced,
    /// False when the chain could not win, so its windows are the recursion's and not refined.
    pub refined: bool,
}

/// Searches chains; keeps its buffers from one search to the next.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pricer: Pricer,
    ranked: Vec<Ranked>,
    shortlist: Vec<Guess>,
    tried: Vec<(ChainPlan, Priced)>,
}

/// A chain with the windows that are best in the renewal recursion, and its seconds per row and
/// token there.
#[derive(Clone, Copy, Debug)]
struct Guess {
    models: [ModelId; MAX_LEVELS],
    windows: [u32; MAX_LEVELS],
    depth: usize,
    tau: f64,
}

impl Guess {
    fn plan(&self) -> Option<ChainPlan> {
        ChainPlan::new(&self.models[..self.depth], &self.windows[..self.depth - 1]).ok()
    }
}

impl Search {
    /// An empty search.
    pub fn new() -> Self {
        Self::default()
    }

    /// The best windows of every chain that `candidates` allows, best chain first; equal prices in
    /// order of depth. Plain decoding is always among them.
    pub fn run(
        &mut self,
        candidates: &Candidates,
        alpha: &AlphaMatrix,
        batch: &Batch,
        costs: &Costs<'_>,
        limits: &Limits,
        pricing: Pricing,
    ) -> &[Ranked] {
        self.ranked.clear();
        self.shortlist.clear();
        let mut quotes = self.pricer.open(batch, alpha, costs, pricing);
        let alone = ChainPlan::target_only(candidates.target());
        let plain = quotes.price(&alone);
        self.ranked.push(Ranked { plan: alone, priced: plain, refined: true });
        shortlist(&mut quotes, candidates, limits, &mut self.shortlist);
        // The likeliest first: a good price early lets the hopeless go unrefined.
        self.shortlist.sort_by(|a, b| a.tau.total_cmp(&b.tau));
        let (mut best, rows) = (plain.seconds_per_token, f64::from(quotes.rows()));
        for guess in &self.shortlist {
            let Some(plan) = fitted(guess, limits) else { continue };
            let refined = guess.tau * HOPE <= best * rows;
            let (plan, priced) = match (refined, plan.depth()) {
                (false, _) => (plan, quotes.price(&plan)),
                (true, ..=2) => best_window(&mut quotes, &plan, limits),
                (true, _) => downhill(&mut quotes, plan, limits, &mut self.tried),
            };
            best = best.min(priced.seconds_per_token);
            self.ranked.push(Ranked { plan, priced, refined });
        }
        self.ranked.sort_by(|a, b| {
            a.priced
                .seconds_per_token
                .total_cmp(&b.priced.seconds_per_token)
                .then(a.plan.depth().cmp(&b.plan.depth()))
        });
        &self.ranked
    }

    /// The price of one plan, with this search's buffers.
    pub fn price(
        &mut self,
        plan: &ChainPlan,
        alpha: &AlphaMatrix,
        batch: &Batch,
        costs: &Costs<'_>,
        pricing: Pricing,
    ) -> Priced {
        self.pricer.open(batch, alpha, costs, pricing).price(plan)
    }
}

/// Every chain that ends in the target, with the windows that the renewal recursion
/// `τ_k = min_γ (γ·τ_j + v_k(γ+1)) / E(α_jk, γ)` finds best. Passes are priced at all rows.
fn shortlist(quotes: &mut Quotes<'_>, candidates: &Candidates, limits: &Limits, out: &mut Vec<Guess>) {
    let max_levels = (limits.max_levels as usize).min(MAX_LEVELS);
    if max_levels < 2 || limits.max_window.min(limits.max_block) == 0 {
        return;
    }
    for lowest in 0..candidates.models() as u8 - 1 {
        let model = ModelId(lowest);
        let mut guess = Guess {
            models: [model; MAX_LEVELS],
            windows: [0; MAX_LEVELS],
            depth: 1,
            tau: quotes.pass(model, 1, false),
        };
        extend(quotes, candidates, limits, max_levels, &mut guess, out);
    }
}

/// Puts every allowed model on top of `guess`, whose top is not the target, and goes on from there.
fn extend(
    quotes: &mut Quotes<'_>,
    candidates: &Candidates,
    limits: &Limits,
    max_levels: usize,
    guess: &mut Guess,
    out: &mut Vec<Guess>,
) {
    let (depth, lower, top) = (guess.depth, guess.tau, guess.models[guess.depth - 1]);
    for next in top.0 + 1..candidates.models() as u8 {
        let model = ModelId(next);
        let target = model == candidates.target();
        if !candidates.may(top, model) || (depth + 1 == max_levels && !target) {
            continue;
        }
        let alpha = quotes.alpha(top, model);
        let mut best = (1, f64::INFINITY);
        for window in 1..=limits.max_window.min(limits.max_block).min(MAX_BLOCK) {
            let tau = renewal(lower, window, quotes.pass(model, window + 1, target), alpha);
            if tau < best.1 {
                best = (window, tau);
            }
        }
        guess.models[depth] = model;
        (guess.windows[depth - 1], guess.tau) = best;
        guess.depth = depth + 1;
        if target {
            out.push(*guess);
        } else {
            extend(quotes, candidates, limits, max_levels, guess, out);
        }
        (guess.depth, guess.tau) = (depth, lower);
    }
}

/// The guess as a plan, its longest windows shortened until they fit the block limit. `None` when
/// the chain has more windows than the block has tokens.
fn fitted(guess: &Guess, limits: &Limits) -> Option<ChainPlan> {
    let mut fitted = *guess;
    let windows = &mut fitted.windows[..guess.depth - 1];
    while windows.iter().sum::<u32>() > limits.max_block.min(MAX_BLOCK) {
        let longest = windows.iter_mut().max()?;
        if *longest == 1 {
            return None;
        }
        *longest -= 1;
    }
    fitted.plan()
}

/// The best window of a two-level chain: all are tried, the price is closed form.
fn best_window(quotes: &mut Quotes<'_>, start: &ChainPlan, limits: &Limits) -> (ChainPlan, Priced) {
    let mut best = (*start, quotes.price(start));
    for window in 1..=limits.max_window.min(limits.max_block).min(MAX_BLOCK) {
        if let Ok(plan) = ChainPlan::new(start.models(), &[window]) {
            let priced = quotes.price(&plan);
            if priced.seconds_per_token < best.1.seconds_per_token {
                best = (plan, priced);
            }
        }
    }
    best
}

/// Walks downhill over the windows of a chain of three levels or more from several places, and answers the lowest
/// it met. Stragglers make more than one valley: windows as if each row ran alone, upper windows
/// of 1 (one cycle, so nobody straggles), and mixtures.
fn downhill(
    quotes: &mut Quotes<'_>,
    start: ChainPlan,
    limits: &Limits,
    tried: &mut Vec<(ChainPlan, Priced)>,
) -> (ChainPlan, Priced) {
    tried.clear();
    let mut best = descent(quotes, start, limits, tried, true);
    let mut windows = [1u32; MAX_LEVELS];
    let windows = &mut windows[..start.windows().len()];
    // Windows of 1 from the top down to `ones`, the recursion's below.
    for ones in 0..windows.len() {
        windows.fill(1);
        for (to, &from) in windows[..ones].iter_mut().zip(start.windows()) {
            *to = u32::from(from);
        }
        if let Ok(plan) = ChainPlan::new(start.models(), windows) {
            for uppermost_first in [true, false] {
                let found = descent(quotes, plan, limits, tried, uppermost_first);
                if found.1.seconds_per_token < best.1.seconds_per_token {
                    best = found;
                }
            }
        }
    }
    best
}

/// One walk: single windows by up to 2, then pairs of windows by 1 each, until no such move is
/// cheaper. Which window goes first decides which valley a walk from a pass ends in.
fn descent(
    quotes: &mut Quotes<'_>,
    start: ChainPlan,
    limits: &Limits,
    tried: &mut Vec<(ChainPlan, Priced)>,
    uppermost_first: bool,
) -> (ChainPlan, Priced) {
    let count = start.windows().len();
    let mut price = |plan: &ChainPlan| match tried.iter().find(|(known, _)| known.windows() == plan.windows())
    {
        Some((_, priced)) => *priced,
        None => {
            let priced = quotes.price(plan);
            tried.push((*plan, priced));
            priced
        }
    };
    let mut best = (start, price(&start));
    let mut attempt = |moves: &[(usize, i32)], best: &mut (ChainPlan, Priced)| {
        let Some(plan) = moved(&best.0, moves, limits) else { return false };
        let priced = price(&plan);
        let better = priced.seconds_per_token < best.1.seconds_per_token;
        if better {
            *best = (plan, priced);
        }
        better
    };
    loop {
        let mut better = false;
        for turn in 0..count {
            let at = if uppermost_first { count - 1 - turn } else { turn };
            for by in [-1, 1, -2, 2] {
                // As far as the move leads.
                while attempt(&[(at, by)], &mut best) {
                    better = true;
                }
            }
        }
        if better {
            continue;
        }
        for upper in (1..count).rev() {
            for lower in (0..upper).rev() {
                for (a, b) in [(1, -1), (-1, 1), (-1, -1), (1, 1)] {
                    better |= attempt(&[(upper, a), (lower, b)], &mut best);
                }
            }
        }
        if !better {
            return best;
        }
    }
}

/// `plan` with windows changed; `None` when one leaves its limits.
fn moved(plan: &ChainPlan, moves: &[(usize, i32)], limits: &Limits) -> Option<ChainPlan> {
    let mut windows = [0u32; MAX_LEVELS];
    let windows = &mut windows[..plan.windows().len()];
    for (to, &from) in windows.iter_mut().zip(plan.windows()) {
        *to = u32::from(from);
    }
    for &(at, by) in moves {
        windows[at] = windows[at].checked_add_signed(by)?;
        if windows[at] == 0 || windows[at] > limits.max_window {
            return None;
        }
    }
    if windows.iter().sum::<u32>() > limits.max_block {
        return None;
    }
    ChainPlan::new(plan.models(), windows).ok()
}

// The masks of `Candidates` and the recursion above hold for any pool that a scenario may name.
const _: () = assert!(MAX_MODELS <= 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};
    use crate::profile::PassShape;

    /// A random pool of four: times that grow with scale, acceptances that independent coins can
    /// have, a knee.
    struct World {
        times: [f64; 4],
        knee: f64,
        alpha: AlphaMatrix,
    }

    impl World {
        fn random(index: u64) -> Self {
            let draws = Luck::new(20).stream(Stream::Test);
            let uniform = |key, low: f64, high: f64| low + (high - low) * draws.uniform(index, key);
            let mut times = [0.0, 0.0, 0.0, 1.0];
            for model in (0..3).rev() {
                times[model] = times[model + 1] * uniform(model as u64, 0.1, 0.6);
            }
            let mut alpha = AlphaMatrix::uniform(0.0);
            for span in 1..4u8 {
                for low in 0..4 - span {
                    let (drafter, verifier) = (ModelId(low), ModelId(low + span));
                    let key = 10 + u64::from(low * 4 + span);
                    let value = if span == 1 {
                        uniform(key, 0.45, 0.93)
                    } else {
                        // Nested coins: at least every product, at most the nearest pair below it.
                        let between = (low + 1..low + span).map(ModelId);
                        let pairs = |m| (alpha.get(drafter, m), alpha.get(m, verifier));
                        let least = between.clone().map(|m| pairs(m).0 * pairs(m).1).fold(0.0, f64::max);
                        let most = between.map(|m| pairs(m).0.min(pairs(m).1)).fold(1.0, f64::min);
                        uniform(key, least, least.max(most))
                    };
                    alpha.set(drafter, verifier, value);
                }
            }
            Self { times, knee: uniform(30, 64.0, 512.0), alpha }
        }

        fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
            self.times[model.index()] * (f64::from(shape.new_tokens) / self.knee).max(1.0)
        }
    }

    fn plans(models: &[u8], max_window: u32, mut each: impl FnMut(ChainPlan)) {
        let models: Vec<ModelId> = models.iter().map(|&m| ModelId(m)).collect();
        let mut windows = vec![1; models.len() - 1];
        loop {
            each(ChainPlan::new(&models, &windows).unwrap());
            let Some(at) = windows.iter().position(|&w| w < max_window) else { return };
            windows[..at].fill(1);
            windows[at] += 1;
        }
    }

    const CHAINS: [&[u8]; 8] =
        [&[3], &[2, 3], &[1, 3], &[0, 3], &[1, 2, 3], &[0, 2, 3], &[0, 1, 3], &[0, 1, 2, 3]];

    #[test]
    fn golden_12_renewal_ranks_the_golden_pool() {
        let mut alpha = AlphaMatrix::uniform(0.0);
        for (d, v, a) in [(0, 1, 0.70), (0, 2, 0.62), (0, 3, 0.55), (1, 2, 0.78), (1, 3, 0.70), (2, 3, 0.85)]
        {
            alpha.set(ModelId(d), ModelId(v), a);
        }
        let costs = |model: ModelId, _: &PassShape| [0.02, 0.08, 0.25, 1.0][model.index()];
        let (mut pricer, batch, mut found) = (Pricer::new(), Batch::of(1, 0.0), Vec::new());
        shortlist(
            &mut pricer.open(&batch, &alpha, &costs, Pricing::PerRow),
            &Candidates::all(4),
            &Limits::default(),
            &mut found,
        );
        found.sort_by(|a, b| a.tau.total_cmp(&b.tau));
        let shown: Vec<String> =
            found.iter().map(|g| format!("{} {:.5}", g.plan().unwrap(), g.tau)).collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        0>2>3 (4, 6) 0.40364
        0>1>2>3 (2, 3, 6) 0.41251
        0>1>3 (2, 5) 0.43315
        1>2>3 (3, 5) 0.44692
        1>3 (5) 0.47600
        0>3 (5) 0.50909
        2>3 (4) 0.53928
        ");
    }

    #[test]
    fn golden_12_the_best_plan_changes_with_load() {
        let mut alpha = AlphaMatrix::uniform(0.0);
        for (d, v, a) in [(0, 1, 0.70), (0, 2, 0.62), (0, 3, 0.55), (1, 2, 0.78), (1, 3, 0.70), (2, 3, 0.85)]
        {
            alpha.set(ModelId(d), ModelId(v), a);
        }
        let costs = |model: ModelId, shape: &PassShape| {
            [0.02, 0.08, 0.25, 1.0][model.index()] * (f64::from(shape.new_tokens) / 256.0).max(1.0)
        };
        let mut search = Search::new();
        let mut best = |rows, pricing| {
            let batch = Batch::of(rows, 0.0);
            let found = search.run(&Candidates::all(4), &alpha, &batch, &costs, &Limits::default(), pricing);
            assert_eq!(found.len(), 8);
            assert!(found.iter().any(|r| r.plan.depth() == 1));
            format!("{rows}: {} {:.5}", found[0].plan, found[0].priced.seconds_per_row_token(rows))
        };
        let truth: Vec<String> =
            [1, 32, 64, 96, 128, 160, 256].map(|rows| best(rows, Pricing::PerRow)).into();
        insta::assert_snapshot!(truth.join("\n"), @r"
        1: 0>2>3 (3, 5) 0.40660
        32: 0>2>3 (3, 5) 0.41010
        64: 0>2>3 (2, 2) 0.47424
        96: 0>1>3 (1, 1) 0.58125
        128: 1>3 (1) 0.63529
        160: 1>3 (1) 0.78235
        256: 3 1.00000
        ");
        let lockstep: Vec<String> = [1, 8, 32, 64, 128, 256].map(|rows| best(rows, Pricing::Lockstep)).into();
        insta::assert_snapshot!(lockstep.join("\n"), @r"
        1: 0>2>3 (3, 5) 0.40660
        8: 0>1>3 (1, 5) 0.46436
        32: 0>1>3 (1, 5) 0.47465
        64: 0>1>2>3 (3, 1, 1) 0.48724
        128: 1>3 (1) 0.63529
        256: 3 1.00000
        ");
    }

    #[test]
    fn the_search_loses_under_one_percent_to_brute_force_where_the_recursion_alone_loses_more() {
        let (mut search, mut pricer) = (Search::new(), Pricer::new());
        let (mut worst, mut sum, mut count) = (0.0f64, 0.0, 0);
        let mut naive = [(0, 0); 9];
        let mut hope = f64::INFINITY;
        for index in 0..250 {
            let world = World::random(index);
            let costs = |model: ModelId, shape: &PassShape| world.seconds(model, shape);
            for (at, rows) in [1, 8, 32, 48, 64, 96, 128, 160, 256].into_iter().enumerate() {
                let batch = Batch::of(rows, 0.0);
                let found = search.run(
                    &Candidates::all(4),
                    &world.alpha,
                    &batch,
                    &costs,
                    &Limits::default(),
                    Pricing::Lockstep,
                );
                let pick = found[0].priced.seconds_per_token;
                let mut quotes = pricer.open(&batch, &world.alpha, &costs, Pricing::Lockstep);
                let mut shortest = Vec::new();
                shortlist(&mut quotes, &Candidates::all(4), &Limits::default(), &mut shortest);
                let mut best = f64::INFINITY;
                for chain in CHAINS {
                    let mut here = f64::INFINITY;
                    plans(chain, 8, |plan| here = here.min(quotes.price(&plan).seconds_per_token));
                    best = best.min(here);
                    if let Some(guess) = shortest
                        .iter()
                        .find(|g| g.models[..g.depth].iter().map(|m| m.0).eq(chain.iter().copied()))
                    {
                        hope = hope.min(here * f64::from(rows) / guess.tau);
                    }
                }
                let loss = pick / best - 1.0;
                assert!(loss > -1e-12 && loss < 0.01, "pool {index}, {rows} rows: lost {loss}");
                worst = worst.max(loss);
                sum += loss;
                count += 1;
                let first = shortest.iter().min_by(|a, b| a.tau.total_cmp(&b.tau)).unwrap();
                let plain = quotes.price(&ChainPlan::target_only(ModelId(3)));
                let alone = if first.tau < plain.seconds_per_token * f64::from(rows) {
                    quotes.price(&first.plan().unwrap())
                } else {
                    plain
                };
                naive[at].0 += i32::from(alone.seconds_per_token / best > 1.02);
                naive[at].1 += 1;
            }
        }
        let mean = sum / f64::from(count);
        assert!(mean < 0.001, "mean loss {mean}, worst {worst}");
        assert!(hope > 0.85, "a chain's exact optimum at {hope} of its renewal optimum");
        for (share, rows) in naive[3..8].iter().zip([48, 64, 96, 128, 160]) {
            assert!(f64::from(share.0) > 0.15 * f64::from(share.1), "{rows} rows: {share:?}");
        }
    }

    #[test]
    fn limits_and_candidates_are_kept() {
        let costs = |model: ModelId, _: &PassShape| [0.01, 0.02, 0.03, 0.05, 1.0][model.index()];
        let alpha = AlphaMatrix::uniform(0.95);
        let limits = Limits { max_window: 6, max_block: 7, max_levels: 3 };
        let mut candidates = Candidates::all(5);
        candidates.forbid(ModelId(3), ModelId(4));
        let mut search = Search::new();
        let found = search.run(
            &candidates.without(ModelId(0)),
            &alpha,
            &Batch::of(4, 0.0),
            &costs,
            &limits,
            Pricing::Lockstep,
        );
        assert!(found.is_sorted_by(|a, b| a.priced.seconds_per_token <= b.priced.seconds_per_token));
        let chains: Vec<String> = found.iter().map(|r| r.plan.to_string()).collect();
        assert_eq!(chains.len(), 4, "4; 1>4; 2>4; 1>2>4: {chains:?}");
        for ranked in found {
            ranked.plan.check(5, 7).unwrap();
            assert!(ranked.plan.windows().iter().all(|&w| w <= 6) && candidates.allows(&ranked.plan));
        }
        // The same chain comes back whatever was searched before.
        let again = found.to_vec();
        search.run(
            &Candidates::all(3),
            &alpha,
            &Batch::of(9, 0.0),
            &costs,
            &Limits::default(),
            Pricing::PerRow,
        );
        let repeat = search.run(
            &candidates.without(ModelId(0)),
            &alpha,
            &Batch::of(4, 0.0),
            &costs,
            &limits,
            Pricing::Lockstep,
        );
        assert_eq!(again, repeat);
        let alone = Limits { max_window: 0, ..limits };
        assert_eq!(
            search
                .run(&Candidates::all(5), &alpha, &Batch::of(4, 0.0), &costs, &alone, Pricing::Lockstep)
                .len(),
            1
        );
        let one =
            search.run(&Candidates::all(1), &alpha, &Batch::of(4, 0.0), &costs, &limits, Pricing::Lockstep);
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn a_lag_keeps_the_search_from_a_model_that_would_not_stay() {
        let costs = |model: ModelId, shape: &PassShape| {
            [0.02, 1.0][model.index()] * (1.0 + 0.01 * f64::from(shape.new_tokens))
        };
        let alpha = AlphaMatrix::uniform(0.8);
        let mut search = Search::new();
        let mut depth = |lag, stay_rounds| {
            let mut batch = Batch { stay_rounds, ..Batch::of(4, 4000.0) };
            batch.catch_up[0] = lag;
            search.run(&Candidates::all(2), &alpha, &batch, &costs, &Limits::default(), Pricing::Lockstep)[0]
                .plan
                .depth()
        };
        assert_eq!((depth(0.0, 1.0), depth(16_000.0, 1.0), depth(16_000.0, 100.0)), (2, 1, 2));
    }
}
