//! Replay is unbiased: enumerated over everything that can be drawn, on models that look at the whole prefix.

use std::cell::RefCell;
use std::collections::BTreeMap;

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::luck::{Luck, Stream};

use super::*;
use crate::acceptance::law::{Coins, Sequence};
use crate::acceptance::path::Path;

/// p(token | prefix) of three models over tokens 0 and 1: anything, and alike enough.
fn p(model: usize, prefix: &[u8], token: u8) -> f64 {
    let draws = Luck::new(11).stream(Stream::Test);
    let key = prefix.iter().fold(1u64, |key, &token| key << 1 | u64::from(token));
    let (common, own) = (draws.uniform(key, 0), draws.uniform(key, 1 + model as u64));
    let one = 0.1 + 0.8 * (0.5 * common + 0.5 * own);
    if token == 1 { one } else { 1.0 - one }
}

/// Texts that continue `prefix`, with their chances.
type Drawn = Vec<(Vec<u8>, f64)>;

/// `n` tokens of `model`.
fn draft(model: usize, prefix: &[u8], n: usize) -> Drawn {
    let mut all = vec![(prefix.to_vec(), 1.0)];
    for _ in 0..n {
        let longer = |(text, chance): (Vec<u8>, f64)| {
            [0, 1].map(|token| ([&text[..], &[token]].concat(), chance * p(model, &text, token)))
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// What leaves `verifier` after it judged `text` from `start` on, drafted by `drafter`: kept tokens and one more.
fn verify(drafter: usize, verifier: usize, text: &[u8], start: usize) -> Vec<(Vec<u8>, usize, f64)> {
    let (mut left, mut chance) = (Vec::new(), 1.0);
    for at in start..text.len() {
        let (prefix, token) = (&text[..at], text[at]);
        let (low, high) = (p(drafter, prefix, token), p(verifier, prefix, token));
        let keep = (high / low).min(1.0);
        // Two tokens: the residual is the other one.
        left.push(([prefix, &[1 - token]].concat(), at - start, chance * (1.0 - keep)));
        chance *= keep;
    }
    for token in [0, 1] {
        let bonus = p(verifier, text, token);
        left.push(([text, &[token]].concat(), text.len() - start, chance * bonus));
    }
    left
}

/// Level 1 of the chain fills up to `n` tokens behind `prefix`: cycles of `window` drafts of model 0.
fn fill(prefix: &[u8], start: usize, window: usize, n: usize) -> Drawn {
    if prefix.len() - start >= n {
        return vec![(prefix.to_vec(), 1.0)];
    }
    let mut all = Vec::new();
    for (drafted, chance) in draft(0, prefix, window) {
        for (text, _, more) in verify(0, 1, &drafted, prefix.len()) {
            for (text, rest) in fill(&text, start, window, n) {
                all.push((text, chance * more * rest));
            }
        }
    }
    all
}

/// Chances of (committed text, tokens kept by the target) of one round, by the algorithm itself.
fn truth(windows: [usize; 2]) -> BTreeMap<(Vec<u8>, usize), f64> {
    let mut chances = BTreeMap::new();
    for (block, chance) in fill(&[], 0, windows[0], windows[1]) {
        for (text, kept, more) in verify(1, 2, &block, 0) {
            *chances.entry((text, kept)).or_default() += chance * more;
        }
    }
    chances
}

/// Verdicts on a committed text, every one of them taken both ways: a script says which.
struct Scripted {
    text: Vec<u8>,
    script: RefCell<Vec<bool>>,
    asked: RefCell<(usize, f64)>,
}

impl Scripted {
    fn answer(&self, chance: f64) -> bool {
        let (mut script, mut asked) = (self.script.borrow_mut(), self.asked.borrow_mut());
        if asked.0 == script.len() {
            script.push(true);
        }
        let says = script[asked.0];
        asked.0 += 1;
        asked.1 *= if says { chance } else { 1.0 - chance };
        says
    }
}

impl Law for Scripted {
    type Scene = bool;
    fn on_path(&self, _: &mut Walk<'_>, _: u32) -> bool {
        true
    }
    fn keeps(&self, _: bool, _: &Walk<'_>, position: u32, pair: Pair) -> bool {
        let (prefix, token) = self.text.split_at(position as usize);
        let ln = |model: ModelId| p(model.index(), prefix, token[0]).ln();
        self.answer(chance(ln(pair.drafter), ln(pair.verifier)))
    }
    fn beyond(&self, _: &mut Walk<'_>, _: u32, _: ModelId, _: &mut OffPath<'_>) -> bool {
        false
    }
    fn leaving(&self, _: &Walk<'_>, _: Option<u32>, _: Pair, _: &mut OffPath<'_>) -> bool {
        false
    }
    // Whatever is drawn off the path, what the target keeps is the same.
    fn keeps_off(&self, _: bool, _: &Walk<'_>, _: Pair, _: &mut OffPath<'_>) -> bool {
        self.answer(0.3)
    }
    fn similarity(&self, _: &mut Walk<'_>, _: u32, _: Pair) -> f64 {
        0.0
    }
}

/// The same chances by replay: texts of the target alone, verdicts by the law of the path.
fn replayed(windows: [usize; 2]) -> BTreeMap<(Vec<u8>, usize), f64> {
    let plan = ChainPlan::new(&[0, 1, 2].map(ModelId), &windows.map(|w| w as u32)).unwrap();
    let longest = windows[0] + windows[1] + 1;
    let coins = Coins::new(Luck::new(0));
    let sequence = Sequence { output: 1000, ..Sequence::default() };
    let mut chances = BTreeMap::new();
    for (text, whole) in draft(2, &[], longest) {
        let law = Scripted { text: text.clone(), script: RefCell::default(), asked: RefCell::default() };
        loop {
            *law.asked.borrow_mut() = (0, whole);
            let (mut path, walk) = (Path::default(), Walk::new(&coins, &sequence));
            let mut block = 0;
            while block < windows[1] as u32 {
                let cycle = path.verify(&law, walk, &plan, 1, (0, block, windows[0] as u32));
                block += cycle.emitted;
            }
            let round = path.verify(&law, walk, &plan, 2, (0, 0, block));
            let committed = text[..round.emitted as usize].to_vec();
            *chances.entry((committed, round.accepted as usize)).or_default() += law.asked.borrow().1;
            // The next script: the last answer that was yes becomes no.
            let mut script = law.script.borrow_mut();
            script.truncate(law.asked.borrow().0);
            while script.last() == Some(&false) {
                script.pop();
            }
            match script.last_mut() {
                Some(last) => *last = false,
                None => break,
            }
        }
    }
    chances
}

#[test]
fn replay_has_the_chances_of_the_algorithm_itself() {
    for windows in [[1, 1], [2, 1], [1, 3], [2, 2], [3, 2]] {
        let (truth, replayed) = (truth(windows), replayed(windows));
        assert!((truth.values().sum::<f64>() - 1.0).abs() < 1e-12);
        for (outcome, chance) in truth.iter().filter(|(_, chance)| **chance > 0.0) {
            let other = replayed.get(outcome).copied().unwrap_or_default();
            assert!((chance - other).abs() < 1e-12, "{windows:?}, {outcome:?}: {chance} and {other}");
        }
        assert!((replayed.values().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}

/// algorithms.md, 2.6: the product of overlaps along the target's text is another number.
#[test]
fn the_product_of_overlaps_is_biased_and_replay_is_not() {
    let overlap = |prefix: &[u8]| [0, 1].map(|x| p(0, prefix, x).min(p(2, prefix, x))).iter().sum::<f64>();
    const K: usize = 3;
    let mut truth = 0.0;
    for (drafted, chance) in draft(0, &[], K) {
        let all: f64 = (0..K)
            .map(|j| (p(2, &drafted[..j], drafted[j]) / p(0, &drafted[..j], drafted[j])).min(1.0))
            .product();
        truth += chance * all;
    }
    let (mut replayed, mut product) = (0.0, 0.0);
    for (text, weight) in draft(2, &[], K) {
        let ln = |model, j: usize| p(model, &text[..j], text[j]).ln();
        replayed += weight * (0..K).map(|j| chance(ln(0, j), ln(2, j))).product::<f64>();
        product += weight * (0..K).map(|j| overlap(&text[..j])).product::<f64>();
    }
    assert!((truth - replayed).abs() < 1e-12, "{truth} and {replayed}");
    assert!((truth - product).abs() > 5e-3, "{truth} and {product}");
}

/// Scores of one text of three models that say what is asked for.
fn scored(overlaps: [f32; 3], coin: f32, ln: [Option<f32>; 3], choices: [u32; 3]) -> Vec<TokenRecord> {
    let models = (0..3).map(|m| specrouter_routing::record::Opinion {
        log_probability: ln[m],
        choice: Some(choices[m]),
        ..Default::default()
    });
    let models: Vec<_> = models.collect();
    (0..2000)
        .map(|position| TokenRecord {
            position,
            token: Some(7),
            models: models.clone(),
            overlaps: overlaps.to_vec(),
            coins: vec![coin],
            ..TokenRecord::default()
        })
        .collect()
}

fn share(of: impl Fn(u32) -> bool) -> f64 {
    (0..2000).filter(|&position| of(position)).count() as f64 / 2000.0
}

#[test]
fn chances_on_the_path_and_at_the_first_position_off_it_are_those_of_the_scores() {
    let tokens = scored([0.8, 0.6, 0.8], 0.65, [Some(-1.5), Some(-1.0), None], [3, 3, 7]);
    let source = Recorded::new(3, Decoding::Speculative, &tokens, vec![0]).unwrap();
    let (coins, sequence) = (Coins::new(Luck::new(2)), Sequence::default());
    let walk = Walk::new(&coins, &sequence);
    let pair = |i, k| Pair { drafter: ModelId(i), verifier: ModelId(k), depth: 0 };
    let on_path = share(|position| source.keeps(Scene::OnPath, &walk, position, pair(0, 1)));
    assert!((on_path - (-0.5f64).exp()).abs() < 0.03, "{on_path}");
    assert!(source.keeps(Scene::OnPath, &walk, 0, pair(1, 2)), "more likely than the verifier says");
    // i under j, where j has left k: (0.8 − 0.65) / (1 − 0.8).
    let mut draws = 0;
    let mut off = |position, scene: Scene| {
        draws += 1;
        let mut next = draws;
        let mut off = OffPath { coins: &coins, request: RequestId(0), round: position, next: &mut next };
        source.keeps_off(scene, &walk, pair(0, 1), &mut off)
    };
    let scene = source.leaving(
        &walk,
        Some(5),
        pair(1, 2),
        &mut OffPath { coins: &coins, request: RequestId(0), round: 0, next: &mut 0 },
    );
    let mut kept = [0, 0];
    for position in 0..2000 {
        kept[0] += u32::from(off(position, scene));
        kept[1] += u32::from(off(position, Scene::Away));
    }
    assert!((f64::from(kept[0]) / 2000.0 - 0.75).abs() < 0.03, "{kept:?}");
    assert!((f64::from(kept[1]) / 2000.0 - 0.8).abs() < 0.03, "the request's mean: {kept:?}");

    let source = Recorded::new(3, Decoding::Greedy, &tokens, vec![0]).unwrap();
    assert!(source.keeps(Scene::OnPath, &walk, 9, pair(0, 1)));
    assert!(!source.keeps(Scene::OnPath, &walk, 9, pair(1, 2)));
}

#[test]
fn scores_that_are_none_are_named() {
    let good = || scored([0.5; 3], 0.5, [Some(-1.0); 3], [1; 3]);
    let error = |tokens: Vec<TokenRecord>, of| {
        Recorded::new(3, Decoding::Speculative, &tokens, of).unwrap_err().to_string()
    };
    let mut gap = good();
    gap.remove(4);
    insta::assert_snapshot!(error(gap, vec![0]), @"request 0: expected the scores of output position 4, got 5");
    let mut short = good();
    short[1].overlaps.pop();
    insta::assert_snapshot!(error(short, vec![0]), @"request 0, output position 1: expected overlaps of 3 models, got 2");
    let mut simulated = good();
    simulated[0].token = None;
    insta::assert_snapshot!(error(simulated, vec![0]), @"request 0, output position 0: no token was scored; a simulation's trace has none to replay");
    insta::assert_snapshot!(error(good(), vec![0, 3]), @"request 1: expected the number of a text below 1, got 3");
}
