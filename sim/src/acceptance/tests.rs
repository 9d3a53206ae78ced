use std::collections::BTreeMap;

use specrouter_routing::ids::RequestId;
use specrouter_routing::luck::Luck;
use specrouter_routing::units::Positive;

use super::*;

/// A model of a pool, as far as acceptance looks at it.
pub(crate) fn spec(name: &str, kind: ModelKind) -> ModelSpec {
    ModelSpec {
        name: name.to_owned(),
        source: "test".to_owned(),
        kind,
        family: "test".to_owned(),
        layers: 1,
        hidden: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        intermediate: 1,
        vocab: 1,
        tied_embeddings: false,
        context: 4096,
        precision: Default::default(),
        kv_bytes: 2,
    }
}

pub(crate) fn pool(names: &[&str]) -> Vec<ModelSpec> {
    names.iter().map(|name| spec(name, ModelKind::Model)).collect()
}

pub(crate) fn pairs(rates: &[(&str, &str, f64)]) -> Pairs<Probability> {
    let mut pairs = Pairs::new();
    for &(drafter, verifier, rate) in rates {
        let under: &mut BTreeMap<_, _> = pairs.entry(drafter.to_owned()).or_default();
        under.insert(verifier.to_owned(), Probability::new(rate).unwrap());
    }
    pairs
}

pub(crate) fn heterogeneous(matrix: &[(&str, Pairs<Probability>)]) -> HeterogeneousConfig {
    HeterogeneousConfig {
        matrix: matrix.iter().map(|(class, pairs)| ((*class).to_owned(), pairs.clone())).collect(),
        request_spread: NonNegative::new(0.0).unwrap(),
        regime: None,
        depth: BTreeMap::new(),
        signal_correlation: Probability::new(0.5).unwrap(),
        drift: None,
    }
}

pub(crate) fn regime(stay: f64, spread: f64) -> Option<RegimeConfig> {
    Some(RegimeConfig {
        stay_tokens: Positive::new(stay).unwrap(),
        spread: Probability::new(spread).unwrap(),
    })
}

pub(crate) fn classes(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

const ABC: [&str; 3] = ["a", "b", "c"];

fn toy() -> Pairs<Probability> {
    pairs(&[("a", "b", 0.8), ("b", "c", 0.8), ("a", "c", 0.6)])
}

#[track_caller]
fn refused(config: AcceptanceConfig) -> AcceptanceError {
    Source::resolve(&config, &pool(&ABC), &classes(&["chat", "code"])).unwrap_err()
}

#[test]
fn names_that_are_unknown_or_missing_are_named() {
    use AcceptanceConfig::{Constant, Heterogeneous, PerPosition};
    let mut unknown = toy();
    unknown.insert("d".to_owned(), BTreeMap::new());
    insta::assert_snapshot!(refused(Constant(unknown)), @"acceptance.constant: d is no model of the pool; the pool has a, b, c");
    insta::assert_snapshot!(refused(Constant(pairs(&[("a", "x", 0.5)]))), @"acceptance.constant.a: x is no model of the pool; the pool has a, b, c");
    insta::assert_snapshot!(refused(Constant(pairs(&[("b", "a", 0.5)]))), @"acceptance.constant: b cannot draft for a: a drafter stands before its verifier in the pool, which is a, b, c");
    insta::assert_snapshot!(refused(Constant(pairs(&[("a", "b", 0.5), ("b", "c", 0.5)]))), @"acceptance.constant: a under c is missing; given under a are b");
    insta::assert_snapshot!(refused(Constant(pairs(&[("a", "b", 0.5), ("a", "c", 0.5)]))), @"acceptance.constant: b under c is missing; given under b are none");
    insta::assert_snapshot!(
        refused(PerPosition(Pairs::from([("a".to_owned(), BTreeMap::from([("b".to_owned(), vec![])]))]))),
        @"acceptance.per_position.a.b: expected at least one number, got an empty list"
    );
    insta::assert_snapshot!(refused(Heterogeneous(heterogeneous(&[("maths", toy())]))), @"acceptance.heterogeneous.matrix: maths is no request class; there are chat, code (or `all`)");
    insta::assert_snapshot!(refused(Heterogeneous(heterogeneous(&[("chat", toy())]))), @"acceptance.heterogeneous.matrix: class code has no matrix, and there is no `all`; given are chat");
    let mut models = pool(&ABC);
    models[0].kind = ModelKind::Head { of: "z".to_owned() };
    let error = Source::resolve(&Constant(toy()), &models, &[]).unwrap_err();
    insta::assert_snapshot!(error, @"acceptance: a is a draft head of z, which is no model of the pool; the pool has a, b, c");
}

#[test]
fn numbers_that_no_models_have_are_refused() {
    use AcceptanceConfig::{Constant, Heterogeneous};
    let far = pairs(&[("a", "b", 0.9), ("b", "c", 0.9), ("a", "c", 0.7)]);
    insta::assert_snapshot!(refused(Constant(far.clone())), @"acceptance.constant: with independent coins a under c is at least a under b times b under c, 0.9 x 0.9 = 0.8100; got 0.7");
    insta::assert_snapshot!(
        refused(Heterogeneous(heterogeneous(&[("all", far)]))),
        @"acceptance.heterogeneous.matrix.chat: no distributions of a, c and b have these acceptances: c rejects a at 0.3000, which may be at most 0.1000 + 0.1000 by way of b"
    );
    // Three models without a common token, and a fourth that agrees with each half of the time.
    let apart = pairs(&[
        ("a", "b", 0.0),
        ("a", "c", 0.0),
        ("b", "c", 0.0),
        ("a", "d", 0.5),
        ("b", "d", 0.5),
        ("c", "d", 0.5),
    ]);
    let config = Heterogeneous(heterogeneous(&[("all", apart)]));
    let error = Source::resolve(&config, &pool(&["a", "b", "c", "d"]), &classes(&["chat"])).unwrap_err();
    insta::assert_snapshot!(error, @"acceptance.heterogeneous.matrix.chat: no distributions of a, b, c, d have all these acceptances at once, though every three of them could");

    let mut wide = heterogeneous(&[("all", toy())]);
    wide.request_spread = NonNegative::new(0.4).unwrap();
    insta::assert_snapshot!(refused(Heterogeneous(wide)), @"acceptance.heterogeneous.request_spread must be at most 0.3367 with the matrix of class chat, got 0.4");
    let mut short = heterogeneous(&[("all", toy())]);
    short.regime = regime(0.5, 0.1);
    insta::assert_snapshot!(refused(Heterogeneous(short)), @"acceptance.heterogeneous.regime.stay_tokens must be at least 1, got 0.5");
    let mut deep = heterogeneous(&[("all", toy())]);
    deep.depth.insert("a".to_owned(), vec![NonNegative::new(1.2).unwrap()]);
    insta::assert_snapshot!(refused(Heterogeneous(deep)), @"acceptance.heterogeneous.depth.a: factors above 1 are for draft heads and n-grams, which only draft; got 1.2");

    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let all: Vec<(&str, &str, f64)> =
        (0..7).flat_map(|i| (i + 1..7).map(move |k| (names[i], names[k], 0.5))).collect();
    let config = Heterogeneous(heterogeneous(&[("all", pairs(&all))]));
    let error = Source::resolve(&config, &pool(&names), &classes(&["chat"])).unwrap_err();
    insta::assert_snapshot!(error, @"acceptance.heterogeneous takes pools of at most 6 models, got 7");
}

#[test]
fn a_class_has_its_own_matrix_or_that_of_all() {
    let code = pairs(&[("a", "b", 0.9), ("b", "c", 0.9), ("a", "c", 0.85)]);
    let config = AcceptanceConfig::Heterogeneous(heterogeneous(&[("all", toy()), ("code", code)]));
    let source = Source::resolve(&config, &pool(&ABC), &classes(&["chat", "code"])).unwrap();
    let rate = |class, drafter, verifier| {
        source.mean_acceptance(ClassId(class), ModelId(drafter), ModelId(verifier))
    };
    for (found, want) in
        [(rate(0, 0, 2), 0.6), (rate(0, 1, 2), 0.8), (rate(1, 0, 2), 0.85), (rate(1, 0, 1), 0.9)]
    {
        assert!((found - want).abs() < 1e-12, "{found} {want}");
    }
}

#[test]
fn a_head_needs_the_pair_with_its_own_target_only() {
    let mut models = pool(&["head", "b", "c"]);
    models[0].kind = ModelKind::Head { of: "c".to_owned() };
    let given = pairs(&[("head", "c", 0.7), ("b", "c", 0.6)]);
    for config in [
        AcceptanceConfig::Constant(given.clone()),
        AcceptanceConfig::Heterogeneous(heterogeneous(&[("all", given)])),
    ] {
        let source = Source::resolve(&config, &models, &classes(&["chat"])).unwrap();
        assert!((source.mean_acceptance(ClassId(0), ModelId(0), ModelId(2)) - 0.7).abs() < 1e-12);
    }
}

#[test]
fn the_mean_of_rates_by_position_is_the_pooled_one() {
    let rates = [0.85, 0.3, 0.0].map(|rate| Probability::new(rate).unwrap()).to_vec();
    let config = AcceptanceConfig::PerPosition(Pairs::from([(
        "a".to_owned(),
        BTreeMap::from([("b".to_owned(), rates)]),
    )]));
    let source = Source::resolve(&config, &pool(&["a", "b"]), &[]).unwrap();
    // .85 + .255 accepted and 1 rejection a round.
    let mean = source.mean_acceptance(ClassId(0), ModelId(0), ModelId(1));
    assert!((mean - 1.105 / 2.105).abs() < 1e-12, "{mean}");
}

#[test]
fn requests_spread_as_far_as_they_are_told_to() {
    let (luck, n) = (Luck::new(5), 5000);
    for (spread, swing) in [(0.05, None), (0.1, regime(40.0, 0.2)), (0.25, None)] {
        let mut config = heterogeneous(&[("all", toy())]);
        config.request_spread = NonNegative::new(spread).unwrap();
        config.regime = swing;
        let source =
            Source::resolve(&AcceptanceConfig::Heterogeneous(config), &pool(&ABC), &classes(&["chat"]))
                .unwrap();
        let known = |drafter| source.request_spread(ClassId(0), ModelId(drafter), ModelId(2));
        assert!(((known(0) + known(1)) / 2.0 / spread - 1.0).abs() < 0.01, "{} {}", known(0), known(1));

        let Source::Heterogeneous(law) = &source else { panic!("resolved to another source") };
        let coins = Coins::new(luck);
        let rates: Vec<f64> = (0..n)
            .map(|request| {
                let mut sequence =
                    Sequence { request: RequestId(request), output: 100, ..Sequence::default() };
                law.admit(&coins, &mut sequence);
                let pi = (sequence.low + sequence.high) / 2.0;
                // The pair's share apart, from its configured mean.
                let mean = 0.95 * 0.6;
                pi + (1.0 - pi) * (0.8 - mean) / (1.0 - mean)
            })
            .collect();
        let mean = rates.iter().sum::<f64>() / n as f64;
        let found = (rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert!((mean - 0.8).abs() < 4.0 * found / (n as f64).sqrt(), "{mean}");
        assert!((found / known(1) - 1.0).abs() < 0.06, "{found} {}", known(1));
    }
}

#[test]
fn regimes_stay_as_long_as_they_are_told_to_and_forget_who_asks() {
    let mut config = heterogeneous(&[("all", toy())]);
    config.regime = regime(40.0, 0.2);
    let source =
        Source::resolve(&AcceptanceConfig::Heterogeneous(config), &pool(&ABC), &classes(&["chat"])).unwrap();
    let Source::Heterogeneous(law) = &source else { panic!("resolved to another source") };
    let coins = Coins::new(Luck::new(11));
    let pair = Pair { drafter: ModelId(1), verifier: ModelId(2), depth: 0 };
    let (mut switches, mut high, n) = (0u32, 0u32, 400_000u32);
    let mut sequence = Sequence { request: RequestId(3), output: u32::MAX, ..Sequence::default() };
    law.admit(&coins, &mut sequence);
    let mut before = f64::NAN;
    let mut seen = Vec::new();
    for position in 0..n {
        law.settle(&coins, &mut sequence, position);
        let here = law.similarity(&mut Walk::new(&coins, &sequence), position, pair);
        switches += u32::from(before.to_bits() != here.to_bits());
        high += u32::from(here > 0.8);
        before = here;
        seen.push(here);
    }
    let stay = f64::from(n) / f64::from(switches);
    assert!((stay / 40.0 - 1.0).abs() < 0.04, "{stay}"); // 10,000 runs: 4 SE.
    assert!((f64::from(high) / f64::from(n) - 0.5).abs() < 0.03, "{high}");
    // One walk over everything, jumps, and a probe behind all see the same text.
    let mut fresh = Sequence { request: RequestId(3), output: u32::MAX, ..Sequence::default() };
    law.admit(&coins, &mut fresh);
    let mut walk = Walk::new(&coins, &fresh);
    for position in (0..n).step_by(977) {
        assert_eq!(law.similarity(&mut walk, position, pair).to_bits(), seen[position as usize].to_bits());
    }
    for committed in [5000u32, 6000, 5500] {
        let sum = law.probe(&coins, &mut fresh, committed, 32, pair.drafter, pair.verifier);
        let want: f64 = seen[committed as usize - 32..committed as usize].iter().sum();
        assert!((sum - want).abs() < 1e-9);
    }
}

#[test]
fn signals_have_the_rank_correlation_that_is_stated() {
    for (spread, swing, wanted) in
        [(0.1, None, 0.5), (0.1, regime(40.0, 0.2), 0.5), (0.0, regime(40.0, 0.2), 0.5), (0.1, None, 0.8)]
    {
        let mut config = heterogeneous(&[("all", toy())]);
        config.request_spread = NonNegative::new(spread).unwrap();
        config.regime = swing;
        config.signal_correlation = Probability::new(wanted).unwrap();
        let source =
            Source::resolve(&AcceptanceConfig::Heterogeneous(config), &pool(&ABC), &classes(&["chat"]))
                .unwrap();
        let Source::Heterogeneous(law) = &source else { panic!("resolved to another source") };
        let coins = Coins::new(Luck::new(8));
        let pair = Pair { drafter: ModelId(0), verifier: ModelId(2), depth: 0 };
        let (mut tops, mut entropies, mut latents) = (Vec::new(), Vec::new(), Vec::new());
        for request in 0..10_000 {
            let mut sequence = Sequence { request: RequestId(request), output: 500, ..Sequence::default() };
            law.admit(&coins, &mut sequence);
            let position = (request % 400) as u32;
            let signal = source.signal(&coins, &sequence, position, pair);
            tops.push(f64::from(signal.top_probability));
            entropies.push(f64::from(signal.entropy));
            latents.push(law.similarity(&mut Walk::new(&coins, &sequence), position, pair));
        }
        let latents = signals::ranks(&latents);
        let top = signals::correlation(&signals::ranks(&tops), &latents);
        let entropy = signals::correlation(&signals::ranks(&entropies), &latents);
        assert!(
            (top - wanted).abs() < 0.05 && (entropy + wanted).abs() < 0.05,
            "{spread} {wanted}: {top} {entropy}"
        );
    }
}

#[test]
fn drifted_text_has_the_other_matrix_under_the_same_label() {
    let mut config = heterogeneous(&[("all", pairs(&[("a", "b", 0.8)]))]);
    let matrix = BTreeMap::from([("all".to_owned(), pairs(&[("a", "b", 0.3)]))]);
    config.drift = Some(DriftConfig { from_request: 30_000, matrix });
    let config = AcceptanceConfig::Heterogeneous(config);
    let source = Source::resolve(&config, &pool(&["a", "b"]), &classes(&["chat", "code"])).unwrap();
    let Source::Heterogeneous(law) = &source else { panic!("resolved to another source") };
    let coins = Coins::new(Luck::new(2));
    let mut kept = [0u32; 2];
    for request in 0..60_000 {
        let class = (request % 2) as u16;
        let mut sequence = Sequence { request: RequestId(request), class, output: 9, ..Sequence::default() };
        law.admit(&coins, &mut sequence);
        kept[(request / 30_000) as usize] +=
            law.prefix(Walk::new(&coins, &sequence), 1, 1, ModelId(0), ModelId(1));
    }
    let [before, after] = kept.map(|k| f64::from(k) / 30_000.0);
    // Four standard errors: 0.0092 and 0.0106.
    assert!((before - 0.8).abs() < 0.0092 && (after - 0.3).abs() < 0.0106, "{before} {after}");
}

#[test]
fn depth_factors_multiply_what_is_kept_apart() {
    let mut models = pool(&["head", "c"]);
    models[0].kind = ModelKind::Head { of: "c".to_owned() };
    let mut config = heterogeneous(&[("all", pairs(&[("head", "c", 0.6)]))]);
    let factors = [1.0, 0.5, 3.0].map(|f| NonNegative::new(f).unwrap()).to_vec();
    config.depth.insert("head".to_owned(), factors);
    let source =
        Source::resolve(&AcceptanceConfig::Heterogeneous(config), &models, &classes(&["chat"])).unwrap();
    let Source::Heterogeneous(law) = &source else { panic!("resolved to another source") };
    let coins = Coins::new(Luck::new(2));
    let mut tried = [[0.0f64; 2]; 3];
    for request in 0..60_000 {
        let mut sequence = Sequence { request: RequestId(request), output: 100, ..Sequence::default() };
        law.admit(&coins, &mut sequence);
        let kept = law.prefix(Walk::new(&coins, &sequence), 1, 3, ModelId(0), ModelId(1)) as usize;
        for (depth, [n, k]) in tried.iter_mut().enumerate().take(kept + 1) {
            *n += 1.0;
            *k += f64::from(u8::from(depth < kept));
        }
    }
    let pi = 0.95 * 0.6;
    let apart = (0.6 - pi) / (1.0 - pi);
    for ([n, k], factor) in tried.into_iter().zip([1.0, 0.5, 3.0]) {
        let want: f64 = pi + (1.0 - pi) * apart * factor;
        let error = (want * (1.0 - want) / n).sqrt();
        assert!((k / n - want).abs() < 4.0 * error, "{factor}: {} {want}", k / n);
    }
}
