//! KV memory as counts of blocks, per model. The same counts stand for both twins; the engine
//! keeps tensors in the slots that these counts allow.

use crate::chain::MAX_MODELS;
use crate::ids::ModelId;

/// A KV configuration that cannot work. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Not a power of two.
    #[error("block_size must be a power of two between 1 and 1024 tokens, got {0}")]
    BlockSize(u32),
    /// Less than one block.
    #[error("KV memory must hold at least one block of {block_size} tokens, got {tokens} tokens")]
    Tokens {
        /// Tokens of a block.
        block_size: u32,
        /// What came.
        tokens: u64,
    },
}

/// Blocks of every model of one replica's pool.
#[derive(Clone, Debug)]
pub struct Kv {
    shift: u32,
    total: [u32; MAX_MODELS],
    free: [u32; MAX_MODELS],
    used: u64,
}

impl Kv {
    /// `tokens[m]` tokens of capacity for model `m`, in blocks of `block_size` tokens.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn new(tokens: &[u64], block_size: u32) -> Result<Self, KvError> {
        if !block_size.is_power_of_two() || block_size > 1024 {
            return Err(KvError::BlockSize(block_size));
        }
        let mut total = [0; MAX_MODELS];
        for (blocks, &tokens) in total.iter_mut().zip(tokens) {
            *blocks = u32::try_from(tokens / u64::from(block_size)).unwrap_or(u32::MAX);
            if *blocks == 0 {
                return Err(KvError::Tokens { block_size, tokens });
            }
        }
        Ok(Self { shift: block_size.trailing_zeros(), total, free: total, used: 0 })
    }

    /// Blocks that hold `tokens` tokens.
    #[inline]
    pub const fn blocks(&self, tokens: u32) -> u32 {
        // Rounded up without overflow at u32::MAX tokens.
        (tokens >> self.shift) + ((tokens & ((1 << self.shift) - 1)) != 0) as u32
    }

    /// log2 of a block's tokens.
    pub(crate) const fn shift(&self) -> u32 {
        self.shift
    }

    /// Free blocks of a model.
    #[inline]
    pub fn free(&self, model: ModelId) -> u32 {
        self.free[model.index()]
    }

    /// All blocks of a model.
    #[inline]
    pub fn total(&self, model: ModelId) -> u32 {
        self.total[model.index()]
    }

    /// Blocks in use, Σ over models.
    #[inline]
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Grows a holding to `want` blocks; false, and nothing changed, when too few are free.
    #[inline]
    pub(crate) fn grow(&mut self, model: ModelId, held: &mut u32, want: u32) -> bool {
        if want <= *held {
            return true;
        }
        let more = want - *held;
        let free = &mut self.free[model.index()];
        if more > *free {
            return false;
        }
        *free -= more;
        self.used += u64::from(more);
        *held = want;
        true
    }

    /// Gives a whole holding back.
    pub(crate) fn release(&mut self, model: ModelId, held: &mut u32) {
        self.free[model.index()] += *held;
        self.used -= u64::from(*held);
        *held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_that_cannot_work_are_named() {
        insta::assert_snapshot!(Kv::new(&[100], 12).unwrap_err(), @"block_size must be a power of two between 1 and 1024 tokens, got 12");
        insta::assert_snapshot!(Kv::new(&[100, 3], 16).unwrap_err(), @"KV memory must hold at least one block of 16 tokens, got 3 tokens");
        assert_eq!(Kv::new(&[64], 16).unwrap().blocks(u32::MAX), 1 << 28);
    }

    proptest! {
        /// Invariant 5: allocated + free = total, whatever is grown and released.
        #[test]
        fn invariant_5_blocks_are_conserved(steps in prop::collection::vec((0usize..4, 0u32..60), 1..80)) {
            let mut kv = Kv::new(&[1600], 16).unwrap();
            let mut held = [0u32; 4];
            for (who, want) in steps {
                if want < 10 { kv.release(ModelId(0), &mut held[who]) } else { kv.grow(ModelId(0), &mut held[who], want); }
                prop_assert_eq!(held.iter().sum::<u32>() + kv.free(ModelId(0)), kv.total(ModelId(0)));
                prop_assert_eq!(u64::from(held.iter().sum::<u32>()), kv.used());
            }
        }
    }
}
