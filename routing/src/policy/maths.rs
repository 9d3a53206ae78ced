//! The arithmetic of speculation: tokens per verification, speedups, block lengths.
//!
//! Everything here is a pure function of acceptances and windows. Acceptances are chances in
//! `[0, 1]`; what lies outside (or is NaN) counts as the nearer end (NaN as 0), so an estimate
//! that went astray makes a bad price and never a panic.

use crate::chain::MAX_BLOCK;

/// Lengths `0 ..= MAX_BLOCK + 1`: a block of `MAX_BLOCK` tokens emits one more.
const SLOTS: usize = MAX_BLOCK as usize + 2;

/// An acceptance as a chance.
#[inline]
pub(crate) fn chance(alpha: f64) -> f64 {
    if alpha.is_nan() { 0.0 } else { alpha.clamp(0.0, 1.0) }
}

/// Tokens that one verification of a `window`-token draft emits on average,
/// `E(α, γ) = (1 − α^{γ+1}) / (1 − α)`, and γ + 1 at α = 1.
///
/// Source: Leviathan et al. 2023, equation 1. Summed as 1 + α(1 + α(…)), which has no
/// cancellation near α = 1.
#[inline]
pub fn expected_tokens(alpha: f64, window: u32) -> f64 {
    let alpha = chance(alpha);
    if window <= 64 {
        return (0..window).fold(1.0, |tokens, _| 1.0 + alpha * tokens);
    }
    let positions = f64::from(window) + 1.0;
    if alpha >= 1.0 { positions } else { -libm::expm1(positions * libm::log(alpha)) / (1.0 - alpha) }
}

/// Factor by which two-level speculation shortens the time of a token,
/// `S(α, γ, c) = E(α, γ) / (γ·c + 1)`, where `cost` c is draft time over target time and a
/// verification costs what a decode costs.
///
/// Source: Leviathan et al. 2023, theorem 3.8.
pub fn speedup(alpha: f64, window: u32, cost: f64) -> f64 {
    expected_tokens(alpha, window) / (f64::from(window) * cost + 1.0)
}

/// Factor by which two-level speculation multiplies arithmetic operations, where
/// `operations` ĉ is draft operations over target operations per token.
///
/// Source: Leviathan et al. 2023, theorem 3.11.
pub fn operations_factor(alpha: f64, window: u32, operations: f64) -> f64 {
    let window_tokens = f64::from(window);
    (window_tokens * operations + window_tokens + 1.0) / expected_tokens(alpha, window)
}

/// The window of `0 ..= max_window` with the largest [`speedup`]; the shortest of equals, and 0
/// (no speculation) where no window gains.
pub fn best_window(alpha: f64, cost: f64, max_window: u32) -> u32 {
    let mut best = (0, 1.0);
    for window in 1..=max_window {
        let gain = speedup(alpha, window, cost);
        if gain > best.1 {
            best = (window, gain);
        }
    }
    best.0
}

/// One level of the renewal recursion: seconds a token that leaves a verifier, when each of the
/// `window` tokens below costs `lower` seconds and a verification `verify` seconds,
/// `τ_i = (γ_i·τ_{i−1} + v_i) / E(α_i, γ_i)`.
///
/// Exact for two levels; above, it ignores surplus (algorithms.md, 2.4).
#[inline]
pub fn renewal(lower: f64, window: u32, verify: f64, alpha: f64) -> f64 {
    (f64::from(window) * lower + verify) / expected_tokens(alpha, window)
}

/// Generating function `φ(s) = Σ_j P(j)·s^j` of the tokens that one cycle of `window` drafts
/// emits: 1 to γ + 1 tokens, the bonus included.
pub fn cycle_pgf(alpha: f64, window: u32, s: f64) -> f64 {
    let alpha = chance(alpha);
    let (mut sum, mut weight, mut power) = (0.0, 1.0, s);
    for _ in 0..window {
        sum += weight * (1.0 - alpha) * power;
        weight *= alpha;
        power *= s;
    }
    sum + weight * power
}

/// Tokens per round of a three-level chain that runs exactly `cycles` lower cycles, whatever they
/// emit: `(1 − α·φ(α)^n) / (1 − α)`, α = `alpha` between the upper two levels, φ of the lower
/// cycle with `lower_alpha` and `lower_window`.
///
/// Source: CS-Drafting (arXiv 2312.11462), with the bonus token. Written as
/// `1 + α·[Σ_j P(j)·E(α, j−1)]·[Σ_{k<n} φ^k]`, which is the same without the 0/0 at α = 1.
pub fn fixed_cycles_tokens(alpha: f64, lower_alpha: f64, lower_window: u32, cycles: u32) -> f64 {
    let (alpha, lower_alpha) = (chance(alpha), chance(lower_alpha));
    let phi = cycle_pgf(lower_alpha, lower_window, alpha);
    let (mut gain, mut weight) = (0.0, 1.0);
    for emitted in 1..=lower_window {
        gain += weight * (1.0 - lower_alpha) * expected_tokens(alpha, emitted - 1);
        weight *= lower_alpha;
    }
    gain += weight * expected_tokens(alpha, lower_window);
    let (mut powers, mut power) = (0.0, 1.0);
    for _ in 0..cycles {
        powers += power;
        power *= phi;
    }
    1.0 + alpha * gain * powers
}

/// CS-Drafting's walltime factor (EWIF) over plain decoding: [`fixed_cycles_tokens`] over
/// `1 + n·c_middle + n·k·c_lowest`, costs relative to one pass of the target.
pub fn fixed_cycles_speedup(
    alpha: f64,
    lower: (f64, u32),
    cycles: u32,
    middle_cost: f64,
    lowest_cost: f64,
) -> f64 {
    let (lower_alpha, lower_window) = lower;
    let n = f64::from(cycles);
    let seconds = 1.0 + n * middle_cost + n * f64::from(lower_window) * lowest_cost;
    fixed_cycles_tokens(alpha, lower_alpha, lower_window, cycles) / seconds
}

/// Distribution of a block's length in tokens.
///
/// What would be longer than `MAX_BLOCK + 1` counts as that long; no plan whose windows add up to
/// [`MAX_BLOCK`] gets there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    mass: [f64; SLOTS],
    least: usize,
    most: usize,
}

impl Lengths {
    /// A block of `n` tokens for certain: what a lowest level makes.
    pub fn exactly(n: u32) -> Self {
        let at = (n as usize).min(SLOTS - 1);
        let mut mass = [0.0; SLOTS];
        mass[at] = 1.0;
        Self { mass, least: at, most: at }
    }

    /// Tokens emitted when a verifier with acceptance `alpha` checks a block of this length:
    /// `P(j) = α^{j−1}·[(1 − α)·P(n ≥ j) + P(n = j − 1)]` for `j = 1 ..= longest + 1`. For a block
    /// of γ that is `α^{j−1}(1 − α)` up to γ and `α^γ` at γ + 1.
    pub fn verified(&self, alpha: f64) -> Self {
        let alpha = chance(alpha);
        let mut out = Self { mass: [0.0; SLOTS], least: 1, most: (self.most + 1).min(SLOTS - 1) };
        let (mut power, mut at_least) = (1.0, 1.0 - self.mass[0]);
        for j in 1..=self.most + 1 {
            let ends = self.mass[j - 1];
            out.mass[j.min(SLOTS - 1)] += power * ((1.0 - alpha) * at_least + ends);
            at_least -= self.mass.get(j).copied().unwrap_or(0.0);
            power *= alpha;
        }
        out
    }

    /// Length of a fill of `n` tokens by cycles that each emit a length of this distribution,
    /// surplus kept: `P(m) = Σ_{s<n} u(s)·P(m − s)`, with u(s) the chance that the cycles' running
    /// sum visits s.
    pub fn fill(&self, n: u32) -> Self {
        self.fill_and_cycles(n).0
    }

    /// [`fill`](Self::fill), and the expected number of cycles it takes: `Σ_{s<n} u(s)`.
    pub fn fill_and_cycles(&self, n: u32) -> (Self, f64) {
        let n = (n as usize).min(SLOTS - 1);
        if n == 0 {
            return (Self::exactly(0), 0.0);
        }
        let mut visits = [0.0; SLOTS];
        visits[0] = 1.0;
        let mut out = Self { mass: [0.0; SLOTS], least: n, most: (n - 1 + self.most).clamp(n, SLOTS - 1) };
        let mut cycles = 0.0;
        for from in 0..n {
            let u = visits[from];
            cycles += u;
            for (length, &mass) in self.mass[..=self.most].iter().enumerate().skip(1) {
                let to = from + length;
                if to < n {
                    visits[to] += u * mass;
                } else {
                    out.mass[to.min(SLOTS - 1)] += u * mass;
                }
            }
        }
        (out, cycles)
    }

    /// Chance that a fill of `n` tokens still needs its c-th cycle, `S_c`: that the first c − 1
    /// cycles emit fewer than `n`. Fills `needs[c − 1]`, falling, until `n` cycles or a chance
    /// below `least`; answers how many it wrote.
    pub fn needs(&self, n: u32, least: f64, needs: &mut [f64; MAX_BLOCK as usize]) -> usize {
        let n = (n as usize).min(MAX_BLOCK as usize);
        let (mut sums, mut next) = ([0.0; SLOTS], [0.0; SLOTS]);
        sums[0] = 1.0;
        for c in 0..n {
            // Each cycle emits one token or more: after c cycles the sum is c or more.
            let need: f64 = sums[c..n].iter().sum();
            if need < least {
                return c;
            }
            needs[c] = need.min(1.0);
            next[c..n].fill(0.0);
            for from in c..n {
                let most = self.most.min(n - 1 - from);
                for length in 1..=most {
                    next[from + length] += sums[from] * self.mass[length];
                }
            }
            std::mem::swap(&mut sums, &mut next);
        }
        n
    }

    /// Chance of exactly `n` tokens.
    pub fn chance_of(&self, n: u32) -> f64 {
        self.mass.get(n as usize).copied().unwrap_or(0.0)
    }

    /// Lengths that can occur, with their chances.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        (self.least..=self.most).map(|n| (n as u32, self.mass[n]))
    }

    /// The length, when only one can occur.
    #[inline]
    pub fn certain(&self) -> Option<u32> {
        (self.least == self.most).then_some(self.least as u32)
    }

    /// Mean and variance of the length.
    pub fn moments(&self) -> (f64, f64) {
        let (mut mean, mut square) = (0.0, 0.0);
        for (n, mass) in self.iter() {
            mean += f64::from(n) * mass;
            square += f64::from(n * n) * mass;
        }
        (mean, (square - mean * mean).max(0.0))
    }

    /// Tokens that one verification of such a block emits on average, `E[E(α, n)]`.
    pub fn expected_tokens(&self, alpha: f64) -> f64 {
        let alpha = chance(alpha);
        let (mut tokens, mut sum) = (expected_tokens(alpha, self.least as u32), 0.0);
        for &mass in &self.mass[self.least..=self.most] {
            sum += mass * tokens;
            tokens = 1.0 + alpha * tokens;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::luck::{Luck, Stream};

    #[track_caller]
    fn close(got: f64, expected: f64, within: f64) {
        assert!((got - expected).abs() <= within, "got {got}, expected {expected} within {within}");
    }

    #[test]
    fn golden_12_leviathan_table_1() {
        let rows = [
            (0.6, 2, 1.53, 1.96),
            (0.7, 3, 1.58, 2.53),
            (0.8, 2, 1.23, 2.44),
            (0.8, 5, 1.63, 3.69),
            (0.9, 2, 1.11, 2.71),
            (0.9, 10, 1.60, 6.86),
        ];
        for (alpha, window, operations, speed) in rows {
            close(operations_factor(alpha, window, 0.0), operations, 0.005);
            close(speedup(alpha, window, 0.0), speed, 0.005);
        }
    }

    #[test]
    fn golden_12_leviathan_table_4() {
        // γ, α, c, their theory, the same recomputed to three decimals.
        let rows = [
            (7, 0.75, 0.02, 3.2, 3.157),
            (7, 0.80, 0.04, 3.3, 3.251),
            (7, 0.82, 0.11, 2.5, 2.497),
            (7, 0.62, 0.02, 2.3, 2.258),
            (5, 0.68, 0.04, 2.4, 2.347),
            (3, 0.71, 0.11, 2.0, 1.934),
            (5, 0.65, 0.02, 2.4, 2.402),
            (5, 0.73, 0.04, 2.6, 2.619),
            (3, 0.74, 0.11, 2.0, 2.025),
            (5, 0.53, 0.02, 1.9, 1.891),
            (3, 0.55, 0.04, 1.8, 1.803),
            (3, 0.56, 0.11, 1.6, 1.541),
        ];
        for (window, alpha, cost, theory, calculated) in rows {
            close(speedup(alpha, window, cost), theory, 0.07);
            close(speedup(alpha, window, cost), calculated, 0.001);
        }
    }

    #[test]
    fn golden_12_best_windows() {
        let rows = [
            (0.01, [5, 7, 9, 14, 24]),
            (0.02, [4, 6, 8, 11, 19]),
            (0.05, [3, 4, 6, 8, 13]),
            (0.10, [2, 3, 4, 6, 10]),
            (0.20, [1, 2, 3, 4, 7]),
            (0.30, [1, 1, 2, 3, 5]),
        ];
        for (cost, windows) in rows {
            for (alpha, expected) in [0.5, 0.6, 0.7, 0.8, 0.9].into_iter().zip(windows) {
                assert_eq!(best_window(alpha, cost, 40), expected, "alpha {alpha}, cost {cost}");
            }
        }
        assert_eq!(best_window(0.2, 0.3, 40), 0, "no window gains where acceptance is below cost");
    }

    #[test]
    fn golden_12_fixed_cycles() {
        for (window, cycles, seconds, tokens) in [
            (3, 1, 0.40912, 2.95754),
            (3, 2, 0.33500, 4.23885),
            (4, 2, 0.33038, 4.41916),
            (5, 3, 0.32679, 5.35508),
        ] {
            close(fixed_cycles_tokens(0.85, 0.75, window, cycles), tokens, 5e-6);
            close(1.0 / fixed_cycles_speedup(0.85, (0.75, window), cycles, 0.15, 0.02), seconds, 5e-6);
            // The same by the distribution of the sum of the cycles.
            let cycle = Lengths::exactly(window).verified(0.75);
            let mut sum = vec![1.0];
            for _ in 0..cycles {
                let mut next = vec![0.0; sum.len() + cycle.most];
                for (s, u) in sum.iter().enumerate() {
                    cycle.iter().for_each(|(n, mass)| next[s + n as usize] += u * mass);
                }
                sum = next;
            }
            let by_sum: f64 =
                sum.iter().enumerate().map(|(n, mass)| mass * expected_tokens(0.85, n as u32)).sum();
            close(by_sum, tokens, 5e-6);
        }
    }

    #[test]
    fn golden_12_three_level_renewal() {
        for (windows, middle, top) in
            [((3, 4), 0.07680, 0.35248), ((4, 8), 0.07539, 0.31295), ((5, 6), 0.07603, 0.32149)]
        {
            let lower = renewal(0.02, windows.0, 0.15, 0.75);
            close(lower, middle, 5e-6);
            close(renewal(lower, windows.1, 1.0, 0.85), top, 5e-6);
        }
        close(renewal(0.15, 6, 1.0, 0.85), 0.41947, 5e-6);
        let two_level = (1..=40).map(|w| renewal(0.02, w, 1.0, 0.70)).fold(f64::MAX, f64::min);
        close(two_level, 0.36263, 5e-6);
    }

    #[test]
    fn expected_tokens_is_stable_near_certainty() {
        for window in [1, 8, 64, 65, 1000] {
            let positions = f64::from(window) + 1.0;
            close(expected_tokens(1.0, window), positions, 1e-9);
            // E = γ + 1 − (1 − α)·γ(γ + 1)/2 to first order.
            let slope = f64::from(window) * positions / 2.0;
            close(expected_tokens(1.0 - 1e-12, window), positions - 1e-12 * slope, 1e-6);
            close(expected_tokens(0.0, window), 1.0, 0.0);
        }
        close(expected_tokens(0.99, 65), expected_tokens(0.99, 64) * 0.99 + 1.0, 1e-9);
        close(expected_tokens(f64::NAN, 3), 1.0, 0.0);
        close(fixed_cycles_tokens(1.0, 0.75, 3, 2), 1.0 + 2.0 * expected_tokens(0.75, 3), 1e-12);
    }

    #[test]
    fn a_fill_agrees_with_its_coins() {
        let draws = Luck::new(11).stream(Stream::Test);
        let (alpha, window, want, runs) = (0.7, 4u32, 9u32, 40_000u64);
        let (fill, cycles) = Lengths::exactly(window).verified(alpha).fill_and_cycles(want);
        let mut seen = [0.0; SLOTS];
        let mut needed = [0.0; MAX_BLOCK as usize];
        for run in 0..runs {
            let (mut length, mut coin) = (0u32, 0u64);
            for need in &mut needed {
                if length >= want {
                    break;
                }
                *need += 1.0;
                let mut accepted = 0;
                while accepted < window && draws.uniform(run, coin + u64::from(accepted)) < alpha {
                    accepted += 1;
                }
                coin += u64::from(window) + 1;
                length += accepted + 1;
            }
            seen[length as usize] += 1.0;
        }
        let mut needs = [0.0; MAX_BLOCK as usize];
        let count = Lengths::exactly(window).verified(alpha).needs(want, 0.0, &mut needs);
        close(needs[..count].iter().sum(), cycles, 1e-12);
        for (chance, hits) in fill.mass.iter().zip(seen).chain(needs[..count].iter().zip(needed)) {
            let error = (chance * (1.0 - chance).max(0.0) / runs as f64).sqrt();
            close(hits / runs as f64, *chance, 4.5 * error + 1e-9);
        }
    }

    proptest! {
        #[test]
        fn expected_tokens_grows_with_acceptance_and_window(a in 0.0..1.0f64, b in 0.0..1.0f64, window in 0u32..90) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(expected_tokens(low, window) <= expected_tokens(high, window) + 1e-12);
            prop_assert!(expected_tokens(low, window) <= expected_tokens(low, window + 1) + 1e-12);
            prop_assert!(expected_tokens(low, window) <= f64::from(window) + 1.0);
        }

        #[test]
        fn a_dearer_level_below_is_never_cheaper_above(
            below in 0.001..1.0f64, more in 0.0..1.0f64, window in 1u32..9, verify in 0.01..2.0f64, alpha in 0.0..1.0f64,
        ) {
            prop_assert!(renewal(below, window, verify, alpha) <= renewal(below + more, window, verify, alpha));
        }

        #[test]
        fn masses_sum_to_one_and_means_agree(
            first in 1u32..9, second in 1u32..9, third in 1u32..9, a in 0.0..=1.0f64, b in 0.0..=1.0f64, c in 0.0..=1.0f64,
        ) {
            let total = |lengths: &Lengths| lengths.mass.iter().sum::<f64>();
            let cycle = Lengths::exactly(first).verified(a);
            let (fill, cycles) = cycle.fill_and_cycles(second);
            let upper = fill.verified(b);
            let (top, upper_cycles) = upper.fill_and_cycles(third);
            for lengths in [&cycle, &fill, &upper, &top] {
                prop_assert!((total(lengths) - 1.0).abs() < 1e-12);
            }
            // Emitted tokens two ways; Wald: mean fill = cycles × mean cycle.
            prop_assert!((cycle.moments().0 - expected_tokens(a, first)).abs() < 1e-10);
            prop_assert!((upper.moments().0 - fill.expected_tokens(b)).abs() < 1e-10);
            prop_assert!((fill.moments().0 - cycles * cycle.moments().0).abs() < 1e-9);
            prop_assert!((top.moments().0 - upper_cycles * upper.moments().0).abs() < 1e-9);
            prop_assert!((top.verified(c).moments().0 - top.expected_tokens(c)).abs() < 1e-9);
            prop_assert!(top.chance_of(third - 1) == 0.0 && top.moments().0 >= f64::from(third) - 1e-12);
            let mut needs = [0.0; MAX_BLOCK as usize];
            let count = upper.needs(third, 0.0, &mut needs);
            prop_assert!((needs[..count].iter().sum::<f64>() - upper_cycles).abs() < 1e-10);
            prop_assert!(needs[..count].windows(2).all(|pair| pair[1] <= pair[0] + 1e-15));
        }
    }
}
