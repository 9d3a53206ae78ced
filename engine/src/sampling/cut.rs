//! Top-k and top-p without sorting the vocabulary.
//!
//! Tokens are counted in buckets by the leading bits of their weight, the buckets are walked from
//! the heaviest down, and only the bucket in which the cut falls is sorted.

use super::distribution::{Distribution, sum};

/// How much of the likeliest tokens is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Enough {
    /// This many; at least 1.
    Count(u32),
    /// As many as it takes to have this weight.
    Mass(f64),
}

/// Eight buckets to each halving of the weight: sign and exponent and three bits more.
const SHIFT: u32 = 20;
/// Weights are at most 1.
const BUCKETS: usize = (1.0f32.to_bits() >> SHIFT) as usize + 1;

/// Tokens that may be kept, by id, and the buckets to choose among them.
#[derive(Debug, Default)]
pub(super) struct Cut {
    ids: Vec<u32>,
    weights: Vec<f32>,
    mass: Vec<f64>,
    count: Vec<u32>,
    ranks: Vec<u64>,
}

/// The order in which tokens are kept: heavier first, then the lower id.
#[inline]
fn rank(weight: f32, id: u32) -> u64 {
    u64::from(!weight.to_bits()) << 32 | u64::from(id)
}

#[inline]
fn bucket(weight: f32) -> usize {
    ((weight.to_bits() >> SHIFT) as usize).min(BUCKETS - 1)
}

impl Cut {
    /// A weight that at least `count` tokens reach: the `count`-th highest of chunks' highest.
    pub fn bound(&mut self, weights: &[f32], count: usize) -> f32 {
        const CHUNK: usize = 16;
        let (chunks, _) = weights.as_chunks::<CHUNK>();
        if count == 0 || count > chunks.len() {
            return 0.0;
        }
        let higher = |a: f32, &b: &f32| if b > a { b } else { a };
        self.weights.clear();
        self.weights.extend(chunks.iter().map(|chunk| chunk.iter().fold(0.0, higher)));
        *self.weights.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    }

    /// Takes the tokens whose weight is above 0 and at least `least`.
    pub fn gather(&mut self, weights: &[f32], least: f32) {
        self.take(weights, |at| at as u32, least.max(f32::MIN_POSITIVE));
    }

    /// Takes the tokens of `p` whose weight is at least `least`.
    pub fn gather_from(&mut self, p: &Distribution, least: f32) {
        self.take(p.raw(), |at| p.id(at), least.max(f32::MIN_POSITIVE));
    }

    #[inline(always)]
    fn take(&mut self, weights: &[f32], id: impl Fn(usize) -> u32, least: f32) {
        // Written in place and counted, without a branch for each token; whole chunks are passed
        // over, since most tokens of a large vocabulary weigh nothing.
        self.ids.resize(weights.len(), 0);
        self.weights.resize(weights.len(), 0.0);
        let (ids, kept) = (self.ids.as_mut_slice(), self.weights.as_mut_slice());
        let mut n = 0;
        for (index, chunk) in weights.chunks(32).enumerate() {
            if !chunk.iter().fold(false, |any, &w| any | (w >= least)) {
                continue;
            }
            for (offset, &w) in chunk.iter().enumerate() {
                ids[n] = id(index * 32 + offset);
                kept[n] = w;
                n += usize::from(w >= least);
            }
        }
        self.ids.truncate(n);
        self.weights.truncate(n);
    }

    /// Σ weights of the tokens kept so far.
    pub fn mass(&self) -> f64 {
        sum(&self.weights)
    }

    /// Keeps the first tokens by rank until it is enough.
    pub fn keep(&mut self, enough: Enough) {
        if let Some(last) = self.last(enough) {
            let mut n = 0;
            for at in 0..self.ids.len() {
                let (id, w) = (self.ids[at], self.weights[at]);
                (self.ids[n], self.weights[n]) = (id, w);
                n += usize::from(rank(w, id) <= last);
            }
            self.ids.truncate(n);
            self.weights.truncate(n);
        }
    }

    /// The rank of the last token that is kept; `None` when all are.
    fn last(&mut self, enough: Enough) -> Option<u64> {
        self.mass.clear();
        self.mass.resize(BUCKETS, 0.0);
        self.count.clear();
        self.count.resize(BUCKETS, 0);
        for &w in &self.weights {
            self.mass[bucket(w)] += f64::from(w);
            self.count[bucket(w)] += 1;
        }
        let (mut mass, mut count) = (0.0, 0);
        let reached = |mass: f64, count: u32| match enough {
            Enough::Count(most) => count >= most,
            Enough::Mass(least) => mass >= least,
        };
        for here in (0..BUCKETS).rev() {
            if self.count[here] == 0 {
                continue;
            }
            if !reached(mass + self.mass[here], count + self.count[here]) {
                mass += self.mass[here];
                count += self.count[here];
                continue;
            }
            self.ranks.clear();
            let among = self.weights.iter().zip(&self.ids).filter(|&(&w, _)| bucket(w) == here);
            self.ranks.extend(among.map(|(&w, &id)| rank(w, id)));
            self.ranks.sort_unstable();
            for &rank in &self.ranks {
                mass += f64::from(f32::from_bits(!((rank >> 32) as u32)));
                count += 1;
                if reached(mass, count) {
                    return Some(rank);
                }
            }
            return self.ranks.last().copied(); // The same sum in another order fell short by its rounding.
        }
        None
    }

    /// Puts what is kept into `into`.
    pub fn give(&self, vocabulary: usize, into: &mut Distribution) {
        into.copy_support(&self.ids, &self.weights, vocabulary);
    }

    /// Puts what is kept of `whole` into `into`, with the probabilities it has there.
    pub fn give_as_part(&self, whole: &Distribution, into: &mut Distribution) {
        into.copy_part(&self.ids, &self.weights, whole);
    }
}
