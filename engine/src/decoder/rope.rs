//! Rotary angles, made as far as positions have gone.

use crate::config::{Rope, RopeScaling};

/// Cosines and sines of positions 0, 1, …; `[positions, D / 2]` each.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    frequencies: Vec<f64>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub(crate) fn new(rope: &Rope, head_dim: usize) -> Self {
        let frequency =
            |i: usize| scaled(1.0 / rope.theta.powf(2.0 * i as f64 / head_dim as f64), rope.scaling);
        let frequencies = (0..head_dim / 2).map(frequency).collect();
        Self { frequencies, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes the angles of every position below `positions`.
    pub(crate) fn reach(&mut self, positions: usize) {
        let half = self.frequencies.len();
        for position in self.cos.len() / half..positions {
            for frequency in &self.frequencies {
                // f32 angles, as transformers computes them.
                let angle = position as f32 * *frequency as f32;
                self.cos.push(angle.cos());
                self.sin.push(angle.sin());
            }
        }
    }

    /// `[D / 2]` cosines and sines of a position that [`reach`](Self::reach) made.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let own = position * half..(position + 1) * half;
        (&self.cos[own.clone()], &self.sin[own])
    }
}

/// A frequency, stretched past the length of pre-training.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
            let context = f64::from(original_context);
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength < context / high_frequency {
                frequency
            } else if wavelength > context / low_frequency {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low_frequency) / (high_frequency - low_frequency);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_divides_low_ones_and_ramps_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency: 1.0,
            high_frequency: 4.0,
            original_context: 8192,
        };
        let of_wavelength = |wavelength: f64| {
            let frequency = std::f64::consts::TAU / wavelength;
            scaled(frequency, scaling) / frequency
        };
        assert!((of_wavelength(2000.0) - 1.0).abs() < 1e-12);
        assert!((of_wavelength(9000.0) - 0.125).abs() < 1e-12);
        // Half-way on the ramp: 8192 / wavelength = 2.5.
        assert!((of_wavelength(8192.0 / 2.5) - 0.5625).abs() < 1e-12);
    }

    #[test]
    fn angles_do_not_depend_on_how_far_they_were_made_at_once() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
        let (mut once, mut twice) = (Angles::new(&rope, 8), Angles::new(&rope, 8));
        once.reach(50);
        twice.reach(3);
        twice.reach(2);
        twice.reach(50);
        assert_eq!(once.at(49), twice.at(49));
        assert!((once.at(7).0[0] - 7f32.cos()).abs() < 1e-6);
    }
}
