//! Verification of a block: which proposed tokens are kept, and which token comes after them.
//!
//! Whatever leaves a level is distributed exactly as that level's own distribution, given the text
//! before it: a kept token, the correction after a rejection, the bonus after a whole block. It
//! carries that distribution upward as the proposal of the next verification (rules R1, R2).
//!
//! Source: Leviathan et al. 2023; `algorithms.md` 2.3 for more than two levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use specrouter_routing::ids::ModelId;

use crate::coins::{Coins, Drawn, Key, Purpose};
use crate::sampling::Distribution;

/// How sampled tokens are verified. At temperature 0 both are the same: tokens must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Kept with chance min(1, p/q), else corrected from the residual: the output is distributed as
    /// the target's.
    #[default]
    Speculative,
    /// Drafter and verifier share their noise and tokens must agree: the output is a function of
    /// target and seed.
    Coupled,
}

/// A token that waits for verification by the level above.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed {
    /// The token.
    pub token: u32,
    /// The lowest level whose token it was; if a verifier put it there, that verifier's.
    pub level: u8,
    /// What it was drawn from; empty where tokens are not drawn but must agree.
    pub distribution: Distribution,
}

/// What a verifier has at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The token that leaves the verifier's level.
    pub token: u32,
    /// It is the proposed one.
    pub kept: bool,
    /// 1 − TV of proposer and verifier here, or their agreement.
    pub similarity: f64,
    /// What the token is distributed as.
    pub distribution: Distribution,
}

/// What came of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Proposed tokens that were kept.
    pub accepted: u8,
    /// Tokens that leave the level: those and one more, unless a stop token was kept.
    pub emitted: u8,
    /// The last of them is a stop token.
    pub ended: bool,
    /// Positions of the block at which there was something to compare.
    pub examined: u8,
    /// Σ similarity over them.
    pub similarity: f32,
}

/// Verifies `block` position by position, up to the first rejection or stop token.
///
/// - `level`: the verifier's.
/// - `stop`: token ids that end an output.
/// - `settle`: the verifier's judgement of the proposal at an index, or its own token where none
///   is proposed.
/// - `emitted`: takes the tokens that leave the level.
///
/// # Errors
/// The first of `settle`.
pub fn verify<E>(
    block: &[Proposed],
    level: u8,
    stop: &[u32],
    mut settle: impl FnMut(usize, Option<&Proposed>) -> Result<Settled, E>,
    emitted: &mut Vec<Proposed>,
) -> Result<Verdict, E> {
    let mut verdict = Verdict::default();
    let mut similarity = 0.0;
    for index in 0..=block.len() {
        let proposed = block.get(index);
        let settled = settle(index, proposed)?;
        if proposed.is_some() {
            verdict.examined += 1;
            similarity += settled.similarity;
        }
        let by = proposed.filter(|_| settled.kept).map_or(level, |p| p.level);
        emitted.push(Proposed { token: settled.token, level: by, distribution: settled.distribution });
        verdict.accepted += u8::from(settled.kept);
        verdict.emitted += 1;
        verdict.ended = stop.contains(&settled.token);
        if verdict.ended || !settled.kept {
            break;
        }
    }
    verdict.similarity = similarity as f32;
    Ok(verdict)
}

/// The coins of one output position under one model.
#[derive(Debug)]
pub struct Dice<'a, C> {
    coins: &'a mut C,
    drawn: &'a mut Drawn,
    seed: u64,
    position: u32,
    model: ModelId,
    rules: Rules,
}

impl<'a, C: Coins> Dice<'a, C> {
    /// The coins that `model` draws for the request with this seed at this output position.
    pub fn new(coins: &'a mut C, drawn: &'a mut Drawn, seed: u64, position: u32, model: ModelId) -> Self {
        Self { coins, drawn, seed, position, model, rules: Rules::default() }
    }

    pub(crate) fn under(self, rules: Rules) -> Self {
        Self { rules: rules.of(self.model), ..self }
    }

    fn key(&mut self, purpose: Purpose) -> Key {
        let times = self.drawn.count(self.position, self.model, purpose);
        let times = if self.rules.fresh_draws() { times } else { 0 };
        Key { seed: self.seed, position: self.position, model: self.model, purpose, times }
    }

    /// A token of `p`.
    pub fn sample(&mut self, p: &Distribution) -> u32 {
        let key = self.key(Purpose::Proposal);
        p.id(self.coins.categorical(key, p.probabilities(), 1.0))
    }

    /// The verdict of `p` on a token drawn from `q`: it is kept with chance min(1, p/q), else the
    /// answer is drawn from max(p − q, 0). Answers the token and whether it was kept.
    ///
    /// Should the residual be 0 or no number by rounding, the correction is drawn from p, and
    /// `guarded` counts it.
    pub fn speculative(
        &mut self,
        proposed: &Proposed,
        p: &Distribution,
        residual: &mut Vec<f64>,
        guarded: &mut u64,
    ) -> (u32, bool) {
        let (q, token) = (&proposed.distribution, proposed.token);
        let (mine, theirs) = (p.probability(token), q.probability(token));
        if mine >= theirs {
            return (token, true); // No coin can reject it.
        }
        let key = self.key(Purpose::Acceptance);
        if mine > 0.0 && self.coins.accept(key, mine / theirs) {
            return (token, true);
        }
        if !self.rules.corrects() {
            return (self.sample(p), false);
        }
        let total = p.excess_over(q, residual);
        if total > 0.0 && total.is_finite() {
            let key = self.key(Purpose::Residual);
            return (p.id(self.coins.categorical(key, residual.iter().copied(), total)), false);
        }
        *guarded += 1;
        (self.sample(p), false)
    }
}

/// The rules of losslessness, as switches that only tests have: each is broken there once, to see
/// that the tests would notice. Outside tests it has no size and every answer is a constant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(test)]
    pub broken: Option<Broken>,
}

#[cfg(not(test))]
const _: () = assert!(size_of::<Rules>() == 0);

/// A rule that is broken.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// R1: this model draws corrections from p, not from the residual.
    FromP(ModelId),
    /// R2: of what an intermediate level made, only accepted tokens go up.
    AcceptedOnly,
    /// R3: a drawn token is not submitted to the target when this holds of it and what it was drawn
    /// from, nor is anything after it.
    Dropped(fn(&Proposed) -> bool),
    /// R3: a block that grew to this length is abandoned.
    Abandoned(usize),
    /// R5: keys do not count how often they were drawn.
    ReusedDraws,
    /// R5: the ratio has q before warping.
    RawProposal,
}

impl Rules {
    /// R5: no draw comes again.
    #[inline]
    pub fn fresh_draws(self) -> bool {
        #[cfg(test)]
        if let Some(Broken::ReusedDraws) = self.broken {
            return false;
        }
        true
    }

    /// R1: corrections are drawn from the residual.
    #[inline]
    pub fn corrects(self) -> bool {
        #[cfg(test)]
        if let Some(Broken::FromP(_)) = self.broken {
            return false;
        }
        true
    }

    /// The rules as `model` holds them.
    #[inline]
    #[cfg_attr(not(test), allow(unused_variables, reason = "only tests break rules for one model"))]
    pub fn of(self, model: ModelId) -> Self {
        #[cfg(test)]
        if matches!(self.broken, Some(Broken::FromP(only)) if only != model) {
            return Self::default();
        }
        self
    }

    /// R5: what a token was drawn from is what the level above is told.
    #[inline]
    pub fn honest(self) -> bool {
        #[cfg(test)]
        if let Some(Broken::RawProposal) = self.broken {
            return false;
        }
        true
    }

    /// R2, R3: how much of a block is submitted to `level`. All of it: whatever a token is, it was
    /// drawn, and leaving it out would favour the others.
    #[inline]
    #[cfg_attr(not(test), allow(unused_variables, reason = "only tests leave tokens out"))]
    pub fn submitted(self, block: &[Proposed], level: usize, top: bool) -> usize {
        #[cfg(test)]
        match self.broken {
            Some(Broken::AcceptedOnly) if level > 1 => {
                return block.iter().take_while(|p| usize::from(p.level) < level - 1).count();
            }
            Some(Broken::Dropped(dropped)) if top => {
                return block.iter().take_while(|p| !dropped(p)).count();
            }
            Some(Broken::Abandoned(length)) if top && block.len() >= length => return 0,
            _ => (),
        }
        block.len()
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
