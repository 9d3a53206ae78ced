//! Real passes for the serving loop: packs rows, runs a model once, samples or verifies each row.
//!
//! The replica decides which pass runs over which rows; the backend owns the models and what is in
//! the sequences, and every token it hands upward keeps the distribution it was drawn from.
//!
//! ```text
//! backend.submit(id, prompt)?;  replica.submit(request, sink);    // contents, then counts
//! while replica.begin(now, backend, sink)? {
//!     backend.run(&replica.pass(), &mut outcome)?;                 // one forward of one model
//!     replica.finish(now, &outcome, backend, sink)?;               // commits, truncates, frees
//!     for text in backend.take_finished() { .. }
//! }
//! ```

mod contents;
mod hand;
mod request;

use std::collections::BTreeMap;

use specrouter_routing::backend::{Backend, FillEnd, Pass, PassOutcome, Row, RowOutcome, Work};
use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::{ModelId, RequestId, Slot};
use specrouter_routing::luck::Luck;
use specrouter_routing::request::Request;
use specrouter_routing::units::{Span, Time};

pub use request::{BackendError, CommittedToken, Finished, Listener, PoolError, Prompt, PromptError};

use crate::coins::{Coins, Keyed};
use crate::level::{LevelModel, Packed, PackedRow};
use crate::sampling::NoToken;
use crate::verify::Verify;
use contents::Contents;
use hand::{Drafted, Hand, Logits};

/// Tells the time. The engine's reads the wall; a test's counts.
pub trait Clock {
    /// Now; never before an earlier answer.
    fn now(&mut self) -> Time;
}

/// One replica's backend: a model for each of the pool, cheapest first, target last.
///
/// `K` tells the time, `C` draws, `L` hears of committed tokens.
pub struct EngineBackend<M, K, C = Keyed, L = ()> {
    models: Vec<M>,
    clock: K,
    listener: L,
    hand: Hand<C>,
    submitted: BTreeMap<RequestId, Prompt>,
    contents: Vec<Option<Box<Contents>>>,
    finished: Vec<Finished>,
    /// What went wrong where no error could be returned.
    fault: Option<BackendError>,
    packed: Packed,
    logits: Vec<f32>,
}

impl<M: LevelModel, K: Clock> EngineBackend<M, K> {
    /// A backend of `models` in a run with this luck.
    ///
    /// # Errors
    /// [`PoolError`] for no model or too many, and for vocabularies that differ.
    pub fn new(models: Vec<M>, verify: Verify, luck: Luck, clock: K) -> Result<Self, PoolError> {
        Self::with(models, verify, luck, clock, Keyed::new(luck), ())
    }
}

impl<M: LevelModel, K: Clock, C: Coins, L: Listener> EngineBackend<M, K, C, L> {
    /// The same with its own coins, and somebody who listens.
    ///
    /// # Errors
    /// [`PoolError`], as [`new`](EngineBackend::new).
    pub fn with(
        models: Vec<M>,
        verify: Verify,
        luck: Luck,
        clock: K,
        coins: C,
        listener: L,
    ) -> Result<Self, PoolError> {
        let Some(target) = models.last().filter(|_| models.len() <= MAX_MODELS) else {
            return Err(PoolError::Models { most: MAX_MODELS, got: models.len() });
        };
        let expected = target.vocabulary();
        if let Some(other) = models.iter().find(|m| m.vocabulary() != expected) {
            return Err(PoolError::Vocabulary {
                target: target.name().to_owned(),
                expected,
                model: other.name().to_owned(),
                got: other.vocabulary(),
            });
        }
        Ok(Self {
            models,
            clock,
            listener,
            hand: Hand::new(verify, luck, coins),
            submitted: BTreeMap::new(),
            contents: Vec::new(),
            finished: Vec::new(),
            fault: None,
            packed: Packed::default(),
            logits: Vec::new(),
        })
    }

    /// Takes the contents of a request; comes before the replica's `submit`.
    ///
    /// # Errors
    /// [`PromptError`] for a prompt that cannot be run; nothing is kept of it.
    pub fn submit(&mut self, request: RequestId, prompt: Prompt) -> Result<(), PromptError> {
        let vocabulary = self.models[0].vocabulary();
        if prompt.tokens.is_empty() {
            return Err(PromptError::Empty { request });
        }
        if let Some(index) = prompt.tokens.iter().position(|&t| t as usize >= vocabulary) {
            return Err(PromptError::Token { request, index, vocabulary, token: prompt.tokens[index] });
        }
        if self.submitted.contains_key(&request) {
            return Err(PromptError::Twice { request });
        }
        self.submitted.insert(request, prompt);
        Ok(())
    }

    /// Gives back the prompt of a request that the replica refused.
    pub fn withdraw(&mut self, request: RequestId) -> Option<Prompt> {
        self.submitted.remove(&request)
    }

    /// The texts that were finished since the last call, in the order they were.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// The texts of sequences that have not ended, by slot, for a run that is cut short.
    pub fn unfinished(&self) -> impl Iterator<Item = (RequestId, &[u32])> {
        self.contents.iter().flatten().map(|c| (c.request, c.text.as_slice()))
    }

    /// Corrections that were drawn from p because rounding had left nothing of the residual.
    pub fn guarded(&self) -> u64 {
        self.hand.guarded
    }

    /// The models, cheapest first.
    pub fn models(&self) -> &[M] {
        &self.models
    }

    /// Gives the models back, with the caches of whatever had not ended emptied.
    pub fn into_models(mut self) -> Vec<M> {
        for (slot, _) in self.contents.iter().enumerate().filter(|(_, contents)| contents.is_some()) {
            for model in &mut self.models {
                model.truncate(Slot(slot as u32), 0);
            }
        }
        self.models
    }

    /// Who listens.
    pub fn listener_mut(&mut self) -> &mut L {
        &mut self.listener
    }

    /// Packs a row: known tokens from the cache's end on, then the block to verify.
    fn pack(&mut self, model: ModelId, row: &Row) -> Result<(), BackendError> {
        let slot = row.slot;
        let wrong = |what, expected: usize, got: usize| {
            Err(BackendError::Contents { slot, what, expected: expected as u64, got: got as u64 })
        };
        let Some(contents) = self.contents.get(slot.index()).and_then(Option::as_deref) else {
            return wrong("sequence", 1, 0);
        };
        let top = row.plan.depth() - 1;
        let level = match row.work {
            Work::Draft { .. } => 0,
            Work::Verify { level, .. } => usize::from(level).min(top),
            Work::CatchUp | Work::Probe { .. } => {
                row.plan.models().iter().position(|&m| m == model).unwrap_or(top)
            }
        };
        let known = contents.prompt + row.committed as usize + row.ahead as usize;
        if contents.known(level, top) != known {
            return wrong("known tokens", known, contents.known(level, top));
        }
        let (block, pending) = match row.work {
            Work::CatchUp | Work::Probe { .. } => (0, 0),
            Work::Draft { .. } => (0, 1),
            Work::Verify { block, .. } => (usize::from(block), 1),
        };
        let from = row.context as usize;
        let to = from + row.catch_up as usize + pending;
        if to > known || pending == 1 && to != known {
            return wrong("cached, catch-up and pending tokens", known, to);
        }
        contents.copy_known(level, top, from, to, &mut self.packed.tokens);
        if block > 0 {
            let held = level.checked_sub(1).map_or(&[][..], |below| &contents.blocks[below]);
            if held.len() != block {
                return wrong("block", block, held.len());
            }
            self.packed.tokens.extend(held.iter().map(|p| p.token));
        }
        let (new, wanted) = (row.new_tokens(), row.logits());
        if wanted > new {
            return wrong("positions with logits, of the row's tokens", wanted as usize, new as usize);
        }
        self.packed.rows.push(PackedRow { slot, context: row.context, tokens: new });
        let end = self.packed.tokens.len() as u32;
        self.packed.want.extend(end - wanted..end);
        Ok(())
    }

    /// What came of a row; `at` is where its logits begin.
    fn take(
        &mut self,
        model: ModelId,
        row: &Row,
        at: &mut usize,
        index: usize,
    ) -> Result<Taken, BackendError> {
        let vocabulary = self.models[model.index()].vocabulary();
        let span = row.logits() as usize * vocabulary;
        let slot = row.slot;
        let Some(values) = self.logits.get(*at..*at + span) else {
            let (expected, got) = ((*at + span) as u64, self.logits.len() as u64);
            return Err(BackendError::Contents { slot, what: "logits", expected, got });
        };
        *at += span;
        let Some(contents) = self.contents.get_mut(slot.index()).and_then(Option::as_deref_mut) else {
            return Err(BackendError::Contents { slot, what: "sequence", expected: 1, got: 0 });
        };
        let (hand, logits) = (&mut self.hand, Logits { values, vocabulary });
        let taken = match row.work {
            Work::CatchUp => Ok(Taken::Row(RowOutcome::default())),
            Work::Draft { .. } => hand.draft(contents, row, model, logits).map(Taken::Draft),
            Work::Verify { level, .. } => {
                let level = usize::from(level).min(row.plan.depth() - 1);
                hand.judge(contents, row, model, level, logits, &mut self.listener).map(Taken::Row)
            }
            Work::Probe { window } => hand.probe(contents, usize::from(window), logits).map(Taken::Row),
        };
        taken.map_err(|NoToken| BackendError::NoToken {
            model: self.models[model.index()].name().to_owned(),
            request: row.request,
            row: index,
        })
    }

    fn run_pass<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), BackendError> {
        let model = pass.model();
        self.packed.clear();
        for cohort in pass.cohorts() {
            for index in 0..cohort.slots.len() {
                self.pack(model, &pass.draft_row(cohort, index))?;
            }
        }
        for row in pass.rows() {
            self.pack(model, row)?;
        }
        self.models[model.index()].forward(&self.packed, &mut self.logits)?;
        let (mut at, mut row_index) = (0, 0);
        for (cohort_index, cohort) in pass.cohorts().iter().enumerate() {
            for index in 0..cohort.slots.len() {
                let taken = self.take(model, &pass.draft_row(cohort, index), &mut at, row_index)?;
                row_index += 1;
                if let Taken::Draft(end @ (Drafted::Enough | Drafted::StopToken)) = taken {
                    outcome.fill_ends.push(FillEnd {
                        cohort: cohort_index as u32,
                        row: index as u32,
                        stop_token: end == Drafted::StopToken,
                    });
                }
            }
        }
        for row in pass.rows() {
            let taken = self.take(model, row, &mut at, row_index)?;
            row_index += 1;
            outcome.rows.push(match taken {
                Taken::Row(outcome) => outcome,
                Taken::Draft(_) => RowOutcome::default(),
            });
        }
        Ok(())
    }
}

/// What came of a row.
enum Taken {
    Draft(Drafted),
    Row(RowOutcome),
}

impl<M: LevelModel, K: Clock, C: Coins, L: Listener> Backend for EngineBackend<M, K, C, L> {
    type Error = BackendError;

    fn admit(&mut self, slot: Slot, request: &Request) {
        let expected = request.prompt_tokens;
        let prompt = self.submitted.remove(&request.id);
        let got = prompt.as_ref().map_or(0, |p| p.tokens.len());
        let Some(prompt) = prompt.filter(|_| got == expected as usize) else {
            self.fault.get_or_insert(BackendError::Prompt { request: request.id, expected, got });
            return;
        };
        if self.contents.len() <= slot.index() {
            self.contents.resize_with(slot.index() + 1, || None);
        }
        self.contents[slot.index()] = Some(Box::new(Contents::new(request.id, prompt, request.limit)));
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), BackendError> {
        outcome.clear();
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let start = self.clock.now();
        self.run_pass(pass, outcome)?;
        outcome.duration = self.clock.now().since(start).unwrap_or(Span::ZERO);
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.models[model.index()].truncate(slot, len);
    }

    fn free(&mut self, slot: Slot) {
        for model in &mut self.models {
            model.truncate(slot, 0);
        }
        if let Some(contents) = self.contents.get_mut(slot.index()).and_then(Option::take) {
            self.finished.push(contents.finish(&mut self.hand.spare));
        }
    }
}

#[cfg(test)]
mod tests;
