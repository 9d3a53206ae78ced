//! Shares of passes hold for any mix of rows.

use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::PassShape;

use super::super::share::{PICOS, Share};
use super::super::solo::{Passes, RowOf, nanos};
use super::toys::{Dice, costs};

/// One row of a random pass.
struct Mixed {
    own: u32,
    catch_up: u32,
    cached: u32,
    logits: u32,
}

impl Mixed {
    fn random(dice: &mut Dice, left: u32) -> Self {
        let own = dice.range(1, left.min(9));
        let catch_up = if dice.chance(0.7) { 0 } else { dice.range(0, left - own) };
        let cached = dice.range(0, 30 - catch_up.min(30));
        let bare = dice.chance(0.2);
        Self { own, catch_up, cached, logits: if bare { 0 } else { own } }
    }

    fn add(&self, shape: &mut PassShape) {
        shape.add_row(self.own + self.catch_up, self.catch_up, self.cached, self.logits);
    }
}

/// Random passes of random prices: no row is dearer than the pass by its solo price, and no mix by its
/// shares.
#[test]
fn no_pass_costs_less_than_its_rows_are_charged() {
    let mut nearest = f64::INFINITY;
    for seed in 0..300u64 {
        let dice = &mut Dice::new(seed);
        let models = dice.range(2, 4) as usize;
        let (costs, falling) = costs(dice, models);
        let passes = Passes { costs: &*costs, falling, rows: dice.range(1, 5), tokens: dice.range(20, 36) };
        let model = dice.range(0, models as u32 - 1) as usize;
        let along = if dice.chance(0.5) {
            Share::along(&passes, model, dice.range(passes.rows, passes.tokens), dice.range(0, 30))
        } else {
            Share { row: dice.unit(), token: dice.unit(), context: dice.unit() * dice.unit() }
        };
        let (spoken, silent) = (along.valid(&passes, model, 1, 60), along.valid(&passes, model, 0, 60));
        for _ in 0..300 {
            let (rows, mut left) = (dice.range(1, passes.rows), passes.tokens);
            let mut shape = PassShape::default();
            let (mut picos, mut solo) = (0, 0);
            for after in (0..rows).rev() {
                let row = Mixed::random(dice, left - after);
                left -= row.own + row.catch_up;
                row.add(&mut shape);
                let known = row.catch_up + row.cached;
                let share = if row.logits > 0 { spoken } else { silent };
                picos += share.picos(row.own, known);
                let alone = RowOf { model, own: row.own, known, logits: row.logits };
                solo = solo.max(passes.least(alone));
            }
            let price = costs.seconds(ModelId(model as u8), &shape);
            assert!(solo <= nanos(price), "seed {seed}: {solo} > {price} s: {shape:?}");
            // A rounding of the last bits of ρ times a sum.
            assert!(
                picos as f64 <= price * PICOS * (1.0 + 1e-9),
                "seed {seed}: {picos} > {price} s: {shape:?}"
            );
            nearest = nearest.min(price * PICOS / (picos as f64).max(1.0));
        }
    }
    assert!(nearest < 1.01, "shares that no pass comes near: {nearest}");
}

/// The best price of equal rows, per row, is no share of a mixed pass: why weights are needed.
#[test]
fn the_best_batch_of_equals_does_not_bound_a_mix() {
    // Five tokens meet a fast kernel, which no number of rows of 2 or of 3 can fill.
    let price = |tokens: u32| if tokens == 5 { 1.0 } else { 4.0 };
    let best_of_equals =
        |own: u32| (1..=4u32).map(|rows| price(own * rows) / f64::from(rows)).fold(f64::INFINITY, f64::min);
    // Rows of 2 and of 3 tokens in one pass of 5.
    assert!(best_of_equals(2) + best_of_equals(3) > price(5));
}
