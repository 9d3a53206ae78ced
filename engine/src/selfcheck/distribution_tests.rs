//! A million outputs over logits computed once, and two rules of losslessness broken in as many.

use super::*;
use crate::decoder::Decoder;
use crate::load::{nested, tiny_config};
use crate::selfcheck::poisoned;
use crate::settings::Dtype;
use crate::verify::Broken;
use specrouter_routing::ids::ModelId;

const DRAWS: u64 = 1_000_000;

fn draw() -> Draw {
    Draw {
        prompt: vec![11, 20, 45, 3, 13, 62],
        sampling: Sampling::new(0.8, None, Some(0.9)).unwrap(),
        limit: 4,
        plan: ChainPlan::new(&[ModelId(0), ModelId(1), ModelId(2)], &[2, 2]).unwrap(),
        luck: Luck::new(3),
    }
}

/// Nested models of a small vocabulary, since most of a draw's time goes by its tokens.
fn models() -> Vec<Decoder> {
    let mut config = tiny_config();
    config.spec.vocab = 64;
    let models = nested(&config, 4, 0.3, 0.2);
    models
        .into_iter()
        .map(|(config, mut weights)| poisoned(config, &mut weights, Dtype::F32, 8192).unwrap())
        .collect()
}

fn trees(draw: &Draw) -> Vec<Tree<Decoder>> {
    models().into_iter().map(|model| Tree::new(model, &draw.prompt, TOKENS - 1)).collect()
}

#[test]
fn a_million_outputs_are_distributed_as_the_target_and_broken_rules_show() {
    let draw = draw();
    let trees = trees(&draw);
    let law = law(&trees[2], &draw.sampling, DRAWS).unwrap();
    assert!((law.cells.values().sum::<f64>() - 1.0).abs() < 1e-9);
    let counted = count_trees(&trees, &draw, DRAWS).unwrap();
    let test = g_test(&counted.outcomes, &law);
    assert!(test.draws == DRAWS && test.cells > 200, "{test:?}");
    assert!(counted.accepted > DRAWS / 2 && counted.rejected > DRAWS / 2, "both happened");
    assert!(test.p_value > 1e-3, "{test:?}");
    for broken in [Broken::FromP(ModelId(1)), Broken::AcceptedOnly] {
        let counted = shared(DRAWS, |seeds| {
            let models = trees.clone();
            let backend = EngineBackend::new(models, Verify::Speculative, draw.luck, Counting::default())?;
            Ok(count_with(backend.breaking(broken), &draw, seeds)?.0)
        });
        let test = g_test(&counted.unwrap().outcomes, &law);
        assert!(test.p_value < 1e-9, "{broken:?} must show: {test:?}");
    }
}

#[test]
fn twenty_thousand_outputs_of_the_decoder_itself_are_distributed_as_the_target() {
    let draw = draw();
    let law = law(&trees(&draw)[2], &draw.sampling, 20_000).unwrap();
    let (counted, _) = count(models(), &draw, 0..20_000).unwrap();
    let test = g_test(&counted.outcomes, &law);
    assert!(test.draws == 20_000 && test.p_value > 1e-3, "{test:?}");
}

#[test]
fn the_g_test_has_the_size_that_it_says() {
    // 400 tests of a true law: p-values are uniform.
    let chances: Vec<f64> = (1..=30).map(|i| f64::from(i) / 465.0).collect();
    let law = |chances: &[f64]| {
        let cells = chances.iter().enumerate().map(|(i, &chance)| (vec![i as u32, 0, 0], chance)).collect();
        let weights: Vec<f32> = chances.iter().map(|&chance| chance as f32).collect();
        let sure = Distribution::point(0);
        let second = (0..chances.len() as u32).map(|i| (vec![i], sure.clone()));
        Law { cells, next: second.chain([(vec![], Distribution::dense(&weights))]).collect() }
    };
    let draws = Luck::new(9).stream(specrouter_routing::luck::Stream::Test);
    let true_law = law(&chances);
    let p = |run: u64| {
        let mut counts = BTreeMap::new();
        for draw in 0..2000 {
            let mut left = draws.uniform(run, draw);
            let token = chances.iter().position(|chance| {
                left -= chance;
                left < 0.0
            });
            *counts.entry([token.unwrap_or(29) as u32, 0, 0]).or_default() += 1;
        }
        g_test(&counts, &true_law).p_value
    };
    let values: Vec<f64> = (0..400).map(p).collect();
    let below = |most: f64| values.iter().filter(|&&p| p < most).count();
    assert!(
        (20..=65).contains(&below(0.1)) && (160..=240).contains(&below(0.5)),
        "{} {}",
        below(0.1),
        below(0.5)
    );
    // By hand: 30 and 10 where 20 and 20 are expected, G = 2(30 ln 1.5 + 10 ln 0.5) = 10.465, p = 0.00122.
    let even = law(&[0.5, 0.5]);
    let test = g_test(&BTreeMap::from([([0; 3], 30), ([1, 0, 0], 10)]), &even);
    assert!((test.statistic - 10.465).abs() < 1e-3 && (test.p_value - 0.001_217).abs() < 1e-5, "{test:?}");
    // What cannot be is never explained, at whichever token.
    for never in [[2, 0, 0], [1, 3, 0]] {
        let test = g_test(&BTreeMap::from([([0; 3], 20), ([1, 0, 0], 20), (never, 1)]), &even);
        assert!(test.impossible == 1 && test.p_value <= 0.0, "{never:?}: {test:?}");
    }
    // Rare outcomes share the cell of what they begin with.
    let mut grouped = even;
    grouped.cells = BTreeMap::from([(vec![0, 0, 0], 0.5), (vec![1], 0.25), (vec![], 0.25)]);
    assert_eq!(grouped.cell(&[1, 0, 7]), Some(&[1][..]));
    assert_eq!(grouped.cell(&[0, 0, 1]), Some(&[][..]));
}
