//! Shadow scoring: what every model of a pool says of texts that were committed.
//!
//! The committed text is distributed as the target's whatever the policy was, so one look of every model
//! at it is enough to replay any other policy. Every model runs each text once, by
//! the same row-invariant kernels that served it, after the run and outside its time.

use specrouter_routing::ids::{RequestId, Slot};
use specrouter_routing::luck::Luck;
use specrouter_routing::record::{Opinion, TokenRecord, pairs, triples};

use crate::coins::Noise;
use crate::level::{ForwardError, LevelModel, Packed, PackedRow};
use crate::sampling::{Distribution, NoToken, Sampling, Warper, argmax};
use crate::verify::Verify;

/// The slot that scoring uses; it must be free.
const SLOT: Slot = Slot(0);
/// Prompt tokens of a pass.
const PROMPT: usize = 256;
/// Most logits that are held at once, over all models: 128 MB.
const LOGITS: usize = 1 << 25;
/// Most positions of a pass.
const POSITIONS: usize = 64;

/// A committed text.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Whose.
    pub request: RequestId,
    /// Token ids of the prompt, at least one.
    pub prompt: &'a [u32],
    /// Token ids of the output.
    pub output: &'a [u32],
    /// How it was sampled.
    pub sampling: Sampling,
    /// The request's seed.
    pub seed: u64,
}

/// Why a text could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// A forward failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A model has no token to say.
    #[error("{model}: output position {position}: {source}")]
    NoToken {
        /// The model.
        model: String,
        /// Where.
        position: usize,
        /// What.
        source: NoToken,
    },
    /// A text without a prompt: the recorder's bug.
    #[error("a text to score has a prompt of at least one token, got none")]
    NoPrompt,
}

/// Scores texts under a run's luck.
pub struct Scorer {
    verify: Verify,
    noise: Noise,
    warper: Warper,
    packed: Packed,
    logits: Vec<Vec<f32>>,
    warped: Vec<Distribution>,
    score: TokenRecord,
}

impl Scorer {
    /// A scorer of a run that verified in this way with this luck.
    pub fn new(verify: Verify, luck: Luck) -> Self {
        Self {
            verify,
            noise: Noise::new(luck),
            warper: Warper::default(),
            packed: Packed::default(),
            logits: Vec::new(),
            warped: Vec::new(),
            score: TokenRecord::default(),
        }
    }

    /// Shows `text` to every model, cheapest first, and hands `visit` each output position's score in order.
    /// The models' caches are empty afterwards.
    ///
    /// # Errors
    /// [`ScoreError`]; positions before the fault have been visited.
    pub fn score<M: LevelModel>(
        &mut self,
        models: &mut [M],
        text: Text<'_>,
        mut visit: impl FnMut(&TokenRecord),
    ) -> Result<(), ScoreError> {
        let done = self.walk(models, text, &mut visit);
        models.iter_mut().for_each(|model| model.truncate(SLOT, 0));
        done
    }

    fn walk<M: LevelModel>(
        &mut self,
        models: &mut [M],
        text: Text<'_>,
        visit: &mut impl FnMut(&TokenRecord),
    ) -> Result<(), ScoreError> {
        let Some((pending, before)) = text.prompt.split_last() else { return Err(ScoreError::NoPrompt) };
        let mut context = 0;
        for tokens in before.chunks(PROMPT) {
            for model in models.iter_mut() {
                pack(&mut self.packed, context, tokens, false);
                model.forward(&self.packed, &mut Vec::new())?;
            }
            context += tokens.len();
        }
        // The model that reads inputs[i] answers for output position i.
        let inputs: Vec<u32> = std::iter::once(pending).chain(text.output).copied().collect();
        let inputs = &inputs[..text.output.len()];
        let width: usize = models.iter().map(LevelModel::vocabulary).sum();
        let step = (LOGITS / width.max(1)).clamp(1, POSITIONS);
        self.logits.resize_with(models.len(), Vec::new);
        self.warped.resize_with(models.len(), Distribution::default);
        for (index, tokens) in inputs.chunks(step).enumerate() {
            let first = index * step;
            for (model, logits) in models.iter_mut().zip(&mut self.logits) {
                pack(&mut self.packed, context + first, tokens, true);
                model.forward(&self.packed, logits)?;
            }
            for row in 0..tokens.len() {
                self.position(models, text, first + row, row)?;
                visit(&self.score);
            }
        }
        Ok(())
    }

    /// Fills the score of output position `position`, whose logits are every model's row `row`.
    fn position<M: LevelModel>(
        &mut self,
        models: &[M],
        text: Text<'_>,
        position: usize,
        row: usize,
    ) -> Result<(), ScoreError> {
        self.score.request = text.request;
        self.score.position = position as u32;
        self.score.token = Some(text.output[position]);
        self.score.models.clear();
        for (index, model) in models.iter().enumerate() {
            let vocabulary = model.vocabulary();
            let logits = &self.logits[index][row * vocabulary..][..vocabulary];
            let failed = |source| ScoreError::NoToken { model: model.name().to_owned(), position, source };
            let opinion = opinion(
                &mut self.warper,
                &mut self.warped[index],
                (self.verify == Verify::Coupled).then_some(&self.noise),
                (text, position),
                logits,
            );
            self.score.models.push(opinion.map_err(failed)?);
        }
        let agree = self.verify == Verify::Coupled || text.sampling.is_greedy();
        let (count, choice) = (models.len(), |model: usize| self.score.models[model].choice);
        let same = |a: usize, b: usize| if choice(a) == choice(b) { 1.0 } else { 0.0 };
        let p = |model: usize| &self.warped[model];
        self.score.overlaps.clear();
        self.score.overlaps.extend(pairs(count).map(|(i, j)| match agree {
            true => same(i, j),
            false => p(i).overlap(p(j)) as f32,
        }));
        self.score.coins.clear();
        self.score.coins.extend(triples(count).map(|(i, j, k)| match agree {
            true => same(i, j) * same(j, k),
            false => coin(p(i), p(j), p(k)) as f32,
        }));
        Ok(())
    }
}

fn pack(packed: &mut Packed, context: usize, tokens: &[u32], want: bool) {
    packed.clear();
    packed.tokens.extend_from_slice(tokens);
    packed.rows.push(PackedRow { slot: SLOT, context: context as u32, tokens: tokens.len() as u32 });
    if want {
        packed.want.extend(0..tokens.len() as u32);
    }
}

/// One model's opinion of a position; `warped` takes its distribution.
fn opinion(
    warper: &mut Warper,
    warped: &mut Distribution,
    noise: Option<&Noise>,
    (text, position): (Text<'_>, usize),
    logits: &[f32],
) -> Result<Opinion, NoToken> {
    let confidence = warper.confidence(logits)?;
    warper.warp(logits, &text.sampling, warped)?;
    let choice = match noise {
        Some(noise) if !text.sampling.is_greedy() => noise.choose(text.seed, position as u32, warped),
        _ => argmax(logits)?,
    };
    let probability = warped.probability(text.output[position]);
    Ok(Opinion {
        log_probability: (probability > 0.0).then(|| probability.ln() as f32),
        choice: Some(choice),
        top_probability: confidence.top,
        entropy: confidence.entropy,
    })
}

/// Σ min(p_i, p_j) min(p_j, p_k) / p_j over the support of p_j.
fn coin(low: &Distribution, middle: &Distribution, high: &Distribution) -> f64 {
    let both = |(token, p): (u32, f64)| {
        if p > 0.0 { low.probability(token).min(p) * high.probability(token).min(p) / p } else { 0.0 }
    };
    middle.iter().map(both).sum()
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
