//! Where a decoder's weights come from: files, a seed, or a test's construction.

use half::bf16;

use crate::load::LoadError;

/// The numbers of one tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// IEEE single.
    F32(Vec<f32>),
    /// bfloat16, kept as it is stored: half the bytes to read in every pass.
    Bf16(Vec<bf16>),
}

impl Values {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As f32; exact.
    pub fn to_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
        }
    }
}

/// Gives tensors by their names in a Hugging Face checkpoint, such as
/// `model.layers.0.self_attn.q_proj.weight`.
pub trait WeightSource {
    /// The tensor `name`, of exactly `shape`.
    ///
    /// # Errors
    /// [`LoadError`] when it is missing, has another shape, or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError>;
}
