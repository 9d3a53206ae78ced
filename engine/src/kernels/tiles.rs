//! `y[M, N] = x[M, K] · W[N, K]ᵀ (+ bias)` with bf16 weights on the tile unit of Intel processors (AMX).
//!
//! One instruction multiplies up to sixteen rows by sixteen outputs over 32 inputs. Where weights come
//! from memory, sixteen rows by a matrix take about as long as one, which is what verifying a draft asks for.
//!
//! Nothing of an input is lost: each f32 is the sum of three bfloat16, its **parts**, and the unit adds
//! exact products in f32. The order of an output's sum is fixed by the instruction (Intel's manual,
//! `TDPBF16PS`; the tests of [`super::linear`] hold it to plain arithmetic): for each 32 inputs and each
//! part, from the largest, one chain of fused multiply-adds over the even inputs and one over the odd,
//! both from 0, added to each other and then to the sum. Rows do not meet, so kernels stay row-invariant;
//! the bits differ from those of the vector paths, whose order is another.
//!
//! The range is a little less than f32's: numbers, products and sums below 2^-126 count as 0, so inputs
//! below 2^-103 lose bits; inputs from 3.39e38 on have a first part of infinity, and give NaN.

use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

use super::lanes::PairLine;
use super::matrix::{GROUP, PANEL, pairs};
use super::{Shared, share};

/// Rows of a tile.
const ROWS: usize = 16;
/// Columns of a group of panels: four tiles.
const COLUMNS: usize = GROUP * PANEL;
/// Inputs of a tile.
const DEPTH: usize = 2 * PANEL;
/// Parts of an input.
const PARTS: usize = 3;
/// Tile steps below which sharing the work costs more than it saves.
const SHARED_FROM: usize = 96;

/// One row of a tile: 32 bfloat16.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct TileRow([u16; DEPTH]);

/// Whether this processor multiplies tiles and the system lets this process; it is asked once.
pub fn available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(granted)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn granted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Feature bits of leaf 7, register edx: bfloat16 tiles, and tiles at all.
    const TILES: u32 = 1 << 22 | 1 << 24;
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    #[allow(unused_unsafe, reason = "older toolchains want it")]
    // SAFETY: every x86-64 processor has the instruction.
    let tiles = unsafe { __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES };
    if !vectors || !tiles {
        return false;
    }
    let result: i64;
    // SAFETY: a system call that takes numbers alone and lets this process use a register file.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn granted() -> bool {
    false
}

/// As [`super::linear::linear`], which has checked the shapes; `rows` is above 0.
pub(super) fn linear(
    lines: &[PairLine],
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
    (rows, n, k): (usize, usize, usize),
) {
    thread_local! {
        /// Memory for the parts of `x`; kept from pass to pass.
        static PARTED: Cell<Vec<TileRow>> = const { Cell::new(Vec::new()) };
    }
    assert!(available(), "this processor has no tiles");
    let (groups, steps) = (n.div_ceil(COLUMNS), pairs(k) / PANEL);
    // With more rows than a tile has, the last tile is filled up with rows of 0.
    let (blocks, height) = (rows.div_ceil(ROWS), rows.min(ROWS));
    let work = groups * steps * blocks;
    let tasks = if work < SHARED_FROM { 1 } else { rayon::current_num_threads().min(groups) };
    // Taken, not borrowed: a thread that waits inside a pool may run another product.
    let mut parted = PARTED.take();
    split(x, k, height, &mut parted);
    let product = Product { lines, bias, parted: &parted, rows, height, n, steps };
    let out = Shared(y.as_mut_ptr());
    share(tasks, |task| {
        // SAFETY: the processor has tiles; each task writes the columns of its own groups of `y`.
        unsafe { product.groups(groups * task / tasks..groups * (task + 1) / tasks, out.pointer()) };
    });
    PARTED.set(parted);
}

/// What the threads of one product share.
struct Product<'a> {
    lines: &'a [PairLine],
    bias: Option<&'a [f32]>,
    parted: &'a [TileRow],
    rows: usize,
    /// Rows of every tile.
    height: usize,
    n: usize,
    /// Tiles along the inputs.
    steps: usize,
}

impl Product<'_> {
    /// The columns of some groups of panels, for all rows, so that weights are read from memory once.
    ///
    /// # Safety
    /// The processor has tiles; `y` is `[rows, n]`, and nobody else uses these columns.
    unsafe fn groups(&self, groups: Range<usize>, y: *mut f32) {
        // SAFETY: the caller's; nothing below waits for other threads, so the tiles stay this product's.
        unsafe { configure(self.height) };
        let deep = GROUP * PANEL * self.steps;
        for group in groups {
            let weights = &self.lines[group * deep..][..deep];
            for (block, x) in self.parted.chunks_exact(self.height * self.steps * PARTS).enumerate() {
                let place = Place { row: block * ROWS, column: group * COLUMNS };
                // SAFETY: the caller's.
                unsafe { self.tile(x, weights, place, y) };
            }
        }
        // SAFETY: the caller's.
        unsafe { release() };
    }

    /// One tile of rows by one group, bias and edges included.
    ///
    /// # Safety
    /// As [`Product::groups`], with the tiles set up.
    unsafe fn tile(&self, x: &[TileRow], weights: &[PairLine], place: Place, y: *mut f32) {
        let height = self.height.min(self.rows - place.row);
        let width = COLUMNS.min(self.n - place.column);
        // SAFETY: `height` rows and `width` columns from `place` on are in `y`; `sums` is a whole tile.
        unsafe {
            let to = y.add(place.row * self.n + place.column);
            if height == self.height && width == COLUMNS && self.bias.is_none() {
                multiply(x, self.height, weights, to, self.n);
                return;
            }
            let mut sums = [0f32; ROWS * COLUMNS];
            multiply(x, self.height, weights, sums.as_mut_ptr(), COLUMNS);
            for (row, sums) in sums.chunks_exact(COLUMNS).take(height).enumerate() {
                for (lane, sum) in sums[..width].iter().enumerate() {
                    // A sum without a bias goes as it is: adding 0 would change the sign of a -0.
                    let sum = self.bias.map_or(*sum, |bias| sum + bias[place.column + lane]);
                    *to.add(row * self.n + lane) = sum;
                }
            }
        }
    }
}

/// Where a tile begins.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
}

/// Splits rows of `k` inputs into their parts: `[⌈M / 16⌉, ⌈k / 32⌉, 3, height, 32]`; 0 where there is none.
fn split(x: &[f32], k: usize, height: usize, parted: &mut Vec<TileRow>) {
    let (rows, steps) = (x.len() / k, k.div_ceil(DEPTH));
    let block = height * steps * PARTS;
    parted.clear();
    parted.resize(rows.div_ceil(ROWS) * block, TileRow([0; DEPTH]));
    for (row, inputs) in x.chunks_exact(k).enumerate() {
        let to = &mut parted[row / ROWS * block + row % ROWS..];
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: the processor has the instructions, as `available` asked.
        unsafe {
            split_row(inputs, to, height);
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = (inputs, to);
    }
}

/// Three bfloat16 rows that add up to `inputs`, largest first, for each 32 of them; `height` rows apart.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split_row(inputs: &[f32], to: &mut [TileRow], height: usize) {
    use std::arch::x86_64::*;
    for (step, inputs) in inputs.chunks(DEPTH).enumerate() {
        let keep = (1u64 << inputs.len()) - 1;
        // SAFETY: a mask keeps loads within the inputs.
        let (mut low, mut high) = unsafe {
            (
                _mm512_maskz_loadu_ps(keep as u16, inputs.as_ptr()),
                _mm512_maskz_loadu_ps((keep >> PANEL) as u16, inputs.as_ptr().wrapping_add(PANEL)),
            )
        };
        for part in 0..PARTS {
            // SAFETY: all three are 64 bytes of plain numbers.
            let both = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
            // SAFETY: as above.
            to[(step * PARTS + part) * height] = unsafe { std::mem::transmute::<__m512i, TileRow>(both) };
            let (first, second) = (_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both));
            let first = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(first));
            let second = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second));
            low = _mm512_sub_ps(low, _mm512_castsi512_ps(first));
            high = _mm512_sub_ps(high, _mm512_castsi512_ps(second));
        }
    }
}

/// Sets the tiles up: 0 to 3 for sums and 4 to 6 for parts, `rows` rows each; 7 for weights, all 16 rows.
/// 64 bytes a row.
///
/// # Safety
/// [`available`] is true, `rows` is 1 to 16, and [`release`] follows on this thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub unsafe fn configure(rows: usize) {
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }
    debug_assert!((1..=ROWS).contains(&rows), "a tile has 1 to 16 rows, got {rows}");
    let mut config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    config.bytes[..8].fill(64);
    config.rows[..7].fill(rows as u8);
    config.rows[7] = ROWS as u8;
    // SAFETY: 64 bytes in the form that the instruction reads.
    unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Gives the tiles back, so that nobody saves them when threads change.
///
/// # Safety
/// [`available`] is true.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub unsafe fn release() {
    // SAFETY: an instruction of every processor with tiles.
    unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
}

/// Asks for sixteen lines of weights from `$from` bytes ahead on. A step's lines are asked for two steps
/// before: without that, one row by a matrix that is not in the cache takes a tenth longer.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
macro_rules! ask {
    ($from:literal) => {
        concat!(
            ".irp line,0,64,128,192,256,320,384,448,512,576,640,704,768,832,896,960\n",
            "prefetcht0 [{weights} + ",
            $from,
            " + \\line]\n",
            ".endr"
        )
    };
}

/// Up to sixteen rows by one group of panels; `stride` numbers from row to row of `to`.
///
/// # Safety
/// Tiles are configured for `rows`; `to` has so many rows of 64 places.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn multiply(x: &[TileRow], rows: usize, weights: &[PairLine], to: *mut f32, stride: usize) {
    let steps = weights.len() / (GROUP * PANEL);
    debug_assert!(steps > 0 && x.len() == rows * steps * PARTS);
    let part = rows * size_of::<TileRow>();
    // SAFETY: reads the two slices, each step one row of three parts and one line of four panels' tiles;
    // writes what the caller vouches for.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{first} + {line}*1]",
            "tileloadd tmm5, [{second} + {line}*1]",
            "tileloadd tmm6, [{third} + {line}*1]",
            "tileloadd tmm7, [{weights} + {lines}*1]",
            ask!(8192),
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm0, tmm5, tmm7",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tileloadd tmm7, [{weights} + {lines}*1 + 64]",
            ask!(9216),
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tileloadd tmm7, [{weights} + {lines}*1 + 128]",
            ask!(10240),
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tileloadd tmm7, [{weights} + {lines}*1 + 192]",
            ask!(11264),
            "tdpbf16ps tmm3, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "add {first}, {step}",
            "add {second}, {step}",
            "add {third}, {step}",
            "add {weights}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {stride}*1], tmm0",
            "tilestored [{to} + {stride}*1 + 64], tmm1",
            "tilestored [{to} + {stride}*1 + 128], tmm2",
            "tilestored [{to} + {stride}*1 + 192], tmm3",
            first = inout(reg) x.as_ptr() => _,
            second = inout(reg) x.as_ptr().byte_add(part) => _,
            third = inout(reg) x.as_ptr().byte_add(2 * part) => _,
            weights = inout(reg) weights.as_ptr() => _,
            steps = inout(reg) steps => _,
            step = in(reg) PARTS * part,
            line = in(reg) size_of::<TileRow>(),
            lines = in(reg) GROUP * size_of::<PairLine>(),
            to = in(reg) to,
            stride = in(reg) stride * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Nothing; no path leads here.
///
/// # Safety
/// None is asked.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub unsafe fn configure(_: usize) {}

/// Nothing; no path leads here.
///
/// # Safety
/// None is asked.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub unsafe fn release() {}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn multiply(_: &[TileRow], _: usize, _: &[PairLine], _: *mut f32, _: usize) {
    unreachable!("no path leads here: `available` is false")
}
