//! Norms, rotary positions, the gate: row by row, or number by number.

use super::lanes::Lanes;
use super::{Path, compile};

/// Numbers that a vector holds.
const WIDTH: usize = 16;

/// Root-mean-square norm of each row: `y = x / √(mean x² + ε) · weight`.
///
/// `x` and `y` are `[M, H]`, `weight` is `[H]`.
///
/// # Panics
/// When the slices do not have these shapes.
pub fn rms_norm(path: Path, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len() == y.len() && x.len().is_multiple_of(width), "x and y are [M, {width}]");
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        // SAFETY: x, weight and y are equally long.
        unsafe { norm_row(path, x, weight, epsilon, y) };
    }
}

compile! {
    /// One row.
    fn norm_row(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) = norm;
}

#[inline(always)]
unsafe fn norm<L: Lanes>(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let (whole, rest) = (x.len() / WIDTH, x.len() % WIDTH);
    // SAFETY: whole vectors lie in the slices; the rest goes through a line.
    unsafe {
        let mut squares = L::splat(0.0);
        for i in 0..whole {
            let v = L::load(x[i * WIDTH..].as_ptr());
            squares = v.fma(v, squares);
        }
        if rest > 0 {
            let v = L::load(line(&x[whole * WIDTH..]).as_ptr());
            squares = v.fma(v, squares);
        }
        let scale = 1.0 / (squares.sum() / x.len() as f32 + epsilon).sqrt();
        let factor = L::splat(scale);
        for i in 0..whole {
            let v = L::load(x[i * WIDTH..].as_ptr()).mul(factor);
            v.mul(L::load(weight[i * WIDTH..].as_ptr())).store(y[i * WIDTH..].as_mut_ptr());
        }
        for i in whole * WIDTH..x.len() {
            y[i] = x[i] * scale * weight[i];
        }
    }
}

/// The first numbers of a line, the others zero.
#[inline(always)]
fn line(from: &[f32]) -> [f32; WIDTH] {
    let mut line = [0.0; WIDTH];
    line[..from.len()].copy_from_slice(from);
    line
}

/// `gate = silu(gate) · up`, number by number; `silu(x) = x / (1 + e⁻ˣ)`.
///
/// `pairs` is `[M, 2 I]`: a row's gates, then its ups. `y` is `[M, I]`.
///
/// # Panics
/// When the slices do not have these shapes.
pub fn silu_mul(path: Path, pairs: &[f32], width: usize, y: &mut [f32]) {
    assert!(
        width > 0 && pairs.len() == 2 * y.len() && y.len().is_multiple_of(width),
        "pairs are [M, 2 × {width}]"
    );
    for (pair, y) in pairs.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
        let (gate, up) = pair.split_at(width);
        // SAFETY: gate, up and y are equally long.
        unsafe { gate_row(path, gate, up, y) };
    }
}

compile! {
    /// One row.
    fn gate_row(gate: &[f32], up: &[f32], y: &mut [f32]) = gated;
}

#[inline(always)]
unsafe fn gated<L: Lanes>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let whole = gate.len() / WIDTH;
    // SAFETY: whole vectors lie in the slices; the rest goes through lines.
    unsafe {
        for i in 0..whole {
            let (g, u) = (L::load(gate[i * WIDTH..].as_ptr()), L::load(up[i * WIDTH..].as_ptr()));
            silu(g).mul(u).store(y[i * WIDTH..].as_mut_ptr());
        }
        let rest = whole * WIDTH;
        if rest < gate.len() {
            let (g, u) = (line(&gate[rest..]), line(&up[rest..]));
            let mut out = [0.0; WIDTH];
            silu(L::load(g.as_ptr())).mul(L::load(u.as_ptr())).store(out.as_mut_ptr());
            y[rest..].copy_from_slice(&out[..gate.len() - rest]);
        }
    }
}

#[inline(always)]
unsafe fn silu<L: Lanes>(x: L) -> L {
    // SAFETY: arithmetic.
    unsafe { x.div(L::splat(1.0).add(exp(L::splat(0.0).sub(x)))) }
}

/// eˣ of each lane, within 2 units in the last place; 0 below −87, about 2·10³⁸ above 88; NaN gives e⁸⁸.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, eʳ by a polynomial (Cephes `expf`), times 2ⁿ.
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L) -> L {
    // Adding this to |n| < 2²² leaves n + 127 in the low bits.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // SAFETY: arithmetic.
    unsafe {
        let x = x.max(L::splat(-87.3)).min(L::splat(88.0));
        let shifted = x.fma(L::splat(std::f32::consts::LOG2_E), L::splat(ROUND));
        let n = shifted.sub(L::splat(ROUND));
        let r = n.fma(L::splat(-0.693_359_4), x);
        let r = n.fma(L::splat(2.121_944_4e-4), r);
        let mut p = L::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.fma(r, L::splat(c));
        }
        let p = p.fma(r.mul(r), r.add(L::splat(1.0)));
        p.mul(shifted.shift_to_exponent())
    }
}

/// Rotates the halves of each head by its position: `[a, b] → [a cos − b sin, b cos + a sin]`, as
/// transformers does it.
///
/// `heads` is `[heads, D]` of one token; `cos` and `sin` are `[D / 2]` of its position.
pub fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (a, b) = head.split_at_mut(half);
        for i in 0..half {
            let (x, y) = (a[i], b[i]);
            a[i] = x * cos[i] - y * sin[i];
            b[i] = y * cos[i] + x * sin[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    compile! {
        fn exp_of(x: &[f32; WIDTH], y: &mut [f32; WIDTH]) = exp_line;
    }

    #[inline(always)]
    unsafe fn exp_line<L: Lanes>(x: &[f32; WIDTH], y: &mut [f32; WIDTH]) {
        // SAFETY: 16 places each.
        unsafe { exp(L::load(x.as_ptr())).store(y.as_mut_ptr()) }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for step in 0..100_000 {
            let x = -87.0 + f64::from(step) * (175.0 / 100_000.0);
            let mut y = [0.0; WIDTH];
            // SAFETY: a path of this machine.
            unsafe { exp_of(Path::best(), &[x as f32; WIDTH], &mut y) };
            let exact = f64::from(x as f32).exp();
            assert!((f64::from(y[0]) / exact - 1.0).abs() < 2.4e-7, "exp({x}) = {} for {exact}", y[0]);
        }
        let mut y = [0.0; WIDTH];
        // SAFETY: as above.
        unsafe { exp_of(Path::best(), &[f32::NEG_INFINITY; WIDTH], &mut y) };
        assert!(y[0] < 2e-38);
    }

    proptest! {
        #[test]
        fn norms_and_gates_agree_on_every_path_and_with_the_formula(
            x in prop::collection::vec(-3f32..3.0, 1..100), rows in 1usize..4,
        ) {
            let width = x.len();
            let weight: Vec<f32> = (0..width).map(|i| 0.5 + (i % 7) as f32 / 7.0).collect();
            let many: Vec<f32> = (0..rows).flat_map(|r| x.iter().map(move |v| v * (1.0 + r as f32))).collect();
            let (mut first_norm, mut first_gate) = (None, None);
            for path in Path::available() {
                let mut y = vec![f32::NAN; many.len()];
                rms_norm(path, &many, &weight, 1e-5, &mut y);
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
                for i in 0..width {
                    let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                    prop_assert!((f64::from(y[i]) - exact).abs() < 1e-5);
                }
                prop_assert_eq!(first_norm.get_or_insert_with(|| bits(&y)), &bits(&y));

                let pairs: Vec<f32> = many.chunks(width).flat_map(|r| [r, &x].concat()).collect();
                let mut y = vec![f32::NAN; many.len()];
                silu_mul(path, &pairs, width, &mut y);
                for (i, value) in y.iter().enumerate() {
                    let (g, u) = (f64::from(many[i]), f64::from(x[i % width]));
                    prop_assert!((f64::from(*value) - g / (1.0 + (-g).exp()) * u).abs() < 2e-5);
                }
                prop_assert_eq!(first_gate.get_or_insert_with(|| bits(&y)), &bits(&y));
            }
        }
    }

    #[test]
    fn rotation_keeps_lengths_and_turns_by_the_angle() {
        let (cos, sin) = ([0.6f32, 1.0], [0.8f32, 0.0]);
        let mut head = [1.0, 2.0, 0.0, 5.0];
        rotate(&mut head, &cos, &sin);
        assert!(head.iter().zip([0.6, 2.0, 0.8, 5.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }
}
