//! One model of a pool, as the backend sees it: packed rows in, logits out.
//!
//! Sampling, verification and the backend are generic over [`LevelModel`], so a table-driven toy
//! model tests them without tensors.

use specrouter_routing::ids::Slot;

/// Tokens of one sequence in a packed pass: they stand one after another behind what the model's
/// cache holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedRow {
    /// Whose cache.
    pub slot: Slot,
    /// Tokens in that cache before the pass; the position of the row's first token.
    pub context: u32,
    /// The row's tokens; at least 1.
    pub tokens: u32,
}

/// The input of one pass: ragged rows, packed without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// `[T]` token ids, row after row.
    pub tokens: Vec<u32>,
    /// The rows; Σ of their tokens is T. No slot comes twice.
    pub rows: Vec<PackedRow>,
    /// `[W]` places in `tokens` whose logits are wanted, ascending.
    pub want: Vec<u32>,
}

impl Packed {
    /// Empties the buffers.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.want.clear();
    }
}

/// Why a forward failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The packed rows do not fit the caches or one another: a bug in the backend.
    #[error("{model}: packed pass: {what}: expected {expected}, got {got}")]
    Rows {
        /// The model.
        model: String,
        /// What does not fit.
        what: &'static str,
        /// What would.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// A token id outside the vocabulary: the prompt is at fault, or a model with a wider one.
    #[error("{model}: token id must be below the vocabulary's {vocabulary}, got {token}")]
    Token {
        /// The model.
        model: String,
        /// Its vocabulary.
        vocabulary: u32,
        /// What came.
        token: u32,
    },
    /// More KV memory than the model was given.
    #[error("{model}: KV memory holds {pages} pages of {page} tokens, and all are in use")]
    KvFull {
        /// The model.
        model: String,
        /// Pages in all.
        pages: u32,
        /// Tokens of a page.
        page: u32,
    },
    /// Logits that are NaN or +∞: weights or inputs are broken.
    #[error("{model}: logits of request row {row} are not finite")]
    NotFinite {
        /// The model.
        model: String,
        /// Index of the packed row.
        row: usize,
    },
    /// The device refused.
    #[error("{model}: {source}")]
    Device {
        /// The model.
        model: String,
        /// Why.
        source: candle_core::Error,
    },
}

/// A decoder with the caches of the sequences that use it.
pub trait LevelModel {
    /// The model's name, for messages.
    fn name(&self) -> &str;

    /// Tokens of the vocabulary, V.
    fn vocabulary(&self) -> usize;

    /// Runs the packed tokens, appends their keys and values to the caches of their slots, and
    /// replaces `logits` by `[W, V]` rows, one for each of `packed.want`.
    ///
    /// A slot's cache must hold exactly the row's `context` tokens.
    ///
    /// # Errors
    /// [`ForwardError`]; the caches of the rows are then in no known state.
    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError>;

    /// Forgets all but the first `len` tokens of the slot's cache; `len` at or above its length
    /// changes nothing.
    fn truncate(&mut self, slot: Slot, len: u32);

    /// Tokens in the slot's cache.
    fn cached(&self, slot: Slot) -> u32;
}

impl<M: LevelModel + ?Sized> LevelModel for Box<M> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn vocabulary(&self) -> usize {
        (**self).vocabulary()
    }

    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        (**self).forward(packed, logits)
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        (**self).truncate(slot, len);
    }

    fn cached(&self, slot: Slot) -> u32 {
        (**self).cached(slot)
    }
}
