//! Random weights of real shapes, for timing and for tests: a pass costs what it costs with trained ones.

use half::bf16;
use rayon::prelude::*;

use super::LoadError;
use crate::weights::{Values, WeightSource};

/// Random weights, a pure function of (seed, tensor name, position): in any order, on any number of threads,
/// equal numbers. Any name and any shape is had.
///
/// - Names ending in `norm.weight`: all 1.
/// - Names ending in `.bias`: uniform, standard deviation 0.02.
/// - `model.embed_tokens.weight`: uniform, standard deviation 1, a unit residual stream.
/// - Matrices `[outputs, inputs]`: uniform, standard deviation `gain / sqrt(inputs)`, so that outputs of a
///   normalised stream have standard deviation `gain`: 1/4 for the writes to the residual stream (`o_proj`,
///   `down_proj`), which keeps it of order one through 32 layers and more, and 1 elsewhere.
#[derive(Clone, Debug)]
pub struct Dummy {
    seed: u64,
    bf16: bool,
    write_gain: f32,
    head_gain: f32,
}

impl Dummy {
    /// Weights of the seed `seed`, as f32.
    pub fn new(seed: u64) -> Self {
        Self { seed, bf16: false, write_gain: 0.25, head_gain: 1.0 }
    }

    /// The same weights, rounded to bfloat16.
    #[must_use]
    pub fn bf16(mut self) -> Self {
        self.bf16 = true;
        self
    }

    /// Other gains for the writes to the residual stream and for the head.
    pub(super) fn gains(mut self, write: f32, head: f32) -> Self {
        (self.write_gain, self.head_gain) = (write, head);
        self
    }

    /// As [`WeightSource::tensor`], with every number times `scale`.
    pub(super) fn scaled(&self, name: &str, shape: &[usize], scale: f32) -> Result<Values, LoadError> {
        let wide = if self.bf16 { 2 } else { 4 };
        let too_much = |bytes| LoadError::Memory { file: "dummy".to_owned(), tensor: name.to_owned(), bytes };
        let length = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let length = length.ok_or_else(|| too_much(u64::MAX))?;
        let no_memory = || too_much((length as u64).saturating_mul(wide));

        let inputs = shape.last().copied().unwrap_or(1).max(1) as f32;
        let deviation = scale
            * if name.ends_with("norm.weight") {
                return filled(length, scale, self.bf16).ok_or_else(no_memory);
            } else if name.ends_with(".bias") {
                0.02
            } else if name.ends_with("embed_tokens.weight") {
                1.0
            } else if is_write(name) {
                self.write_gain / inputs.sqrt()
            } else if name == "lm_head.weight" {
                self.head_gain / inputs.sqrt()
            } else {
                1.0 / inputs.sqrt()
            };
        // A uniform number in [-a, a] has standard deviation a / sqrt(3).
        let unit = deviation * 3f32.sqrt() / 32_768.0;
        let key = key(self.seed, name);
        let value = |lane: u16| (f32::from(lane.cast_signed()) + 0.5) * unit;
        let values = if self.bf16 {
            draw(length, key, |lane| narrow(value(lane))).map(Values::Bf16)
        } else {
            draw(length, key, value).map(Values::F32)
        };
        values.ok_or_else(no_memory)
    }
}

impl WeightSource for Dummy {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
        self.scaled(name, shape, 1.0)
    }
}

/// True for a matrix whose outputs are added to the residual stream.
pub(super) fn is_write(name: &str) -> bool {
    name.ends_with(".o_proj.weight") || name.ends_with(".down_proj.weight")
}

fn filled(length: usize, value: f32, narrow: bool) -> Option<Values> {
    Some(if narrow {
        Values::Bf16(vector(length, bf16::from_f32(value))?)
    } else {
        Values::F32(vector(length, value)?)
    })
}

fn vector<T: Copy>(length: usize, value: T) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(length).ok()?;
    values.resize(length, value);
    Some(values)
}

/// `length` numbers, four for each hash of (key, position / 4).
fn draw<T: Copy + Default + Send + Sync>(
    length: usize,
    key: u64,
    number: impl Fn(u16) -> T + Sync,
) -> Option<Vec<T>> {
    // A multiple of four, so that lanes do not depend on how the work is cut.
    const CHUNK: usize = 1 << 16;
    let mut values = vector(length, T::default())?;
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let mut block = (chunk * (CHUNK / 4)) as u64;
        let mut four = || {
            let bits = mix(key ^ block.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            block += 1;
            [0, 16, 32, 48].map(|shift| number((bits >> shift) as u16))
        };
        let (whole, rest) = values.as_chunks_mut::<4>();
        whole.iter_mut().for_each(|block| *block = four());
        rest.iter_mut().zip(four()).for_each(|(value, number)| *value = number);
    });
    Some(values)
}

/// A finite number to the nearest bfloat16, ties to even. As [`bf16::from_f32`], which asks for NaN first and is
/// several times slower in a loop.
fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    bf16::from_bits(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16)
}

/// One key for each (seed, name).
fn key(seed: u64, name: &str) -> u64 {
    let start = mix(seed ^ 0x5EED_0DD5_5EED_0DD5);
    name.bytes().fold(start, |key, byte| mix(key.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ u64::from(byte)))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014). A hash of quality enough for weights at a fifth of the
/// cost of the one that coins come from.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "dummy_tests.rs"]
mod tests;
