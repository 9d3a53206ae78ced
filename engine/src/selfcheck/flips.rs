//! How often a device that is not exact chooses another token than the processor, and how close the choice was.

use specrouter_routing::ids::Slot;

use super::CheckError;
use crate::level::{LevelModel, Packed, PackedRow};
use crate::sampling::argmax;

/// Greedy choices of two decoders of the same weights, over the same texts.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Flips {
    /// Positions compared.
    pub positions: u64,
    /// Of those, positions at which the likeliest token is another.
    pub flips: u64,
    /// Texts.
    pub texts: u64,
    /// Of those, texts with a flip.
    pub differing: u64,
    /// At the first flip of each text: by how much the exact decoder prefers its token, in logits. Ascending.
    pub margins: Vec<f32>,
    /// Half of all positions have a margin above this.
    pub median_margin: f32,
    /// Greatest difference of any two logits.
    pub most_apart: f32,
}

impl Flips {
    /// Flips per position.
    pub fn rate(&self) -> f64 {
        self.flips as f64 / (self.positions as f64).max(1.0)
    }
}

/// Runs every text through both decoders, teacher-forced, and compares what is likeliest behind each token.
///
/// - `exact`: the processor's decoder; how a text is cut into passes makes no difference to it.
/// - `other`: runs `width` tokens a pass: 1 as in plain decoding, γ + 1 as in verification.
///
/// Both have empty caches before and after.
///
/// # Errors
/// [`CheckError`], when a pass fails.
pub fn flips(
    exact: &mut dyn LevelModel,
    other: &mut dyn LevelModel,
    texts: &[Vec<u32>],
    width: usize,
) -> Result<Flips, CheckError> {
    let (mut found, mut all_margins) = (Flips::default(), Vec::new());
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (mine, theirs) = (logits(exact, text, text.len())?, logits(other, text, width.max(1))?);
        let vocabulary = exact.vocabulary();
        let mut first = None;
        for (mine, theirs) in mine.chunks_exact(vocabulary).zip(theirs.chunks_exact(vocabulary)) {
            let (choice, margin) = (argmax(mine)?, margin(mine));
            all_margins.push(margin);
            found.positions += 1;
            if argmax(theirs)? != choice {
                found.flips += 1;
                first.get_or_insert(margin);
            }
            let apart = mine.iter().zip(theirs).filter(|(a, b)| a.is_finite() && b.is_finite());
            found.most_apart = apart.map(|(a, b)| (a - b).abs()).fold(found.most_apart, f32::max);
        }
        found.texts += 1;
        found.differing += u64::from(first.is_some());
        found.margins.extend(first);
    }
    found.margins.sort_by(f32::total_cmp);
    all_margins.sort_by(f32::total_cmp);
    found.median_margin = all_margins.get(all_margins.len() / 2).copied().unwrap_or(0.0);
    Ok(found)
}

/// `[text, V]` logits, `width` tokens a pass.
fn logits(model: &mut dyn LevelModel, text: &[u32], width: usize) -> Result<Vec<f32>, CheckError> {
    let (mut all, mut some) = (Vec::new(), Vec::new());
    let mut context = 0;
    for tokens in text.chunks(width) {
        let count = tokens.len() as u32;
        let rows = vec![PackedRow { slot: Slot(0), context, tokens: count }];
        let packed = Packed { tokens: tokens.to_vec(), rows, want: (0..count).collect() };
        model.forward(&packed, &mut some)?;
        all.extend_from_slice(&some);
        context += count;
    }
    model.truncate(Slot(0), 0);
    Ok(all)
}

/// The likeliest token's logit less the second's.
fn margin(logits: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > best {
            (best, second) = (logit, best);
        } else if logit > second {
            second = logit;
        }
    }
    best - second
}
