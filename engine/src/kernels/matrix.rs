//! Weights in the layout that the kernels read: panels of sixteen outputs, in groups of four.

use super::lanes::{Line, PairLine};
use crate::weights::Values;

/// Outputs of a panel: one vector's lanes.
pub(super) const PANEL: usize = 16;
/// Panels of a group: what one tile multiplies.
pub(super) const GROUP: usize = 4;

/// A weight matrix `[N, K]`: N outputs of K inputs each.
///
/// Stored as `[⌈N / 64⌉, K, 4, 16]`: the weights of 64 outputs for one input stand side by side, so a
/// lane is an output, nothing is added across lanes, and memory is read from front to back.
///
/// bf16 weights are stored as `[⌈N / 64⌉, ⌈K / 32⌉ · 16, 4, 16, 2]`: the two of a pair of inputs share a
/// word. Vector paths widen them in registers; the tile unit takes them as they are. Inputs past K
/// weigh 0.
#[derive(Clone, Debug)]
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    pub(super) panels: Panels,
}

#[derive(Clone, Debug)]
pub(super) enum Panels {
    F32(Vec<Line>),
    Bf16(Vec<PairLine>),
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
                let deep = pairs(inputs);
                let mut lines = vec![PairLine([0; PANEL]); lines_of(outputs, deep)];
                let mut first = 0;
                for part in parts {
                    let Values::Bf16(values) = part else { continue };
                    let rows = values.chunks_exact(inputs).map(|row| row.chunks(2));
                    pack(rows, deep, first, &mut lines, |line, lane, pair| {
                        let high = pair.get(1).map_or(0, |weight| u32::from(weight.to_bits()));
                        line.0[lane] = u32::from(pair[0].to_bits()) | high << 16;
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
        match &self.panels {
            Panels::F32(lines) => {
                let (line, lane) = place(row, self.inputs);
                for (to, line) in to.iter_mut().zip(lines[line..].iter().step_by(GROUP)) {
                    *to = line.0[lane];
                }
            }
            Panels::Bf16(lines) => {
                let (line, lane) = place(row, pairs(self.inputs));
                for (to, line) in to.chunks_mut(2).zip(lines[line..].iter().step_by(GROUP)) {
                    let pair = line.0[lane];
                    to[0] = f32::from_bits(pair << 16);
                    if let Some(to) = to.get_mut(1) {
                        *to = f32::from_bits(pair & 0xffff_0000);
                    }
                }
            }
        }
    }
}

/// Lines that a panel of bf16 weights has: one a pair of inputs, whole tiles of them.
pub(super) const fn pairs(inputs: usize) -> usize {
    inputs.div_ceil(2 * PANEL) * PANEL
}

fn lines_of(outputs: usize, deep: usize) -> usize {
    outputs.div_ceil(GROUP * PANEL) * GROUP * deep
}

/// The line of an output's first weight in panels of `deep` lines, and its lane; the next weights are
/// [`GROUP`] lines apart.
fn place(output: usize, deep: usize) -> (usize, usize) {
    let panel = output / PANEL;
    (panel / GROUP * GROUP * deep + panel % GROUP, output % PANEL)
}

/// Puts rows of weights, from output `first` on, into the lanes of their panels of `deep` lines.
fn pack<T, U>(
    rows: impl Iterator<Item: IntoIterator<Item = T>>,
    deep: usize,
    first: usize,
    lines: &mut [U],
    put: impl Fn(&mut U, usize, T),
) {
    for (row, weights) in rows.enumerate() {
        let (line, lane) = place(first + row, deep);
        for (line, weight) in lines[line..].iter_mut().step_by(GROUP).zip(weights) {
            put(line, lane, weight);
        }
    }
}
