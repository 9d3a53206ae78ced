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

/// What every vector path must give: one chain of fused multiply-adds.
fn reference(w: &[f32], bias: Option<&[f32]>, x: &[f32], inputs: usize) -> Vec<u32> {
    let dot = |row: &[f32], w: &[f32]| row.iter().zip(w).fold(0f32, |sum, (x, w)| x.mul_add(*w, sum));
    let outputs =
        |row| w.chunks(inputs).enumerate().map(move |(n, w)| dot(row, w) + bias.map_or(0.0, |b| b[n]));
    x.chunks(inputs).flat_map(outputs).map(f32::to_bits).collect()
}

/// What the tile unit must give for bf16 weights, in plain arithmetic; see [`super::super::tiles`].
fn tile_reference(w: &[f32], bias: Option<&[f32]>, x: &[f32], inputs: usize) -> Vec<u32> {
    let round = |value: f32| bf16::from_f32(value).to_f32();
    let part = |value: f32, which: usize| {
        let rest = (0..which).fold(value, |rest, _| rest - round(rest));
        round(rest)
    };
    let dot = |row: &[f32], w: &[f32]| {
        let mut sum = 0f32;
        for (row, w) in row.chunks(32).zip(w.chunks(32)) {
            for which in 0..3 {
                let chain = |first: usize| {
                    let (row, w) = (row.iter().skip(first).step_by(2), w.iter().skip(first).step_by(2));
                    row.zip(w).fold(0f32, |sum, (x, w)| part(*x, which).mul_add(*w, sum))
                };
                sum += chain(0) + chain(1);
            }
        }
        sum
    };
    let outputs =
        |row| w.chunks(inputs).enumerate().map(move |(n, w)| dot(row, w) + bias.map_or(0.0, |b| b[n]));
    x.chunks(inputs).flat_map(outputs).map(f32::to_bits).collect()
}

fn check(outputs: usize, inputs: usize, rows: usize, narrow: bool, with_bias: bool) {
    let (plain, matrix) = weights(outputs, inputs, narrow);
    let bias = with_bias.then(|| numbers(2, outputs));
    let x = numbers(3, rows * inputs);
    for path in Path::available() {
        let expected = match path {
            Path::Tiles if narrow => tile_reference(&plain, bias.as_deref(), &x, inputs),
            _ => reference(&plain, bias.as_deref(), &x, inputs),
        };
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
    // More rows than a tile has; whole groups of columns and a narrow one, with a bias and without.
    for rows in [17, 32, 33] {
        check(512, 512, rows, true, false);
        check(519, 512, rows, true, true);
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

#[test]
fn the_tile_unit_loses_nothing_of_an_input() {
    // With all weights 1, a row of one input is that input, to its last bit.
    if !Path::available().contains(&Path::Tiles) {
        return;
    }
    let ones = Matrix::stack(vec![Values::Bf16(vec![bf16::ONE; 3])], 1);
    for x in [1.000_000_1, -3.141_592_7e-20, 1.234_567_9e30, 16_777_215.0] {
        let mut y = [0.0; 3];
        linear(Path::Tiles, &ones, None, &[x], &mut y, 1);
        assert_eq!(y.map(f32::to_bits), [f32::to_bits(x); 3]);
    }
}

/// Only one of them is helped at a time; the others do all of their own work.
#[test]
fn products_run_beside_each_other_in_one_pool() {
    use rayon::prelude::*;
    let (_, matrix) = weights(512, 512, true);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for path in Path::available() {
        let bits = |key: u64| {
            let x = numbers(key, 3 * 512);
            let mut y = vec![0.0; 3 * 512];
            linear(path, &matrix, None, &x, &mut y, 3);
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let together: Vec<_> = pool.install(|| (0..64).into_par_iter().map(bits).collect());
        let alone: Vec<_> = (0..64).map(bits).collect();
        assert!(together == alone, "{path:?}");
    }
}
