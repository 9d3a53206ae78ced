//! What an acceptance source answers, one draw at a time. Path state is not its business.

use specrouter_routing::ids::{ModelId, RequestId};
use specrouter_routing::luck::{Draws, Luck, Stream};

/// The luck that verdicts come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coins {
    pub acceptance: Draws,
    pub off_path: Draws,
    pub request: Draws,
    pub signal: Draws,
}

impl Coins {
    pub fn new(luck: Luck) -> Self {
        Self {
            acceptance: luck.stream(Stream::Acceptance),
            off_path: luck.stream(Stream::OffPath),
            request: luck.stream(Stream::Request),
            signal: luck.stream(Stream::Signal),
        }
    }

    /// The luck of one output position under one verifier, on the text that will be committed:
    /// every drafter under that verifier meets the same.
    #[inline]
    pub fn on_path(&self, request: RequestId, position: u32, verifier: u8) -> f64 {
        self.acceptance.uniform(request.0, u64::from(position) << 8 | u64::from(verifier))
    }
}

/// The luck off that text: by the round's start position and the number of the draw.
pub(crate) struct OffPath<'a> {
    pub coins: &'a Coins,
    pub request: RequestId,
    pub round: u32,
    pub next: &'a mut u32,
}

impl OffPath<'_> {
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        let draw = *self.next;
        *self.next += 1;
        self.coins.off_path.uniform(self.request.0, u64::from(self.round) << 16 | u64::from(draw))
    }
}

/// Where in the output a two-state chain stands: `run` is the number of the run that covers the
/// positions `start..end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub start: u32,
    pub end: u32,
    pub run: u32,
}

/// What a source keeps of a sequence. One cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sequence {
    pub request: RequestId,
    /// π in the low and in the high regime.
    pub low: f64,
    pub high: f64,
    /// The output's true length.
    pub output: u32,
    /// At the committed position; only ever moves forward.
    pub cursor: Cursor,
    /// Behind it, where probes look.
    pub behind: Cursor,
    pub class: u16,
    /// Which latent of its class's law it drew.
    pub latent: u16,
    /// Do the even runs have the high π.
    pub high_first: bool,
}

/// A look along the output of one sequence, from its cursor onwards; leaves no mark.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub coins: &'a Coins,
    pub sequence: &'a Sequence,
    pub cursor: Cursor,
}

impl<'a> Walk<'a> {
    /// From the committed position.
    #[inline]
    pub fn new(coins: &'a Coins, sequence: &'a Sequence) -> Self {
        Self { coins, sequence, cursor: sequence.cursor }
    }
}

/// A drafter's token before its verifier, `depth` tokens into the drafter's block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub drafter: ModelId,
    pub verifier: ModelId,
    pub depth: u32,
}

/// A law of verdicts. Within one position verdicts are asked top-down, each given that the level
/// above stands on the text in question.
pub(crate) trait Law {
    /// What one draw says about all models at a position.
    type Scene: Copy;

    /// What the law draws for a request.
    fn admit(&self, _coins: &Coins, _sequence: &mut Sequence) {}

    /// Moves the sequence's cursor to the committed position.
    #[inline]
    fn settle(&self, _coins: &Coins, _sequence: &mut Sequence, _committed: u32) {}

    /// The draw at a position of the text that will be committed.
    fn on_path(&self, walk: &mut Walk<'_>, position: u32) -> Self::Scene;

    /// On that text: does the verifier keep the drafter's token.
    fn keeps(&self, scene: Self::Scene, walk: &Walk<'_>, position: u32, pair: Pair) -> bool;

    /// The draw at a position of `holder`'s own text, which levels above have left or will leave.
    fn beyond(
        &self,
        walk: &mut Walk<'_>,
        position: u32,
        holder: ModelId,
        off: &mut OffPath<'_>,
    ) -> Self::Scene;

    /// The draw that goes on below a drafter that has just left its verifier's text; `at` is the position, where
    /// the text before it is the one that will be committed.
    fn leaving(&self, walk: &Walk<'_>, at: Option<u32>, pair: Pair, off: &mut OffPath<'_>) -> Self::Scene;

    /// Off the path: does the verifier keep the drafter's token.
    fn keeps_off(&self, scene: Self::Scene, walk: &Walk<'_>, pair: Pair, off: &mut OffPath<'_>) -> bool;

    /// 1 − TV of the pair's distributions at a position; positions of one walk never go back.
    fn similarity(&self, walk: &mut Walk<'_>, position: u32, pair: Pair) -> f64;

    /// Σ similarity over `count` positions, the first at depth 0.
    #[inline]
    fn similarities(
        &self,
        mut walk: Walk<'_>,
        first: u32,
        count: u32,
        drafter: ModelId,
        verifier: ModelId,
    ) -> f64 {
        (0..count)
            .map(|depth| self.similarity(&mut walk, first + depth, Pair { drafter, verifier, depth }))
            .sum()
    }

    /// How many of `count` tokens the target keeps of a drafter directly below it: the hot loop,
    /// which needs no path state.
    #[inline]
    fn prefix(&self, mut walk: Walk<'_>, first: u32, count: u32, drafter: ModelId, target: ModelId) -> u32 {
        let mut depth = 0;
        while depth < count {
            let scene = self.on_path(&mut walk, first + depth);
            if !self.keeps(scene, &walk, first + depth, Pair { drafter, verifier: target, depth }) {
                break;
            }
            depth += 1;
        }
        depth
    }

    /// Σ similarity over the `window` positions before `committed`.
    fn probe(
        &self,
        coins: &Coins,
        sequence: &mut Sequence,
        committed: u32,
        window: u32,
        drafter: ModelId,
        target: ModelId,
    ) -> f64 {
        let first = committed.saturating_sub(window);
        self.similarities(Walk::new(coins, sequence), first, committed - first, drafter, target)
    }

    /// Standard normal score of the acceptance at a position among all that the law makes, and how
    /// far a signal follows it (the correlation of the copula).
    fn score(&self, _walk: &mut Walk<'_>, _position: u32) -> (f64, f64) {
        (0.0, 0.0)
    }
}
