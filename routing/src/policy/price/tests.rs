use proptest::prelude::*;

use super::*;
use crate::luck::{Draws, Luck, Stream};
use crate::profile::{ModelKind, ModelSpec, Precision};

fn plan(models: &[u8], windows: &[u32]) -> ChainPlan {
    ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows).unwrap()
}

#[track_caller]
fn close(got: f64, expected: f64, within: f64) {
    assert!((got - expected).abs() <= within, "got {got}, expected {expected} within {within}");
}

fn matrix(pairs: &[(u8, u8, f64)]) -> AlphaMatrix {
    let mut out = AlphaMatrix::uniform(0.0);
    pairs.iter().for_each(|&(d, v, a)| out.set(ModelId(d), ModelId(v), a));
    out
}

fn golden_pool() -> AlphaMatrix {
    matrix(&[(0, 1, 0.70), (0, 2, 0.62), (0, 3, 0.55), (1, 2, 0.78), (1, 3, 0.70), (2, 3, 0.85)])
}

/// `t · max(1, tokens / 256)`, t of the golden pool.
fn golden_costs(model: ModelId, shape: &PassShape) -> f64 {
    [0.02, 0.08, 0.25, 1.0][model.index()] * (f64::from(shape.new_tokens) / 256.0).max(1.0)
}

#[test]
fn golden_12_three_levels_exact_keep() {
    let alpha = matrix(&[(0, 1, 0.75), (1, 2, 0.85), (0, 2, 0.70)]);
    let costs = |model: ModelId, _: &PassShape| [0.02, 0.15, 1.0][model.index()];
    for (windows, expected) in [([3, 4], 0.33953), ([4, 8], 0.31601), ([4, 7], 0.31498), ([5, 6], 0.31814)] {
        for pricing in [Pricing::Lockstep, Pricing::PerRow] {
            let priced = price(&plan(&[0, 1, 2], &windows), &Batch::of(1, 0.0), &alpha, &costs, pricing);
            close(priced.seconds_per_token, expected, 5e-6);
        }
    }
    for (windows, expected) in [((3u32, 4u32), 0.36873), ((4, 8), 0.33467), ((5, 6), 0.34496)] {
        // Surplus cut: the same cycles, but the target sees the window only.
        let (_, cycles) = Lengths::exactly(windows.0).verified(0.75).fill_and_cycles(windows.1);
        let seconds = cycles * (f64::from(windows.0) * 0.02 + 0.15) + 1.0;
        close(seconds / expected_tokens(0.85, windows.1), expected, 5e-6);
    }
    let single = |models: &[u8], window| {
        price(&plan(models, &[window]), &Batch::of(1, 0.0), &alpha, &costs, Pricing::Lockstep)
            .seconds_per_token
    };
    close(single(&[1, 2], 6), 0.41947, 5e-6);
}

#[test]
fn golden_12_truth_per_row_in_the_golden_pool() {
    let cases: [(u32, &[u8], &[u32], f64); 6] = [
        (1, &[0, 2, 3], &[3, 5], 0.40660),
        (32, &[0, 2, 3], &[3, 5], 0.41010),
        (64, &[0, 2, 3], &[2, 2], 0.47424),
        (96, &[0, 1, 3], &[1, 1], 0.58125),
        (128, &[1, 3], &[1], 0.63529),
        (160, &[1, 3], &[1], 0.78235),
    ];
    for (rows, models, windows, expected) in cases {
        let priced = price(
            &plan(models, windows),
            &Batch::of(rows, 0.0),
            &golden_pool(),
            &golden_costs,
            Pricing::PerRow,
        );
        close(priced.seconds_per_row_token(rows), expected, 5e-6);
    }
}

/// One round of `rows` rows, run pass by pass with coins: seconds and committed tokens.
struct Ticks<'a> {
    plan: &'a ChainPlan,
    alpha: &'a AlphaMatrix,
    costs: &'a Costs<'a>,
    coins: Draws,
    round: u64,
    tossed: u64,
    seconds: f64,
}

impl Ticks<'_> {
    fn pass(&mut self, level: usize, tokens: u32, rows: u32) {
        let shape = PassShape { rows, new_tokens: tokens, ..PassShape::default() };
        self.seconds += (self.costs)(self.plan.model(level), &shape);
    }

    fn verify(&mut self, level: usize, blocks: &[u32]) -> Vec<u32> {
        let alpha = self.alpha.get(self.plan.model(level - 1), self.plan.model(level));
        self.pass(level, blocks.iter().map(|n| n + 1).sum(), blocks.len() as u32);
        let emitted = blocks.iter().map(|&n| {
            let mut kept = 0;
            while kept < n && self.coins.uniform(self.round, self.tossed + u64::from(kept)) < alpha {
                kept += 1;
            }
            self.tossed += u64::from(n) + 1;
            kept + 1
        });
        emitted.collect()
    }

    fn fill(&mut self, level: usize, rows: usize) -> Vec<u32> {
        let window = u32::from(self.plan.windows()[level]);
        if level == 0 {
            (0..window).for_each(|_| self.pass(0, rows as u32, rows as u32));
            return vec![window; rows];
        }
        let mut lengths = vec![0; rows];
        loop {
            let short: Vec<usize> = (0..rows).filter(|&r| lengths[r] < window).collect();
            if short.is_empty() {
                return lengths;
            }
            let blocks = self.fill(level - 1, short.len());
            for (row, emitted) in short.into_iter().zip(self.verify(level, &blocks)) {
                lengths[row] += emitted;
            }
        }
    }
}

/// Seconds per row-token over `rounds` rounds, and its standard error.
fn in_ticks(plan: &ChainPlan, rows: u32, alpha: &AlphaMatrix, costs: &Costs<'_>, rounds: u64) -> (f64, f64) {
    let coins = Luck::new(5).stream(Stream::Test);
    let mut ticks = Ticks { plan, alpha, costs, coins, round: 0, tossed: 0, seconds: 0.0 };
    let mut samples = Vec::new();
    for round in 0..rounds {
        (ticks.round, ticks.tossed, ticks.seconds) = (round, 0, 0.0);
        let blocks = ticks.fill(plan.depth() - 2, rows as usize);
        let tokens: u32 = ticks.verify(plan.depth() - 1, &blocks).iter().sum();
        samples.push((ticks.seconds, f64::from(tokens) / f64::from(rows)));
    }
    let seconds: f64 = samples.iter().map(|s| s.0).sum();
    let tokens: f64 = samples.iter().map(|s| s.1).sum();
    let ratio = seconds / tokens;
    // Ratio estimator: residuals of seconds on tokens.
    let squares: f64 = samples.iter().map(|s| (s.0 - ratio * s.1).powi(2)).sum();
    (ratio, squares.sqrt() / tokens)
}

#[test]
fn one_row_agrees_with_its_coins() {
    for (models, windows) in
        [(&[0u8, 2, 3][..], &[3u32, 5][..]), (&[1, 3], &[4]), (&[0, 1, 2, 3], &[2, 3, 4])]
    {
        let chain = plan(models, windows);
        let (measured, error) = in_ticks(&chain, 1, &golden_pool(), &golden_costs, 40_000);
        let priced = price(&chain, &Batch::of(1, 0.0), &golden_pool(), &golden_costs, Pricing::Lockstep);
        assert!(error / measured < 0.003);
        close(priced.seconds_per_token, measured, 4.0 * error);
    }
}

#[test]
fn a_batch_agrees_with_its_coins_within_two_percent_stragglers_included() {
    let chains = [
        (&[0u8, 2, 3][..], &[4u32, 6][..]),
        (&[0, 1, 3], &[2, 3]),
        (&[0, 1, 2, 3], &[2, 3, 4]),
        (&[1, 3], &[3]),
    ];
    for (models, windows) in chains {
        for rows in [2u32, 8, 32, 64, 128] {
            let chain = plan(models, windows);
            let (measured, error) =
                in_ticks(&chain, rows, &golden_pool(), &golden_costs, 24_000 / u64::from(rows));
            let priced =
                price(&chain, &Batch::of(rows, 0.0), &golden_pool(), &golden_costs, Pricing::Lockstep);
            let got = priced.seconds_per_row_token(rows);
            close(got / measured, 1.0, (0.012 + 3.0 * error / measured).min(0.02));
            let free = price(&chain, &Batch::of(rows, 0.0), &golden_pool(), &golden_costs, Pricing::PerRow);
            if models.len() > 2 && (8..=64).contains(&rows) {
                assert!(
                    free.round_seconds < 0.97 * priced.round_seconds,
                    "{chain}: stragglers are the point"
                );
            }
        }
    }
}

#[test]
fn catch_up_is_charged_once_a_stay_and_background_rides_with_the_target() {
    let costs = |model: ModelId, shape: &PassShape| {
        [0.1, 1.0][model.index()] + 1e-3 * f64::from(shape.new_tokens) + 1e-6 * shape.attention_pairs as f64
    };
    let (alpha, chain) = (AlphaMatrix::uniform(0.8), plan(&[0, 1], &[4]));
    let mut batch = Batch { stay_rounds: 10.0, ..Batch::of(2, 100.0) };
    let free = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
    batch.catch_up[0] = 60.0;
    let charged = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
    // Two rows of 31 new tokens over 70, against two of 1 over 100.
    let pairs = 2.0 * (31.0 * 70.0 + 31.0 * 16.0) - 2.0 * 101.0;
    close(charged - free, (1e-3 * 60.0 + 1e-6 * pairs) / 10.0, 1e-12);
    let alone = ChainPlan::target_only(ModelId(1));
    let plain = price(&alone, &batch, &alpha, &costs, Pricing::Lockstep);
    close(plain.round_seconds, 1.0 + 2e-3 + 1e-6 * 202.0, 1e-12);
    close(plain.tokens, 2.0, 0.0);
    batch.background.add_row(500, 500, 0, 0);
    let loaded = price(&alone, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
    close(loaded - plain.round_seconds, 0.5 + 1e-6 * 125_250.0, 1e-12);
    let drafting = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
    close(drafting - charged, 0.5 + 1e-6 * 125_250.0, 1e-12);
}

#[test]
fn a_price_that_is_no_number_is_never_the_least() {
    let costs = |model: ModelId, _: &PassShape| [f64::NAN, 1.0][model.index()];
    let alpha = AlphaMatrix::uniform(f64::NAN);
    let priced = price(&plan(&[0, 1], &[4]), &Batch::of(0, f64::NAN), &alpha, &costs, Pricing::Lockstep);
    assert!(priced.seconds_per_token.is_infinite() && priced.tokens >= 1.0);
}

#[test]
fn heads_stand_below_their_own_target_and_look_ups_verify_nothing() {
    let spec = |name: &str, kind| {
        let text = (name.to_owned(), "llama".to_owned());
        ModelSpec {
            name: text.0,
            source: String::new(),
            kind,
            family: text.1,
            layers: 1,
            hidden: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            intermediate: 1,
            vocab: 1,
            tied_embeddings: false,
            context: 1,
            precision: Precision::Bf16,
            kv_bytes: 2,
        }
    };
    let pool = [
        spec("ngram", ModelKind::Ngram),
        spec("eagle", ModelKind::Head { of: "target".into() }),
        spec("small", ModelKind::Model),
        spec("target", ModelKind::Model),
    ];
    let candidates = Candidates::of_pool(&pool);
    let may = |d, v| candidates.may(ModelId(d), ModelId(v));
    assert!(may(0, 2) && may(0, 3) && may(1, 3) && may(2, 3));
    assert!(!may(0, 1) && !may(1, 2) && !may(3, 2) && !may(2, 2));
    assert!(candidates.allows(&plan(&[0, 2, 3], &[1, 1])) && !candidates.allows(&plan(&[0, 1, 3], &[1, 1])));
    assert!(!candidates.without(ModelId(2)).allows(&plan(&[2, 3], &[1])));
}

proptest! {
    #[test]
    fn one_row_in_lockstep_is_the_exact_distribution(
        w in (1u32..9, 1u32..9, 1u32..9), a in (0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64), slope in 0.0..0.2f64, deep in 1usize..4,
    ) {
        let alpha = matrix(&[(0, 1, a.0), (1, 2, a.1), (2, 3, a.2)]);
        let costs = |model: ModelId, shape: &PassShape| {
            [0.02, 0.1, 0.3, 1.0][model.index()] * (1.0 + slope * f64::from(shape.new_tokens * shape.new_tokens))
        };
        let chain = plan(&[0, 1, 2, 3][3 - deep..], &[w.0, w.1, w.2][3 - deep..]);
        let lockstep = price(&chain, &Batch::of(1, 0.0), &alpha, &costs, Pricing::Lockstep);
        let copies = price(&chain, &Batch::of(1, 0.0), &alpha, &costs, Pricing::PerRow);
        prop_assert!((lockstep.seconds_per_token / copies.seconds_per_token - 1.0).abs() < 1e-5);
    }

    #[test]
    fn more_rows_and_dearer_levels_are_never_cheaper_and_reuse_changes_nothing(
        w in (1u32..9, 1u32..9, 1u32..9), a in (0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64), rows in 1u32..200, more in 0.0..0.5f64,
        other in (1u32..9, 1u32..9, 1u32..9),
    ) {
        let alpha = matrix(&[(0, 1, a.0), (1, 2, a.1), (2, 3, a.2)]);
        let chain = plan(&[0, 1, 2, 3], &[w.0, w.1, w.2]);
        let dearer = |model: ModelId, shape: &PassShape| golden_costs(model, shape) + more * f64::from(u8::from(model.0 == 1));
        let at = |rows, costs: &Costs<'_>| price(&chain, &Batch::of(rows, 0.0), &alpha, costs, Pricing::Lockstep);
        let (one, next) = (at(rows, &golden_costs), at(rows + 1, &golden_costs));
        prop_assert!(next.round_seconds >= one.round_seconds * (1.0 - 1e-6));
        prop_assert!(at(rows, &dearer).round_seconds >= one.round_seconds * (1.0 - 1e-12));
        let mut pricer = Pricer::new();
        let batch = Batch::of(rows, 0.0);
        let mut quotes = pricer.open(&batch, &alpha, &golden_costs, Pricing::Lockstep);
        quotes.price(&plan(&[0, 1, 2, 3], &[other.0, other.1, other.2]));
        quotes.price(&plan(&[0, 1, 3], &[other.0, w.1]));
        quotes.price(&plan(&[0, 1, 2, 3], &[w.0, other.1, w.2]));
        prop_assert_eq!(quotes.price(&chain), one);
    }
}
