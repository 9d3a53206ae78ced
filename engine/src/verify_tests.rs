use std::convert::Infallible;

use super::*;
use crate::coins::Keyed;
use specrouter_routing::luck::Luck;

fn proposed(token: u32, weights: &[f32]) -> Proposed {
    Proposed { token, level: 0, distribution: Distribution::dense(weights) }
}

/// Verifies with a verifier whose own tokens are `own`.
fn agree(block: &[u32], own: &[u32], stop: &[u32]) -> (Verdict, Vec<(u32, u8)>) {
    let block: Vec<_> = block.iter().map(|&t| proposed(t, &[])).collect();
    let mut emitted = Vec::new();
    let settle = |index: usize, proposed: Option<&Proposed>| {
        let kept = proposed.is_some_and(|p| p.token == own[index]);
        let similarity = f64::from(u8::from(kept));
        Ok::<_, Infallible>(Settled {
            token: own[index],
            kept,
            similarity,
            distribution: Distribution::default(),
        })
    };
    let verdict = verify(&block, 2, stop, settle, &mut emitted).unwrap();
    (verdict, emitted.iter().map(|p| (p.token, p.level)).collect())
}

#[test]
fn a_block_is_kept_up_to_the_first_disagreement_and_corrected_there() {
    let (verdict, emitted) = agree(&[5, 6, 7], &[5, 9, 7, 8], &[]);
    assert_eq!(emitted, [(5, 0), (9, 2)], "the correction is the verifier's own");
    assert_eq!(verdict, Verdict { accepted: 1, emitted: 2, ended: false, examined: 2, similarity: 1.0 });
}

#[test]
fn a_whole_block_is_followed_by_a_bonus() {
    let (verdict, emitted) = agree(&[5, 6], &[5, 6, 8], &[]);
    assert_eq!(emitted, [(5, 0), (6, 0), (8, 2)]);
    assert_eq!(verdict, Verdict { accepted: 2, emitted: 3, ended: false, examined: 2, similarity: 2.0 });
    let (plain, emitted) = agree(&[], &[4], &[]);
    assert_eq!((plain.accepted, plain.emitted, plain.examined, emitted), (0, 1, 0, vec![(4, 2)]));
}

#[test]
fn a_stop_token_ends_a_block_wherever_it_comes_from() {
    let kept = agree(&[5, 6, 7], &[5, 6, 7, 8], &[6]).0;
    assert_eq!((kept.accepted, kept.emitted, kept.ended), (2, 2, true), "no bonus after a stop");
    let corrected = agree(&[5, 6, 7], &[5, 9, 7, 8], &[9]).0;
    assert_eq!((corrected.accepted, corrected.emitted, corrected.ended), (1, 2, true));
    let bonus = agree(&[5], &[5, 6], &[6]).0;
    assert_eq!((bonus.accepted, bonus.emitted, bonus.ended), (1, 2, true));
}

#[test]
fn a_failing_verifier_is_heard() {
    let settle = |_: usize, _: Option<&Proposed>| Err::<Settled, _>("broken");
    assert_eq!(verify(&[], 0, &[], settle, &mut Vec::new()), Err("broken"));
}

/// Tokens of two models at many positions, and what the second made of the first's.
fn settled(q: &[f32], p: &[f32], positions: u32) -> (Vec<f64>, f64) {
    let (mut coins, mut drawn) = (Keyed::new(Luck::new(1)), Drawn::default());
    let (q, p) = (Distribution::dense(q), Distribution::dense(p));
    let (mut counts, mut kept_count) = (vec![0.0; p.len()], 0.0);
    let (mut residual, mut guarded) = (Vec::new(), 0);
    for position in 0..positions {
        let token = Dice::new(&mut coins, &mut drawn, 1, position, ModelId(0)).sample(&q);
        let draft = Proposed { token, level: 0, distribution: q.clone() };
        let mut dice = Dice::new(&mut coins, &mut drawn, 1, position, ModelId(1));
        let (token, kept) = dice.speculative(&draft, &p, &mut residual, &mut guarded);
        counts[token as usize] += 1.0 / f64::from(positions);
        kept_count += f64::from(u8::from(kept)) / f64::from(positions);
        drawn.settle(position);
    }
    assert_eq!(guarded, 0);
    (counts, kept_count)
}

#[test]
fn what_is_kept_or_corrected_is_distributed_as_the_verifier() {
    let (counts, kept) = settled(&[0.2, 0.5, 0.3, 0.0], &[0.4, 0.1, 0.3, 0.2], 100_000);
    let near = |got: f64, want: f64| (got - want).abs() < 0.007;
    assert!(counts.iter().zip([0.4, 0.1, 0.3, 0.2]).all(|(&got, want)| near(got, want)), "{counts:?}");
    assert!(near(kept, 0.6), "kept as often as the distributions overlap: {kept}");
    assert!(near(settled(&[1.0, 0.0], &[0.0, 1.0], 100).1, 0.0));
    assert!(near(settled(&[0.3, 0.7], &[0.3, 0.7], 100).1, 1.0));
}

/// Rejects whatever it may.
struct Contrary;

impl Coins for Contrary {
    fn categorical<W: Iterator<Item = f64> + Clone>(&mut self, _: Key, mut weights: W, _: f64) -> usize {
        weights.position(|w| w > 0.0).unwrap()
    }
    fn accept(&mut self, _: Key, _: f64) -> bool {
        false
    }
}

#[test]
fn a_residual_lost_to_rounding_is_drawn_from_p_and_counted() {
    let p = Distribution::dense(&[1.0, 1.0]);
    let draft = Proposed { token: 0, level: 0, distribution: p.clone() };
    let (mut drawn, mut residual, mut guarded) = (Drawn::default(), Vec::new(), 0);
    let mut coins = Contrary;
    let mut dice = Dice::new(&mut coins, &mut drawn, 0, 0, ModelId(1));
    assert_eq!(
        dice.speculative(&draft, &p, &mut residual, &mut guarded),
        (0, true),
        "equal: no coin can reject"
    );
    // Rounding at its worst: q is above p everywhere.
    let draft = Proposed { token: 0, level: 0, distribution: Distribution::claiming(&[3.0, 3.0]) };
    let mut dice = Dice::new(&mut coins, &mut drawn, 0, 1, ModelId(1));
    assert_eq!(dice.speculative(&draft, &p, &mut residual, &mut guarded), (0, false));
    assert_eq!(guarded, 1);
}
