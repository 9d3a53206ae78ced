//! Path state: which levels of a sequence still stand on the text that will be committed. Its one
//! home, shared by all sources.
//!
//! The text of a round is judged where level 1 verifies the drafts of level 0, position by position
//! and top-down: the target's own text first, then whether the level below it stands on that text,
//! and so on. A level that does not is said to *leave* there; its text and that of all below it goes
//! on, off the path, until the level above verifies. Verifications higher up draw nothing: what they
//! keep was decided when the position was judged. So a draft pass costs nothing here, and a position
//! is judged once.

use specrouter_routing::chain::{ChainPlan, MAX_LEVELS};
use specrouter_routing::ids::ModelId;

use super::law::{Law, OffPath, Pair, Walk};

/// A level that has not left.
const NOWHERE: u32 = u32::MAX;

/// Where each level of a sequence left the text of the level above it, in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Committed tokens at the round's start; [`NOWHERE`] before the first.
    round: u32,
    /// Draws off the path so far.
    draws: u32,
    /// Where level k's text first differs from what level k + 1 would write.
    left: [u32; MAX_LEVELS - 1],
    /// Where level k's block, which waits for level k + 1, begins.
    block: [u32; MAX_LEVELS - 1],
}

impl Default for Path {
    fn default() -> Self {
        Self { round: NOWHERE, draws: 0, left: [NOWHERE; MAX_LEVELS - 1], block: [0; MAX_LEVELS - 1] }
    }
}

/// What came of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verification {
    /// Tokens of the block that were kept.
    pub accepted: u32,
    /// Tokens that leave the level.
    pub emitted: u32,
    /// The last of them is the stop token.
    pub ended: bool,
}

/// The target's verification, given what it kept of the block: the correction or bonus token
/// follows, unless the output ends before it.
#[inline]
pub(crate) fn commit(kept: u32, committed: u32, output: u32) -> Verification {
    let remaining = output.saturating_sub(committed);
    let emitted = (kept + 1).min(remaining);
    Verification { accepted: kept.min(remaining), emitted, ended: emitted == remaining }
}

impl Path {
    /// Forgets the round before, if this is another.
    #[inline]
    fn enter(&mut self, committed: u32) {
        if self.round != committed {
            *self = Self {
                round: committed,
                draws: 0,
                left: [NOWHERE; MAX_LEVELS - 1],
                block: [committed; MAX_LEVELS - 1],
            };
        }
    }

    /// A verification by `level` (1 or above) of the `block` tokens from `start` on that the level
    /// below it made, in the round that began at `committed`.
    pub fn verify<L: Law>(
        &mut self,
        law: &L,
        mut walk: Walk<'_>,
        plan: &ChainPlan,
        level: usize,
        (committed, start, block): (u32, u32, u32),
    ) -> Verification {
        self.enter(committed);
        let top = plan.depth() - 1;
        let output = walk.sequence.output;
        let accepted = if level == 1 {
            let mut kept = 0;
            while kept < block && self.judge(law, &mut walk, plan, start + kept, 0) {
                kept += 1;
            }
            kept
        } else {
            self.left[level - 1].saturating_sub(start).min(block)
        };
        if level == top {
            return commit(accepted, committed, output);
        }
        // The stop token, if this level's text is the target's up to there.
        let last = output.saturating_sub(1);
        let stands = |path: &Self| last >= start && path.left[level..top].iter().all(|&at| at > last);
        let mut ended = stands(self) && last < start + accepted;
        if !ended && accepted == block {
            // The bonus token is this level's own; the levels above have a verdict on it too.
            self.judge(law, &mut walk, plan, start + block, level);
        }
        ended = ended || (stands(self) && last == start + accepted);
        let emitted = if ended { output - start } else { accepted + 1 };
        // What stood below this level starts again behind what it emits.
        self.left[..level].fill(NOWHERE);
        self.block[..level].fill(start + emitted);
        Verification { accepted: accepted.min(emitted), emitted, ended }
    }

    /// Does level 0 write the committed text from `head` to `last`, both included? Asks only what
    /// will be asked again when these positions are judged.
    pub fn stands_until<L: Law>(
        &self,
        law: &L,
        mut walk: Walk<'_>,
        plan: &ChainPlan,
        committed: u32,
        (head, last): (u32, u32),
    ) -> bool {
        let top = plan.depth() - 1;
        let mut here = *self;
        here.enter(committed);
        here.block[0] = head;
        here.left[..top].iter().all(|&at| at == NOWHERE)
            && (head..=last).all(|position| {
                let scene = law.on_path(&mut walk, position);
                (0..top)
                    .rev()
                    .all(|level| law.keeps(scene, &walk, position, here.pair(plan, level, position)))
            })
    }

    /// Judges a position for the levels from `lowest` up; true if the level above `lowest` keeps its
    /// token.
    #[inline]
    fn judge<L: Law>(
        &mut self,
        law: &L,
        walk: &mut Walk<'_>,
        plan: &ChainPlan,
        position: u32,
        lowest: usize,
    ) -> bool {
        let top = plan.depth() - 1;
        let mut draws = self.draws;
        let mut off = OffPath {
            coins: walk.coins,
            request: walk.sequence.request,
            round: self.round,
            next: &mut draws,
        };
        // The text before this position is that of the lowest level that has left: it wrote the token
        // that the level above did not, and nothing above has a say on what follows.
        let holder = (lowest..top).find(|&level| self.left[level] < position);
        let (mut scene, above) = match holder {
            Some(level) if level == lowest => return true,
            Some(level) => (law.beyond(walk, position, plan.model(level), &mut off), level),
            None => (law.on_path(walk, position), top),
        };
        let mut on_path = holder.is_none();
        let mut kept = true;
        for level in (lowest..above).rev() {
            let pair = self.pair(plan, level, position);
            kept = if on_path {
                law.keeps(scene, walk, position, pair)
            } else {
                law.keeps_off(scene, walk, pair, &mut off)
            };
            if !kept {
                self.left[level] = position;
                on_path = false;
                if level > lowest {
                    scene = law.leaving(walk, holder.is_none().then_some(position), pair, &mut off);
                }
            }
        }
        self.draws = draws;
        kept
    }

    #[inline]
    fn pair(&self, plan: &ChainPlan, level: usize, position: u32) -> Pair {
        let (drafter, verifier): (ModelId, ModelId) = (plan.model(level), plan.model(level + 1));
        Pair { drafter, verifier, depth: position.saturating_sub(self.block[level]) }
    }
}
