//! How far each sequence drafts: windows by marginal gain under one shared budget.
//!
//! Rows of a batch share their passes. The j-th draft pass runs if any row wants it and costs the same for all of
//! them, one more verified token costs its share of the target's pass, and a row's j-th token is committed with chance
//! α^j. The batch earns tokens per second: at the rate λ that it earns, a token is worth drafting while α^j pays for
//! its seconds, and a pass while the tokens drafted in it do. λ is what the windows earn (Dinkelbach's iteration).

use crate::policy::maths::expected_tokens;

/// Longest window.
pub(super) const MOST: usize = 16;

/// What passes cost, in seconds.
pub(super) struct Passes<'a> {
    /// Of the drafter, by rows.
    pub draft: &'a mut dyn FnMut(u32) -> f64,
    /// Of the target, by tokens verified, one of each row included.
    pub verify: &'a mut dyn FnMut(u32) -> f64,
}

/// The windows of rows with acceptances `alphas`, each of which stands for `weight` rows of the batch, at most
/// `longest`. Fills `windows`; answers the seconds of a round and the tokens it brings, for the whole batch.
pub(super) fn allot(
    alphas: &[f64],
    weight: f64,
    longest: usize,
    sure: usize,
    start: f64,
    iterate: bool,
    passes: &mut Passes<'_>,
    windows: &mut Vec<u8>,
) -> (f64, f64) {
    let rows = alphas.len() as f64 * weight;
    let alone = (passes.verify)(whole(rows));
    // One more token of each row, at a length between none and all.
    let (low, high) = (rows, rows * (1.0 + (longest as f64 / 2.0).max(1.0)));
    let slope = (((passes.verify)(whole(high)) - alone) / (high - low)).max(0.0);
    let mut drafts = [0.0; MOST];
    let mut rate = start;
    let mut best: Option<(f64, f64, f64)> = None;
    let mut kept: Vec<u8> = Vec::new();
    for _ in 0..if iterate { 4 } else { 1 } {
        windows.clear();
        windows.resize(alphas.len(), 0);
        for depth in 1..=longest.min(MOST) {
            let (mut wanting, mut gain) = (0u32, 0.0);
            let row = ((passes.draft)(whole(rows)) - (passes.draft)(1)).max(0.0) / (rows - 1.0).max(1.0);
            let price = rate * (slope + row);
            let worth = |alpha: f64| libm::pow(alpha, depth as f64);
            let reaches = |window: u8| usize::from(window) + 1 == depth;
            for (&alpha, &window) in alphas.iter().zip(windows.iter()) {
                if reaches(window) && worth(alpha) > price {
                    wanting += 1;
                    gain += worth(alpha);
                }
            }
            let n = f64::from(wanting) * weight;
            let draft = if wanting == 0 { f64::INFINITY } else { (passes.draft)(whole(n)) };
            if wanting == 0 || depth > sure && gain * weight <= rate * (draft + n * slope) {
                break;
            }
            drafts[depth - 1] = draft;
            for (&alpha, window) in alphas.iter().zip(windows.iter_mut()) {
                if reaches(*window) && worth(alpha) > price {
                    *window += 1;
                }
            }
        }
        let deepest = windows.iter().copied().max().unwrap_or(0);
        let drafted: f64 = windows.iter().map(|&w| f64::from(w)).sum();
        let seconds = drafts[..usize::from(deepest)].iter().sum::<f64>()
            + (passes.verify)(whole(weight * (drafted + alphas.len() as f64)));
        let tokens: f64 = weight
            * alphas.iter().zip(windows.iter()).map(|(&a, &w)| expected_tokens(a, u32::from(w))).sum::<f64>();
        let earned = tokens / seconds;
        if best.is_none_or(|(_, _, most)| earned > most) {
            best = Some((seconds, tokens, earned));
            kept.clone_from(windows);
        }
        if (earned - rate).abs() < 1e-4 * rate {
            break;
        }
        rate = earned;
    }
    windows.clone_from(&kept);
    best.map_or((alone, rows), |(seconds, tokens, _)| (seconds, tokens))
}

fn whole(rows: f64) -> u32 {
    (rows + 0.5).max(1.0) as u32
}
