//! Luck is handed in and keyed, never streamed.
//!
//! A draw is a pure function of (seed, stream, two 64-bit counters): whoever asks, in any order,
//! meets the same luck, so two policies are compared on the same coins.
//!
//! The hash is Philox2x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
//! with 7 rounds; the paper finds 6 enough to pass BigCrush.

/// What a draw is for. Streams never share a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Is a proposal kept, on the text that will be committed.
    Acceptance = 1,
    /// Verdicts off that text.
    OffPath = 2,
    /// What distinguishes requests: latent acceptance, regimes.
    Request = 3,
    /// Arrival times.
    Arrival = 4,
    /// Prompt and output lengths, classes.
    Length = 5,
    /// Noise on pass times.
    Cost = 6,
    /// Noise on confidence signals.
    Signal = 7,
    /// A dispatcher's choices.
    Dispatch = 8,
    /// A policy's own exploration.
    Policy = 9,
    /// Whatever a test needs.
    Test = 10,
    /// The engine's proposals, acceptances and corrections.
    Engine = 11,
    /// The noise that levels share where decoding is coupled.
    Gumbel = 12,
}

/// A run's seed; every draw starts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Luck {
    seed: u64,
}

/// One stream of a run's luck: the key is mixed once, a draw costs one Philox block.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    key: u64,
}

impl Luck {
    /// The luck of the run with this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The draws of one stream.
    pub fn stream(self, stream: Stream) -> Draws {
        Draws { key: philox2x64::<10>([self.seed, stream as u64], 0x5eed_0f5b_ec70_07e5)[0] }
    }
}

impl Draws {
    /// The `index`-th of many streams within this one.
    pub fn part(self, index: u64) -> Self {
        Self { key: philox2x64::<10>([index, 0x9a27], self.key)[1] }
    }

    /// 64 random bits for the key `(a, b)`.
    #[inline]
    pub fn bits(&self, a: u64, b: u64) -> u64 {
        philox2x64::<7>([a, b], self.key)[0]
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    #[inline]
    pub fn uniform(&self, a: u64, b: u64) -> f64 {
        unit(self.bits(a, b))
    }

    /// Two independent uniform numbers in `[0, 1)`.
    #[inline]
    pub fn uniform_pair(&self, a: u64, b: u64) -> (f64, f64) {
        let [x, y] = philox2x64::<7>([a, b], self.key);
        (unit(x), unit(y))
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&self, a: u64, b: u64) -> f64 {
        let (u, v) = self.uniform_pair(a, b);
        libm::sqrt(-2.0 * libm::log(1.0 - u)) * libm::cos(std::f64::consts::TAU * v)
    }

    /// A generator for the distributions of `rand_distr`, counting from key `a`.
    pub fn generator(&self, a: u64) -> Generator {
        Generator { draws: *self, a, next: 0 }
    }
}

/// A generator whose `n`-th word is the draw with key `(a, n)`.
#[derive(Clone, Debug)]
pub struct Generator {
    draws: Draws,
    a: u64,
    next: u64,
}

impl rand::TryRng for Generator {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let bits = self.draws.bits(self.a, self.next);
        self.next += 1;
        Ok(bits)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[inline]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Philox2x64 with `ROUNDS` rounds.
#[inline]
fn philox2x64<const ROUNDS: u32>(counter: [u64; 2], key: u64) -> [u64; 2] {
    const MULTIPLIER: u64 = 0xD2B7_4407_B1CE_6E93;
    const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
    let ([mut low, mut high], mut key) = (counter, key);
    for _ in 0..ROUNDS {
        let product = u128::from(MULTIPLIER) * u128::from(low);
        (low, high) = (((product >> 64) as u64) ^ key ^ high, product as u64);
        key = key.wrapping_add(WEYL);
    }
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        assert_eq!(philox2x64::<10>([0, 0], 0), [0xca00_a045_9843_d731, 0x66c2_4222_c9a8_45b5]);
        let ones = u64::MAX;
        assert_eq!(philox2x64::<10>([ones, ones], ones), [0x65b0_21d6_0cd8_310f, 0x4d02_f322_2f86_df20]);
    }

    #[test]
    fn draws_are_uniform_and_streams_are_unrelated() {
        let (a, b) = (Luck::new(7).stream(Stream::Acceptance), Luck::new(7).stream(Stream::OffPath));
        let n = 100_000u64;
        let (mut mean, mut cross) = (0.0, 0.0);
        for i in 0..n {
            let (x, y) = (a.uniform(3, i) - 0.5, b.uniform(3, i) - 0.5);
            mean += x;
            cross += x * y;
        }
        // Four standard errors: 0.2887 / sqrt(n), and 1/12 / sqrt(n).
        assert!((mean / n as f64).abs() < 4.0 * 0.2887 / (n as f64).sqrt());
        assert!((cross / n as f64).abs() < 4.0 / 12.0 / (n as f64).sqrt());
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let draws = Luck::new(1).stream(Stream::Test);
        let n = 50_000u64;
        let values: Vec<f64> = (0..n).map(|i| draws.normal(0, i)).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
