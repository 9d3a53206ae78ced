//! What is in a sequence: its text, the blocks that wait for verification, and what later draws and
//! probes need.

use specrouter_routing::chain::{MAX_BLOCK, MAX_LEVELS};
use specrouter_routing::ids::{ModelId, RequestId};

use super::request::{Finished, Prompt};
use crate::coins::Drawn;
use crate::sampling::{Distribution, Sampling};
use crate::verify::Proposed;

/// Committed positions whose target distribution is kept for probes.
pub(super) const WINDOW: usize = 32;

/// One sequence. Preemption leaves it as it is: only caches are dropped.
#[derive(Debug)]
pub(super) struct Contents {
    pub request: RequestId,
    /// Prompt and committed output.
    pub text: Vec<u32>,
    pub prompt: usize,
    /// Most output tokens.
    pub limit: usize,
    pub stop: Vec<u32>,
    pub voice: Voice,
    /// What each level below the target has ready, as the chain of the round counts levels.
    pub blocks: [Vec<Proposed>; MAX_LEVELS - 1],
    /// For each output token, the model that put it there.
    pub models: Vec<ModelId>,
    pub stopped: bool,
    pub seen: Seen,
}

/// How a sequence draws.
#[derive(Debug)]
pub(super) struct Voice {
    pub sampling: Sampling,
    pub seed: u64,
    pub drawn: Drawn,
}

/// Target distributions of the last committed output positions.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Position `p` stands at `p % WINDOW`.
    ring: Vec<Part>,
}

/// A distribution, or its likeliest tokens and what the others add up to.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub distribution: Distribution,
    pub tail: f64,
}

impl Contents {
    pub fn new(request: RequestId, prompt: Prompt, limit: u32) -> Self {
        Self {
            request,
            prompt: prompt.tokens.len(),
            text: prompt.tokens,
            limit: limit as usize,
            stop: prompt.stop,
            voice: Voice { sampling: prompt.sampling, seed: prompt.seed, drawn: Drawn::default() },
            blocks: Default::default(),
            models: Vec::new(),
            stopped: false,
            seen: Seen::default(),
        }
    }

    /// Committed output tokens.
    pub fn output(&self) -> usize {
        self.text.len() - self.prompt
    }

    /// Tokens known to `level` of a chain whose target is level `top`: the committed text and what
    /// the levels from it upward hold.
    pub fn known(&self, level: usize, top: usize) -> usize {
        self.text.len() + self.blocks[level..top].iter().map(Vec::len).sum::<usize>()
    }

    /// Appends the tokens `from..to` of what `level` knows: the text, then the highest level's
    /// block, down to its own.
    pub fn copy_known(&self, level: usize, top: usize, from: usize, to: usize, into: &mut Vec<u32>) {
        let mut start = self.text.len();
        if from < start {
            into.extend_from_slice(&self.text[from..to.min(start)]);
        }
        for block in self.blocks[level..top].iter().rev() {
            let end = start + block.len();
            if from < end && start < to {
                let part = &block[from.max(start) - start..to.min(end) - start];
                into.extend(part.iter().map(|p| p.token));
            }
            start = end;
        }
    }

    /// The text goes out; what can be used again stays in `spare`.
    pub fn finish(mut self, spare: &mut Vec<Distribution>) -> Finished {
        let left = self.blocks.iter_mut().flat_map(|block| block.drain(..));
        spare.extend(left.map(|p| p.distribution));
        spare.extend(self.seen.ring.drain(..).map(|part| part.distribution));
        spare.retain(|d| !d.is_empty());
        Finished {
            request: self.request,
            text: self.text,
            prompt_tokens: self.prompt,
            models: self.models,
            stopped: self.stopped,
        }
    }
}

impl Seen {
    /// Where the target's distribution at the next output `position` is kept; what stands there is
    /// [`WINDOW`] positions old.
    pub fn place(&mut self, position: usize) -> &mut Part {
        if self.ring.is_empty() {
            self.ring.resize_with(WINDOW, Part::default);
        }
        &mut self.ring[position % WINDOW]
    }

    /// What was kept for output `position`, one of the last [`WINDOW`].
    pub fn get(&self, position: usize) -> Option<&Part> {
        self.ring.get(position % WINDOW).filter(|part| !part.distribution.is_empty())
    }
}

impl Part {
    /// Σ of the lesser probability of the target and `q`, the tail taken as one token.
    pub fn overlap(&self, q: &Distribution) -> f64 {
        let common = self.distribution.overlap(q);
        if self.tail <= 0.0 {
            return common;
        }
        let named: f64 = self.distribution.iter().map(|(id, _)| q.probability(id)).sum();
        common + self.tail.min((1.0 - named).max(0.0))
    }
}

const _: () = assert!(WINDOW >= MAX_BLOCK as usize, "a round's commit fits the window");
