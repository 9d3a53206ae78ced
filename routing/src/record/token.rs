//! What a text was, and what every model of a pool says of each of its tokens.

use serde::{Deserialize, Serialize};

use crate::ids::{ReplicaId, RequestId};

/// How tokens are chosen and verified: which law says whether a model's token is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// Sampled, verified by min(1, p/q) with residuals: a token is kept with that chance.
    #[default]
    Speculative,
    /// Sampled with noise that all levels share: a token is kept where the choices agree.
    Coupled,
    /// Temperature 0: a token is kept where the likeliest ones agree.
    Greedy,
}

impl Decoding {
    /// Whether a token is kept is settled by the models' choices, without luck.
    pub const fn by_agreement(self) -> bool {
        matches!(self, Self::Coupled | Self::Greedy)
    }

    /// The word that files use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Speculative => "speculative",
            Self::Coupled => "coupled",
            Self::Greedy => "greedy",
        }
    }
}

/// What one model says of one output token, given the text before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Opinion {
    /// ln of the token's probability after temperature, top-k and top-p; `None` where that is 0, and in a
    /// simulation, which has no tokens.
    pub log_probability: Option<f32>,
    /// The model's own token: the likeliest; with coupled noise, the one the noise chooses. `None` in a simulation.
    pub choice: Option<u32>,
    /// Probability of the likeliest token, before warping.
    pub top_probability: f32,
    /// Entropy before warping, in nats.
    pub entropy: f32,
}

/// What the models of a pool say of one output position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// Whose output.
    pub request: RequestId,
    /// Place in the output, 0 the first.
    pub position: u32,
    /// The committed token; `None` in a simulation.
    pub token: Option<u32>,
    /// By pool index.
    pub models: Vec<Opinion>,
    /// For each pair i < j, in the order of [`pairs`]: the chance that a token of i is kept by j. Σ min(p_i, p_j);
    /// where choices must agree, whether they do.
    pub overlaps: Vec<f32>,
    /// For each triple i < j < k, in the order of [`triples`]: the chance that a token of j, drawn from p_j, is kept
    /// by k, and i's below it by j: Σ min(p_i, p_j) min(p_j, p_k) / p_j. Empty in a simulation.
    pub coins: Vec<f32>,
}

/// A finished text: what is needed to score it, and to run its request again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// Whose text.
    pub request: RequestId,
    /// The request's own seed.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// The likeliest tokens kept; `None` is all.
    pub top_k: Option<u32>,
    /// Mass of the likeliest tokens kept; `None` is all.
    pub top_p: Option<f32>,
    /// Token ids of the prompt; `None` where they were not to be kept.
    pub prompt: Option<Vec<u32>>,
    /// Token ids of the output.
    pub output: Vec<u32>,
    /// It ended with a stop token, not at its limit.
    pub stopped: bool,
}

/// Pairs i < j of `count` models, in lexicographic order: the order of [`TokenRecord::overlaps`].
pub fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |i| (i + 1..count).map(move |j| (i, j)))
}

/// Place of the pair i < j in the order of [`pairs`].
#[inline]
pub const fn pair_index(count: usize, i: usize, j: usize) -> usize {
    i * (2 * count - i - 1) / 2 + (j - i - 1)
}

/// Triples i < j < k of `count` models, in lexicographic order: the order of [`TokenRecord::coins`].
pub fn triples(count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    pairs(count).flat_map(move |(i, j)| (j + 1..count).map(move |k| (i, j, k)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_found_where_it_is_listed() {
        for count in 0..9 {
            for (place, (i, j)) in pairs(count).enumerate() {
                assert_eq!(pair_index(count, i, j), place, "{i}, {j} of {count}");
            }
        }
        assert_eq!(triples(4).collect::<Vec<_>>(), [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]);
    }
}
