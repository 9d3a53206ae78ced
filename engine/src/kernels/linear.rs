//! `y[M, N] = x[M, K] · W[N, K]ᵀ (+ bias)`, row-invariant.
//!
//! On vector paths each output is one chain of fused multiply-adds over k = 0, 1, …, K − 1, whatever the
//! tile it was computed in: tiles only decide how often a weight is read again. On the tile unit, which
//! takes bf16 weights only, the order is that of [`super::tiles`].

use super::lanes::{Lanes, Line, PairLine};
use super::matrix::{GROUP, Matrix, PANEL, Panels, pairs};
use super::{Path, Shared, compile, share, tiles};

/// Multiply-adds below which sharing the work costs more than it saves.
const SHARED_FROM: usize = 1 << 18;

/// Multiplies `rows` rows: `x` is `[M, K]`, `y` is `[M, N]`; both are row-major.
///
/// # Panics
/// When the slices do not have these shapes.
pub fn linear(path: Path, weights: &Matrix, bias: Option<&[f32]>, x: &[f32], y: &mut [f32], rows: usize) {
    let (n, k) = (weights.outputs(), weights.inputs());
    assert!(x.len() == rows * k, "x is [{rows}, {k}], got {} numbers", x.len());
    assert!(y.len() == rows * n, "y is [{rows}, {n}], got {} numbers", y.len());
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias is [{n}]");
    if rows == 0 {
        return;
    }
    if path == Path::Tiles
        && let Panels::Bf16(lines) = &weights.panels
    {
        return tiles::linear(lines, bias, x, y, (rows, n, k));
    }
    let groups = n.div_ceil(GROUP * PANEL);
    let threads = rayon::current_num_threads();
    let tasks = if n * k * rows < SHARED_FROM { 1 } else { threads.min(groups) };
    let out = Shared(y.as_mut_ptr());
    share(tasks, |task| {
        let (from, to) = (groups * task / tasks, groups * (task + 1) / tasks);
        // SAFETY: the shapes were checked, and each task writes the columns of its own groups.
        unsafe {
            match &weights.panels {
                Panels::F32(lines) => {
                    f32_groups(path, lines, bias, x, out.pointer(), (rows, n, k), (from, to))
                }
                Panels::Bf16(lines) => {
                    bf16_groups(path, lines, bias, x, out.pointer(), (rows, n, k), (from, to))
                }
            }
        }
    });
}

compile! {
    /// Groups `from..to` of f32 weights.
    fn f32_groups(lines: &[Line], bias: Option<&[f32]>, x: &[f32], y: *mut f32, shape: (usize, usize, usize), range: (usize, usize)) = groups::<Line>;
}

compile! {
    /// Groups `from..to` of bf16 weights.
    fn bf16_groups(lines: &[PairLine], bias: Option<&[f32]>, x: &[f32], y: *mut f32, shape: (usize, usize, usize), range: (usize, usize)) = groups::<PairLine>;
}

/// Sixteen outputs' weights in memory, for one input or a pair.
trait Weights: Sized {
    /// Inputs of a line.
    const INPUTS: usize;

    /// Lines of a panel.
    fn deep(inputs: usize) -> usize;

    /// The weights of a line's input `which`, widened.
    ///
    /// # Safety
    /// `line` points at a line, and the lanes are the processor's.
    unsafe fn load<L: Lanes>(line: *const Self, which: usize) -> L;
}

impl Weights for Line {
    const INPUTS: usize = 1;

    fn deep(inputs: usize) -> usize {
        inputs
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(line: *const Self, _: usize) -> L {
        // SAFETY: the caller's.
        unsafe { L::load(line.cast()) }
    }
}

impl Weights for PairLine {
    const INPUTS: usize = 2;

    fn deep(inputs: usize) -> usize {
        pairs(inputs)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(line: *const Self, which: usize) -> L {
        // SAFETY: the caller's.
        unsafe { if which == 0 { L::load_low(line.cast()) } else { L::load_high(line.cast()) } }
    }
}

#[inline(always)]
unsafe fn groups<L: Lanes, W: Weights>(
    lines: &[W],
    bias: Option<&[f32]>,
    x: &[f32],
    y: *mut f32,
    (rows, n, k): (usize, usize, usize),
    (from, to): (usize, usize),
) {
    // As few tiles as registers allow, all alike.
    let most = if L::WIDE { 4 } else { 2 };
    let tile = rows.div_ceil(rows.div_ceil(most));
    for group in from..to {
        let block = lines[group * GROUP * W::deep(k)..].as_ptr();
        let mut row = 0;
        while row < rows {
            let at = Tile { bias, x: x[row * k..].as_ptr(), y, row, column: group * GROUP * PANEL, n, k };
            // SAFETY: the group and the rows of the tile are in range, by the loops' bounds.
            unsafe {
                row += match tile.min(rows - row) {
                    1 => at.run::<L, W, 1>(block),
                    2 => at.run::<L, W, 2>(block),
                    3 => at.run::<L, W, 3>(block),
                    _ => at.run::<L, W, 4>(block),
                };
            }
        }
    }
}

/// Where a tile stands.
struct Tile<'a> {
    bias: Option<&'a [f32]>,
    x: *const f32,
    y: *mut f32,
    row: usize,
    column: usize,
    n: usize,
    k: usize,
}

impl Tile<'_> {
    /// `I` rows by one group of panels. Returns `I`.
    ///
    /// Sums, weights and inputs of a tile must fit the registers: with more, the compiler keeps sums
    /// on the stack, at half the speed.
    #[inline(always)]
    unsafe fn run<L: Lanes, W: Weights, const I: usize>(&self, block: *const W) -> usize {
        // SAFETY: the caller's: `block` is a group, `x` has I rows.
        unsafe {
            if L::WIDE {
                self.tile::<L, W, I, 4>(block, 0);
            } else {
                self.tile::<L, W, I, 2>(block, 0);
                self.tile::<L, W, I, 2>(block, 2);
            }
        }
        I
    }

    /// `I` rows by `J` panels of a group, from panel `first` on.
    #[inline(always)]
    unsafe fn tile<L: Lanes, W: Weights, const I: usize, const J: usize>(
        &self,
        block: *const W,
        first: usize,
    ) {
        // SAFETY: `block` is a group of 4 panels of `W::deep(k)` lines, `x` has I rows of k inputs.
        unsafe {
            let mut sums = [[L::splat(0.0); J]; I];
            let mut line = block.add(first);
            let mut x = self.x;
            // Pointers, not indexes: a checked index costs as much as a multiplication here.
            for _ in 0..self.k / W::INPUTS {
                for which in 0..W::INPUTS {
                    sums = self.add::<L, W, I, J>(sums, line, which, x);
                    x = x.add(1);
                }
                line = line.add(GROUP);
            }
            if !self.k.is_multiple_of(W::INPUTS) {
                sums = self.add::<L, W, I, J>(sums, line, 0, x);
            }
            for i in 0..I {
                for j in 0..J {
                    self.store(sums[i][j], i, first + j);
                }
            }
        }
    }

    /// The sums with one input's share, which stands at `x` in the first row.
    #[inline(always)]
    unsafe fn add<L: Lanes, W: Weights, const I: usize, const J: usize>(
        &self,
        mut sums: [[L; J]; I],
        line: *const W,
        which: usize,
        x: *const f32,
    ) -> [[L; J]; I] {
        // SAFETY: the caller's: a line for each panel, and I rows that have this input.
        unsafe {
            let mut w = [L::splat(0.0); J];
            for j in 0..J {
                w[j] = W::load(line.add(j), which);
            }
            for i in 0..I {
                let x = L::splat(*x.add(i.wrapping_mul(self.k)));
                for j in 0..J {
                    sums[i][j] = x.fma(w[j], sums[i][j]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(&self, mut sum: L, i: usize, j: usize) {
        let column = self.column + j * PANEL;
        let width = PANEL.min(self.n.saturating_sub(column));
        // SAFETY: row and columns are in y, by the tile's bounds; a narrow panel goes through a line.
        unsafe {
            let to = self.y.add((self.row + i) * self.n + column);
            if width == PANEL {
                if let Some(bias) = self.bias {
                    sum = sum.add(L::load(bias.as_ptr().add(column)));
                }
                sum.store(to);
            } else {
                let mut line = [0f32; PANEL];
                sum.store(line.as_mut_ptr());
                for lane in 0..width {
                    *to.add(lane) = line[lane] + self.bias.map_or(0.0, |bias| bias[column + lane]);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
