//! Attention of one query token over the pages of its sequence's cache.
//!
//! A page holds the keys and values of [`PAGE`] tokens of one layer: for each KV head the keys
//! transposed, `[D, 16]`, so that one vector holds one feature of sixteen tokens and a score is a
//! chain of fused multiply-adds; then for each KV head the values, `[16, Dₚ]`, D padded to whole
//! vectors. Keys are walked in order from the first, so a token's result depends on its own prefix
//! alone.

use super::lanes::{Lanes, Line};
use super::pointwise::exp;
use super::{Path, compile};

/// Tokens of a page: one vector's lanes.
pub const PAGE: usize = 16;

/// The shape of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Features of a head, D.
    pub head_dim: usize,
}

impl HeadShape {
    /// Vectors of one token's values in one head, Dₚ / 16.
    pub const fn value_lines(&self) -> usize {
        self.head_dim.div_ceil(PAGE)
    }

    /// Lines of one layer's page.
    pub const fn page_lines(&self) -> usize {
        self.kv_heads * (self.head_dim + PAGE * self.value_lines())
    }

    /// Line of a page at which the keys of `kv_head` begin.
    pub const fn keys_at(&self, kv_head: usize) -> usize {
        kv_head * self.head_dim
    }

    /// Line of a page at which the values of `kv_head` begin.
    pub const fn values_at(&self, kv_head: usize) -> usize {
        self.kv_heads * self.head_dim + kv_head * PAGE * self.value_lines()
    }
}

/// Writes one token's keys and values, each `[kv_heads, D]`, to place `index` of a layer's page.
///
/// # Panics
/// When the slices do not have these shapes.
pub fn write_page(shape: HeadShape, page: &mut [Line], index: usize, keys: &[f32], values: &[f32]) {
    let d = shape.head_dim;
    assert!(index < PAGE && page.len() == shape.page_lines(), "a page has {} lines", shape.page_lines());
    assert!(
        keys.len() == shape.kv_heads * d && values.len() == keys.len(),
        "keys are [{}, {d}]",
        shape.kv_heads
    );
    for head in 0..shape.kv_heads {
        let own = head * d..(head + 1) * d;
        for (line, &key) in page[shape.keys_at(head)..].iter_mut().zip(&keys[own.clone()]) {
            line.0[index] = key;
        }
        let lines = &mut page[shape.values_at(head) + index * shape.value_lines()..][..shape.value_lines()];
        for (line, values) in lines.iter_mut().zip(values[own].chunks(PAGE)) {
            line.0[..values.len()].copy_from_slice(values);
            line.0[values.len()..].fill(0.0);
        }
    }
}

/// Overwrites places `from..` of a layer's page with NaN.
pub fn poison_page(shape: HeadShape, page: &mut [Line], from: usize) {
    let (keys, values) = page.split_at_mut(shape.values_at(0));
    keys.iter_mut().for_each(|line| line.0[from..].fill(f32::NAN));
    for tokens in values.chunks_mut(PAGE * shape.value_lines()) {
        tokens[from * shape.value_lines()..].iter_mut().for_each(|line| line.0.fill(f32::NAN));
    }
}

/// Attends with the query heads that share `kv_head`.
///
/// - `q`: `[heads / kv_heads, D]`, rotated.
/// - `pages`: one layer's pages of the sequence, in order; `keys` tokens of them are read.
/// - `scratch`: grown as needed; its contents do not matter.
/// - `out`: `[heads / kv_heads, D]`.
///
/// # Panics
/// When the slices do not have these shapes, or there is no key.
#[allow(clippy::too_many_arguments, reason = "a kernel's whole input, spelled out")]
pub fn attend(
    path: Path,
    shape: HeadShape,
    kv_head: usize,
    q: &[f32],
    pages: &[&[Line]],
    keys: usize,
    scratch: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (d, used) = (shape.head_dim, keys.div_ceil(PAGE));
    assert!(keys > 0 && used <= pages.len(), "{keys} keys need {used} pages, got {}", pages.len());
    assert!(
        pages[..used].iter().all(|page| page.len() == shape.page_lines()),
        "a page has {} lines",
        shape.page_lines()
    );
    assert!(q.len() == out.len() && q.len().is_multiple_of(d), "q and out are [G, {d}]");
    scratch.resize(used * PAGE, 0.0);
    for (q, out) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        // SAFETY: the shapes were checked.
        unsafe { one_head(path, shape, kv_head, q, &pages[..used], keys, scratch, out) };
    }
}

compile! {
    /// One query head.
    fn one_head(shape: HeadShape, kv_head: usize, q: &[f32], pages: &[&[Line]], keys: usize, scores: &mut [f32], out: &mut [f32]) = head;
}

/// Pages whose scores are summed side by side.
const SIDE: usize = 4;

#[inline(always)]
unsafe fn head<L: Lanes>(
    shape: HeadShape,
    kv_head: usize,
    q: &[f32],
    pages: &[&[Line]],
    keys: usize,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let (d, keys_at, values_at) = (shape.head_dim, shape.keys_at(kv_head), shape.values_at(kv_head));
    let last = pages.len() - 1;
    // SAFETY: lines lie in their pages by the shape, scores has a line for each page.
    unsafe {
        let scale = L::splat(1.0 / (d as f32).sqrt());
        let mut largest = L::splat(f32::NEG_INFINITY);
        let mut first = 0;
        while first < pages.len() {
            let side = SIDE.min(pages.len() - first);
            let mut lines = [pages[first].as_ptr().add(keys_at); SIDE];
            for s in 1..side {
                lines[s] = pages[first + s].as_ptr().add(keys_at);
            }
            let mut sums = [L::splat(0.0); SIDE];
            for feature in 0..d {
                let q = L::splat(*q.as_ptr().add(feature));
                for s in 0..SIDE {
                    sums[s] = q.fma(L::load(lines[s].add(feature).cast()), sums[s]);
                }
            }
            for s in 0..side {
                let mut score = sums[s].mul(scale);
                if first + s == last {
                    score = score.first(keys - last * PAGE, f32::NEG_INFINITY);
                }
                largest = score.max(largest);
                score.store(scores[(first + s) * PAGE..].as_mut_ptr());
            }
            first += side;
        }
        let largest = L::splat(largest.largest());
        let mut sums = L::splat(0.0);
        for page in 0..pages.len() {
            let at = scores[page * PAGE..].as_mut_ptr();
            let mut weight = exp(L::load(at).sub(largest));
            if page == last {
                weight = weight.first(keys - last * PAGE, 0.0);
            }
            sums = sums.add(weight);
            weight.store(at);
        }
        let norm = L::splat(1.0 / sums.sum());
        let lines = shape.value_lines();
        let mut chunk = 0;
        while chunk < lines {
            let at = values_at + chunk;
            let out = &mut out[chunk * PAGE..];
            chunk += match lines - chunk {
                1 => weigh::<L, 1>(pages, at, lines, &scores[..keys], norm, out),
                2 => weigh::<L, 2>(pages, at, lines, &scores[..keys], norm, out),
                3 => weigh::<L, 3>(pages, at, lines, &scores[..keys], norm, out),
                _ => weigh::<L, 4>(pages, at, lines, &scores[..keys], norm, out),
            };
        }
    }
}

/// Adds up `S` vectors of every token's values, by weight. Returns `S`.
///
/// # Safety
/// `at` is a line of a page's values such that `S` lines lie behind it for every token.
#[inline(always)]
unsafe fn weigh<L: Lanes, const S: usize>(
    pages: &[&[Line]],
    at: usize,
    stride: usize,
    weights: &[f32],
    norm: L,
    out: &mut [f32],
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [L::splat(0.0); S];
        for (page, weights) in pages.iter().zip(weights.chunks(PAGE)) {
            let mut values = page.as_ptr().add(at);
            for &weight in weights {
                let weight = L::splat(weight);
                for s in 0..S {
                    sums[s] = weight.fma(L::load(values.add(s).cast()), sums[s]);
                }
                values = values.wrapping_add(stride);
            }
        }
        for s in 0..S {
            let (from, value) = (s * PAGE, sums[s].mul(norm));
            if from + PAGE <= out.len() {
                value.store(out[from..].as_mut_ptr());
            } else {
                let mut line = [0f32; PAGE];
                value.store(line.as_mut_ptr());
                let left = out.len() - from;
                out[from..].copy_from_slice(&line[..left]);
            }
        }
    }
    S
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use specrouter_routing::luck::{Luck, Stream};

    use super::*;

    fn numbers(key: u64, count: usize) -> Vec<f32> {
        let draws = Luck::new(9).stream(Stream::Test);
        (0..count as u64).map(|i| (draws.uniform(key, i) * 4.0 - 2.0) as f32).collect()
    }

    /// Softmax attention in f64.
    fn reference(q: &[f32], k: &[Vec<f32>], v: &[Vec<f32>]) -> Vec<f64> {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let weights: Vec<f64> = k.iter().map(|k| (dot(q, k) / (q.len() as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |i: usize| weights.iter().zip(v).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / sum;
        (0..q.len()).map(value).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_token_attends_to_its_own_prefix_and_to_nothing_behind_it(
            tokens in 1usize..140, d in 1usize..80, kv_heads in 1usize..3, group in 1usize..4, cut in 0usize..140,
        ) {
            let shape = HeadShape { heads: kv_heads * group, kv_heads, head_dim: d };
            let keys = cut.min(tokens - 1) + 1;
            let (k, v): (Vec<_>, Vec<_>) = (0..tokens as u64)
                .map(|t| (numbers(2 * t, kv_heads * d), numbers(2 * t + 1, kv_heads * d)))
                .unzip();
            let mut pages = vec![vec![Line([0.0; PAGE]); shape.page_lines()]; tokens.div_ceil(PAGE)];
            for t in 0..tokens {
                write_page(shape, &mut pages[t / PAGE], t % PAGE, &k[t], &v[t]);
            }
            let q = numbers(1 << 40, group * d);
            let mut first: Option<Vec<u32>> = None;
            for poisoned in [false, true] {
                if poisoned {
                    for (index, page) in pages.iter_mut().enumerate() {
                        poison_page(shape, page, keys.saturating_sub(index * PAGE).min(PAGE));
                    }
                }
                let views: Vec<&[Line]> = pages.iter().map(Vec::as_slice).collect();
                for path in Path::available() {
                    let mut bits = Vec::new();
                    for kv_head in 0..kv_heads {
                        let mut out = vec![f32::NAN; group * d];
                        attend(path, shape, kv_head, &q, &views, keys, &mut vec![7.0; 3], &mut out);
                        let own = |all: &[Vec<f32>]| -> Vec<Vec<f32>> {
                            all[..keys].iter().map(|t| t[kv_head * d..][..d].to_vec()).collect()
                        };
                        for (q, out) in q.chunks(d).zip(out.chunks(d)) {
                            for (got, exact) in out.iter().zip(reference(q, &own(&k), &own(&v))) {
                                prop_assert!((f64::from(*got) - exact).abs() < 2e-5, "{got} for {exact}");
                            }
                        }
                        bits.extend(out.iter().map(|v| v.to_bits()));
                    }
                    prop_assert!(first.get_or_insert_with(|| bits.clone()) == &bits, "{path:?} {poisoned}");
                }
            }
        }
    }
}
