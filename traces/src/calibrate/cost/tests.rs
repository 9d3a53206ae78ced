//! Fits of pass times recover what the passes were made with.

use std::num::NonZeroU32;

use specrouter_routing::ids::ReplicaId;
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::units::{Span, Time};

use super::*;

fn pass(tick: u64, start: u64, nanos: u64, running: u32) -> PassRecord {
    PassRecord {
        replica: ReplicaId(0),
        tick,
        model: ModelId(0),
        start: Time::from_nanos(start),
        duration: Span::from_nanos(nanos),
        after: After::Same,
        shape: PassShape::uniform(1, 1, 10),
        queued: 0,
        running,
        kv_blocks_used: 0,
    }
}

#[test]
fn a_pass_costs_what_passed_until_the_next_while_requests_ran() {
    // Host work of 20; an idle wait; a stall of 100 times the pass; the last.
    let passes = [pass(0, 0, 100, 1), pass(1, 120, 100, 0), pass(2, 5_000, 100, 2), pass(3, 15_100, 100, 1)];
    let nanos: Vec<u64> = samples(&passes).iter().map(|s| (s.seconds * 1e9).round() as u64).collect();
    assert_eq!(nanos, [120, 100, 100, 100]);
    // Another replica's passes are not the next.
    let mut two = [pass(0, 0, 100, 1), pass(0, 130, 100, 1)];
    two[1].replica = ReplicaId(1);
    assert_eq!(samples(&two).iter().map(|s| (s.seconds * 1e9).round() as u64).max(), Some(100));
}

/// Ragged passes of every size, priced by `price` with log-normal noise, every 50th stalled.
fn made(price: impl Fn(&PassShape) -> f64, noise: f64, stalls: bool) -> Vec<Sample> {
    passes(4000, price, noise, stalls)
}

fn passes(count: u64, price: impl Fn(&PassShape) -> f64, noise: f64, stalls: bool) -> Vec<Sample> {
    let draws = Luck::new(5).stream(Stream::Test);
    (0..count)
        .map(|index| {
            let uniform = |what| draws.uniform(index, what);
            let mut shape = PassShape::default();
            let rows = 1 + (uniform(0) * uniform(0) * 40.0) as u64;
            let new = 1 + (uniform(1) * uniform(1) * 9.0) as u32;
            for row in 0..rows {
                shape.add_row(new, 0, (draws.uniform(index, 10 + row) * 2000.0) as u32, new);
            }
            let stall = if stalls && index % 50 == 0 { 6.0 } else { 1.0 };
            let seconds = price(&shape) * (noise * draws.normal(index, 2)).exp() * stall;
            Sample { model: ModelId(0), after: After::Same, shape, seconds }
        })
        .collect()
}

const TRUE: [f64; 5] = [4e-3, 2e-5, 6e-5, 3e-8, 2e-9];

fn truth() -> LinearTerms {
    LinearTerms::new(TRUE[0], TRUE[1], TRUE[2], TRUE[3], TRUE[4]).unwrap()
}

#[test]
fn terms_come_back_from_noisy_passes_with_stalls() {
    let costs = fit("m", &made(|shape| truth().seconds(shape), 0.05, true)).unwrap();
    // What matters is the price; terms that always come together may share it otherwise.
    for shape in
        [PassShape::uniform(1, 1, 100), PassShape::uniform(16, 4, 1000), PassShape::uniform(32, 1, 500)]
    {
        let (found, expected) = (costs.linear.seconds(&shape), truth().seconds(&shape));
        assert!((found / expected - 1.0).abs() < 0.02, "{shape:?}: {found} for {expected}");
    }
    assert!((costs.linear.pass_s.get() / TRUE[0] - 1.0).abs() < 0.03, "{:?}", costs.linear);
    assert!((costs.linear.token_s.get() / TRUE[2] - 1.0).abs() < 0.1, "{:?}", costs.linear);
    // The noise of a held-out pass, whose median is 0.67 of 5 %, is what is left.
    let error = costs.linear_error;
    assert!(error.median > 0.03 && error.median < 0.04, "{error:?}");
    assert!(error.passes == 4000 && error.p95 < 0.15, "{error:?}");
    assert!(!costs.points.is_empty() && costs.points.len() <= 500);
}

#[test]
fn without_noise_terms_are_exact() {
    let costs = fit("m", &made(|shape| truth().seconds(shape), 0.0, false)).unwrap();
    let found = costs.linear;
    let all = [found.pass_s.get(), found.row_s.get(), found.token_s.get()];
    assert!(all.iter().zip(TRUE).all(|(f, t)| (f / t - 1.0).abs() < 1e-6), "{found:?}");
    assert!(costs.linear_error.p95 < 1e-6);
}

#[test]
fn a_staircase_is_foretold_by_the_table_and_a_line_by_the_terms() {
    let stairs = |shape: &PassShape| if shape.new_tokens > 24 { 9e-3 } else { 3e-3 };
    let costs = fit("m", &passes(30_000, stairs, 0.02, false)).unwrap();
    assert!(costs.table_is_better(), "{:?} {:?}", costs.linear_error, costs.table_error);
    let table = Table::of_one("m", &costs.table).unwrap();
    let at = |rows| table.seconds_checked(ModelId(0), &PassShape::uniform(rows, 1, 1000)).0;
    assert!((at(1) / 3e-3 - 1.0).abs() < 0.1 && (at(32) / 9e-3 - 1.0).abs() < 0.1, "{} {}", at(1), at(32));
    let line = fit("m", &made(|shape| truth().seconds(shape), 0.0, false)).unwrap();
    assert!(!line.table_is_better(), "{:?} {:?}", line.linear_error, line.table_error);
}

#[test]
fn tiles_are_found_where_there_are_some_and_only_there() {
    let tiles = NonZeroU32::new(16).unwrap();
    let stairs = truth().with_tiles(tiles, 2e-3).unwrap();
    let costs = fit("m", &made(|shape| stairs.seconds(shape), 0.05, true)).unwrap();
    assert_eq!(costs.linear.tile.map(|tile| tile.tokens), Some(tiles), "{:?}", costs.linear);
    for new in [1, 16, 17, 33] {
        let shape = PassShape::uniform(1, new, 500);
        let (found, expected) = (costs.linear.seconds(&shape), stairs.seconds(&shape));
        assert!((found / expected - 1.0).abs() < 0.03, "{new} tokens: {found} for {expected}");
    }
    assert!(!costs.table_is_better(), "{:?} {:?}", costs.linear_error, costs.table_error);
    let straight = fit("m", &made(|shape| truth().seconds(shape), 0.05, true)).unwrap();
    assert_eq!(straight.linear.tile, None);
}

#[test]
fn passes_of_two_speeds_are_priced_at_what_they_take_together() {
    // Every fourth pass finds a cold cache and takes four times as long.
    let two: Vec<Sample> = (0..4000)
        .map(|i| Sample {
            after: After::Same,
            model: ModelId(0),
            shape: PassShape::uniform(1, 1, 96),
            seconds: if i % 4 == 0 { 8e-5 } else { 2e-5 },
        })
        .collect();
    let costs = fit("m", &two).unwrap();
    let price = Table::of_one("m", &costs.table).unwrap().seconds_checked(ModelId(0), &two[0].shape).0;
    assert!((price / 3.5e-5 - 1.0).abs() < 0.05, "{price}");
    for total in [costs.table_error.unwrap().total, costs.linear_error.total] {
        assert!((total - 1.0).abs() < 0.05, "{total}");
    }
}

#[test]
fn a_measured_table_is_taken_as_it_is_and_judged_by_rows_left_out() {
    let grid =
        [1, 2, 4, 8].into_iter().flat_map(|rows| [1, 3, 6].map(|new| PassShape::uniform(rows, new, 512)));
    let priced: Vec<Sample> = grid
        .map(|shape| Sample {
            model: ModelId(0),
            after: After::Same,
            shape,
            seconds: truth().seconds(&shape),
        })
        .collect();
    let costs = fit_table("m", &priced).unwrap();
    let exact = |row: &TableRow, sample: &Sample| (row.seconds - sample.seconds).abs() < 1e-15;
    assert!(costs.table.len() == 12 && costs.table.iter().zip(&priced).all(|(row, s)| exact(row, s)));
    assert!(costs.linear_error.p95 < 1e-4 && costs.linear_error.passes == 12, "{:?}", costs.linear_error);
    assert!(costs.table_error.unwrap().p95 > 1e-3, "what is left out is interpolated");
    insta::assert_snapshot!(fit_table("m", &priced[..9]).unwrap_err(), @"not enough data: 9 rows, 10 needed");
}

#[test]
fn a_few_passes_are_not_enough() {
    let few = made(|_| 1e-3, 0.0, false);
    insta::assert_snapshot!(fit("m", &few[..49]).unwrap_err(), @"not enough data: 49 passes, 50 needed");
    assert!(fit("m", &few[..50]).is_ok());
}
