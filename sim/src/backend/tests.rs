use specrouter_routing::ids::RequestId;
use specrouter_routing::units::NonNegative;

use super::*;
use crate::acceptance::AcceptanceConfig;
use crate::acceptance::tests::{classes, heterogeneous, pairs, pool, regime};

/// Sequences of one replica, driven through rounds as the serving loop drives them, without passes.
struct Bench {
    source: Source,
    contents: Contents,
}

/// One sequence's round, as it went.
#[derive(Clone, Debug, Default, PartialEq)]
struct Round {
    /// `(level, block, outcome)` of every verification.
    verifications: Vec<(usize, u32, RowOutcome)>,
    emitted: u32,
    ended: bool,
}

impl Bench {
    fn new(source: Source, luck: Luck) -> Self {
        Self { source, contents: Contents::new(luck) }
    }

    fn admit(&mut self, slot: u32, request: u64, output: u32) {
        let mut sequence = Sequence { request: RequestId(request), output, ..Sequence::default() };
        with_law!(&self.source, law => law.admit(&self.contents.coins, &mut sequence));
        self.contents.admit(Slot(slot), sequence);
    }

    fn row(&self, slot: u32, plan: &ChainPlan, committed: u32, ahead: u32, work: Work) -> Row {
        let request = self.contents.sequences[slot as usize].request;
        Row { slot: Slot(slot), request, plan: *plan, catch_up: 0, context: 0, committed, ahead, work }
    }

    fn verify(
        &mut self,
        slot: u32,
        plan: &ChainPlan,
        committed: u32,
        ahead: u32,
        level: usize,
        block: u32,
    ) -> RowOutcome {
        let work = Work::Verify { level: level as u8, block: block as u8 };
        let row = self.row(slot, plan, committed, ahead, work);
        let mut outcomes = Vec::new();
        with_law!(&self.source, law => self.contents.rows(law, plan.model(level), &[row], &mut outcomes));
        outcomes[0]
    }

    /// A fill of level 0: the tokens it drafts, and whether the last is a stop token.
    fn draft(&mut self, slot: u32, plan: &ChainPlan, committed: u32, ahead: u32) -> (u32, bool) {
        for drafted in 0..plan.windows()[0] {
            let row = self.row(slot, plan, committed, ahead + u32::from(drafted), Work::Draft { drafted });
            let fill = Fill { cohort: 0, plan: *plan, drafted, slots: &[Slot(slot)] };
            let mut ends = Vec::new();
            with_law!(&self.source, law => self.contents.drafts(law, &fill, |_| row, &mut ends));
            if plan.stop != StopRule::Never {
                self.contents.confidence(&self.source, &fill, |_| row, &mut ends);
            }
            if let Some(end) = ends.first() {
                assert_eq!((end.cohort, end.row, ends.len()), (0, 0, 1));
                return (u32::from(drafted) + 1, end.stop_token);
            }
        }
        (u32::from(plan.windows()[0]), false)
    }

    /// Fills `level` with its window: tokens there, and whether they end with a stop token.
    fn fill(
        &mut self,
        slot: u32,
        plan: &ChainPlan,
        committed: u32,
        ahead: u32,
        level: usize,
        round: &mut Round,
    ) -> (u32, bool) {
        if level == 0 {
            return self.draft(slot, plan, committed, ahead);
        }
        let mut ready = 0;
        while ready < u32::from(plan.windows()[level]) {
            let (block, _) = self.fill(slot, plan, committed, ahead + ready, level - 1, round);
            let outcome = self.verify(slot, plan, committed, ahead + ready, level, block);
            round.verifications.push((level, block, outcome));
            ready += u32::from(outcome.emitted);
            if outcome.ended {
                return (ready, true);
            }
        }
        (ready, false)
    }

    fn round(&mut self, slot: u32, plan: &ChainPlan, committed: u32) -> Round {
        let mut round = Round::default();
        let top = plan.depth() - 1;
        let block = if top == 0 { 0 } else { self.fill(slot, plan, committed, 0, top - 1, &mut round).0 };
        let outcome = self.verify(slot, plan, committed, 0, top, block);
        round.verifications.push((top, block, outcome));
        (round.emitted, round.ended) = (u32::from(outcome.emitted), outcome.ended);
        round
    }
}

fn plan(models: &[u8], windows: &[u32]) -> ChainPlan {
    ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows).unwrap()
}

fn constant(rates: &[(&str, &str, f64)], names: &[&str]) -> Source {
    Source::resolve(&AcceptanceConfig::Constant(pairs(rates)), &pool(names), &classes(&["all"])).unwrap()
}

const ABC: [&str; 3] = ["a", "b", "c"];
const ABCD: [&str; 4] = ["a", "b", "c", "d"];
const FOUR: [(&str, &str, f64); 6] = [
    ("a", "b", 0.7),
    ("a", "c", 0.62),
    ("a", "d", 0.55),
    ("b", "c", 0.78),
    ("b", "d", 0.7),
    ("c", "d", 0.85),
];

/// A heterogeneous source of the four-model pool.
fn four(spread: f64, runs: Option<crate::acceptance::RegimeConfig>) -> Source {
    let mut config = heterogeneous(&[("all", pairs(&FOUR))]);
    config.request_spread = NonNegative::new(spread).unwrap();
    config.regime = runs;
    Source::resolve(&AcceptanceConfig::Heterogeneous(config), &pool(&ABCD), &classes(&["all"])).unwrap()
}

#[test]
fn two_levels_emit_what_the_formula_says() {
    for (rate, window) in [(0.6, 1), (0.6, 4), (0.8, 5), (0.9, 10)] {
        let mut bench = Bench::new(constant(&[("a", "b", rate)], &["a", "b"]), Luck::new(1));
        bench.admit(0, 1, u32::MAX);
        let plan = plan(&[0, 1], &[window]);
        let (mut committed, mut squares, rounds) = (1u32, 0.0, 100_000);
        for _ in 0..rounds {
            let emitted = bench.round(0, &plan, committed).emitted;
            committed += emitted;
            squares += f64::from(emitted).powi(2);
        }
        let mean = f64::from(committed - 1) / f64::from(rounds);
        let error = ((squares / f64::from(rounds) - mean * mean) / f64::from(rounds)).sqrt();
        let want = (1.0 - rate.powi(window as i32 + 1)) / (1.0 - rate);
        assert!((mean - want).abs() < 4.0 * error, "{rate} {window}: {mean} {want} {error}");
    }
}

#[test]
fn golden_three_levels_take_the_time_of_the_exact_model_that_keeps_the_surplus() {
    let rates = [("a", "b", 0.75), ("b", "c", 0.85), ("a", "c", 0.75 * 0.85)];
    let (draft, middle, target) = (0.02, 0.15, 1.0);
    for (windows, want) in [([3, 4], 0.33953), ([4, 8], 0.31601), ([5, 6], 0.31814)] {
        let mut bench = Bench::new(constant(&rates, &ABC), Luck::new(4));
        bench.admit(0, 9, u32::MAX);
        let plan = plan(&[0, 1, 2], &windows);
        let (mut committed, rounds) = (1u32, 120_000);
        let mut seen = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let round = bench.round(0, &plan, committed);
            committed += round.emitted;
            let cycles = round.verifications.len() as f64 - 1.0;
            seen.push((cycles * (f64::from(windows[0]) * draft + middle) + target, f64::from(round.emitted)));
        }
        let (time, tokens) = seen.iter().fold((0.0, 0.0), |sum, round| (sum.0 + round.0, sum.1 + round.1));
        let ratio = time / tokens;
        let residual: f64 = seen.iter().map(|(time, tokens)| (time - ratio * tokens).powi(2)).sum();
        let error = residual.sqrt() / tokens;
        assert!(
            (ratio - want).abs() < 4.0 * error && error < 0.002 * want,
            "{windows:?}: {ratio} {want} {error}"
        );
    }
}

#[test]
fn rates_by_position_count_from_the_start_of_the_drafters_block() {
    use specrouter_routing::units::Probability;
    let rates = |values: &[f64]| values.iter().map(|&v| Probability::new(v).unwrap()).collect::<Vec<_>>();
    let mut config = crate::acceptance::Pairs::new();
    config.entry("a".to_owned()).or_default().insert("b".to_owned(), rates(&[1.0, 0.0]));
    config.entry("a".to_owned()).or_default().insert("c".to_owned(), rates(&[0.5]));
    config.entry("b".to_owned()).or_default().insert("c".to_owned(), rates(&[1.0, 1.0, 1.0, 0.0]));
    let source = Source::resolve(&AcceptanceConfig::PerPosition(config), &pool(&ABC), &[]).unwrap();
    let mut bench = Bench::new(source, Luck::new(1));
    bench.admit(0, 0, 1000);
    let round = bench.round(0, &plan(&[0, 1, 2], &[3, 5]), 1);
    // Every cycle keeps its first token and emits 2; the target keeps 3 of the 6.
    let kept: Vec<(usize, u32, u8)> =
        round.verifications.iter().map(|&(l, b, o)| (l, b, o.accepted)).collect();
    assert_eq!(kept, [(1, 3, 1), (1, 3, 1), (1, 3, 1), (2, 6, 3)]);
    assert!(
        (round.verifications[0].2.similarity - 1.0).abs() < 1e-6 && round.verifications[0].2.examined == 2
    );
}

/// Mean of per-request means against `want`, in standard errors clustered by request.
fn clustered(means: &[f64], want: f64) -> f64 {
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean - want) / (variance / n).sqrt()
}

#[test]
fn pairwise_acceptance_is_the_configured_matrix_whatever_varies_it() {
    // At fixed positions: the mean over committed positions, which no verdict chooses.
    for (source, what) in
        [(four(0.0, None), "flat"), (four(0.1, None), "spread"), (four(0.1, regime(40.0, 0.2)), "regime")]
    {
        let mut bench = Bench::new(source, Luck::new(21));
        let name = |m: &str| ABCD.iter().position(|n| *n == m).unwrap() as u8;
        for (drafter, verifier, want) in FOUR {
            let (i, k) = (name(drafter), name(verifier));
            // Under the target directly; under another, between middle levels, on the path or off it.
            let plan = if k == 3 { plan(&[i, 3], &[1]) } else { plan(&[i, k, 3], &[1, 2]) };
            let means: Vec<f64> = (0..5000u64)
                .map(|request| {
                    bench.admit(0, request, 10_000);
                    let kept = |position| f64::from(bench.verify(0, &plan, position, 0, 1, 1).accepted);
                    [1, 61, 121, 181].into_iter().map(kept).sum::<f64>() / 4.0
                })
                .collect();
            let z = clustered(&means, want);
            assert!(z.abs() < 3.0, "{what} {drafter} {verifier}: {z} standard errors");
        }
    }
}

#[test]
fn levels_far_from_the_path_still_meet_the_configured_matrix() {
    // Without spread every examined position counts alike, so whole rounds can be pooled.
    let mut bench = Bench::new(four(0.0, None), Luck::new(3));
    let plan = plan(&[0, 1, 2, 3], &[3, 4, 6]);
    let mut counts = [[[0.0f64; 2]; 2]; 3];
    for request in 0..5000u64 {
        bench.admit(0, request, 10_000);
        let mut committed = 1;
        for _ in 0..3 {
            let round = bench.round(0, &plan, committed);
            let mut cycles = [0; 4];
            for (level, block, outcome) in round.verifications {
                let [tried, kept] = &mut counts[level - 1][usize::from(cycles[level] > 0)];
                *tried +=
                    f64::from(outcome.accepted) + f64::from(u8::from(u32::from(outcome.accepted) < block));
                *kept += f64::from(outcome.accepted);
                cycles[level] += 1;
            }
            committed += round.emitted;
        }
    }
    for (level, want) in [0.7f64, 0.78, 0.85].into_iter().enumerate() {
        for [tried, kept] in counts[level].into_iter().filter(|[tried, _]| *tried > 0.0) {
            // The last cycles of a fill are chosen by the lengths of those before, never by their own.
            let error = (want * (1.0 - want) / tried).sqrt();
            assert!((kept / tried - want).abs() < 3.5 * error, "level {level}: {} of {tried}", kept / tried);
        }
    }
}

#[test]
fn luck_is_the_same_whoever_asks() {
    for source in [four(0.1, regime(20.0, 0.2)), constant(&FOUR, &ABCD)] {
        let heterogeneous = matches!(source, Source::Heterogeneous(_));
        let mut bench = Bench::new(source, Luck::new(6));
        let mut left = 0;
        for request in 0..3000u64 {
            bench.admit(0, request, 10_000);
            // What the target keeps of model 2 alone, and of model 2 at the head of longer chains.
            let alone = bench.verify(0, &plan(&[2, 3], &[12]), 5, 0, 1, 12).accepted;
            let again = bench.verify(0, &plan(&[2, 3], &[4]), 5, 0, 1, 4).accepted;
            assert_eq!(again, alone.min(4));
            for chain in [plan(&[1, 2, 3], &[2, 5]), plan(&[0, 1, 2, 3], &[2, 3, 5])] {
                let round = bench.round(0, &chain, 5);
                let (_, block, outcome) = round.verifications[round.verifications.len() - 1];
                assert_eq!(
                    u32::from(outcome.accepted),
                    u32::from(alone).min(block),
                    "{chain} {heterogeneous}"
                );
                let after = bench.round(0, &chain, 1000);
                bench.admit(0, request, 10_000); // Another, who has not been anywhere before.
                assert_eq!(bench.round(0, &chain, 1000), after);
                left += u32::from(u32::from(outcome.accepted) < block);
            }
            // Under the target every drafter meets the same coin.
            if !heterogeneous {
                let weak = bench.verify(0, &plan(&[0, 3], &[12]), 5, 0, 1, 12).accepted;
                assert!(weak <= alone);
            }
        }
        assert!(left > 500, "{left}");
    }
}

#[test]
fn invariant_10_acceptance_does_not_depend_on_neighbours() {
    let chains =
        [plan(&[0, 3], &[4]), plan(&[0, 1, 3], &[2, 4]), plan(&[0, 1, 2, 3], &[2, 3, 4]), plan(&[3], &[])];
    let source = four(0.1, regime(20.0, 0.2));
    let run = |requests: &[u64]| {
        let mut bench = Bench::new(source.clone(), Luck::new(2));
        for (slot, &request) in requests.iter().enumerate() {
            bench.admit(slot as u32, request, 60 + request as u32);
        }
        let mut histories = vec![Vec::new(); requests.len()];
        let mut committed = vec![1u32; requests.len()];
        for round in 0..40 {
            for (slot, &request) in requests.iter().enumerate() {
                if committed[slot] < 60 + request as u32 {
                    let chain = &chains[(request as usize + round) % chains.len()];
                    let came = bench.round(slot as u32, chain, committed[slot]);
                    committed[slot] += came.emitted;
                    histories[slot].push(came);
                }
            }
        }
        histories
    };
    let together = run(&[4, 1, 7, 0, 9, 3]);
    for (slot, request) in [4u64, 1, 7, 0, 9, 3].into_iter().enumerate() {
        assert_eq!(run(&[request])[0], together[slot]);
    }
}

#[test]
fn outputs_end_at_their_length_and_no_level_writes_past_it_on_the_path() {
    let sources = [four(0.1, regime(20.0, 0.3)), constant(&FOUR, &ABCD)];
    let chains =
        [plan(&[3], &[]), plan(&[2, 3], &[6]), plan(&[1, 2, 3], &[3, 5]), plan(&[0, 1, 2, 3], &[2, 3, 6])];
    let (mut stopped, mut middle_ends) = (0, 0);
    for source in sources {
        let mut bench = Bench::new(source, Luck::new(8));
        for request in 0..800u64 {
            let output = 1 + (request % 40) as u32;
            for chain in &chains {
                bench.admit(0, request, output);
                let first = bench.verify(0, &plan(&[3], &[]), 0, 0, 0, 0);
                assert_eq!((first.emitted, first.ended), (1, output == 1));
                let mut committed = 1;
                while committed < output {
                    let round = bench.round(0, chain, committed);
                    let (_, block, last) = round.verifications[round.verifications.len() - 1];
                    committed += round.emitted;
                    assert_eq!(round.ended, committed == output, "{chain} {output} {round:?}");
                    // A block that was kept whole up to the stop token holds nothing behind it.
                    if last.ended && last.emitted == last.accepted {
                        assert_eq!(block, u32::from(last.accepted), "{chain} {round:?}");
                        stopped += 1;
                    }
                    for (level, _, outcome) in &round.verifications {
                        // Only an ended output goes up without a correction or bonus token.
                        assert!(outcome.ended || outcome.emitted == outcome.accepted + 1);
                        middle_ends += u32::from(outcome.ended && *level + 1 < chain.depth());
                    }
                }
                assert_eq!(committed, output);
            }
        }
    }
    assert!(stopped > 500 && middle_ends > 500, "{stopped} {middle_ends}");
}

#[test]
fn stop_tokens_are_found_in_a_cohort_and_forgotten_with_their_sequence() {
    let mut bench = Bench::new(constant(&[("a", "b", 1.0)], &["a", "b"]), Luck::new(8));
    let plan = plan(&[0, 1], &[4]);
    for (slot, output) in [(5, 100), (2, 13), (7, 12), (1, 13)] {
        bench.admit(slot, u64::from(slot), output);
    }
    let slots: Vec<Slot> = [5, 2, 7, 1].map(Slot).to_vec();
    let pass = |bench: &mut Bench, drafted| {
        let rows: Vec<Row> = slots
            .iter()
            .map(|s| bench.row(s.0, &plan, 10, u32::from(drafted), Work::Draft { drafted }))
            .collect();
        let fill = Fill { cohort: 3, plan, drafted, slots: &slots };
        let mut ends = Vec::new();
        with_law!(&bench.source, law => bench.contents.drafts(law, &fill, |i| rows[i], &mut ends));
        ends
    };
    let end = |row| FillEnd { cohort: 3, row, stop_token: true };
    assert_eq!(pass(&mut bench, 0), []);
    assert_eq!(pass(&mut bench, 1), [end(2)]);
    assert_eq!(pass(&mut bench, 2), [end(1), end(3)]);
    assert_eq!(
        (pass(&mut bench, 2), pass(&mut bench, 3)),
        (vec![end(1), end(3)], vec![]),
        "asked again, told again"
    );
    assert_eq!(pass(&mut bench, 0), []);
    bench.contents.free(Slot(2));
    assert_eq!(pass(&mut bench, 2), [end(3)]);
    for slot in [5, 7, 1] {
        bench.contents.free(Slot(slot));
    }
    assert_eq!((bench.contents.near_count, bench.contents.stops.len()), (0, 0));
}

#[test]
fn stop_rules_keep_the_token_and_then_stop() {
    let mut bench = Bench::new(four(0.1, regime(20.0, 0.3)), Luck::new(8));
    let pair = |depth| Pair { drafter: ModelId(0), verifier: ModelId(3), depth };
    let mut lengths = [0u32; 7];
    for request in 0..500u64 {
        bench.admit(0, request, 10_000);
        let plan = plan(&[0, 3], &[6]).stopping(StopRule::TopProbabilityBelow(0.3));
        let (drafted, stop_token) = bench.draft(0, &plan, 1, 0);
        let low = |at: u32| {
            let sequence = &bench.contents.sequences[0];
            bench.source.signal(&bench.contents.coins, sequence, 1 + at, pair(at)).top_probability < 0.3
        };
        assert!((0..drafted - 1).all(|at| !low(at)) && (drafted == 6 || low(drafted - 1)) && !stop_token);
        lengths[drafted as usize] += 1;
        let never = plan.stopping(StopRule::EntropyAbove(f32::INFINITY));
        assert_eq!(bench.draft(0, &never, 1, 0), (6, false));
    }
    assert!(lengths[1..].iter().all(|&n| n > 0), "{lengths:?}");
}

#[test]
fn probes_see_the_similarity_of_the_committed_text() {
    let mut bench = Bench::new(constant(&FOUR, &ABCD), Luck::new(1));
    bench.admit(0, 1, 500);
    let row = bench.row(0, &plan(&[1, 3], &[4]), 100, 0, Work::Probe { window: 32 });
    let mut outcomes = Vec::new();
    with_law!(&bench.source, law => bench.contents.rows(law, ModelId(2), &[row], &mut outcomes));
    assert_eq!(outcomes[0].examined, 32);
    assert!((outcomes[0].similarity - 0.85 * 32.0).abs() < 1e-4);
}

/// A pass that a test has written down.
struct Scripted(Vec<Row>);

impl Pass for Scripted {
    fn run_length(&self) -> u8 {
        1
    }
    fn model(&self) -> ModelId {
        ModelId(1)
    }
    fn tick(&self) -> u64 {
        3
    }
    fn shape(&self) -> specrouter_routing::profile::PassShape {
        specrouter_routing::profile::PassShape::uniform(self.0.len() as u32, 5, 100)
    }
    fn cohorts(&self) -> &[Cohort] {
        &[]
    }
    fn draft_row(&self, _: &Cohort, index: usize) -> Row {
        self.0[index]
    }
    fn rows(&self) -> &[Row] {
        &self.0
    }
}

#[test]
fn a_pass_has_its_price_and_an_outcome_for_each_row() {
    use specrouter_routing::ids::ClassId;
    use specrouter_routing::profile::{Linear, LinearTerms};
    use specrouter_routing::request::Truth;
    use specrouter_routing::units::{Span, Time};

    let terms = LinearTerms::constant(0.25).unwrap();
    let costs = CostModel::linear(Linear::new(vec![terms; 2]));
    let source = constant(&[("a", "b", 1.0)], &["a", "b"]);
    let mut backend = SimBackend::new(Arc::new(source), Arc::new(costs), Luck::new(1), ReplicaId(0));
    let plan = plan(&[0, 1], &[4]);
    let mut rows = Vec::new();
    for (slot, output) in [(0, 100), (1, 3)] {
        let id = RequestId(u64::from(slot));
        let request = Request {
            id,
            class: ClassId(0),
            arrival: Time::ZERO,
            prompt_tokens: 1,
            limit: 100,
            priority: 0,
            slo: Default::default(),
            truth: Truth::new(output),
        };
        backend.admit(Slot(slot), &request);
        let work = Work::Verify { level: 1, block: 4 };
        rows.push(Row {
            slot: Slot(slot),
            request: id,
            plan,
            catch_up: 0,
            context: 9,
            committed: 1,
            ahead: 0,
            work,
        });
    }
    rows.push(Row { work: Work::CatchUp, ..rows[0] });
    let mut outcome = PassOutcome::default();
    backend.run(&Scripted(rows), &mut outcome).unwrap();
    assert_eq!(outcome.duration, Span::from_nanos(250_000_000));
    let whole = RowOutcome { accepted: 4, emitted: 5, ended: false, examined: 4, similarity: 4.0 };
    let short = RowOutcome { accepted: 2, emitted: 2, ended: true, examined: 2, similarity: 2.0 };
    assert_eq!((outcome.rows, outcome.fill_ends), (vec![whole, short, RowOutcome::default()], vec![]));
}

#[test]
fn what_is_kept_of_a_sequence_is_a_cache_line_and_a_path() {
    assert!(size_of::<Sequence>() <= 64 && size_of::<Path>() <= 64);
}
