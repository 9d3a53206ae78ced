//! What rows cost at least where passes are shared: a share of every pass for each of its rows.
//!
//! A share of weight w is linear in a row: `w(row) = w_row + w_token · new tokens + w_context · cached`.
//! Let ρ be the least of `price(pass) / w(pass)` over all passes that can be, w(pass) the sum over its
//! rows. Then `ρ · w(row)` is a valid share **for mixed passes too**, whatever the weights:
//!
//! ```text
//! Σ over rows of ρ · w(row) = ρ · w(pass) <= price(pass)
//! ```
//!
//! The best price per row or per token of equal rows is not: a short row among long ones may ride for
//! less than its best batch of equals gives. Weights only decide how tight it is; they follow the slopes
//! of the price at a full batch, and of several such the one is taken under which requests cost most.
//!
//! ρ is found by branch and bound over (rows, tokens, context): a box is no cheaper per weight than its
//! cheap corner's price over its heavy corner's weight.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::PassShape;

use super::solo::Passes;

/// Seconds of a row, of each of its tokens, of each token of its context.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    pub row: f64,
    pub token: f64,
    pub context: f64,
}

/// Shares are counted in picoseconds, rounded down.
pub(super) const PICOS: f64 = 1e12;

impl Share {
    fn of(&self, rows: u64, tokens: u64, context: u64) -> f64 {
        self.row * rows as f64 + self.token * tokens as f64 + self.context * context as f64
    }

    fn times(self, factor: f64) -> Self {
        Self { row: self.row * factor, token: self.token * factor, context: self.context * factor }
    }

    /// Of a row of `own` tokens after `known` ones, cached or run in the same pass, whichever is less.
    pub fn picos(&self, own: u32, known: u32) -> u64 {
        let known = f64::from(known) * self.context.min(self.token);
        ((self.row + self.token * f64::from(own) + known) * PICOS) as u64
    }

    /// Weights that follow the price of `model` at `rows` rows of `tokens` tokens in all, over
    /// `context` cached tokens each: the slopes by tokens and by context, and the rest by rows.
    pub fn along(passes: &Passes<'_>, model: usize, tokens: u32, context: u32) -> Self {
        let rows = passes.rows;
        let price = |tokens: u32, context: u64| {
            let cached = context * u64::from(rows);
            seconds(passes, model, (u64::from(rows), u64::from(tokens), cached), 1)
        };
        let (more, further) = (rows, u64::from(context) / 8 + 8);
        let here = price(tokens, u64::from(context));
        let token = (price(tokens + more, u64::from(context)) - here).max(0.0) / f64::from(more);
        let cached = (price(tokens, u64::from(context) + further) - here).max(0.0);
        // A cached token above the price of running it would never be counted.
        let context_token = (cached / (further * u64::from(rows)) as f64).min(token);
        let rest = here - token * f64::from(tokens) - context_token * f64::from(context) * f64::from(rows);
        Self { row: rest.max(0.0) / f64::from(rows), token, context: context_token }
    }

    /// The largest valid share with the weights of `self`, of passes with at least `logits` positions
    /// that have logits; `longest` bounds the context of a row.
    pub fn valid(self, passes: &Passes<'_>, model: usize, logits: u32, longest: u32) -> Self {
        let search = Search { passes, model, weights: self, logits };
        self.times(search.ratio(longest).max(0.0))
    }
}

/// Seconds of a pass of (rows, tokens, context), with the fewest pairs it can have.
fn seconds(passes: &Passes<'_>, model: usize, (rows, tokens, context): (u64, u64, u64), logits: u32) -> f64 {
    let shape = PassShape {
        rows: rows as u32,
        new_tokens: tokens as u32,
        catch_up_tokens: 0,
        context_tokens: context,
        // Every token attends to itself, and one of each row to the row's context.
        attention_pairs: context + tokens,
        logit_rows: logits,
    };
    passes.costs.seconds(ModelId(model as u8), &shape)
}

/// Ranges of rows, tokens and context, both ends included.
type Region = [(u64, u64); 3];

struct Search<'a> {
    passes: &'a Passes<'a>,
    model: usize,
    weights: Share,
    logits: u32,
}

/// Precision of ρ, and most boxes that are split for it.
const CLOSE: f64 = 0.999;
const MOST_SPLITS: usize = 20_000;

impl Search<'_> {
    /// ρ, from below.
    fn ratio(&self, longest: u32) -> f64 {
        let (rows, tokens) = (u64::from(self.passes.rows), u64::from(self.passes.tokens));
        let context = rows * u64::from(longest);
        if self.weights.of(rows, tokens, context) <= 0.0 {
            return 0.0; // No weight, no share.
        }
        let mut regions = BinaryHeap::new();
        let mut reached = f64::INFINITY;
        let mut push = |regions: &mut BinaryHeap<_>, region: Region| {
            if let Some((least, some)) = self.bounds(&region) {
                reached = reached.min(some);
                // Ratios are not negative, so their bits are in their order.
                regions.push(Reverse((least.max(0.0).to_bits(), region)));
            }
            reached
        };
        if self.passes.falling {
            // Nothing is known between one number of rows or tokens and the next.
            for r in 1..=rows {
                for t in r..=tokens {
                    push(&mut regions, [(r, r), (t, t), (0, r * u64::from(longest))]);
                }
            }
        } else {
            push(&mut regions, [(1, rows), (1, tokens), (0, context)]);
        }
        let mut splits = 0;
        loop {
            let Some(Reverse((bits, region))) = regions.pop() else { return 0.0 };
            let least = f64::from_bits(bits);
            let reached = push(&mut regions, [(1, 0); 3]);
            let widest = self.widest(&region);
            if least >= CLOSE * reached || splits >= MOST_SPLITS || widest.is_none() {
                return least;
            }
            if let Some(axis) = widest {
                let (low, high) = region[axis];
                let middle = low + (high - low) / 2;
                for half in [(low, middle), (middle + 1, high)] {
                    let mut part = region;
                    part[axis] = half;
                    push(&mut regions, part);
                }
            }
            splits += 1;
        }
    }

    /// The least price per weight of a region, from below, and that of one of its passes. `None` when
    /// no pass is in it.
    fn bounds(&self, &[(r1, r2), (t1, t2), (c1, c2)]: &Region) -> Option<(f64, f64)> {
        let t1 = t1.max(r1);
        if r1 > r2 || t1 > t2 || c1 > c2 {
            return None;
        }
        // Prices may go by means per row: fewer rows, each of them with the least.
        let corner = (r1, (t1 * r1 / r2).max(1), c1 * r1 / r2);
        let least = seconds(self.passes, self.model, corner, self.logits) / self.weights.of(r2, t2, c2);
        let some = seconds(self.passes, self.model, (r1, t1, c1), self.logits) / self.weights.of(r1, t1, c1);
        Some((least, if some.is_nan() { f64::INFINITY } else { some }))
    }

    /// The axis on which the region is relatively widest; `None` when it is a point.
    fn widest(&self, region: &Region) -> Option<usize> {
        let width = |axis: usize| {
            let (low, high) = region[axis];
            let small = [1, 4, 512][axis]; // Below this, width does not matter much.
            (high - low) as f64 / (high + small) as f64
        };
        (0..3).filter(|&axis| region[axis].0 < region[axis].1).max_by(|&a, &b| width(a).total_cmp(&width(b)))
    }
}
