//! What a token is sampled from, kept so that it can be verified against.

/// A distribution over token ids.
///
/// Weights are f32, probabilities are weight / Σ weights in f64: they add up to 1 within 10⁻¹⁵, so
/// that acceptance and residual recover the verifier's distribution as exactly. A small support is
/// kept as a list of ids, a large one as a weight for every token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Ids of the weights, ascending; empty when `weights[i]` is the weight of token `i`.
    ids: Vec<u32>,
    weights: Vec<f32>,
    /// 1 / Σ weights.
    scale: f64,
}

impl Distribution {
    /// All mass on `token`.
    pub fn point(token: u32) -> Self {
        let mut point = Self::default();
        point.set_point(token);
        point
    }

    /// `[V]` weights, each finite and 0 or above, as exact as f32 holds them.
    pub fn dense(weights: &[f32]) -> Self {
        let mut dense = Self { weights: weights.to_vec(), ..Self::default() };
        dense.close(weights.len());
        dense
    }

    /// `[V]` probabilities taken at their word, whatever they add up to: what rounding could do.
    #[cfg(test)]
    pub(crate) fn claiming(probabilities: &[f32]) -> Self {
        Self { weights: probabilities.to_vec(), scale: 1.0, ..Self::default() }
    }

    /// Puts all mass on `token`.
    pub fn set_point(&mut self, token: u32) {
        self.ids.clear();
        self.ids.push(token);
        self.weights.clear();
        self.weights.push(1.0);
        self.scale = 1.0;
    }

    /// Probability of `token`; 0 outside the vocabulary.
    #[inline]
    pub fn probability(&self, token: u32) -> f64 {
        let at = match self.ids.is_empty() {
            true => Some(token as usize),
            false => self.ids.binary_search(&token).ok(),
        };
        at.and_then(|at| self.weights.get(at)).map_or(0.0, |&w| f64::from(w) * self.scale)
    }

    /// Every token with its probability, by id; tokens left out have 0, others may.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        (0..self.weights.len()).map(|at| (self.id(at), f64::from(self.weights[at]) * self.scale))
    }

    /// Probabilities in the order of [`id`](Self::id).
    pub fn probabilities(&self) -> impl Iterator<Item = f64> + Clone + '_ {
        self.weights.iter().map(|&w| f64::from(w) * self.scale)
    }

    /// The token of the `at`-th probability.
    #[inline]
    pub fn id(&self, at: usize) -> u32 {
        self.ids.get(at).copied().unwrap_or(at as u32)
    }

    /// Tokens with a place of their own.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// True of a distribution that nothing was put into.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Σ over tokens of the lesser probability: 1 − TV, the chance that a token of one is accepted
    /// by the other.
    pub fn overlap(&self, other: &Self) -> f64 {
        match (self.ids.is_empty(), other.ids.is_empty()) {
            (true, true) => {
                let lesser =
                    |(&a, &b): (&f32, &f32)| (f64::from(a) * self.scale).min(f64::from(b) * other.scale);
                lanes(&self.weights, &other.weights, lesser)
            }
            (true, false) => other.overlap(self),
            _ => {
                let mut sum = 0.0;
                self.beside(other, |a, b| sum += a.min(b));
                sum
            }
        }
    }

    /// What a correction is drawn from: fills `excess` with max(p − q, 0) for `self` = p and
    /// `other` = q, in the order of p's [`id`](Self::id)s, and answers the sum.
    pub fn excess_over(&self, other: &Self, excess: &mut Vec<f64>) -> f64 {
        excess.clear();
        if self.ids.is_empty() && other.ids.is_empty() {
            let pairs = self.weights.iter().zip(&other.weights);
            excess.extend(
                pairs.map(|(&p, &q)| (f64::from(p) * self.scale - f64::from(q) * other.scale).max(0.0)),
            );
        } else {
            self.beside(other, |p, q| excess.push((p - q).max(0.0)));
        }
        excess.iter().sum()
    }

    /// Visits (own, other's) probability of each of the own places, by id.
    fn beside(&self, other: &Self, mut visit: impl FnMut(f64, f64)) {
        let mut at = 0; // Ids ascend on both sides, so one walk finds them all.
        for (id, own) in self.iter() {
            let theirs = if other.ids.is_empty() {
                other.weights.get(id as usize)
            } else {
                while other.ids.get(at).is_some_and(|&theirs| theirs < id) {
                    at += 1;
                }
                other.ids.get(at).filter(|&&theirs| theirs == id).and(other.weights.get(at))
            };
            visit(own, theirs.map_or(0.0, |&w| f64::from(w) * other.scale));
        }
    }

    /// Σ probabilities: 1, less what a part leaves out.
    pub(super) fn mass(&self) -> f64 {
        sum(&self.weights) * self.scale
    }

    /// The weights, to be filled with one for every token and then [`close`](Self::close)d.
    pub(super) fn refill(&mut self) -> &mut Vec<f32> {
        self.ids.clear();
        &mut self.weights
    }

    /// The weights as they are.
    pub(super) fn raw(&self) -> &[f32] {
        &self.weights
    }

    /// Copies a support of a vocabulary of `vocabulary` tokens: as a list if it is small, else as a
    /// weight for every token.
    pub(super) fn copy_support(&mut self, ids: &[u32], weights: &[f32], vocabulary: usize) {
        self.ids.clear();
        self.weights.clear();
        if ids.len() * 4 <= vocabulary {
            self.ids.extend_from_slice(ids);
            self.weights.extend_from_slice(weights);
        } else {
            self.weights.resize(vocabulary, 0.0);
            for (&id, &w) in ids.iter().zip(weights) {
                self.weights[id as usize] = w;
            }
        }
        self.close(vocabulary);
    }

    /// Copies a part of `whole`, as a list, with the probabilities it has there.
    pub(super) fn copy_part(&mut self, ids: &[u32], weights: &[f32], whole: &Self) {
        self.ids.clear();
        self.ids.extend_from_slice(ids);
        self.weights.clear();
        self.weights.extend_from_slice(weights);
        self.scale = whole.scale;
    }

    /// Computes the scale from the weights.
    pub(super) fn close(&mut self, vocabulary: usize) {
        debug_assert!(self.weights.len() <= vocabulary, "no more weights than tokens");
        self.scale = 1.0 / sum(&self.weights);
    }
}

/// Σ weights, in f64.
pub(super) fn sum(weights: &[f32]) -> f64 {
    lanes(weights, weights, |(&w, _)| f64::from(w))
}

/// Σ over pairs in eight lanes: a fixed order that the compiler can vectorise.
#[inline(always)]
fn lanes(a: &[f32], b: &[f32], of: impl Fn((&f32, &f32)) -> f64) -> f64 {
    let ((chunks, rest), (others, other_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (chunk, other) in chunks.iter().zip(others) {
        for (lane, pair) in lanes.iter_mut().zip(chunk.iter().zip(other)) {
            *lane += of(pair);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().zip(other_rest).map(of).sum::<f64>()
}
