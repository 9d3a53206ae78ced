//! Weights in the layout that the kernels read: panels of sixteen outputs, in groups of four.

use half::bf16;

use super::lanes::{HalfLine, Line};
use crate::weights::Values;

/// Outputs of a panel: one vector's lanes.
pub(super) const PANEL: usize = 16;
/// Panels of a group: what one tile multiplies.
pub(super) const GROUP: usize = 4;

/// A weight matrix `[N, K]`: N outputs of K inputs each.
///
/// Stored as `[⌈N / 64⌉, K, 4, 16]`: the weights of 64 outputs for one input stand side by side, so a
/// lane is an output, nothing is added across lanes, and memory is read from front to back. bf16
/// weights are widened in registers.
#[derive(Clone, Debug)]
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    pub(super) panels: Panels,
}

#[derive(Clone, Debug)]
pub(super) enum Panels {
    F32(Vec<Line>),
    Bf16(Vec<HalfLine>),
}

impl Matrix {
    /// Packs row-major parts `[N_i, K]`, stacked: the outputs of the first come first. All f32 if one
    /// part is.
    ///
    /// # Panics
    /// When a part is no multiple of `inputs` long: a loader's bug, which checks every shape.
    pub fn stack(parts: Vec<Values>, inputs: usize) -> Self {
        assert!(inputs > 0 && parts.iter().all(|part| part.len() % inputs == 0), "parts are [N_i, {inputs}]");
        let outputs = parts.iter().map(Values::len).sum::<usize>() / inputs;
        let panels = match parts.iter().all(|part| matches!(part, Values::Bf16(_))) {
            true => {
                let mut lines = vec![HalfLine([0; PANEL]); lines_of(outputs, inputs)];
                let mut first = 0;
                for part in parts {
                    let Values::Bf16(values) = part else { continue };
                    let rows = values.chunks_exact(inputs);
                    pack(rows, inputs, first, &mut lines, |line, lane, weight| {
                        line.0[lane] = weight.to_bits()
                    });
                    first += values.len() / inputs;
                }
                Panels::Bf16(lines)
            }
            false => {
                let mut lines = vec![Line([0.0; PANEL]); lines_of(outputs, inputs)];
                let mut first = 0;
                for part in parts {
                    let values = part.to_f32();
                    let rows = values.chunks_exact(inputs);
                    pack(rows, inputs, first, &mut lines, |line, lane, weight| line.0[lane] = *weight);
                    first += values.len() / inputs;
                }
                Panels::F32(lines)
            }
        };
        Self { outputs, inputs, panels }
    }

    /// Outputs, N.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs, K.
    pub const fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes read by a product.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(lines) => size_of_val(lines.as_slice()),
            Panels::Bf16(lines) => size_of_val(lines.as_slice()),
        }
    }

    /// Copies the weights of output `row`, widened, to `to`, `[K]`.
    ///
    /// # Panics
    /// When `row` is no output or `to` is not K long.
    pub fn row(&self, row: usize, to: &mut [f32]) {
        assert!(
            row < self.outputs && to.len() == self.inputs,
            "row {row} of [{}, {}]",
            self.outputs,
            self.inputs
        );
        let (line, lane) = place(row, self.inputs);
        match &self.panels {
            Panels::F32(lines) => {
                for (to, line) in to.iter_mut().zip(lines[line..].iter().step_by(GROUP)) {
                    *to = line.0[lane];
                }
            }
            Panels::Bf16(lines) => {
                for (to, line) in to.iter_mut().zip(lines[line..].iter().step_by(GROUP)) {
                    *to = bf16::from_bits(line.0[lane]).to_f32();
                }
            }
        }
    }
}

fn lines_of(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP * PANEL) * GROUP * inputs
}

/// The line of an output's first weight, and its lane; the next weights are [`GROUP`] lines apart.
fn place(output: usize, inputs: usize) -> (usize, usize) {
    let panel = output / PANEL;
    (panel / GROUP * GROUP * inputs + panel % GROUP, output % PANEL)
}

/// Puts rows of weights, from output `first` on, into the lanes of their panels.
fn pack<'a, T: 'a, U>(
    rows: impl Iterator<Item = &'a [T]>,
    inputs: usize,
    first: usize,
    lines: &mut [U],
    put: impl Fn(&mut U, usize, &T),
) {
    for (row, weights) in rows.enumerate() {
        let (line, lane) = place(first + row, inputs);
        for (line, weight) in lines[line..].iter_mut().step_by(GROUP).zip(weights) {
            put(line, lane, weight);
        }
    }
}
