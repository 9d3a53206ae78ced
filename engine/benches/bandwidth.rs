//! How fast this machine's memory is read.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Bytes a second, read from 256 MB by all threads; best of twenty.
pub fn bandwidth() -> f64 {
    let data = vec![1u64; 32 << 20];
    let chunk = data.len() / rayon::current_num_threads();
    let once = || {
        let begin = Instant::now();
        let sum: u64 = data
            .par_chunks(chunk)
            .map(|part| {
                // Eight sums, so that adding is not what is waited for.
                let sums = part.chunks_exact(8).fold([0u64; 8], |mut sums, words| {
                    sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                    sums
                });
                sums.iter().fold(0, |a: u64, b| a.wrapping_add(*b))
            })
            .reduce(|| 0, u64::wrapping_add);
        black_box(sum);
        begin.elapsed().as_secs_f64()
    };
    size_of_val(data.as_slice()) as f64 / (0..20).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// The middle of some times.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}
