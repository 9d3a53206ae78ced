//! Handing each row its outcome: fills, verifications, rollback, commit, records, learning.

use super::{Replica, ReplicaError};
use crate::backend::{After, Backend, Cohort, FillEnd, PassOutcome, Row, RowOutcome, Work};
use crate::estimate::PairEvidence;
use crate::ids::{ModelId, Slot};
use crate::policy::{PairReport, PassReport, RowReport};
use crate::profile::PassShape;
use crate::record::{PassRecord, RoundRecord, Sink, Status, Verdict, VerificationRecord, Wants};
use crate::sequence::Stage;
use crate::units::{Span, Time};

/// What the rows of a pass added up to.
#[derive(Clone, Copy, Default)]
struct Committed {
    tokens: u32,
    rounds: u32,
}

impl Replica {
    /// Ends the pass at `now`: every row takes its outcome, verified text is committed, lower
    /// levels shrink to what they share with it, the policy learns.
    ///
    /// # Errors
    /// [`ReplicaError::Outcome`] when the outcome does not fit the pass.
    pub fn finish<B: Backend, S: Sink + ?Sized>(
        &mut self,
        now: Time,
        outcome: &PassOutcome,
        backend: &mut B,
        sink: &mut S,
    ) -> Result<(), ReplicaError> {
        debug_assert!(self.pass.busy, "begin comes before finish");
        self.fits(outcome)?;
        let wants = self.wants(sink);
        if !outcome.earlier.is_empty() {
            self.run_on(now, outcome, sink);
        }
        let (model, shape) = (self.pass.model, self.pass.shape);
        let tick = self.tick;
        self.pass.busy = false;
        self.tick += 1; // Rows queued from here on wait from the next tick.
        self.pair_reports.clear();
        self.row_reports.clear();
        self.drafted(outcome)?;
        let mut committed = Committed::default();
        let rows = std::mem::take(&mut self.pass.rows);
        for (row, result) in rows.iter().zip(&outcome.rows) {
            self.take(now, tick, row, *result, &mut committed, wants, backend, sink);
        }
        self.pass.rows = rows;
        for report in &self.pair_reports {
            self.evidence.pair_mut(report.drafter, report.verifier).add(&report.seen, tick);
        }
        let queued = self.waiting.len();
        self.account(now, tick, model, &shape, outcome.duration, queued, committed, sink);
        Ok(())
    }

    /// Ends the draft passes that were run at once before the last: each counts as if it had been
    /// a tick of its own.
    fn run_on<S: Sink + ?Sized>(&mut self, now: Time, outcome: &PassOutcome, sink: &mut S) {
        let mut end = Time::from_nanos(now.nanos() - outcome.total().nanos());
        self.pair_reports.clear();
        self.row_reports.clear();
        // Nobody listens to each of them: their time is put down at once.
        let listened = self.needs.costs || self.wants(sink).passes;
        for &duration in &outcome.earlier {
            end += duration;
            let (tick, shape) = (self.tick, self.pass.shape);
            self.tick += 1;
            if !listened {
                self.tally.pass(self.pass.model, &shape, duration);
                (self.pass.shape, self.pass.after) = (shape.draft_after(), After::Same);
                continue;
            }
            // An arrival would have cut the run: nobody came since it began.
            let queued = self.pass.queued;
            self.account(end, tick, self.pass.model, &shape, duration, queued, Committed::default(), sink);
            (self.pass.shape, self.pass.after) = (shape.draft_after(), After::Same);
        }
        if !listened {
            let span = outcome.total().nanos() - outcome.duration.nanos();
            self.put_down(end, span as f64, self.pass.queued, 0);
        }
        let cohort = &mut self.pass.cohorts[0];
        cohort.drafted += outcome.earlier.len() as u8;
        cohort.context_tokens = self.pass.shape.context_tokens;
        cohort.fresh = false;
        self.pass.cohort_tokens[0] = self.pass.shape.new_tokens;
    }

    /// Tallies a pass, records it, and teaches the profile and the policy.
    #[allow(clippy::too_many_arguments, reason = "all that there is to say of a pass, once per pass")]
    #[inline]
    fn account<S: Sink + ?Sized>(
        &mut self,
        now: Time,
        tick: u64,
        model: ModelId,
        shape: &PassShape,
        duration: Span,
        queued: u32,
        committed: Committed,
        sink: &mut S,
    ) {
        if self.needs.costs {
            self.tally.predicted_seconds += self.costs.observe(model, shape, duration);
            self.tally.observed_seconds += duration.seconds();
        }
        self.tally.pass(model, shape, duration);
        self.put_down(now, duration.nanos() as f64, queued, committed.tokens);
        if self.wants(sink).passes {
            let start = Time::from_nanos(now.nanos() - duration.nanos());
            sink.pass(&PassRecord {
                replica: self.id,
                tick,
                model,
                start,
                duration,
                after: self.pass.after,
                shape: *shape,
                queued,
                running: self.running,
                kv_blocks_used: self.kv.used(),
            });
        }
        if !self.needs.costs
            && self.pair_reports.is_empty()
            && self.row_reports.is_empty()
            && committed.rounds == 0
        {
            return;
        }
        self.policy.learn(&PassReport {
            now,
            tick,
            model,
            shape: *shape,
            duration,
            committed: committed.tokens,
            rounds: committed.rounds,
            pairs: &self.pair_reports,
            rows: &self.row_reports,
        });
    }

    /// Puts `span` nanoseconds of passes that ended by `now` into the run's series.
    #[inline]
    fn put_down(&mut self, now: Time, span: f64, queued: u32, tokens: u32) {
        let stretch = self.tally.series.at(now);
        stretch.busy_nanos += span;
        stretch.queued += span * f64::from(queued);
        stretch.running += span * f64::from(self.running);
        stretch.kv_blocks += span * self.kv.used() as f64;
        stretch.tokens += u64::from(tokens);
    }

    fn fits(&self, outcome: &PassOutcome) -> Result<(), ReplicaError> {
        let error = |what, expected, got| Err(ReplicaError::Outcome { tick: self.tick, what, expected, got });
        if outcome.earlier.len() >= usize::from(self.pass.run_length) {
            return error("passes run at once", usize::from(self.pass.run_length), outcome.earlier.len() + 1);
        }
        if outcome.rows.len() != self.pass.rows.len() {
            return error("row outcomes", self.pass.rows.len(), outcome.rows.len());
        }
        for (row, result) in self.pass.rows.iter().zip(&outcome.rows) {
            if let Work::Verify { block, .. } = row.work {
                if result.accepted > block {
                    return error(
                        "accepted tokens of a block",
                        usize::from(block),
                        usize::from(result.accepted),
                    );
                }
                // A stop token among the accepted ends the output without a bonus.
                let least = if result.ended { result.accepted.max(1) } else { result.accepted + 1 };
                if !(least..=result.accepted + 1).contains(&result.emitted) {
                    return error("emitted tokens", usize::from(least), usize::from(result.emitted));
                }
            }
        }
        Ok(())
    }

    /// Every cohort has one token more; rows whose fill ended leave it, and full ones go up.
    fn drafted(&mut self, outcome: &PassOutcome) -> Result<(), ReplicaError> {
        let model = self.pass.model;
        let mut ends = outcome.fill_ends.as_slice();
        let cohorts = std::mem::take(&mut self.pass.cohorts);
        let mut spare = cohorts; // Drained in order; its buffer is given back below.
        for (index, mut cohort) in spare.drain(..).enumerate() {
            let mine = ends.iter().take_while(|end| end.cohort as usize == index).count();
            let (ended, others) = ends.split_at(mine);
            ends = others;
            cohort.drafted += 1;
            cohort.context_tokens += u64::from(self.pass.cohort_tokens[index]);
            cohort.fresh = false;
            if !ended.is_empty() {
                self.leave_cohort(model, &mut cohort, ended)?;
            }
            if cohort.slots.is_empty() || cohort.drafted >= cohort.plan.windows()[0] {
                for i in 0..cohort.slots.len() {
                    self.fill_done(model, cohort.slots[i], cohort.drafted, false);
                }
                self.recycle(cohort.slots);
            } else {
                self.queues[model.index()].push_cohort(cohort, self.tick);
            }
        }
        self.pass.cohorts = spare;
        if let Some(end) = ends.first() {
            let got = end.cohort as usize;
            return Err(ReplicaError::Outcome {
                tick: self.tick - 1,
                what: "cohort of a fill end",
                expected: self.pass.cohorts.len(),
                got,
            });
        }
        Ok(())
    }

    fn leave_cohort(
        &mut self,
        model: ModelId,
        cohort: &mut Cohort,
        ended: &[FillEnd],
    ) -> Result<(), ReplicaError> {
        for end in ended {
            let Some(&slot) = cohort.slots.get(end.row as usize) else {
                let (expected, got) = (cohort.slots.len(), end.row as usize);
                return Err(ReplicaError::Outcome {
                    tick: self.tick - 1,
                    what: "row of a fill end",
                    expected,
                    got,
                });
            };
            self.fill_done(model, slot, cohort.drafted, end.stop_token);
        }
        let mut index = 0;
        cohort.slots.retain(|_| {
            index += 1;
            !ended.iter().any(|end| end.row as usize == index - 1)
        });
        // What the leavers had in the cache: recounted, since ends are rare.
        cohort.context_tokens = 0;
        for &slot in &cohort.slots {
            let s = &self.sequences[slot.index()];
            cohort.context_tokens += u64::from(s.committed() + s.ahead(1) + u32::from(cohort.drafted) - 1);
        }
        Ok(())
    }

    /// A row's fill at the lowest level is over: it goes up.
    #[inline]
    fn fill_done(&mut self, model: ModelId, slot: Slot, drafted: u8, stop_token: bool) {
        let sequence = &mut self.sequences[slot.index()];
        sequence.cached[model.index()] = sequence.committed() + sequence.ahead(1) + u32::from(drafted) - 1;
        sequence.blocks[0] = drafted;
        sequence.ended = stop_token;
        self.await_verification(slot, 1);
    }

    #[allow(clippy::too_many_arguments, reason = "the row's whole surroundings, once per row")]
    #[inline]
    fn take<B: Backend, S: Sink + ?Sized>(
        &mut self,
        now: Time,
        tick: u64,
        row: &Row,
        result: RowOutcome,
        committed: &mut Committed,
        wants: Wants,
        backend: &mut B,
        sink: &mut S,
    ) {
        let m = self.pass.model.index();
        let slot = row.slot;
        match row.work {
            Work::CatchUp => self.sequences[slot.index()].cached[m] += row.catch_up,
            Work::Probe { .. } => {
                let sequence = &mut self.sequences[slot.index()];
                sequence.cached[m] += row.catch_up;
                sequence.probing &= !(1 << m);
                self.tally.probes += 1;
                self.report(row, self.pass.model, self.target, 0, result, 0);
            }
            Work::Draft { .. } => debug_assert!(false, "draft rows stand in cohorts"),
            Work::Verify { level, block } => {
                let level = usize::from(level);
                let top = row.plan.depth() - 1;
                let mut result = result;
                if level == top {
                    // A surplus may run past the public limit.
                    let most = self.sequences[slot.index()].remaining().min(u32::from(u8::MAX)) as u8;
                    result.ended |= result.emitted >= most;
                    result.emitted = result.emitted.min(most);
                    result.accepted = result.accepted.min(most);
                }
                if wants.verifications && block > 0 {
                    self.record_verification(tick, row, level, block, result, sink);
                }
                let sequence = &mut self.sequences[slot.index()];
                // The last emitted token is pending; nobody's cache holds it.
                let seen = row.context + row.catch_up + u32::from(result.emitted);
                for (below, model) in row.plan.models()[..=level].iter().enumerate() {
                    let cached = &mut sequence.cached[model.index()];
                    if below == level {
                        *cached = seen;
                        if u32::from(result.emitted) < u32::from(block) + 1 {
                            backend.truncate(slot, *model, seen);
                        }
                    } else if *cached > seen {
                        *cached = seen;
                        backend.truncate(slot, *model, seen);
                    }
                }
                if level > 0 {
                    sequence.blocks[level - 1] = 0;
                }
                if level == top {
                    committed.tokens += u32::from(result.emitted);
                    committed.rounds += 1;
                    self.count(row, level, block, result, result.emitted);
                    self.commit(now, tick, row, block, result, wants, backend, sink);
                } else {
                    sequence.blocks[level] += result.emitted;
                    sequence.ended = result.ended;
                    let full = sequence.ended || sequence.blocks[level] >= row.plan.windows()[level];
                    self.count(row, level, block, result, 0);
                    if full {
                        self.await_verification(slot, level + 1);
                    } else {
                        self.await_draft(slot);
                    }
                }
            }
        }
    }

    /// The target has spoken: the round's text is committed and delivered.
    #[allow(clippy::too_many_arguments, reason = "the row's whole surroundings, once per round")]
    #[inline]
    fn commit<B: Backend, S: Sink + ?Sized>(
        &mut self,
        now: Time,
        tick: u64,
        row: &Row,
        block: u8,
        result: RowOutcome,
        wants: Wants,
        backend: &mut B,
        sink: &mut S,
    ) {
        let slot = row.slot;
        let sequence = &mut self.sequences[slot.index()];
        let first = sequence.output == 0;
        if wants.rounds {
            sink.round(&RoundRecord {
                replica: self.id,
                request: sequence.request,
                round: sequence.round,
                position: sequence.output,
                start_tick: self.cold[slot.index()].round_tick,
                end_tick: tick,
                plan: row.plan,
                drafted: block,
                accepted: result.accepted,
                emitted: result.emitted,
            });
        }
        sequence.output += u32::from(result.emitted);
        sequence.round += 1;
        if first {
            self.cold[slot.index()].first_token = Some(now);
            self.decoding += 1;
        } else {
            let gap = now - sequence.last_token;
            self.tally.gaps.add(gap);
            sink.gap(gap);
        }
        sequence.last_token = now;
        self.context_tokens += u64::from(result.emitted);
        self.tally.rounds += 1;
        self.tally.drafted_tokens += u64::from(block);
        self.tally.accepted_tokens += u64::from(result.accepted);
        self.tally.emitted_tokens += u64::from(result.emitted);
        if !first {
            self.hold.remove(&row.plan); // A prefill holds nobody up and is not counted there.
        }
        if result.ended {
            self.release(slot, backend, sink);
        } else {
            self.sequences[slot.index()].stage = Stage::Starting;
            self.starting.push(slot);
        }
    }

    fn release<B: Backend, S: Sink + ?Sized>(&mut self, slot: Slot, backend: &mut B, sink: &mut S) {
        sink.request(&self.record_of(slot, Status::Finished));
        if self.sequences[slot.index()].probing != 0 {
            self.queues.iter_mut().for_each(|queue| queue.remove_probe(slot));
        }
        let sequence = &mut self.sequences[slot.index()];
        for (model, held) in sequence.held.iter_mut().enumerate().take(self.queues.len()) {
            self.kv.release(ModelId(model as u8), held);
        }
        self.context_tokens -= u64::from(sequence.committed());
        sequence.stage = Stage::Free;
        self.running -= 1;
        self.decoding -= 1;
        self.free_slots.push(slot);
        backend.free(slot);
    }

    /// Tallies and reports one verification.
    #[inline]
    fn count(&mut self, row: &Row, level: usize, block: u8, result: RowOutcome, committed: u8) {
        let verifier = self.pass.model;
        if level + 1 == row.plan.depth() {
            let target = &mut self.tally.models[verifier.index()];
            target.proposed_tokens += u64::from(block) + 1;
            target.kept_tokens += u64::from(result.emitted);
        }
        if block == 0 {
            if self.needs.rows {
                self.report(row, verifier, verifier, 0, result, committed);
            }
            return;
        }
        let drafter = row.plan.model(level - 1);
        let below = &mut self.tally.models[drafter.index()];
        below.proposed_tokens += u64::from(block);
        below.kept_tokens += u64::from(result.accepted);
        self.tally.pair_mut(drafter, verifier).add(
            block,
            result.accepted,
            result.examined,
            result.similarity,
        );
        self.report(row, drafter, verifier, block, result, committed);
    }

    /// What a row taught about a pair; a probe teaches similarity alone.
    #[inline]
    fn report(
        &mut self,
        row: &Row,
        drafter: ModelId,
        verifier: ModelId,
        drafted: u8,
        result: RowOutcome,
        committed: u8,
    ) {
        if drafter != verifier {
            let seen = PairEvidence {
                verifications: u64::from(drafted > 0),
                drafted: u64::from(drafted),
                accepted: u64::from(result.accepted),
                rejections: u64::from(
                    drafted > 0
                        && result.accepted < drafted
                        && !(result.ended && result.emitted == result.accepted),
                ),
                examined: u64::from(result.examined),
                similarity: f64::from(result.similarity),
                tick: 0,
            };
            match self.pair_reports.iter_mut().find(|r| r.drafter == drafter && r.verifier == verifier) {
                Some(report) => report.seen.add(&seen, 0),
                None => self.pair_reports.push(PairReport { drafter, verifier, seen }),
            }
        }
        if self.needs.rows {
            self.row_reports.push(RowReport {
                slot: row.slot,
                request: row.request,
                class: self.cold[row.slot.index()].class,
                drafter,
                verifier,
                drafted,
                accepted: result.accepted,
                examined: result.examined,
                similarity: result.similarity,
                committed,
            });
        }
    }

    fn record_verification<S: Sink + ?Sized>(
        &mut self,
        tick: u64,
        row: &Row,
        level: usize,
        block: u8,
        result: RowOutcome,
        sink: &mut S,
    ) {
        let sequence = &self.sequences[row.slot.index()];
        let cycles = &mut self.cold[row.slot.index()].cycles;
        let cycle = cycles[level];
        cycles[level] = cycle.saturating_add(1);
        if level + 1 == row.plan.depth() {
            *cycles = Default::default(); // The round ends.
        }
        let verdict = if result.ended {
            Verdict::End
        } else if result.accepted == block {
            Verdict::Bonus
        } else {
            Verdict::Reject
        };
        sink.verification(&VerificationRecord {
            replica: self.id,
            request: sequence.request,
            round: sequence.round,
            level: level as u8,
            cycle,
            tick,
            drafter: row.plan.model(level - 1),
            verifier: self.pass.model,
            drafted: block,
            accepted: result.accepted,
            verdict,
            similarity: (result.examined > 0).then(|| result.similarity / f32::from(result.examined)),
        });
    }
}
