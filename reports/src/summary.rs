//! The one definition of every metric.
//!
//! | metric | definition |
//! |---|---|
//! | TTFT | arrival to first token, over finished requests |
//! | TPOT | (last − first token) / (n − 1) of a request; undefined for n = 1, over the others |
//! | ITL | gap between two deliveries of one request, over all gaps (histogram, to 2.2 %) |
//! | E2E | arrival to last token, over finished requests |
//! | percentile | linear interpolation between order statistics at rank (n − 1)·q (NumPy's default) |
//! | output tokens/s | tokens delivered, to unfinished requests too, per second from 0 to the run's end |
//! | requests/s | finished requests per second, likewise |
//! | goodput | requests (and their output tokens) per second that finished and met all their targets |
//! | accepted length | tokens committed per round; rounds of the first token (prefill) left out |
//! | acceptance | Σ accepted / (Σ accepted + verifications that rejected): a fully kept block says only "at least" |
//! | similarity | mean of 1 − TV over the examined positions |
//! | useful, wasted | time of a model outside catch-up, split by the share of its tokens that the level above kept |
//! | $ per million | devices × hours × price per device hour / (output tokens / 10⁶) |

use serde::Serialize;
use specrouter_routing::tally::{ModelTally, PairTally, Tally};
use specrouter_routing::units::Time;

use crate::collect::{ClassCounts, Columns};
pub use crate::distribution::{Cdf, Stats};
use crate::distribution::{cdf, gap_cdf, gap_stats, sorted, stats};
pub use crate::saturation::Saturation;

/// What one run left behind: one policy, one load, one seed.
#[derive(Clone, Debug)]
pub struct SeedResult {
    /// The run's seed.
    pub seed: u64,
    /// Its requests.
    pub columns: Columns,
    /// Its tally, Σ over replicas.
    pub tally: Tally,
    /// When the run ended.
    pub end: Time,
    /// Replicas, at least 1.
    pub replicas: u32,
    /// Devices of one replica, at least 1.
    pub devices_per_replica: u32,
    /// Price of a device; `None` leaves dollars out.
    pub dollars_per_device_hour: Option<f64>,
    /// Power of a device at full load; `None` leaves energy out.
    pub watts_per_device: Option<f64>,
    /// KV blocks there are, Σ over replicas and models.
    pub kv_blocks_total: u64,
}

/// The names that a summary carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The arm's models, cheapest first: by [`specrouter_routing::ids::ModelId`] of its tally.
    pub pool: Vec<String>,
    /// Classes by [`specrouter_routing::ids::ClassId`].
    pub classes: Vec<String>,
}

/// A run reduced to bounded size: its summary, distributions of at most [`Cdf::MOST`] points, and
/// its tally.
#[derive(Clone, Debug)]
pub struct SeedSummary {
    /// The run's seed.
    pub seed: u64,
    /// Its metrics.
    pub summary: Summary,
    /// Distribution of TTFT in seconds.
    pub ttft: Cdf,
    /// Distribution of TPOT in seconds.
    pub tpot: Cdf,
    /// Distribution of ITL in seconds.
    pub itl: Cdf,
    /// Distribution of E2E in seconds.
    pub e2e: Cdf,
    /// Its tally, for the plots over time.
    pub tally: Tally,
    /// Replicas it ran on.
    pub replicas: u32,
    /// KV blocks there are, Σ over replicas and models.
    pub kv_blocks_total: u64,
}

/// Requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub arrived: u64,
    /// Every token was delivered.
    pub finished: u64,
    /// Still running when the run ended.
    pub running: u64,
    /// Still waiting when the run ended.
    pub waiting: u64,
    /// Refused.
    pub too_long: u64,
}

/// What met its targets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// Finished requests per second that met all their targets.
    pub requests_per_s: f64,
    /// Output tokens of those, per second.
    pub output_tokens_per_s: f64,
    /// Their share of the requests that had targets.
    pub attained: f64,
}

/// How one model's tokens fared with one verifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairSummary {
    /// The model that proposed.
    pub drafter: String,
    /// The model that judged.
    pub verifier: String,
    /// Verifications of at least one token.
    pub verifications: u64,
    /// Tokens judged.
    pub drafted_tokens: u64,
    /// Tokens kept.
    pub accepted_tokens: u64,
    /// Acceptance, censoring taken into account; `None` when nothing was judged.
    pub acceptance: Option<f64>,
    /// Mean similarity; `None` when no position was examined.
    pub similarity: Option<f64>,
}

/// Where one model's time went, as shares of the run's time on all replicas.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSummary {
    /// The model.
    pub model: String,
    /// Its passes.
    pub passes: u64,
    /// Mean rows of a pass; 0 without passes.
    pub batch_mean: f64,
    /// Tokens run through it.
    pub new_tokens: u64,
    /// Time on tokens that were kept.
    pub useful: f64,
    /// Time on tokens that the level above rejected.
    pub wasted: f64,
    /// Time on prefill, catch-up and probes.
    pub catch_up: f64,
}

/// One request class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassSummary {
    /// The class.
    pub class: String,
    /// Its requests.
    pub requests: Counts,
    /// Σ prompt tokens.
    pub prompt_tokens: u64,
    /// Σ output tokens delivered.
    pub output_tokens: u64,
    /// Arrival to first token.
    pub ttft_s: Option<Stats>,
    /// Time per output token after the first.
    pub tpot_s: Option<Stats>,
    /// Arrival to last token.
    pub e2e_s: Option<Stats>,
    /// Goodput of the class; `None` when it has no targets.
    pub goodput: Option<Goodput>,
}

/// The metrics of one run. Latencies are `None` when there is nothing to take them over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The run's seed.
    pub seed: u64,
    /// Length of the run.
    pub end_s: f64,
    /// Did the system keep up.
    pub saturation: Saturation,
    /// Requests by how they ended.
    pub requests: Counts,
    /// Σ prompt tokens of all that arrived.
    pub prompt_tokens: u64,
    /// Σ output tokens delivered.
    pub output_tokens: u64,
    /// Arrival to first token.
    pub ttft_s: Option<Stats>,
    /// Time per output token after the first.
    pub tpot_s: Option<Stats>,
    /// Gaps between deliveries.
    pub itl_s: Option<Stats>,
    /// Arrival to last token.
    pub e2e_s: Option<Stats>,
    /// Output tokens per second.
    pub output_tokens_per_s: f64,
    /// Finished requests per second.
    pub requests_per_s: f64,
    /// What met its targets; `None` when no request had any.
    pub goodput: Option<Goodput>,
    /// Tokens committed per round, prefill rounds left out; `None` without rounds.
    pub accepted_length: Option<f64>,
    /// Rounds, prefill rounds left out.
    pub rounds: u64,
    /// Tokens put before the target.
    pub drafted_tokens: u64,
    /// Of those, kept.
    pub accepted_tokens: u64,
    /// By drafter and verifier.
    pub pairs: Vec<PairSummary>,
    /// By model, cheapest first.
    pub models: Vec<ModelSummary>,
    /// Share of the replicas' time without a pass.
    pub idle: f64,
    /// Mean rows of a target pass.
    pub batch_mean: f64,
    /// Mean requests running on a replica while it is busy.
    pub running_mean: f64,
    /// Mean requests waiting at a replica, over the run.
    pub queue_mean: f64,
    /// Mean share of the KV blocks in use while busy.
    pub kv_use: f64,
    /// Dollars per million output tokens; `None` without a price or without tokens.
    pub dollars_per_million: Option<f64>,
    /// Energy per output token if every device drew its full power; `None` when that is not known.
    pub joules_per_token: Option<f64>,
    /// Preemptions.
    pub preemptions: u64,
    /// Plans cut to a shorter chain because KV memory was short.
    pub shortened_plans: u64,
    /// Probe rows run.
    pub probes: u64,
    /// Σ predicted / Σ observed pass time of the policy's profile; `None` when it predicted nothing.
    pub predicted_over_observed: Option<f64>,
    /// By class.
    pub classes: Vec<ClassSummary>,
}

/// The metrics of one run.
pub fn summarize(result: &SeedResult, facts: &Facts) -> Summary {
    distributions(result, facts).0
}

impl SeedResult {
    /// Keeps the metrics, the distributions and the tally, and lets the requests go.
    pub fn reduce(self, facts: &Facts) -> SeedSummary {
        let (summary, [ttft, tpot, e2e]) = distributions(&self, facts);
        let itl = gap_cdf(&self.tally);
        SeedSummary {
            seed: self.seed,
            summary,
            ttft,
            tpot,
            itl,
            e2e,
            tally: self.tally,
            replicas: self.replicas,
            kv_blocks_total: self.kv_blocks_total,
        }
    }
}

fn distributions(result: &SeedResult, facts: &Facts) -> (Summary, [Cdf; 3]) {
    let (columns, tally) = (&result.columns, &result.tally);
    let total = columns.classes.iter().copied().fold(ClassCounts::default(), add);
    let seconds = result.end.seconds();
    let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let [ttft, tpot, e2e] = [&columns.ttft, &columns.tpot, &columns.e2e].map(|column| {
        let sorted = sorted(column.iter().copied());
        (stats(&sorted), cdf(&sorted))
    });
    let rounds = tally.rounds.saturating_sub(total.first_tokens);
    let committed = tally.emitted_tokens.saturating_sub(total.first_tokens);
    let replica_nanos = result.end.nanos() as f64 * f64::from(result.replicas);
    let share = |nanos: f64| if replica_nanos > 0.0 && nanos > 0.0 { nanos / replica_nanos } else { 0.0 };
    let busy: f64 = tally.models.iter().map(|m| m.busy.nanos() as f64).sum();
    let stretches = tally.series.stretches();
    let covered: f64 = stretches.iter().map(|s| s.busy_nanos).sum();
    let while_busy = |sum: f64| if covered > 0.0 && sum > 0.0 { sum / covered } else { 0.0 };
    let blocks = result.kv_blocks_total as f64 / f64::from(result.replicas.max(1));
    let devices = f64::from(result.replicas) * f64::from(result.devices_per_replica);
    let tokens = total.output_tokens as f64;
    let per_token = |amount: f64| (tokens > 0.0).then(|| amount * devices * seconds / tokens);
    let name =
        |names: &[String], index: usize| names.get(index).cloned().unwrap_or_else(|| index.to_string());

    let summary = Summary {
        seed: result.seed,
        end_s: seconds,
        saturation: Saturation::of(&tally.series, columns.last_arrival, result.replicas),
        requests: counts(&total),
        prompt_tokens: total.prompt_tokens,
        output_tokens: total.output_tokens,
        ttft_s: ttft.0,
        tpot_s: tpot.0,
        itl_s: gap_stats(tally),
        e2e_s: e2e.0,
        output_tokens_per_s: per_second(total.output_tokens),
        requests_per_s: per_second(total.finished),
        goodput: goodput(&total, seconds),
        accepted_length: (rounds > 0).then(|| committed as f64 / rounds as f64),
        rounds,
        drafted_tokens: tally.drafted_tokens,
        accepted_tokens: tally.accepted_tokens,
        pairs: tally
            .pairs()
            .map(|((drafter, verifier), pair)| {
                pair_summary(name(&facts.pool, drafter.index()), name(&facts.pool, verifier.index()), pair)
            })
            .collect(),
        models: tally
            .models
            .iter()
            .enumerate()
            .map(|(index, model)| model_summary(name(&facts.pool, index), model, share))
            .collect(),
        idle: (1.0 - share(busy)).max(0.0),
        batch_mean: tally.models.last().map_or(0.0, batch),
        running_mean: while_busy(stretches.iter().map(|s| s.running).sum()),
        queue_mean: share(stretches.iter().map(|s| s.queued).sum()),
        kv_use: if blocks > 0.0 {
            while_busy(stretches.iter().map(|s| s.kv_blocks).sum()) / blocks
        } else {
            0.0
        },
        dollars_per_million: result.dollars_per_device_hour.and_then(|d| per_token(d / 3600.0 * 1e6)),
        joules_per_token: result.watts_per_device.and_then(per_token),
        preemptions: tally.preemptions,
        shortened_plans: tally.shortened_plans,
        probes: tally.probes,
        predicted_over_observed: (tally.observed_seconds > 0.0 && tally.predicted_seconds > 0.0)
            .then(|| tally.predicted_seconds / tally.observed_seconds),
        classes: columns
            .classes
            .iter()
            .enumerate()
            .map(|(index, class)| class_summary(name(&facts.classes, index), index, class, columns, seconds))
            .collect(),
    };
    (summary, [ttft.1, tpot.1, e2e.1])
}

fn add(a: ClassCounts, b: ClassCounts) -> ClassCounts {
    ClassCounts {
        finished: a.finished + b.finished,
        running: a.running + b.running,
        waiting: a.waiting + b.waiting,
        too_long: a.too_long + b.too_long,
        first_tokens: a.first_tokens + b.first_tokens,
        prompt_tokens: a.prompt_tokens + b.prompt_tokens,
        output_tokens: a.output_tokens + b.output_tokens,
        preemptions: a.preemptions + b.preemptions,
        with_slo: a.with_slo + b.with_slo,
        met: a.met + b.met,
        met_tokens: a.met_tokens + b.met_tokens,
    }
}

fn counts(c: &ClassCounts) -> Counts {
    let (finished, running, waiting, too_long) = (c.finished, c.running, c.waiting, c.too_long);
    Counts { arrived: finished + running + waiting + too_long, finished, running, waiting, too_long }
}

fn goodput(c: &ClassCounts, seconds: f64) -> Option<Goodput> {
    (c.with_slo > 0 && seconds > 0.0).then(|| Goodput {
        requests_per_s: c.met as f64 / seconds,
        output_tokens_per_s: c.met_tokens as f64 / seconds,
        attained: c.met as f64 / c.with_slo as f64,
    })
}

fn batch(model: &ModelTally) -> f64 {
    if model.passes > 0 { model.rows as f64 / model.passes as f64 } else { 0.0 }
}

fn pair_summary(drafter: String, verifier: String, pair: &PairTally) -> PairSummary {
    let (drafted_tokens, accepted_tokens) = pair.totals();
    let (verifications, full) = pair.full();
    let trials = accepted_tokens + (verifications - full);
    PairSummary {
        drafter,
        verifier,
        verifications,
        drafted_tokens,
        accepted_tokens,
        acceptance: (trials > 0).then(|| accepted_tokens as f64 / trials as f64),
        similarity: (pair.examined > 0).then(|| pair.similarity / pair.examined as f64),
    }
}

fn model_summary(name: String, model: &ModelTally, share: impl Fn(f64) -> f64) -> ModelSummary {
    let busy = model.busy.nanos() as f64;
    let catch_up = model.catch_up_nanos.min(busy);
    let kept =
        if model.proposed_tokens > 0 { model.kept_tokens as f64 / model.proposed_tokens as f64 } else { 0.0 };
    ModelSummary {
        model: name,
        passes: model.passes,
        batch_mean: batch(model),
        new_tokens: model.new_tokens,
        useful: share((busy - catch_up) * kept),
        wasted: share((busy - catch_up) * (1.0 - kept)),
        catch_up: share(catch_up),
    }
}

fn class_summary(
    class: String,
    index: usize,
    counted: &ClassCounts,
    columns: &Columns,
    seconds: f64,
) -> ClassSummary {
    let own = |column: &[f32]| {
        let rows = columns.class.iter().zip(column).filter(|&(&c, _)| usize::from(c) == index);
        stats(&sorted(rows.map(|(_, &v)| v)))
    };
    ClassSummary {
        class,
        requests: counts(counted),
        prompt_tokens: counted.prompt_tokens,
        output_tokens: counted.output_tokens,
        ttft_s: own(&columns.ttft),
        tpot_s: own(&columns.tpot),
        e2e_s: own(&columns.e2e),
        goodput: goodput(counted, seconds),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
    use specrouter_routing::profile::PassShape;
    use specrouter_routing::record::{RequestRecord, Status};
    use specrouter_routing::units::Span;

    use super::*;

    /// A finished request that arrived at 0; times in milliseconds.
    pub(crate) fn request(
        id: u64,
        class: u16,
        first_ms: u64,
        last_ms: u64,
        output_tokens: u32,
    ) -> RequestRecord {
        RequestRecord {
            id: RequestId(id),
            replica: ReplicaId(0),
            class: ClassId(class),
            arrival: Time::ZERO,
            first_token: Some(Time::from_nanos(first_ms * 1_000_000)),
            last_token: Some(Time::from_nanos(last_ms * 1_000_000)),
            prompt_tokens: 10,
            output_tokens,
            limit: 100,
            priority: 0,
            slo: specrouter_routing::slo::Slo::default(),
            rounds: output_tokens,
            preemptions: 0,
            slo_met: None,
            status: Status::Finished,
        }
    }

    /// A run of ten seconds on two devices at 3.6 dollars an hour.
    pub(crate) fn result(requests: &[RequestRecord], tally: Tally) -> SeedResult {
        let mut columns = Columns::default();
        requests.iter().for_each(|r| columns.add(r));
        SeedResult {
            seed: 1,
            columns,
            tally,
            end: Time::from_nanos(10_000_000_000),
            replicas: 1,
            devices_per_replica: 2,
            dollars_per_device_hour: Some(3.6),
            watts_per_device: Some(700.0),
            kv_blocks_total: 100,
        }
    }

    fn facts() -> Facts {
        Facts { pool: vec!["small".into(), "large".into()], classes: vec!["chat".into(), "code".into()] }
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn rates_and_prices_follow_their_definitions() {
        let slo = |met, r| RequestRecord { slo_met: Some(met), ..r };
        let requests = [
            slo(true, request(0, 0, 100, 500, 5)),
            slo(false, request(1, 1, 300, 1300, 11)),
            RequestRecord { status: Status::Running, ..request(2, 1, 400, 900, 4) },
        ];
        let s = summarize(&result(&requests, Tally::new(2)), &facts());
        near(s.output_tokens_per_s, 2.0); // 20 tokens in 10 s, the running request's too
        near(s.requests_per_s, 0.2);
        let goodput = s.goodput.unwrap();
        near(goodput.requests_per_s, 0.1);
        near(goodput.output_tokens_per_s, 0.5);
        near(goodput.attained, 0.5);
        near(s.ttft_s.unwrap().mean, 0.2);
        near(s.tpot_s.unwrap().mean, 0.1);
        near(s.e2e_s.unwrap().p50, 0.9);
        // 2 devices, 10 s, 3.6 $/h: 0.02 $ for 20 tokens.
        near(s.dollars_per_million.unwrap(), 1000.0);
        near(s.joules_per_token.unwrap(), 700.0);
        assert_eq!((s.requests.arrived, s.requests.finished, s.requests.running), (3, 2, 1));
        assert_eq!(s.classes[1].ttft_s.unwrap().count, 1);
        assert_eq!(s.classes[1].class, "code");
    }

    #[test]
    fn without_slo_there_is_no_goodput_and_without_requests_no_latency() {
        assert_eq!(summarize(&result(&[request(0, 0, 1, 2, 2)], Tally::new(1)), &facts()).goodput, None);
        let empty = summarize(&result(&[], Tally::new(1)), &facts());
        assert_eq!(
            (empty.ttft_s, empty.itl_s, empty.accepted_length, empty.dollars_per_million),
            (None, None, None, None)
        );
    }

    #[test]
    fn prefill_rounds_do_not_count_towards_the_accepted_length() {
        // Two requests: 2 prefill rounds with 1 token each, then 4 rounds with 12 tokens.
        let requests = [request(0, 0, 100, 500, 7), request(1, 0, 100, 500, 7)];
        let mut tally = Tally::new(2);
        (tally.rounds, tally.emitted_tokens) = (6, 14);
        let s = summarize(&result(&requests, tally), &facts());
        assert_eq!((s.rounds, s.accepted_length), (4, Some(3.0)));
    }

    #[test]
    fn acceptance_counts_rejections_and_not_full_blocks_as_failures() {
        let mut tally = Tally::new(2);
        let pair = tally.pair_mut(ModelId(0), ModelId(1));
        pair.add(4, 4, 4, 3.6); // censored: at least 4
        pair.add(4, 1, 2, 1.2); // one failure
        pair.add(4, 0, 1, 0.2); // one failure
        let s = summarize(&result(&[], tally), &facts());
        near(s.pairs[0].acceptance.unwrap(), 5.0 / 7.0);
        near(s.pairs[0].similarity.unwrap(), 5.0 / 7.0);
        assert_eq!((s.pairs[0].drafter.as_str(), s.pairs[0].verifier.as_str()), ("small", "large"));
        assert_eq!((s.pairs[0].drafted_tokens, s.pairs[0].accepted_tokens), (12, 5));
    }

    #[test]
    fn time_shares_add_up_to_one() {
        let mut tally = Tally::new(2);
        let mut draft = PassShape::uniform(4, 1, 100);
        tally.pass(ModelId(0), &draft, Span::from_nanos(2_000_000_000));
        draft.catch_up_tokens = 2;
        tally.pass(ModelId(1), &draft, Span::from_nanos(4_000_000_000));
        (tally.models[0].proposed_tokens, tally.models[0].kept_tokens) = (4, 3);
        (tally.models[1].proposed_tokens, tally.models[1].kept_tokens) = (4, 4);
        let s = summarize(&result(&[], tally), &facts());
        near(s.models[0].useful, 0.15);
        near(s.models[0].wasted, 0.05);
        near(s.models[1].useful, 0.2);
        near(s.models[1].catch_up, 0.2);
        let all: f64 = s.models.iter().map(|m| m.useful + m.wasted + m.catch_up).sum();
        near(all + s.idle, 1.0);
    }

    #[test]
    fn the_mean_gap_is_within_a_bucket_of_the_truth() {
        let mut tally = Tally::new(1);
        (1..=1000u64).for_each(|i| tally.gaps.add(Span::from_nanos(i * 17_000)));
        let itl = summarize(&result(&[], tally), &facts()).itl_s.unwrap();
        assert!((itl.mean / (500.5 * 17e-6) - 1.0).abs() < 0.011, "{}", itl.mean);
    }
}
