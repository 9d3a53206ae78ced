//! Chains of a drafter and the target, one for each window: what policies that move a window choose from.

use crate::chain::ChainPlan;
use crate::ids::ModelId;

/// Plans of one drafter directly below the target, by window, made once.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// `plans[w]` has window `w`; `plans[0]` is the target alone.
    plans: Vec<ChainPlan>,
}

impl Windows {
    /// Windows up to `longest` of `draft` below `target`.
    pub fn new(draft: ModelId, target: ModelId, longest: u32) -> Self {
        let pairs = (1..=longest).map_while(|window| ChainPlan::new(&[draft, target], &[window]).ok());
        Self { plans: std::iter::once(ChainPlan::target_only(target)).chain(pairs).collect() }
    }

    /// The plan with `window`, or with the longest there is.
    #[inline]
    pub fn plan(&self, window: u32) -> ChainPlan {
        self.plans[(window as usize).min(self.plans.len() - 1)]
    }

    /// The longest window.
    pub fn longest(&self) -> u32 {
        (self.plans.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_past_the_longest_is_the_longest() {
        let windows = Windows::new(ModelId(0), ModelId(2), 4);
        assert_eq!(windows.longest(), 4);
        assert_eq!([0, 3, 9].map(|w| windows.plan(w).to_string()), ["2", "0>2 (3)", "0>2 (4)"]);
        assert_eq!(Windows::new(ModelId(0), ModelId(1), u32::MAX).longest(), crate::chain::MAX_BLOCK);
        assert_eq!(
            Windows::new(ModelId(1), ModelId(1), 3).longest(),
            0,
            "no chain is in order: the target alone"
        );
    }
}
