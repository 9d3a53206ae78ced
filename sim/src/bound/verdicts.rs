//! Who keeps whose tokens on the text that will be committed, for one request.

use specrouter_routing::ids::{ClassId, ModelId, RequestId};

use crate::acceptance::law::{Coins, Law, Pair, Sequence, Walk};
use crate::acceptance::{Source, with_law};

/// How many tokens a drafter's block keeps under a verifier, by the position that the block begins at.
///
/// A pure function of the run's luck: verdicts on the committed text depend on (request, position,
/// verifier) and on the depth in the block, never on who asked before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts {
    models: usize,
    tokens: usize,
    /// `[drafter · models + verifier][position]`.
    runs: Vec<u8>,
}

/// One request, as far as its own text goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub request: RequestId,
    pub class: ClassId,
    /// Where the stop token stands: the true length of the output, at least 1.
    pub output: u32,
    /// Tokens that will be delivered: `output`, or fewer where a limit cuts it.
    pub tokens: u32,
}

impl Text {
    /// What a source keeps of it, before it is admitted.
    pub fn sequence(&self) -> Sequence {
        let Self { request, class, output, .. } = *self;
        Sequence { request, class: class.0, output, ..Sequence::default() }
    }
}

impl Verdicts {
    /// Asks the source for every pair of `models` models and every block of at most `most` tokens.
    pub fn read(&mut self, source: &Source, coins: &Coins, text: Text, models: usize, most: usize) {
        let mut sequence = text.sequence();
        (self.models, self.tokens) = (models, text.tokens as usize);
        self.runs.clear();
        self.runs.resize(models * models * self.tokens, 0);
        with_law!(source, law => {
            law.admit(coins, &mut sequence);
            self.fill(law, coins, &sequence, most);
        });
    }

    fn fill<L: Law>(&mut self, law: &L, coins: &Coins, sequence: &Sequence, most: usize) {
        let mut walk = Walk::new(coins, sequence);
        let scenes: Vec<L::Scene> = (0..self.tokens as u32).map(|p| law.on_path(&mut walk, p)).collect();
        for drafter in 0..self.models {
            for verifier in drafter + 1..self.models {
                let runs = &mut self.runs[(drafter * self.models + verifier) * self.tokens..];
                // The verifier's own token ends a block, so the last position is never drafted.
                for first in 0..self.tokens.saturating_sub(1) {
                    let most = most.min(self.tokens - 1 - first);
                    let kept = |depth: &usize| {
                        let pair = Pair {
                            drafter: ModelId(drafter as u8),
                            verifier: ModelId(verifier as u8),
                            depth: *depth as u32,
                        };
                        law.keeps(scenes[first + depth], &walk, (first + depth) as u32, pair)
                    };
                    runs[first] = (0..most).take_while(kept).count() as u8;
                }
            }
        }
    }

    /// Models of the pool.
    pub fn models(&self) -> usize {
        self.models
    }

    /// Tokens of the output.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many tokens of `drafter` from `position` on `verifier` keeps, one after another; cut where
    /// the verifier's own token would be the output's last.
    #[inline]
    pub fn run(&self, drafter: usize, verifier: usize, position: usize) -> usize {
        usize::from(self.runs[(drafter * self.models + verifier) * self.tokens + position])
    }
}
