//! Between the records of `routing` and the columns of the tables.

mod columns;
mod plan;
mod text;

pub(crate) use columns::{Cells, Frame};

use specrouter_routing::backend::After;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
use specrouter_routing::profile::PassShape;
use specrouter_routing::record::{
    DecisionRecord, PassRecord, Prediction, RequestRecord, RoundRecord, Status, Verdict, VerificationRecord,
};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Span, Time};

use crate::error::TraceError;
use crate::manifest::Run;
use crate::schema::Table;

/// A record that is a row of a table.
pub(crate) trait Row: Sized {
    /// The table.
    const TABLE: Table;

    /// Puts the row into `cells`, column by column in the schema's order.
    fn put(&self, run: &Run, cells: &mut Cells);

    /// Reads every row of `frame`.
    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError>;
}

impl Row for RequestRecord {
    const TABLE: Table = Table::Requests;

    fn put(&self, run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.id.0);
        cells.u32(u32::from(self.class.0));
        cells.text(run.classes.get(self.class.index()).map_or("", String::as_str));
        cells.u64(self.arrival.nanos());
        cells.u64_or_null(self.first_token.map(Time::nanos));
        cells.u64_or_null(self.last_token.map(Time::nanos));
        cells.u32(self.prompt_tokens);
        cells.u32(self.output_tokens);
        cells.u32(self.limit);
        cells.u32(u32::from(self.priority));
        cells.u64_or_null(self.slo.ttft.map(Span::nanos));
        cells.u64_or_null(self.slo.tpot.map(Span::nanos));
        cells.u32(self.rounds);
        cells.u32(self.preemptions);
        cells.bool_or_null(self.slo_met);
        cells.text(self.status.as_str());
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, id, class) = (frame.u32s("replica")?, frame.u64s("id")?, frame.narrow::<u16>("class")?);
        let arrival = frame.u64s("arrival_ns")?;
        let (first, last) = (frame.u64s_or_null("first_token_ns")?, frame.u64s_or_null("last_token_ns")?);
        let (prompt, output) = (frame.u32s("prompt_tokens")?, frame.u32s("output_tokens")?);
        let (limit, rounds) = (frame.u32s("limit_tokens")?, frame.u32s("rounds")?);
        let priority = frame.narrow::<u8>("priority")?;
        let (ttft, tpot) = (frame.u64s_or_null("slo_ttft_ns")?, frame.u64s_or_null("slo_tpot_ns")?);
        let (preemptions, slo_met) = (frame.u32s("preemptions")?, frame.bools_or_null("slo_met")?);
        let all = [Status::Finished, Status::Running, Status::Waiting, Status::TooLong];
        let status = frame.words("status", &all, Status::as_str, "finished, running, waiting or too_long")?;
        let row = |i: usize| Self {
            id: RequestId(id[i]),
            replica: ReplicaId(replica[i]),
            class: ClassId(class[i]),
            arrival: Time::from_nanos(arrival[i]),
            first_token: first[i].map(Time::from_nanos),
            last_token: last[i].map(Time::from_nanos),
            prompt_tokens: prompt[i],
            output_tokens: output[i],
            limit: limit[i],
            priority: priority[i],
            slo: Slo { ttft: ttft[i].map(Span::from_nanos), tpot: tpot[i].map(Span::from_nanos) },
            rounds: rounds[i],
            preemptions: preemptions[i],
            slo_met: slo_met[i],
            status: status[i],
        };
        Ok((0..frame.height()).map(row).collect())
    }
}

impl Row for PassRecord {
    const TABLE: Table = Table::Passes;

    fn put(&self, _run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.tick);
        cells.u32(u32::from(self.model.0));
        cells.u64(self.start.nanos());
        cells.u64(self.duration.nanos());
        cells.text(self.after.as_str());
        cells.u32(self.shape.rows);
        cells.u32(self.shape.new_tokens);
        cells.u32(self.shape.catch_up_tokens);
        cells.u64(self.shape.context_tokens);
        cells.u64(self.shape.attention_pairs);
        cells.u32(self.shape.logit_rows);
        cells.u32(self.queued);
        cells.u32(self.running);
        cells.u64(self.kv_blocks_used);
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, tick, model) =
            (frame.u32s("replica")?, frame.u64s("tick")?, frame.narrow::<u8>("model")?);
        let (start, duration) = (frame.u64s("start_ns")?, frame.u64s("duration_ns")?);
        let all = [After::Same, After::Other, After::Idle];
        let after = frame.words("after", &all, After::as_str, "same, other or idle")?;
        let (rows, new_tokens) = (frame.u32s("rows")?, frame.u32s("new_tokens")?);
        let (catch_up, context) = (frame.u32s("catch_up_tokens")?, frame.u64s("context_tokens")?);
        let (pairs, logits) = (frame.u64s("attention_pairs")?, frame.u32s("logit_rows")?);
        let (queued, running) = (frame.u32s("queued")?, frame.u32s("running")?);
        let blocks = frame.u64s("kv_blocks_used")?;
        let row = |i: usize| Self {
            replica: ReplicaId(replica[i]),
            tick: tick[i],
            model: ModelId(model[i]),
            start: Time::from_nanos(start[i]),
            duration: Span::from_nanos(duration[i]),
            after: after[i],
            shape: PassShape {
                rows: rows[i],
                new_tokens: new_tokens[i],
                catch_up_tokens: catch_up[i],
                context_tokens: context[i],
                attention_pairs: pairs[i],
                logit_rows: logits[i],
            },
            queued: queued[i],
            running: running[i],
            kv_blocks_used: blocks[i],
        };
        Ok((0..frame.height()).map(row).collect())
    }
}

impl Row for VerificationRecord {
    const TABLE: Table = Table::Verifications;

    fn put(&self, _run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.request.0);
        cells.u32(self.round);
        cells.u32(u32::from(self.level));
        cells.u32(u32::from(self.cycle));
        cells.u64(self.tick);
        cells.u32(u32::from(self.drafter.0));
        cells.u32(u32::from(self.verifier.0));
        cells.u32(u32::from(self.drafted));
        cells.u32(u32::from(self.accepted));
        cells.text(self.verdict.as_str());
        cells.f32_or_null(self.similarity);
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, request) = (frame.u32s("replica")?, frame.u64s("request")?);
        let (round, tick) = (frame.u32s("round")?, frame.u64s("tick")?);
        let (level, cycle) = (frame.narrow::<u8>("level")?, frame.narrow::<u8>("cycle")?);
        let (drafter, verifier) = (frame.narrow::<u8>("drafter")?, frame.narrow::<u8>("verifier")?);
        let (drafted, accepted) =
            (frame.narrow::<u8>("drafted_tokens")?, frame.narrow::<u8>("accepted_tokens")?);
        let all = [Verdict::Reject, Verdict::Bonus, Verdict::End];
        let verdict = frame.words("outcome", &all, Verdict::as_str, "reject, bonus or end")?;
        let similarity = frame.f32s_or_null("similarity")?;
        let row = |i: usize| Self {
            replica: ReplicaId(replica[i]),
            request: RequestId(request[i]),
            round: round[i],
            level: level[i],
            cycle: cycle[i],
            tick: tick[i],
            drafter: ModelId(drafter[i]),
            verifier: ModelId(verifier[i]),
            drafted: drafted[i],
            accepted: accepted[i],
            verdict: verdict[i],
            similarity: similarity[i],
        };
        Ok((0..frame.height()).map(row).collect())
    }
}

impl Row for RoundRecord {
    const TABLE: Table = Table::Rounds;

    fn put(&self, _run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.request.0);
        cells.u32(self.round);
        cells.u32(self.position);
        cells.u64(self.start_tick);
        cells.u64(self.end_tick);
        plan::put(&self.plan, cells);
        cells.u32(u32::from(self.drafted));
        cells.u32(u32::from(self.accepted));
        cells.u32(u32::from(self.emitted));
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, request) = (frame.u32s("replica")?, frame.u64s("request")?);
        let (round, position) = (frame.u32s("round")?, frame.u32s("position")?);
        let (start_tick, end_tick) = (frame.u64s("start_tick")?, frame.u64s("end_tick")?);
        let plan = plan::take(frame, ["chain", "windows", "stop"])?;
        let (drafted, accepted) =
            (frame.narrow::<u8>("drafted_tokens")?, frame.narrow::<u8>("accepted_tokens")?);
        let emitted = frame.narrow::<u8>("emitted_tokens")?;
        let row = |i: usize| Self {
            replica: ReplicaId(replica[i]),
            request: RequestId(request[i]),
            round: round[i],
            position: position[i],
            start_tick: start_tick[i],
            end_tick: end_tick[i],
            plan: plan[i],
            drafted: drafted[i],
            accepted: accepted[i],
            emitted: emitted[i],
        };
        Ok((0..frame.height()).map(row).collect())
    }
}

impl Row for DecisionRecord {
    const TABLE: Table = Table::Decisions;

    fn put(&self, run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.tick);
        cells.u64(self.time.nanos());
        cells.u64(self.request.0);
        cells.text(&run.policy);
        plan::put(&self.planned, cells);
        plan::put(&self.executed, cells);
        cells.f32_or_null(self.predicted.map(|p| p.round_seconds));
        cells.f32_or_null(self.predicted.map(|p| p.tokens));
        cells.f32_or_null(self.predicted.map(|p| p.propensity));
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, tick) = (frame.u32s("replica")?, frame.u64s("tick")?);
        let (time, request) = (frame.u64s("time_ns")?, frame.u64s("request")?);
        let planned = plan::take(frame, ["planned_chain", "planned_windows", "planned_stop"])?;
        let executed = plan::take(frame, ["executed_chain", "executed_windows", "executed_stop"])?;
        let seconds = frame.f32s_or_null("predicted_round_s")?;
        let (tokens, propensity) =
            (frame.f32s_or_null("predicted_tokens")?, frame.f32s_or_null("propensity")?);
        let predicted = |i: usize| match (seconds[i], tokens[i], propensity[i]) {
            (Some(round_seconds), Some(tokens), Some(propensity)) => {
                Some(Prediction { round_seconds, tokens, propensity })
            }
            _ => None,
        };
        let row = |i: usize| Self {
            replica: ReplicaId(replica[i]),
            tick: tick[i],
            time: Time::from_nanos(time[i]),
            request: RequestId(request[i]),
            planned: planned[i],
            executed: executed[i],
            predicted: predicted(i),
        };
        Ok((0..frame.height()).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a `rounds` table whose second row has these texts and this model count.
    fn error(chain: &str, windows: &str, stop: &str, drafted: u32) -> String {
        let mut cells = Cells::new(Table::Rounds, 2);
        for (chain, windows, stop, drafted) in [("0>3", "4", "never", 4), (chain, windows, stop, drafted)] {
            cells.u32(0);
            cells.u64(1);
            cells.u32(2);
            cells.u32(3);
            cells.u64(4);
            cells.u64(5);
            cells.text(chain);
            cells.text(windows);
            cells.text(stop);
            cells.u32(drafted);
            cells.u32(1);
            cells.u32(2);
        }
        let frame = Frame { path: "rounds.parquet".into(), frame: cells.take() };
        RoundRecord::take(&frame).unwrap_err().to_string()
    }

    #[test]
    fn cells_that_mean_nothing_are_named() {
        insta::assert_snapshot!(error("0-3", "4", "never", 4), @r#"table rounds.parquet, row 1: chain must be pool indexes joined by >, got "0-3""#);
        insta::assert_snapshot!(error("0>3", "four", "never", 4), @r#"table rounds.parquet, row 1: windows must be numbers joined by commas, got "four""#);
        insta::assert_snapshot!(error("0>3", "4", "soon", 4), @r#"table rounds.parquet, row 1: stop must be never, top_probability<x or entropy>x, got "soon""#);
        insta::assert_snapshot!(error("3>0", "4", "never", 4), @"table rounds.parquet, row 1: chain: a chain follows the pool's order, cheapest first, each model once; got models [3, 0]");
        insta::assert_snapshot!(error("0>3", "4", "never", 256), @"table rounds.parquet, row 1: drafted_tokens must be a smaller index or count, got 256");
    }
}
