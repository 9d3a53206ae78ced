//! From logits to what is sampled: temperature, top-k and top-p, alike at every level.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use specrouter_routing::chain::StopRule;
use specrouter_routing::units::{NonNegative, OutOfRange, Probability};

mod cut;
mod distribution;

pub use distribution::Distribution;

use cut::{Cut, Enough};
use distribution::sum;

/// How the tokens of a request are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawSampling")]
#[schemars(with = "RawSampling")]
pub struct Sampling {
    temperature: NonNegative,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Probability>,
}

/// [`Sampling`] as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Sampling")]
struct RawSampling {
    /// 0 is greedy; 1 when absent.
    temperature: Option<NonNegative>,
    /// Keeps this many of the likeliest tokens; at least 1.
    top_k: Option<NonZeroU32>,
    /// Keeps the likeliest tokens up to this mass, after top-k; above 0.
    top_p: Option<Probability>,
}

impl Sampling {
    /// Always the likeliest token.
    ///
    /// # Panics
    /// Never: 0 is in range.
    pub fn greedy() -> Self {
        let temperature = NonNegative::new(0.0).expect("0 is a finite number, 0 or above");
        Self { temperature, top_k: None, top_p: None }
    }

    /// Checked parameters; a temperature of 0 is greedy.
    ///
    /// # Errors
    /// [`OutOfRange`] for a negative or infinite temperature, a `top_k` of 0, a `top_p` outside
    /// (0, 1].
    pub fn new(temperature: f64, top_k: Option<u32>, top_p: Option<f64>) -> Result<Self, OutOfRange> {
        let none = OutOfRange { what: "top_k", expected: "at least 1 token", value: 0.0 };
        let top_k = top_k.map(|k| NonZeroU32::new(k).ok_or(none)).transpose()?;
        let top_p = top_p.map(Probability::new).transpose()?;
        let temperature = Some(NonNegative::new(temperature)?);
        RawSampling { temperature, top_k, top_p }.try_into()
    }

    /// True at temperature 0.
    #[inline]
    pub fn is_greedy(&self) -> bool {
        self.temperature.get() <= 0.0
    }

    /// The temperature; 0 is greedy.
    pub fn temperature(&self) -> f64 {
        self.temperature.get()
    }

    /// The likeliest tokens kept; `None` is all.
    pub fn top_k(&self) -> Option<u32> {
        self.top_k.map(NonZeroU32::get)
    }

    /// Mass of the likeliest tokens kept; `None` is all.
    pub fn top_p(&self) -> Option<f64> {
        self.top_p.map(Probability::get)
    }

    /// What differences of logits are multiplied by: finite and above 0 for any temperature above 0.
    #[inline]
    fn sharpness(&self) -> f32 {
        ((1.0 / self.temperature.get()) as f32).clamp(f32::MIN_POSITIVE, f32::MAX)
    }
}

impl Default for Sampling {
    /// Temperature 1, nothing cut.
    fn default() -> Self {
        let temperature = NonNegative::new(1.0).expect("1 is a finite number, 0 or above");
        Self { temperature, top_k: None, top_p: None }
    }
}

impl TryFrom<RawSampling> for Sampling {
    type Error = OutOfRange;

    fn try_from(raw: RawSampling) -> Result<Self, OutOfRange> {
        match raw.top_p {
            Some(p) if p.get() <= 0.0 => {
                Err(OutOfRange { what: "top_p", expected: "above 0 and at most 1", value: p.get() })
            }
            top_p => Ok(Self {
                temperature: raw.temperature.unwrap_or(Self::default().temperature),
                top_k: raw.top_k,
                top_p,
            }),
        }
    }
}

/// A row of logits without a single finite one, or with one that is NaN or +∞: nothing can be
/// sampled. The model is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logits must have a finite maximum")]
pub struct NoToken;

/// How sure a model is of its next token: of the softmax before temperature, top-k and top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// Probability of the likeliest token.
    pub top: f32,
    /// Entropy in nats.
    pub entropy: f32,
}

/// Turns rows of logits into [`Distribution`]s. Its buffers are reused from row to row.
#[derive(Debug, Default)]
pub struct Warper {
    weights: Vec<f32>,
    cut: Cut,
}

impl Warper {
    /// The distribution that tokens are sampled from.
    ///
    /// - `logits`: `[V]`; −∞ is a token that is never sampled.
    /// - `into`: its buffers are reused; untouched on error.
    ///
    /// A pure function of the row and the parameters, whatever came before. Among equally likely
    /// tokens top-k and top-p keep the lowest ids. At temperature 0 it is a point.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn warp(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        into: &mut Distribution,
    ) -> Result<(), NoToken> {
        if sampling.is_greedy() {
            into.set_point(argmax(logits)?);
            return Ok(());
        }
        let highest = finite(highest(logits))?;
        let (top_k, top_p) = (sampling.top_k.map(NonZeroU32::get), sampling.top_p.map(Probability::get));
        let top_k = top_k.filter(|&k| (k as usize) < logits.len());
        let top_p = top_p.filter(|&p| p < 1.0);
        if top_k.is_none() && top_p.is_none() {
            weigh(logits, highest, sampling.sharpness(), into.refill());
            into.close(logits.len());
            return Ok(());
        }
        weigh(logits, highest, sampling.sharpness(), &mut self.weights);
        match (top_k, top_p) {
            (Some(k), p) => {
                let least = self.cut.bound(&self.weights, k as usize);
                self.cut.gather(&self.weights, least);
                self.cut.keep(Enough::Count(k));
                if let Some(p) = p {
                    self.cut.keep(Enough::Mass(p * self.cut.mass()));
                }
            }
            (None, p) => {
                let (p, mass) = (p.unwrap_or(1.0), sum(&self.weights));
                // All tokens below this weight together have less than 1 − p of the mass.
                let least = 0.999 * (1.0 - p) * mass / logits.len() as f64;
                self.cut.gather(&self.weights, least as f32);
                self.cut.keep(Enough::Mass(p * mass));
            }
        }
        self.cut.give(logits.len(), into);
        Ok(())
    }

    /// How sure the model is, before warping.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn confidence(&mut self, logits: &[f32]) -> Result<Confidence, NoToken> {
        let highest = finite(highest(logits))?;
        weigh(logits, highest, 1.0, &mut self.weights);
        let total = sum(&self.weights);
        // H = ln Z − Σ w·x / Z with x the logit less the highest; where w is 0, x may be −∞.
        let energy = |(&w, &l): (&f32, &f32)| f64::from(w) * f64::from((l - highest).max(LEAST));
        let energy: f64 = self.weights.iter().zip(logits).map(energy).sum();
        Ok(Confidence { top: (1.0 / total) as f32, entropy: (total.ln() - energy / total) as f32 })
    }

    /// True when the stop rule ends a fill after the token drawn from this row.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn stops(&mut self, rule: StopRule, logits: &[f32]) -> Result<bool, NoToken> {
        match rule {
            StopRule::Never => Ok(false),
            StopRule::TopProbabilityBelow(threshold) => Ok(self.confidence(logits)?.top < threshold),
            StopRule::EntropyAbove(threshold) => Ok(self.confidence(logits)?.entropy > threshold),
        }
    }

    /// Puts the likeliest `most` tokens of `p`, less those that are below 1/4096 of the likeliest,
    /// into `into` with their probabilities under `p`, and answers the mass left out.
    pub fn likeliest(&mut self, p: &Distribution, most: u32, into: &mut Distribution) -> f64 {
        self.cut.gather_from(p, highest(p.raw()) / 4096.0);
        self.cut.keep(Enough::Count(most));
        self.cut.give_as_part(p, into);
        (1.0 - into.mass()).max(0.0)
    }
}

/// The likeliest token; the lowest id of several.
///
/// # Errors
/// [`NoToken`].
pub fn argmax(logits: &[f32]) -> Result<u32, NoToken> {
    let highest = finite(highest(logits))?;
    // Chunk by chunk: a loop that may leave at every element is not vectorised.
    let has = |chunk: &[f32]| chunk.iter().fold(false, |any, &x| any | (x >= highest));
    let chunk = logits.chunks(CHUNK).position(has).ok_or(NoToken)?;
    let at = logits[chunk * CHUNK..].iter().position(|&x| x >= highest).ok_or(NoToken)?;
    Ok((chunk * CHUNK + at) as u32)
}

const CHUNK: usize = 64;

fn finite(highest: f32) -> Result<f32, NoToken> {
    if highest.is_finite() { Ok(highest) } else { Err(NoToken) }
}

/// The greatest of some numbers; −∞ of none. NaN is passed over.
fn highest(logits: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| greater(a, b))
}

/// Fills `weights` with exp((logit − highest) · sharpness): the likeliest token weighs 1.
fn weigh(logits: &[f32], highest: f32, sharpness: f32, weights: &mut Vec<f32>) {
    weights.clear();
    weights.extend(logits.iter().map(|&x| exp((x - highest) * sharpness)));
}

/// Below it, exp is taken as 0: e⁻⁸⁷ is near the least normal number.
const LEAST: f32 = -87.0;

/// e to the power of `x` <= 0, within 2 units in the last place; 0 below −87, and 0 of NaN. Written
/// without branches or calls, so that loops over it are vectorised and every machine computes the
/// same bits.
///
/// Source: Cephes `expf` (S. Moshier).
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4; // ln 2 in two parts; the first is exact.
    let mut y = 1.987_569_2e-4;
    y = y * r + 1.398_2e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let value = y * f32::from_bits(exponent << 23);
    if x >= LEAST { value } else { 0.0 }
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
