//! `cost(M)`: what M rows through one weight matrix cost beside one row, ours and candle's.
//!
//! `cargo bench -p specrouter-engine --bench cost [-- --quick]` prints one table: medians of
//! interleaved rounds, in microseconds, and cost(M) / cost(1). The first line is the bandwidth of this
//! machine's memory, read by as many threads as the kernels use.

#![allow(clippy::disallowed_types, clippy::print_stdout, reason = "a bench reads the clock and prints")]

mod bandwidth;

use std::hint::black_box;
use std::time::Instant;

use bandwidth::{bandwidth, median};
use candle_core::{Device, Tensor};
use half::bf16;
use specrouter_engine::kernels::Path;
use specrouter_engine::kernels::linear::linear;
use specrouter_engine::kernels::matrix::Matrix;
use specrouter_engine::weights::Values;
use specrouter_routing::luck::{Luck, Stream};

const ROWS: [usize; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 128, 512];
const SHAPES: [(usize, usize); 7] =
    [(64, 2048), (384, 1152), (768, 2048), (2048, 2048), (2048, 32_000), (4096, 4096), (4096, 14_336)];

fn numbers(count: usize) -> Vec<f32> {
    let draws = Luck::new(5).stream(Stream::Test);
    (0..count as u64).map(|i| draws.uniform(1, i) as f32 - 0.5).collect()
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    rayon::scope(|_| table(if quick { 5 } else { 25 }));
}

fn table(rounds: usize) {
    let path = Path::best();
    println!(
        "read bandwidth {:.1} GB/s, {} threads, path {}",
        bandwidth() / 1e9,
        rayon::current_num_threads(),
        path.as_str()
    );
    println!(
        "{:>14} {:>3} | {:>9} {:>6} | {:>9} {:>6} | {:>9} {:>6}",
        "K x N", "M", "f32 us", "ratio", "bf16 us", "ratio", "candle us", "ratio"
    );
    for (k, n) in SHAPES {
        let values = numbers(n * k);
        let wide = Matrix::stack(vec![Values::F32(values.clone())], k);
        let narrow =
            Matrix::stack(vec![Values::Bf16(values.iter().map(|v| bf16::from_f32(*v)).collect())], k);
        let theirs = Tensor::from_vec(values, (n, k), &Device::Cpu).and_then(|t| t.t()).expect("shapes fit");
        let mut base = [0.0; 3];
        for rows in ROWS {
            let x = numbers(rows * k);
            let mut y = vec![0.0; rows * n];
            let tensor = Tensor::from_vec(x.clone(), (rows, k), &Device::Cpu).expect("shapes fit");
            let mut times = [const { Vec::new() }; 3];
            let repeat = (4_000_000 / (n * k)).clamp(1, 200);
            for _ in 0..rounds {
                let mut timed = |which: usize, run: &mut dyn FnMut()| {
                    let begin = Instant::now();
                    (0..repeat).for_each(|_| run());
                    times[which].push(begin.elapsed().as_secs_f64() * 1e6 / repeat as f64);
                };
                timed(0, &mut || linear(path, &wide, None, &x, black_box(&mut y), rows));
                timed(1, &mut || linear(path, &narrow, None, &x, black_box(&mut y), rows));
                timed(2, &mut || drop(black_box(tensor.matmul(&theirs).expect("shapes fit"))));
            }
            let medians = times.map(median);
            if rows == 1 {
                base = medians;
            }
            let cells: Vec<String> =
                (0..3).map(|i| format!("{:>9.1} {:>6.2}", medians[i], medians[i] / base[i])).collect();
            println!("{:>14} {rows:>3} | {}", format!("{k} x {n}"), cells.join(" | "));
        }
    }
}
