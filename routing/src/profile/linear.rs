//! Pass times as a sum of terms: the form a calibration fits, and the one a test can check by hand.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PassCosts, PassShape};
use crate::ids::ModelId;
use crate::units::{NonNegative, OutOfRange, Positive};

/// One model's terms, all in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearTerms {
    /// Of every pass.
    pub pass_s: Positive,
    /// Of every row.
    #[serde(default = "zero")]
    pub row_s: NonNegative,
    /// Of every new token.
    #[serde(default = "zero")]
    pub token_s: NonNegative,
    /// Of every cached token that is read.
    #[serde(default = "zero")]
    pub context_token_s: NonNegative,
    /// Of every query-key pair.
    #[serde(default = "zero")]
    pub pair_s: NonNegative,
    /// Of every tile of new tokens, the last one begun included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile: Option<Tile>,
}

/// New tokens that a kernel works through together: a tile costs the same however full it is, so
/// that pass times are a staircase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// How many.
    pub tokens: NonZeroU32,
    /// Seconds.
    pub tile_s: NonNegative,
}

fn zero() -> NonNegative {
    NonNegative::new(0.0).expect("0 is not negative")
}

impl LinearTerms {
    /// Every pass takes `pass_s` seconds, whatever its shape.
    ///
    /// # Errors
    /// [`OutOfRange`] when that is no finite number above 0.
    pub fn constant(pass_s: f64) -> Result<Self, OutOfRange> {
        Self::new(pass_s, 0.0, 0.0, 0.0, 0.0)
    }

    /// The terms in the order of the fields, in seconds, without tiles.
    ///
    /// # Errors
    /// [`OutOfRange`] when one is NaN, infinite or negative, or the first is 0.
    pub fn new(
        pass_s: f64,
        row_s: f64,
        token_s: f64,
        context_token_s: f64,
        pair_s: f64,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            pass_s: Positive::new(pass_s)?,
            row_s: NonNegative::new(row_s)?,
            token_s: NonNegative::new(token_s)?,
            context_token_s: NonNegative::new(context_token_s)?,
            pair_s: NonNegative::new(pair_s)?,
            tile: None,
        })
    }

    /// The same with `tile_s` seconds for every tile of `tokens` new tokens.
    ///
    /// # Errors
    /// [`OutOfRange`] when that is no finite number of 0 or more.
    pub fn with_tiles(self, tokens: NonZeroU32, tile_s: f64) -> Result<Self, OutOfRange> {
        Ok(Self { tile: Some(Tile { tokens, tile_s: NonNegative::new(tile_s)? }), ..self })
    }

    /// Seconds of a pass with `shape`.
    #[inline]
    pub fn seconds(&self, shape: &PassShape) -> f64 {
        self.pass_s.get()
            + self.row_s.get() * f64::from(shape.rows)
            + self.token_s.get() * f64::from(shape.new_tokens)
            + self.context_token_s.get() * shape.context_tokens as f64
            + self.pair_s.get() * shape.attention_pairs as f64
            + self.tile.map_or(0.0, |tile| {
                tile.tile_s.get() * f64::from(shape.new_tokens.div_ceil(tile.tokens.get()))
            })
    }
}

/// Linear pass times of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Linear {
    models: Vec<LinearTerms>,
}

impl Linear {
    /// `models[i]` prices the pool's model `i`.
    pub const fn new(models: Vec<LinearTerms>) -> Self {
        Self { models }
    }

    /// Each model's pass takes its constant number of seconds.
    ///
    /// # Errors
    /// [`OutOfRange`] when one is no finite number above 0.
    pub fn constant(seconds: &[f64]) -> Result<Self, OutOfRange> {
        Ok(Self::new(seconds.iter().map(|&s| LinearTerms::constant(s)).collect::<Result<_, _>>()?))
    }

    /// Number of models that are priced.
    pub const fn models(&self) -> usize {
        self.models.len()
    }
}

impl PassCosts for Linear {
    #[inline]
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        self.models[model.index()].seconds(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_is_charged_once() {
        let linear = Linear::new(vec![
            LinearTerms::constant(1.0).unwrap(),
            LinearTerms::new(1.0, 10.0, 100.0, 1e4, 1e6).unwrap(),
        ]);
        let shape = PassShape {
            rows: 2,
            new_tokens: 3,
            catch_up_tokens: 1,
            context_tokens: 5,
            attention_pairs: 7,
            logit_rows: 2,
        };
        assert!((linear.seconds(ModelId(0), &shape) - 1.0).abs() < 1e-12);
        assert!((linear.seconds(ModelId(1), &shape) - 7_050_321.0).abs() < 1e-6);
    }

    #[test]
    fn a_tile_that_is_begun_is_charged() {
        let tokens = NonZeroU32::new(16).unwrap();
        let terms = LinearTerms::new(1.0, 0.0, 0.125, 0.0, 0.0).unwrap().with_tiles(tokens, 10.0).unwrap();
        for (new, seconds) in [(1, 11.125), (16, 13.0), (17, 23.125), (32, 25.0)] {
            assert_eq!(terms.seconds(&PassShape::uniform(1, new, 0)), seconds, "{new} tokens");
        }
        insta::assert_snapshot!(terms.with_tiles(tokens, -1.0).unwrap_err(), @"value must be a finite number, 0 or above, got -1");
    }

    #[test]
    fn a_pass_takes_time() {
        insta::assert_snapshot!(Linear::constant(&[1.0, 0.0]).unwrap_err(), @"value must be a finite number above 0, got 0");
        assert!(LinearTerms::new(1.0, f64::NAN, 0.0, 0.0, 0.0).is_err());
    }
}
