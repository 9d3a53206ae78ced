//! Texts and blocks made from a law that is known: what the tests fit.

use specrouter_routing::luck::{Draws, Luck, Stream};
use specrouter_routing::record::{pair_index, pairs};

use super::evidence::{Block, Evidence, Placed, Text};

/// How acceptance is made: α = mean + request's own + regime's + noise, kept in `[0, 1]`. The last three move a pair in
/// proportion to its rejection; they are stated for the mean over the drafts.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// Acceptance of the first draft by the target; each next draft's is 0.1 above.
    pub mean: f64,
    /// Deviation between requests, a uniform law.
    pub request_spread: f64,
    /// Two regimes: half their distance.
    pub regime_spread: f64,
    /// Mean run of a regime.
    pub stay: f64,
    /// Deviation from token to token.
    pub noise: f64,
}

/// One α, everywhere.
pub const FLAT: Law = Law { mean: 0.7, request_spread: 0.0, regime_spread: 0.0, stay: 20.0, noise: 0.0 };

/// Tokens of a request's text: half are short, a few are long.
fn length(draws: &Draws, request: u64) -> usize {
    (40.0 * (0.8 * draws.normal(request, 1 << 40)).exp()).clamp(2.0, 600.0) as usize
}

/// `requests` scored texts of a pool of `models`, with texts as long as `tokens` says (by default log-normal
/// about 40), and the blocks of `window` tokens that the first draft would put before the target.
pub fn evidence(
    law: Law,
    models: usize,
    requests: u64,
    tokens: Option<usize>,
    window: u32,
    seed: u64,
) -> Evidence {
    let draws = Luck::new(seed).stream(Stream::Test);
    let names = (0..models).map(|m| format!("m{m}")).collect();
    let mut evidence = Evidence::new(names, vec!["all".to_owned()]);
    let mean = |i: usize, k: usize| law.mean + 0.1 * (i as f64) - 0.05 * (models - 1 - k) as f64;
    let drafts = models.max(2) - 1;
    let rejected = (0..drafts).map(|i| 1.0 - mean(i, models - 1)).sum::<f64>() / drafts as f64;
    for request in 0..requests {
        let count = tokens.unwrap_or_else(|| length(&draws, request));
        let own = law.request_spread * 12f64.sqrt() * (draws.uniform(request, 1 << 41) - 0.5);
        let mut high = draws.uniform(request, 1 << 42) < 0.5;
        let mut text = Text {
            cluster: (0, request),
            class: 0,
            overlaps: vec![Vec::with_capacity(count); pairs(models).count()],
            top_probability: vec![Vec::with_capacity(count); models],
            entropy: vec![Vec::with_capacity(count); models],
        };
        for position in 0..count as u64 {
            if position > 0 && draws.uniform(request, 1 << 43 | position) < 1.0 / law.stay {
                high = !high;
            }
            let regime = if high { law.regime_spread } else { -law.regime_spread };
            let noise = law.noise * draws.normal(request, 1 << 44 | position);
            let moved = own + regime + noise;
            for (pair, (i, k)) in pairs(models).enumerate() {
                let alpha = mean(i, k) + moved * (1.0 - mean(i, k)) / rejected;
                text.overlaps[pair].push(alpha.clamp(0.0, 1.0) as f32);
            }
            for model in 0..models {
                let top =
                    law.mean + moved + 0.2 * draws.normal(request, (45 + model as u64) << 40 | position);
                text.top_probability[model].push(top as f32);
                text.entropy[model].push(-top as f32);
            }
        }
        if models > 1 {
            add_rounds(&mut evidence, &text, (0, models - 1), window, &draws);
        }
        evidence.texts.push(text);
    }
    evidence
}

/// Rounds over a text, each of `window` tokens of the drafter, kept by coins of the overlaps.
fn add_rounds(evidence: &mut Evidence, text: &Text, pair: (usize, usize), window: u32, draws: &Draws) {
    let (drafter, verifier) = pair;
    let index = pair_index(evidence.pool.len(), drafter, verifier);
    let overlaps = &text.overlaps[index];
    let mut position = 1; // The prefill emits the first.
    while position < overlaps.len() {
        let drafted = window.min((overlaps.len() - position) as u32);
        let kept = |depth: &u32| {
            let at = position + *depth as usize;
            draws.uniform(text.cluster.1, 1 << 50 | at as u64) < f64::from(overlaps[at])
        };
        let accepted = (0..drafted).take_while(kept).count() as u32;
        evidence.blocks.push(Block {
            cluster: Some(text.cluster),
            class: text.class,
            drafter,
            verifier,
            drafted,
            accepted,
            rejected: accepted < drafted,
        });
        let text = evidence.texts.len();
        evidence.placed.push(Placed { text, position: position as u32, pair: index, drafted, accepted });
        position += accepted as usize + 1;
    }
}
