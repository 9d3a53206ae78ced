//! The hand that draws: samples drafts, verifies blocks, compares probes. It owns the coins and
//! every buffer of the hot path, so that a pass allocates nothing once it has warmed up.

use specrouter_routing::backend::{Row, RowOutcome};
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::Luck;

use super::contents::{Contents, Part, Voice, WINDOW};
use super::request::{CommittedToken, Listener};
use crate::coins::{Coins, Noise};
use crate::sampling::{Distribution, NoToken, Warper, argmax};
use crate::verify::{Dice, Proposed, Rules, Settled, Verdict, Verify, verify};

/// Vocabularies up to this are kept whole for probes.
const WHOLE: usize = 4096;
/// Of larger ones, so many of the likeliest tokens.
const LIKELIEST: u32 = 256;

pub(super) struct Hand<C> {
    pub verify: Verify,
    pub coins: C,
    pub rules: Rules,
    /// Corrections drawn from p because the residual was lost to rounding.
    pub guarded: u64,
    pub spare: Vec<Distribution>,
    noise: Noise,
    warper: Warper,
    warped: Distribution,
    residual: Vec<f64>,
    emitted: Vec<Proposed>,
    committed: Vec<CommittedToken>,
}

/// How a fill goes on after a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drafted {
    More,
    /// The stop rule: keep, then stop.
    Enough,
    StopToken,
}

/// The `[rows, V]` logits of one packed row.
#[derive(Clone, Copy)]
pub(super) struct Logits<'a> {
    pub values: &'a [f32],
    pub vocabulary: usize,
}

impl<'a> Logits<'a> {
    fn row(self, index: usize) -> &'a [f32] {
        &self.values[index * self.vocabulary..(index + 1) * self.vocabulary]
    }
}

impl<C: Coins> Hand<C> {
    pub fn new(verify: Verify, luck: Luck, coins: C) -> Self {
        Self {
            verify,
            coins,
            rules: Rules::default(),
            guarded: 0,
            spare: Vec::new(),
            noise: Noise::new(luck),
            warper: Warper::default(),
            warped: Distribution::default(),
            residual: Vec::new(),
            emitted: Vec::new(),
            committed: Vec::new(),
        }
    }

    /// True where tokens are not drawn: they must agree.
    fn agrees(&self, voice: &Voice) -> bool {
        self.verify == Verify::Coupled || voice.sampling.is_greedy()
    }

    /// The one token that a model has at `position` where tokens must agree.
    fn choose(&mut self, voice: &Voice, position: u32, logits: &[f32]) -> Result<u32, NoToken> {
        if voice.sampling.is_greedy() {
            return argmax(logits);
        }
        self.warper.warp(logits, &voice.sampling, &mut self.warped)?;
        Ok(self.noise.choose(voice.seed, position, &self.warped))
    }

    fn warp(&mut self, voice: &Voice, logits: &[f32]) -> Result<Distribution, NoToken> {
        let mut p = self.spare.pop().unwrap_or_default();
        self.warper.warp(logits, &voice.sampling, &mut p)?;
        Ok(p)
    }

    /// Samples one token more of a fill.
    pub fn draft(
        &mut self,
        contents: &mut Contents,
        row: &Row,
        model: ModelId,
        logits: Logits<'_>,
    ) -> Result<Drafted, NoToken> {
        let (position, logits, voice) = (row.committed + row.ahead, logits.row(0), &mut contents.voice);
        let (token, distribution) = if self.agrees(voice) {
            (self.choose(voice, position, logits)?, Distribution::default())
        } else {
            let p = self.warp(voice, logits)?;
            let dice = Dice::new(&mut self.coins, &mut voice.drawn, voice.seed, position, model);
            let token = dice.under(self.rules).sample(&p);
            (token, self.claimed(p, logits)?)
        };
        contents.blocks[0].push(Proposed { token, level: 0, distribution });
        if contents.stop.contains(&token) {
            return Ok(Drafted::StopToken);
        }
        let stops = self.warper.stops(row.plan.stop, logits)?;
        Ok(if stops { Drafted::Enough } else { Drafted::More })
    }

    /// Verifies the block below `level`, or decodes plainly; what it emits goes into the level's
    /// own block or, at the target, is committed.
    pub fn judge<L: Listener>(
        &mut self,
        contents: &mut Contents,
        row: &Row,
        model: ModelId,
        level: usize,
        logits: Logits<'_>,
        listener: &mut L,
    ) -> Result<RowOutcome, NoToken> {
        let top = level + 1 == row.plan.depth();
        let first = row.committed + row.ahead;
        let mut block = match level {
            0 => Vec::new(), // Holds no memory.
            _ => std::mem::take(&mut contents.blocks[level - 1]),
        };
        let mut emitted = std::mem::take(&mut self.emitted);
        let voice = &mut contents.voice;
        let submitted = self.rules.submitted(&block, level, top);
        let settle = |index: usize, proposed: Option<&Proposed>| {
            self.settle(voice, first + index as u32, model, proposed, logits.row(index))
        };
        let verdict = verify(&block[..submitted], level as u8, &contents.stop, settle, &mut emitted);
        self.spare.extend(block.drain(..).map(|p| p.distribution).filter(|d| !d.is_empty()));
        if level > 0 {
            contents.blocks[level - 1] = block; // Empty; its memory is used again.
        }
        let verdict = verdict?;
        let outcome = if top {
            self.commit(contents, row, verdict, &mut emitted, logits.vocabulary, listener)
        } else {
            contents.blocks[level].append(&mut emitted);
            outcome(verdict)
        };
        self.emitted = emitted;
        Ok(outcome)
    }

    /// The verifier's judgement at one position.
    fn settle(
        &mut self,
        voice: &mut Voice,
        position: u32,
        model: ModelId,
        proposed: Option<&Proposed>,
        logits: &[f32],
    ) -> Result<Settled, NoToken> {
        if self.agrees(voice) {
            let token = self.choose(voice, position, logits)?;
            let kept = proposed.is_some_and(|p| p.token == token);
            let similarity = f64::from(u8::from(kept));
            return Ok(Settled { token, kept, similarity, distribution: Distribution::default() });
        }
        let p = self.warp(voice, logits)?;
        let dice = Dice::new(&mut self.coins, &mut voice.drawn, voice.seed, position, model);
        let mut dice = dice.under(self.rules);
        let (token, kept, similarity) = match proposed {
            Some(proposed) => {
                let (token, kept) = dice.speculative(proposed, &p, &mut self.residual, &mut self.guarded);
                (token, kept, p.overlap(&proposed.distribution))
            }
            None => (dice.sample(&p), false, 0.0),
        };
        let distribution = self.claimed(p, logits)?;
        Ok(Settled { token, kept, similarity, distribution })
    }

    /// What the level above is told that a token was drawn from: what it was drawn from.
    #[inline]
    fn claimed(&mut self, sampled: Distribution, logits: &[f32]) -> Result<Distribution, NoToken> {
        if self.rules.honest() {
            return Ok(sampled);
        }
        let mut raw = sampled;
        self.warper.warp(logits, &Default::default(), &mut raw)?;
        Ok(raw)
    }

    /// Puts what the target emitted behind the text, up to the limit.
    fn commit<L: Listener>(
        &mut self,
        contents: &mut Contents,
        row: &Row,
        mut verdict: Verdict,
        emitted: &mut Vec<Proposed>,
        vocabulary: usize,
        listener: &mut L,
    ) -> RowOutcome {
        let room = contents.limit.saturating_sub(contents.output());
        if emitted.len() > room {
            verdict.ended = false; // A stop token past the limit is no end of this output.
            self.spare.extend(emitted.drain(room..).map(|p| p.distribution).filter(|d| !d.is_empty()));
            verdict.emitted = room as u8;
            verdict.accepted = verdict.accepted.min(verdict.emitted);
        }
        contents.stopped = verdict.ended;
        self.committed.clear();
        for token in emitted.drain(..) {
            let position = contents.output();
            let model = row.plan.model(usize::from(token.level));
            contents.text.push(token.token);
            contents.models.push(model);
            contents.voice.drawn.settle(position as u32);
            self.committed.push(CommittedToken { token: token.token, model, level: token.level });
            if !token.distribution.is_empty() {
                self.remember(contents.seen.place(position), token.distribution, vocabulary);
            }
        }
        // A sequence at its limit is over, whoever says so first.
        verdict.ended |= contents.output() >= contents.limit;
        listener.committed(contents.request, &self.committed);
        outcome(verdict)
    }

    /// Keeps a target's distribution for probes: whole, or its likeliest tokens.
    pub fn remember(&mut self, part: &mut Part, mut p: Distribution, vocabulary: usize) {
        if vocabulary <= WHOLE || p.len() <= LIKELIEST as usize {
            std::mem::swap(&mut part.distribution, &mut p);
            part.tail = 0.0;
        } else {
            part.tail = self.warper.likeliest(&p, LIKELIEST, &mut part.distribution);
        }
        self.spare.extend(Some(p).filter(|p| !p.is_empty()));
    }

    /// Compares a model with what the target had at the last committed positions.
    ///
    /// - `window`: rows of `logits`; the last is the model's view of the newest committed token.
    pub fn probe(
        &mut self,
        contents: &mut Contents,
        window: usize,
        logits: Logits<'_>,
    ) -> Result<RowOutcome, NoToken> {
        let (mut examined, mut similarity) = (0, 0.0);
        let output = contents.output();
        for back in 1..=window.min(WINDOW).min(output) {
            let (position, row) = (output - back, logits.row(window - back));
            similarity += if self.agrees(&contents.voice) {
                let choice = self.choose(&contents.voice, position as u32, row)?;
                f64::from(u8::from(choice == contents.text[contents.prompt + position]))
            } else if let Some(target) = contents.seen.get(position) {
                self.warper.warp(row, &contents.voice.sampling, &mut self.warped)?;
                target.overlap(&self.warped)
            } else {
                continue;
            };
            examined += 1;
        }
        Ok(RowOutcome { examined, similarity: similarity as f32, ..RowOutcome::default() })
    }
}

fn outcome(verdict: Verdict) -> RowOutcome {
    let Verdict { accepted, emitted, ended, examined, similarity } = verdict;
    RowOutcome { accepted, emitted, ended, examined, similarity }
}
