//! Least squares with coefficients that are not negative.

/// Columns at most: every subset of them is tried.
const MOST: usize = 8;

/// Minimizes `½ xᵀGx − bᵀx` over x ≥ 0 for the normal equations `gram` x = `right` of a least-squares
/// problem. The optimum is the free optimum of the columns it uses, so every subset is solved and the best
/// that is not negative wins; subsets of columns that repeat each other are left to smaller ones.
pub(crate) fn non_negative<const N: usize>(gram: &[[f64; N]; N], right: &[f64; N]) -> [f64; N] {
    const { assert!(N <= MOST) };
    // Columns of one length, so that one threshold says which are alike.
    let scale: [f64; N] =
        std::array::from_fn(|i| if gram[i][i] > 0.0 { 1.0 / gram[i][i].sqrt() } else { 0.0 });
    let scaled: [[f64; N]; N] =
        std::array::from_fn(|i| std::array::from_fn(|j| gram[i][j] * scale[i] * scale[j]));
    let target: [f64; N] = std::array::from_fn(|i| right[i] * scale[i]);
    let (mut best, mut least) = ([0.0; N], 0.0);
    for subset in 1u32..1 << N {
        let Some(x) = solve(&scaled, &target, subset) else { continue };
        // At the free optimum of its columns the objective is −½ bᵀx.
        let value = -0.5 * x.iter().zip(&target).map(|(x, b)| x * b).sum::<f64>();
        if value < least && x.iter().all(|&x| x >= 0.0) {
            (best, least) = (x, value);
        }
    }
    std::array::from_fn(|i| best[i] * scale[i])
}

/// Gauss and Jordan on the columns of `subset`; `None` where they are alike.
fn solve<const N: usize>(gram: &[[f64; N]; N], right: &[f64; N], subset: u32) -> Option<[f64; N]> {
    const ALIKE: f64 = 1e-10;
    let (mut a, mut b) = (*gram, *right);
    let chosen = |i: &usize| subset >> i & 1 == 1;
    for pivot in (0..N).filter(chosen) {
        if a[pivot][pivot] < ALIKE {
            return None;
        }
        for row in (0..N).filter(chosen).filter(|&row| row != pivot) {
            let factor = a[row][pivot] / a[pivot][pivot];
            for column in (0..N).filter(chosen) {
                a[row][column] -= factor * a[pivot][column];
            }
            b[row] -= factor * b[pivot];
        }
    }
    Some(std::array::from_fn(|i| if chosen(&i) { b[i] / a[i][i] } else { 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal<const N: usize>(rows: &[([f64; N], f64)]) -> ([[f64; N]; N], [f64; N]) {
        let (mut gram, mut right) = ([[0.0; N]; N], [0.0; N]);
        for (x, y) in rows {
            for i in 0..N {
                right[i] += x[i] * y;
                (0..N).for_each(|j| gram[i][j] += x[i] * x[j]);
            }
        }
        (gram, right)
    }

    #[test]
    fn coefficients_come_back_and_none_is_negative() {
        let exact: Vec<([f64; 3], f64)> = (0..20)
            .map(|i| [1.0, f64::from(i), f64::from(i * i % 7)])
            .map(|x| (x, 2.0 * x[0] + 0.5 * x[1] + 3.0 * x[2]))
            .collect();
        let (gram, right) = normal(&exact);
        let found = non_negative(&gram, &right);
        assert!(found.iter().zip([2.0, 0.5, 3.0]).all(|(f, t)| (f - t).abs() < 1e-9), "{found:?}");
        // Falling data: the slope is held at 0 and the constant is the mean.
        let falling: Vec<([f64; 2], f64)> =
            (0..10).map(|i| ([1.0, f64::from(i)], 10.0 - f64::from(i))).collect();
        let (gram, right) = normal(&falling);
        let found = non_negative(&gram, &right);
        assert!((found[0] - 5.5).abs() < 1e-9 && found[1] == 0.0, "{found:?}");
    }

    #[test]
    fn a_column_that_repeats_another_is_left_out() {
        let twice: Vec<([f64; 2], f64)> = (1..9).map(|i| ([f64::from(i); 2], 6.0 * f64::from(i))).collect();
        let (gram, right) = normal(&twice);
        let found = non_negative(&gram, &right);
        assert!((found[0] + found[1] - 6.0).abs() < 1e-9, "{found:?}");
    }
}
