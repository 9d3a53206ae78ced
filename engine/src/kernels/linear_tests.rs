use half::bf16;
use proptest::prelude::*;
use specrouter_routing::luck::{Draws, Luck, Stream};

use super::*;
use crate::weights::Values;

fn draws() -> Draws {
    Luck::new(3).stream(Stream::Test)
}

fn numbers(key: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (draws().uniform(key, i) * 2.0 - 1.0) as f32).collect()
}

fn weights(outputs: usize, inputs: usize, narrow: bool) -> (Vec<f32>, Matrix) {
    let values = numbers(1, outputs * inputs);
    if narrow {
        let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        (values.iter().map(|v| v.to_f32()).collect(), Matrix::stack(vec![Values::Bf16(values)], inputs))
    } else {
        (values.clone(), Matrix::stack(vec![Values::F32(values)], inputs))
    }
}

/// What every path must give: one chain of fused multiply-adds.
fn reference(w: &[f32], bias: Option<&[f32]>, x: &[f32], inputs: usize) -> Vec<u32> {
    let dot = |row: &[f32], w: &[f32]| row.iter().zip(w).fold(0f32, |sum, (x, w)| x.mul_add(*w, sum));
    let outputs =
        |row| w.chunks(inputs).enumerate().map(move |(n, w)| dot(row, w) + bias.map_or(0.0, |b| b[n]));
    x.chunks(inputs).flat_map(outputs).map(f32::to_bits).collect()
}

fn check(outputs: usize, inputs: usize, rows: usize, narrow: bool, with_bias: bool) {
    let (plain, matrix) = weights(outputs, inputs, narrow);
    let bias = with_bias.then(|| numbers(2, outputs));
    let x = numbers(3, rows * inputs);
    let expected = reference(&plain, bias.as_deref(), &x, inputs);
    for path in Path::available() {
        let mut y = vec![f32::NAN; rows * outputs];
        linear(path, &matrix, bias.as_deref(), &x, &mut y, rows);
        let got: Vec<u32> = y.iter().map(|v| v.to_bits()).collect();
        assert!(got == expected, "{path:?} {outputs}x{inputs}, {rows} rows, narrow {narrow}");
        for (row, together) in y.chunks(outputs).enumerate() {
            let mut alone = vec![f32::NAN; outputs];
            linear(path, &matrix, bias.as_deref(), &x[row * inputs..][..inputs], &mut alone, 1);
            assert!(
                alone.iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{path:?} row {row}"
            );
        }
    }
}

#[test]
fn one_row_alone_equals_that_row_in_any_batch_where_threads_share() {
    for rows in [1, 2, 7, 13] {
        check(528, 512, rows, false, true);
        check(519, 512, rows, true, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn one_row_alone_equals_that_row_in_any_batch(
        outputs in 1usize..150, inputs in 1usize..150, rows in 1usize..34, narrow: bool, bias: bool,
    ) {
        check(outputs, inputs, rows, narrow, bias);
    }
}

#[test]
fn rows_come_back_as_they_were_packed() {
    for narrow in [false, true] {
        let (plain, matrix) = weights(37, 21, narrow);
        let mut row = vec![0.0; 21];
        for index in 0..37 {
            matrix.row(index, &mut row);
            assert_eq!(row, plain[index * 21..][..21]);
        }
    }
}

#[test]
fn stacked_parts_are_one_matrix() {
    let values = numbers(5, 30 * 8);
    let part = |range: std::ops::Range<usize>| Values::F32(values[range].to_vec());
    let whole = Matrix::stack(vec![part(0..240)], 8);
    let stacked = Matrix::stack(vec![part(0..80), part(80..120), part(120..240)], 8);
    let (x, mut a, mut b) = (numbers(6, 8), vec![0.0; 30], vec![1.0; 30]);
    linear(Path::Portable, &whole, None, &x, &mut a, 1);
    linear(Path::Portable, &stacked, None, &x, &mut b, 1);
    assert_eq!(a, b);
}
