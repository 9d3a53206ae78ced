//! Recorded texts: what every model said of each committed token decides what any chain would have kept of it.
//!
//! The committed text is distributed as the target's whatever the policy was. Given the text, a token at a position that
//! model i proposed and k checked was kept with min(1, p_i / p_k) of that token, independently across positions; where
//! choices must agree, it was kept if they do. On the path this is exact for any chain, windows and switching (design.md,
//! section 8). Off it, the first position is exact for the level below the one that left (the coins of the trace), and
//! what follows is drawn from the request's mean overlaps: modelled, and counted as such.

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::{ModelId, RequestId};
use specrouter_routing::record::{Decoding, TokenRecord, pair_index, pairs, triples};

use super::law::{Law, OffPath, Pair, Walk};
use super::signals::Signal;

/// Scored texts, in columns. Requests refer to them; no text is copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    models: usize,
    agreement: bool,
    /// By position and model; −∞ where a probability is 0.
    log_probabilities: Vec<f32>,
    choices: Vec<u32>,
    signals: Vec<Signal>,
    /// By position and pair.
    overlaps: Vec<f32>,
    /// By position and triple; empty where nothing real was scored.
    coins: Vec<f32>,
    texts: Vec<Text>,
    /// The text of each request, by its id.
    of: Vec<u32>,
    /// Place of the triple i < j < k among a position's coins.
    triple: Box<[[[u8; MAX_MODELS]; MAX_MODELS]; MAX_MODELS]>,
}

/// Where a text's positions are, and its mean overlaps by pair.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    start: usize,
    len: u32,
    means: Vec<f32>,
}

/// Scores that cannot be replayed. The trace is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordedError {
    /// A position is missing, or stands in no order.
    #[error("request {request}: expected the scores of output position {expected}, got {got}")]
    Position {
        /// Whose.
        request: RequestId,
        /// The position that should stand here.
        expected: u32,
        /// The one that does.
        got: u32,
    },
    /// A position is scored by other models.
    #[error("request {request}, output position {position}: expected {what} of {models} models, got {got}")]
    Lists {
        /// Whose.
        request: RequestId,
        /// Where.
        position: u32,
        /// What is listed.
        what: &'static str,
        /// Models of the pool.
        models: usize,
        /// What came.
        got: usize,
    },
    /// A position has no token: a simulation wrote it.
    #[error(
        "request {request}, output position {position}: no token was scored; a simulation's trace has none to replay"
    )]
    NoToken {
        /// Whose.
        request: RequestId,
        /// Where.
        position: u32,
    },
    /// A request that no text stands for.
    #[error("request {request}: expected the number of a text below {texts}, got {got}")]
    NoText {
        /// Whose.
        request: usize,
        /// Texts.
        texts: usize,
        /// What came.
        got: u32,
    },
}

/// What is known of a position.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scene {
    /// The text before it is the committed one.
    OnPath,
    /// So it is, and `drafter` has just left the text of `verifier` there.
    Left {
        /// Its row among the positions.
        row: usize,
        /// Who left.
        drafter: ModelId,
        /// Whom.
        verifier: ModelId,
    },
    /// The text before it is nobody's but the level's own.
    Away,
}

impl Recorded {
    /// Texts of a pool of `models` models from `tokens`, the positions of each text in a row and from the first on.
    /// Request `n` has text `of[n]`, texts counted as they come; past the last request the first one's comes again.
    ///
    /// # Errors
    /// [`RecordedError`], naming the request and the position.
    pub fn new<'a>(
        models: usize,
        decoding: Decoding,
        tokens: impl IntoIterator<Item = &'a TokenRecord>,
        of: Vec<u32>,
    ) -> Result<Self, RecordedError> {
        let mut triple = Box::new([[[0; MAX_MODELS]; MAX_MODELS]; MAX_MODELS]);
        for (place, (i, j, k)) in triples(models).enumerate() {
            triple[i][j][k] = place as u8;
        }
        let mut all = Self {
            models,
            agreement: decoding.by_agreement(),
            log_probabilities: Vec::new(),
            choices: Vec::new(),
            signals: Vec::new(),
            overlaps: Vec::new(),
            coins: Vec::new(),
            texts: Vec::new(),
            of,
            triple,
        };
        let mut request = None;
        for token in tokens {
            if request != Some(token.request) {
                request = Some(token.request);
                let start = all.signals.len() / models.max(1);
                all.texts.push(Text { start, len: 0, means: vec![0.0; pairs(models).count()] });
            }
            all.add(token)?;
        }
        for text in &mut all.texts {
            text.means.iter_mut().for_each(|mean| *mean /= text.len.max(1) as f32);
        }
        match all.of.iter().position(|&text| text as usize >= all.texts.len()) {
            Some(request) => {
                Err(RecordedError::NoText { request, texts: all.texts.len(), got: all.of[request] })
            }
            None => Ok(all),
        }
    }

    /// Adds a position of the newest text.
    fn add(&mut self, token: &TokenRecord) -> Result<(), RecordedError> {
        let Some(text) = self.texts.last_mut() else { return Ok(()) };
        let (request, position) = (token.request, token.position);
        if position != text.len {
            return Err(RecordedError::Position { request, expected: text.len, got: position });
        }
        let listed = |what, expected: usize, got: usize| match expected == got {
            true => Ok(()),
            false => Err(RecordedError::Lists { request, position, what, models: self.models, got }),
        };
        if token.token.is_none() || token.models.iter().any(|model| model.choice.is_none()) {
            return Err(RecordedError::NoToken { request, position });
        }
        listed("opinions", self.models, token.models.len())?;
        listed("overlaps", text.means.len(), token.overlaps.len())?;
        listed("coins", triples(self.models).count(), token.coins.len())?;
        text.len += 1;
        text.means.iter_mut().zip(&token.overlaps).for_each(|(sum, overlap)| *sum += overlap);
        for model in &token.models {
            self.log_probabilities.push(model.log_probability.unwrap_or(f32::NEG_INFINITY));
            self.choices.push(model.choice.unwrap_or_default());
            self.signals.push(Signal { top_probability: model.top_probability, entropy: model.entropy });
        }
        self.overlaps.extend_from_slice(&token.overlaps);
        self.coins.extend_from_slice(&token.coins);
        Ok(())
    }

    /// Tokens of a text, by its number.
    pub fn length(&self, text: u32) -> Option<u32> {
        self.texts.get(text as usize).map(|text| text.len)
    }

    fn text(&self, request: RequestId) -> &Text {
        &self.texts[self.of[request.0 as usize % self.of.len()] as usize]
    }

    /// The row of an output position; past the text's end, its last.
    #[inline]
    fn row(&self, request: RequestId, position: u32) -> usize {
        let text = self.text(request);
        text.start + position.min(text.len.saturating_sub(1)) as usize
    }

    fn pair(&self, pair: Pair) -> usize {
        pair_index(self.models, pair.drafter.index(), pair.verifier.index())
    }

    /// Mean overlap of a pair over all texts' positions.
    pub(crate) fn mean(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        let pair = pair_index(self.models, drafter.index(), verifier.index());
        let sum = |of: fn(&Text, usize) -> f64| self.texts.iter().map(|text| of(text, pair)).sum::<f64>();
        let positions = sum(|text, _| f64::from(text.len));
        sum(|text, pair| f64::from(text.means[pair]) * f64::from(text.len)) / positions.max(1.0)
    }

    /// What the drafter's distribution looked like, had the text before it been the committed one.
    pub(crate) fn signal(&self, request: RequestId, position: u32, drafter: ModelId) -> Signal {
        self.signals[self.row(request, position) * self.models + drafter.index()]
    }

    /// Do both choose the same token.
    #[inline]
    fn agree(&self, row: usize, pair: Pair) -> bool {
        let choices = &self.choices[row * self.models..][..self.models];
        choices[pair.drafter.index()] == choices[pair.verifier.index()]
    }

    /// Chance that i's token is kept by j where j has just left k: (o_ij − c_ijk) / (1 − o_jk).
    fn first_off(&self, row: usize, i: ModelId, j: ModelId, k: ModelId) -> f64 {
        let overlap = |a: ModelId, b: ModelId| {
            f64::from(self.overlaps[row * self.pair_count() + pair_index(self.models, a.index(), b.index())])
        };
        let place = usize::from(self.triple[i.index()][j.index()][k.index()]);
        let coin = f64::from(self.coins[row * triples(self.models).count() + place]);
        let left = 1.0 - overlap(j, k);
        if left > 0.0 { ((overlap(i, j) - coin) / left).clamp(0.0, 1.0) } else { overlap(i, j) }
    }

    fn pair_count(&self) -> usize {
        self.models * self.models.saturating_sub(1) / 2
    }
}

/// min(1, q / p) of a committed token, from the logarithms of both: the chance that the drafter's token was that one and
/// was kept, given that it is what the verifier's level came to.
fn chance(drafter: f64, verifier: f64) -> f64 {
    if drafter >= verifier { 1.0 } else { libm::exp(drafter - verifier) }
}

impl Law for Recorded {
    type Scene = Scene;

    #[inline]
    fn on_path(&self, _: &mut Walk<'_>, _: u32) -> Scene {
        Scene::OnPath
    }

    #[inline]
    fn keeps(&self, _: Scene, walk: &Walk<'_>, position: u32, pair: Pair) -> bool {
        let request = walk.sequence.request;
        let row = self.row(request, position);
        if self.agreement {
            return self.agree(row, pair);
        }
        let p = &self.log_probabilities[row * self.models..][..self.models];
        let (low, high) = (p[pair.drafter.index()], p[pair.verifier.index()]);
        // The verifier stands on this token, so its own probability is not 0.
        walk.coins.on_path(request, position, pair.verifier.0) < chance(f64::from(low), f64::from(high))
    }

    #[inline]
    fn beyond(&self, _: &mut Walk<'_>, _: u32, _: ModelId, _: &mut OffPath<'_>) -> Scene {
        Scene::Away
    }

    fn leaving(&self, walk: &Walk<'_>, at: Option<u32>, pair: Pair, _: &mut OffPath<'_>) -> Scene {
        match at {
            Some(position) => Scene::Left {
                row: self.row(walk.sequence.request, position),
                drafter: pair.drafter,
                verifier: pair.verifier,
            },
            None => Scene::Away,
        }
    }

    fn keeps_off(&self, scene: Scene, walk: &Walk<'_>, pair: Pair, off: &mut OffPath<'_>) -> bool {
        match scene {
            Scene::Left { row, .. } if self.agreement => self.agree(row, pair),
            Scene::Left { row, drafter, verifier } if pair.verifier == drafter => {
                off.uniform() < self.first_off(row, pair.drafter, drafter, verifier)
            }
            Scene::Left { row, .. } => {
                off.uniform() < f64::from(self.overlaps[row * self.pair_count() + self.pair(pair)])
            }
            Scene::OnPath | Scene::Away => {
                off.uniform() < f64::from(self.text(walk.sequence.request).means[self.pair(pair)])
            }
        }
    }

    #[inline]
    fn similarity(&self, walk: &mut Walk<'_>, position: u32, pair: Pair) -> f64 {
        let row = self.row(walk.sequence.request, position);
        f64::from(self.overlaps[row * self.pair_count() + self.pair(pair)])
    }
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
