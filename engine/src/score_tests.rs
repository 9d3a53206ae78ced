use super::*;
use crate::selfcheck::cells::Decoding;
use crate::selfcheck::exact::alone;
use crate::selfcheck::{Task, nested_pool, random_tasks};
use crate::settings::Dtype;

const EPS: (f32, f32) = (0.3, 0.2);

fn scores(models: &mut [impl LevelModel], verify: Verify, text: Text<'_>) -> Vec<TokenRecord> {
    let mut all = Vec::new();
    let mut scorer = Scorer::new(verify, Luck::new(4));
    scorer
        .score(models, text, |score| {
            assert_eq!(score.position as usize, all.len(), "positions come in order");
            all.push(score.clone());
        })
        .unwrap();
    all
}

/// 150 positions, so that passes of 64 have edges.
#[test]
fn the_targets_choice_is_the_text_where_tokens_must_agree() {
    let task = Task { limit: 150, stop: Vec::new(), ..random_tasks(256, 1, 2)[0].clone() };
    let warm = Sampling::new(0.9, None, Some(0.95)).unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut models = nested_pool(6, EPS, dtype, 4096).unwrap();
        for (decoding, verify) in
            [(Decoding::Greedy, Verify::Speculative), (Decoding::Coupled(warm), Verify::Coupled)]
        {
            let output = alone(&mut models[2], &task, decoding, Luck::new(4)).unwrap();
            let (sampling, seed) = (decoding.sampling(), task.seed);
            let text = Text { request: RequestId(9), prompt: &task.tokens, output: &output, sampling, seed };
            let all = scores(&mut models, verify, text);
            assert_eq!(all.len(), 150);
            for (score, &token) in all.iter().zip(&output) {
                assert_eq!((score.token, score.models[2].choice), (Some(token), Some(token)));
                assert!(score.models[2].log_probability.is_some());
                let kept = score.models[0].choice == Some(token);
                assert_eq!(score.overlaps[1] > 0.5, kept, "pair 0, 2");
            }
            let agreed = all.iter().filter(|s| s.overlaps[1] > 0.5).count();
            assert!((15..135).contains(&agreed), "agreement {agreed} of 150");
            assert!(models.iter().all(|model| model.cached(SLOT) == 0), "caches are left empty");
        }
    }
}

#[test]
fn opinions_are_those_of_the_warped_and_the_unwarped_distribution() {
    let mut models = nested_pool(6, EPS, Dtype::F32, 4096).unwrap();
    let task = &random_tasks(256, 1, 3)[0];
    let sampling = Sampling::new(0.8, Some(40), None).unwrap();
    let output = [3, 200, 17];
    let text = Text { request: RequestId(9), prompt: &task.tokens, output: &output, sampling, seed: 0 };
    let all = scores(&mut models, Verify::Speculative, text);
    let (mut logits, mut packed) = (Vec::new(), Packed::default());
    for (index, model) in models.iter_mut().enumerate() {
        let whole: Vec<u32> = [&task.tokens[..], &output[..2]].concat();
        pack(&mut packed, 0, &whole, true);
        model.forward(&packed, &mut logits).unwrap();
        model.truncate(SLOT, 0);
        for (row, logits) in logits.chunks(256).skip(task.tokens.len() - 1).enumerate() {
            let opinion = all[row].models[index];
            let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let p: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp() / total).collect();
            let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
            assert!((f64::from(opinion.entropy) - entropy).abs() < 1e-4);
            let top = p.iter().copied().fold(0.0, f64::max);
            assert!((f64::from(opinion.top_probability) - top).abs() < 1e-5);
            let mut kept: Vec<(f64, usize)> = p.iter().copied().enumerate().map(|(i, p)| (p, i)).collect();
            kept.sort_by(|a, b| b.0.total_cmp(&a.0));
            kept.truncate(40);
            let mass: f64 = kept.iter().map(|(p, _)| p.powf(1.0 / 0.8)).sum();
            let expected = kept.iter().find(|(_, i)| *i == output[row] as usize);
            let expected = expected.map(|(p, _)| (p.powf(1.0 / 0.8) / mass).ln());
            match (expected, opinion.log_probability) {
                (Some(a), Some(b)) => assert!((a - f64::from(b)).abs() < 1e-4, "{a} and {b}"),
                (a, b) => assert_eq!(a.is_none(), b.is_none(), "{a:?} and {b:?}"),
            }
        }
    }
}

/// The chance that a token of the middle model, drawn from its own distribution, was the low one's and is kept
/// by the high one, summed over tokens.
#[test]
fn coins_and_overlaps_are_sums_over_tokens() {
    let (low, middle, high) = ([0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.6, 0.25, 0.15]);
    let dense = |p: [f64; 3]| Distribution::dense(&p.map(|p| p as f32));
    let expected: f64 =
        (0..3).map(|x| f64::min(low[x], middle[x]) * f64::min(middle[x], high[x]) / middle[x]).sum();
    assert!((coin(&dense(low), &dense(middle), &dense(high)) - expected).abs() < 1e-6);
    // α12 = α23 = 0.8 in algorithms.md, 2.3.
    assert!((dense(low).overlap(&dense(middle)) - 0.8).abs() < 1e-6);
}
