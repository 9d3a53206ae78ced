//! Chains of models, windows, and draft stop rules.

use std::fmt;

use crate::ids::ModelId;

/// Most models one pool may host.
pub const MAX_MODELS: usize = 8;
/// Most levels one chain may have.
pub const MAX_LEVELS: usize = 6;
/// Most tokens the windows of a chain may add up to, whatever the scenario asks for.
pub const MAX_BLOCK: u32 = 32;

/// When a level stops drafting before its window is full. Acts before the next token is sampled,
/// on the state left by the tokens that are kept: a sampled token is never dropped (rule R3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum StopRule {
    /// Drafts the whole window.
    #[default]
    Never,
    /// Stops after a token whose draft distribution had a top probability below the threshold
    /// (keep, then stop).
    TopProbabilityBelow(f32),
    /// Stops after a token whose draft distribution had an entropy, in nats, above the threshold.
    EntropyAbove(f32),
}

/// What one sequence does in a round: the levels, lowest first, the window each level above the
/// lowest asks of the one below, and the stop rule of the lowest.
#[derive(Clone, Copy, PartialEq)]
pub struct ChainPlan {
    depth: u8,
    models: [ModelId; MAX_LEVELS],
    windows: [u8; MAX_LEVELS - 1],
    /// When the lowest level stops early.
    pub stop: StopRule,
}

/// Why a chain and its windows are no plan. Whoever wrote the plan is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No level at all.
    #[error("a chain needs at least its target, got no model")]
    Empty,
    /// More levels than [`MAX_LEVELS`].
    #[error("a chain has at most {MAX_LEVELS} levels, got {0}")]
    TooDeep(usize),
    /// Not N − 1 windows.
    #[error("a chain of {levels} needs {} windows, got {windows}", levels - 1)]
    Windows {
        /// Levels of the chain.
        levels: usize,
        /// Windows that came.
        windows: usize,
    },
    /// A window of 0, or one that takes the sum past the block limit.
    #[error("windows must each be at least 1 and add up to at most {limit}, got {windows:?}")]
    Window {
        /// The block limit.
        limit: u32,
        /// What came.
        windows: Vec<u32>,
    },
    /// Levels out of the pool's order, twice, or not in the pool.
    #[error("a chain follows the pool's order, cheapest first, each model once; got models {0:?}")]
    Order(Vec<u8>),
    /// The last level is not the pool's target.
    #[error("a chain ends in the target, model {target}; got models {models:?}")]
    Target {
        /// The target's index.
        target: u8,
        /// The chain that came.
        models: Vec<u8>,
    },
}

impl ChainPlan {
    /// Plain decoding by `target`.
    pub const fn target_only(target: ModelId) -> Self {
        let mut models = [ModelId(0); MAX_LEVELS];
        models[0] = target;
        Self { depth: 1, models, windows: [0; MAX_LEVELS - 1], stop: StopRule::Never }
    }

    /// A chain of `models` (lowest first) with `windows` (one fewer), each window at least 1.
    ///
    /// # Errors
    /// [`ChainError`], naming what does not fit.
    pub fn new(models: &[ModelId], windows: &[u32]) -> Result<Self, ChainError> {
        if models.is_empty() {
            return Err(ChainError::Empty);
        }
        if models.len() > MAX_LEVELS {
            return Err(ChainError::TooDeep(models.len()));
        }
        if windows.len() + 1 != models.len() {
            return Err(ChainError::Windows { levels: models.len(), windows: windows.len() });
        }
        if !models.is_sorted_by(|a, b| a < b) {
            return Err(ChainError::Order(models.iter().map(|m| m.0).collect()));
        }
        let sum: u64 = windows.iter().map(|&w| u64::from(w)).sum();
        if windows.contains(&0) || sum > u64::from(MAX_BLOCK) {
            return Err(ChainError::Window { limit: MAX_BLOCK, windows: windows.to_vec() });
        }
        let mut plan = Self::target_only(models[0]);
        plan.depth = models.len() as u8;
        plan.models[..models.len()].copy_from_slice(models);
        for (to, &from) in plan.windows.iter_mut().zip(windows) {
            *to = from as u8;
        }
        Ok(plan)
    }

    /// The same plan with a stop rule at its lowest level.
    pub fn stopping(self, stop: StopRule) -> Self {
        Self { stop, ..self }
    }

    /// Checks the plan against a pool whose target is the last of `pool` models, and against the
    /// scenario's block limit.
    ///
    /// # Errors
    /// [`ChainError`], naming what does not fit.
    pub fn check(&self, pool: usize, max_block: u32) -> Result<(), ChainError> {
        let models = || self.models().iter().map(|m| m.0).collect::<Vec<_>>();
        if self.models().iter().any(|m| m.index() >= pool) {
            return Err(ChainError::Order(models()));
        }
        if self.target().index() + 1 != pool {
            return Err(ChainError::Target { target: (pool - 1) as u8, models: models() });
        }
        if self.block() > max_block {
            let windows = self.windows().iter().map(|&w| u32::from(w)).collect();
            return Err(ChainError::Window { limit: max_block, windows });
        }
        Ok(())
    }

    /// Number of levels, N; 1 is plain decoding.
    #[inline]
    pub const fn depth(&self) -> usize {
        self.depth as usize
    }

    /// The levels' models, lowest first.
    #[inline]
    pub fn models(&self) -> &[ModelId] {
        &self.models[..self.depth as usize]
    }

    /// The model at `level`, 0 the lowest.
    #[inline]
    pub fn model(&self, level: usize) -> ModelId {
        self.models[level]
    }

    /// The last level.
    #[inline]
    pub fn target(&self) -> ModelId {
        self.models[self.depth as usize - 1]
    }

    /// `windows()[i]`: how many tokens level `i + 1` asks of level `i` before it verifies.
    #[inline]
    pub fn windows(&self) -> &[u8] {
        &self.windows[..self.depth as usize - 1]
    }

    /// Σ windows: the most tokens that are drafted ahead of the committed text.
    #[inline]
    pub fn block(&self) -> u32 {
        self.windows().iter().map(|&w| u32::from(w)).sum()
    }

    /// True when `model` is one of the levels.
    #[inline]
    pub fn uses(&self, model: ModelId) -> bool {
        self.models().contains(&model)
    }

    /// The same chain with every window cut to what an output with `remaining` tokens to go can
    /// use: the target's pass emits one token more than it is given. One token to go is plain
    /// decoding.
    #[inline]
    pub fn clamped(&self, remaining: u32) -> Self {
        let most = remaining.saturating_sub(1);
        if most == 0 {
            return Self::target_only(self.target());
        }
        let mut plan = *self;
        for window in &mut plan.windows[..self.depth as usize - 1] {
            *window = (*window).min(most.min(MAX_BLOCK) as u8);
        }
        plan
    }

    /// The chain without its lowest level; `None` when only the target is left.
    pub fn shorter(&self) -> Option<Self> {
        let depth = self.depth as usize;
        if depth == 1 {
            return None;
        }
        let mut plan = Self::target_only(self.target());
        plan.depth = (depth - 1) as u8;
        plan.models[..depth - 1].copy_from_slice(&self.models[1..depth]);
        plan.windows[..depth - 2].copy_from_slice(&self.windows[1..depth - 1]);
        Some(plan)
    }
}

impl fmt::Debug for ChainPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ChainPlan {
    /// `0>2>3 (3, 5)`: models by pool index, then windows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |items: Vec<String>, by: &str| items.join(by);
        write!(f, "{}", join(self.models().iter().map(ToString::to_string).collect(), ">"))?;
        if self.depth > 1 {
            write!(f, " ({})", join(self.windows().iter().map(ToString::to_string).collect(), ", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(models: &[u8], windows: &[u32]) -> Result<ChainPlan, ChainError> {
        ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows)
    }

    #[test]
    fn what_is_no_plan_is_named() {
        insta::assert_snapshot!(plan(&[], &[]).unwrap_err(), @"a chain needs at least its target, got no model");
        insta::assert_snapshot!(plan(&[0, 1], &[]).unwrap_err(), @"a chain of 2 needs 1 windows, got 0");
        insta::assert_snapshot!(plan(&[0, 1], &[0]).unwrap_err(), @"windows must each be at least 1 and add up to at most 32, got [0]");
        insta::assert_snapshot!(plan(&[1, 0], &[3]).unwrap_err(), @"a chain follows the pool's order, cheapest first, each model once; got models [1, 0]");
        insta::assert_snapshot!(plan(&[0, 1], &[3]).unwrap().check(3, 32).unwrap_err(), @"a chain ends in the target, model 2; got models [0, 1]");
        insta::assert_snapshot!(plan(&[0, 2], &[9]).unwrap().check(3, 8).unwrap_err(), @"windows must each be at least 1 and add up to at most 8, got [9]");
    }

    #[test]
    fn windows_are_clamped_to_what_remains() {
        let deep = plan(&[0, 1, 2], &[4, 8]).unwrap();
        assert_eq!(deep.clamped(100), deep);
        assert_eq!(deep.clamped(4).windows(), &[3, 3]);
        assert_eq!(deep.clamped(1), ChainPlan::target_only(ModelId(2)));
        assert_eq!(deep.shorter().unwrap().to_string(), "1>2 (8)");
        assert_eq!(deep.shorter().unwrap().shorter().unwrap().shorter(), None);
    }
}
