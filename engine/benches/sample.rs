//! What a token costs beside its pass: choosing, warping, noise, verification.
//!
//! `cargo bench -p specrouter-engine --bench sample`, over vocabularies of the shipped family and of Llama 2.

use divan::{Bencher, black_box};
use specrouter_engine::coins::{Drawn, Keyed, Noise};
use specrouter_engine::sampling::{Distribution, Sampling, Warper, argmax};
use specrouter_engine::verify::{Dice, Proposed};
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::{Luck, Stream};

const VOCABULARIES: [usize; 2] = [2048, 32_000];

fn main() {
    divan::main();
}

/// Logits as peaked as a language model's: some tokens stand out.
fn logits(vocabulary: usize, seed: u64) -> Vec<f32> {
    let draws = Luck::new(seed).stream(Stream::Test);
    (0..vocabulary as u64).map(|token| 3.0 * draws.normal(1, token) as f32).collect()
}

fn warped(vocabulary: usize, seed: u64, sampling: &Sampling) -> Distribution {
    let mut p = Distribution::default();
    Warper::default().warp(&logits(vocabulary, seed), sampling, &mut p).expect("finite logits");
    p
}

fn nucleus() -> Sampling {
    Sampling::new(0.8, None, Some(0.9)).expect("in range")
}

#[divan::bench(args = VOCABULARIES)]
fn greedy_choice(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let logits = logits(vocabulary, 1);
    bencher.bench_local(|| argmax(black_box(&logits)));
}

#[divan::bench(args = VOCABULARIES)]
fn warp_with_top_p(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let (logits, sampling) = (logits(vocabulary, 1), nucleus());
    let (mut warper, mut p) = (Warper::default(), Distribution::default());
    bencher.bench_local(|| warper.warp(black_box(&logits), &sampling, &mut p));
}

#[divan::bench(args = VOCABULARIES)]
fn warp_at_a_temperature(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let (logits, sampling) = (logits(vocabulary, 1), Sampling::new(0.8, None, None).expect("in range"));
    let (mut warper, mut p) = (Warper::default(), Distribution::default());
    bencher.bench_local(|| warper.warp(black_box(&logits), &sampling, &mut p));
}

#[divan::bench(args = VOCABULARIES)]
fn coupled_choice(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let (p, noise) = (warped(vocabulary, 1, &nucleus()), Noise::new(Luck::new(2)));
    let mut position = 0;
    bencher.bench_local(|| {
        position += 1;
        noise.choose(7, position, black_box(&p))
    });
}

#[divan::bench(args = VOCABULARIES)]
fn one_verification(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let (p, q) = (warped(vocabulary, 1, &nucleus()), warped(vocabulary, 2, &nucleus()));
    let (mut coins, mut drawn) = (Keyed::new(Luck::new(3)), Drawn::default());
    let (mut residual, mut guarded, mut position) = (Vec::new(), 0, 0);
    let mut proposed = Proposed { token: q.id(0), level: 0, distribution: q };
    bencher.bench_local(|| {
        position += 1;
        let mut dice = Dice::new(&mut coins, &mut drawn, 7, position, ModelId(1));
        proposed.token = proposed.distribution.id(position as usize % proposed.distribution.len());
        dice.speculative(black_box(&proposed), &p, &mut residual, &mut guarded)
    });
}
