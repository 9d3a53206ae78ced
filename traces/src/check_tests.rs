//! A sound trace passes, and one fault at a time is found and named.

use std::fs;

use specrouter_routing::backend::After;
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::{ClassId, ModelId};
use specrouter_routing::profile::PassShape;
use specrouter_routing::record::{DecisionRecord, Decoding, Opinion, Sink, Verdict};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Span, Time};

use super::*;
use crate::manifest::{MANIFEST_FILE, Manifest, Mode, Run};
use crate::scratch::{Folder, member};
use crate::write::{Tables, TraceWriter};

impl Folder {
    /// What a check of the trace here finds.
    fn check(&self) -> Findings {
        check(&Trace::open(self.path()).unwrap())
    }

    /// `lines`, with the folder's own name taken out.
    fn told(&self, lines: &[String]) -> String {
        lines.join("\n").replace(&self.path().display().to_string(), "DIR")
    }

    /// Why the trace here cannot be opened.
    fn refused(&self) -> String {
        self.told(&[Trace::open(self.path()).unwrap_err().to_string()])
    }

    /// Changes the manifest as text.
    fn edit(&self, from: &str, to: &str) {
        let path = self.path().join(MANIFEST_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "`{from}` stands in the manifest once");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

fn run() -> Run {
    Run {
        tool_version: "0.1.0".to_owned(),
        scenario: "pool: [small, large]\n".to_owned(),
        seed: 7,
        policy: "static".to_owned(),
        models: ["small", "large"].map(member).to_vec(),
        classes: vec!["chat".to_owned()],
        device: "this test".to_owned(),
        decoding: Decoding::Greedy,
        mode: Mode::Exact,
        kv_tokens: 4096,
        users: Some(1),
    }
}

/// The rows of a trace.
struct Rows {
    run: Run,
    requests: Vec<RequestRecord>,
    passes: Vec<PassRecord>,
    verifications: Vec<VerificationRecord>,
    rounds: Vec<RoundRecord>,
    decisions: Vec<DecisionRecord>,
    texts: Vec<TextRecord>,
    tokens: Vec<TokenRecord>,
}

/// Two requests, one after the other, of 5 tokens each: the first token, then 3 of 3 kept and the bonus.
fn sound() -> Rows {
    let plan = ChainPlan::new(&[ModelId(0), ModelId(1)], &[3]).unwrap();
    let mut rows = Rows {
        run: run(),
        requests: Vec::new(),
        passes: Vec::new(),
        verifications: Vec::new(),
        rounds: Vec::new(),
        decisions: Vec::new(),
        texts: Vec::new(),
        tokens: Vec::new(),
    };
    for id in 0..2 {
        let (request, tick, begin) = (RequestId(id), 3 * id, 100 * id);
        rows.requests.push(RequestRecord {
            id: request,
            replica: ReplicaId(0),
            class: ClassId(0),
            arrival: Time::from_nanos(begin),
            first_token: Some(Time::from_nanos(begin + 10)),
            last_token: Some(Time::from_nanos(begin + 30)),
            prompt_tokens: 2,
            output_tokens: 5,
            limit: 5,
            priority: 0,
            slo: Slo::default(),
            rounds: 2,
            preemptions: 0,
            slo_met: None,
            status: Status::Finished,
        });
        for (pass, (model, new_tokens)) in [(1, 2), (0, 3), (1, 4)].into_iter().enumerate() {
            rows.passes.push(PassRecord {
                replica: ReplicaId(0),
                tick: tick + pass as u64,
                model: ModelId(model),
                start: Time::from_nanos(begin + 10 * pass as u64),
                duration: Span::from_nanos(10),
                after: After::Other,
                shape: PassShape { rows: 1, new_tokens, logit_rows: 1, ..PassShape::default() },
                queued: 0,
                running: 1,
                kv_blocks_used: 2,
            });
        }
        for (round, (position, end, drafted, emitted)) in
            [(0, tick, 0, 1), (1, tick + 2, 3, 4)].into_iter().enumerate()
        {
            rows.rounds.push(RoundRecord {
                replica: ReplicaId(0),
                request,
                round: round as u32,
                position,
                start_tick: end.min(tick + 1),
                end_tick: end,
                plan,
                drafted,
                accepted: drafted,
                emitted,
            });
        }
        rows.verifications.push(VerificationRecord {
            replica: ReplicaId(0),
            request,
            round: 1,
            level: 1,
            cycle: 0,
            tick: tick + 2,
            drafter: ModelId(0),
            verifier: ModelId(1),
            drafted: 3,
            accepted: 3,
            verdict: Verdict::Bonus,
            similarity: Some(0.75),
        });
        rows.decisions.push(DecisionRecord {
            replica: ReplicaId(0),
            tick: tick + 1,
            time: Time::from_nanos(begin + 10),
            request,
            planned: plan,
            executed: plan,
            predicted: None,
        });
        rows.texts.push(TextRecord {
            replica: ReplicaId(0),
            request,
            seed: id,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            prompt: Some(vec![1, 2]),
            output: vec![3, 4, 5, 6, 7],
            stopped: false,
        });
        rows.tokens.extend((0..5).map(|position| TokenRecord {
            replica: ReplicaId(0),
            request,
            position,
            token: Some(3 + position),
            models: vec![
                Opinion {
                    log_probability: Some(-0.5),
                    choice: Some(3 + position),
                    top_probability: 0.6,
                    entropy: 1.0,
                };
                2
            ],
            overlaps: vec![0.75],
            coins: Vec::new(),
        }));
    }
    rows
}

impl Rows {
    /// Puts every row but the tokens.
    fn put(&self, writer: &mut TraceWriter) {
        self.requests.iter().for_each(|row| writer.request(row));
        self.passes.iter().for_each(|row| writer.pass(row));
        self.verifications.iter().for_each(|row| writer.verification(row));
        self.rounds.iter().for_each(|row| writer.round(row));
        self.decisions.iter().for_each(|row| writer.decision(row));
        self.texts.iter().for_each(|row| writer.text(row));
    }

    /// The whole trace.
    fn write(&self) -> Folder {
        let folder = Folder::new();
        let mut writer = TraceWriter::create(folder.path(), Tables::Full, self.run.clone()).unwrap();
        self.put(&mut writer);
        self.tokens.iter().for_each(|row| writer.token(row));
        writer.finish().unwrap();
        folder
    }
}

/// The faults that a check finds in the sound trace after one change to its rows.
#[track_caller]
fn faults(change: impl FnOnce(&mut Rows)) -> String {
    let mut rows = sound();
    change(&mut rows);
    let folder = rows.write();
    let found = folder.check();
    assert!(!found.is_sound(), "a fault is found");
    folder.told(&found.faults)
}

#[test]
fn a_sound_trace_passes_and_lacks_nothing() {
    let found = sound().write().check();
    let rows = [
        ("requests", 2),
        ("passes", 6),
        ("verifications", 2),
        ("rounds", 4),
        ("decisions", 2),
        ("texts", 2),
        ("tokens", 10),
    ];
    assert_eq!(found, Findings { rows: rows.to_vec(), ..Findings::default() });
}

#[test]
fn a_fault_of_a_request_is_named() {
    // The writer refuses such a class, so the header is changed behind it.
    let folder = sound().write();
    let path = folder.path().join(MANIFEST_FILE);
    let mut manifest: Manifest = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest.run.classes.clear();
    manifest.write(folder.path()).unwrap();
    insta::assert_snapshot!(folder.told(&folder.check().faults), @r"
    requests, row 0: class must be below 0, got 0
    requests, row 1: class must be below 0, got 0
    ");

    insta::assert_snapshot!(faults(|rows| rows.requests[1].first_token = Some(Time::from_nanos(99))), @"requests, row 1: arrival, first and last token must follow one another, got [Some(Time(100)), Some(Time(99)), Some(Time(130))]");
    insta::assert_snapshot!(faults(|rows| rows.requests[1].last_token = Some(Time::from_nanos(109))), @"requests, row 1: arrival, first and last token must follow one another, got [Some(Time(100)), Some(Time(110)), Some(Time(109))]");
    insta::assert_snapshot!(faults(|rows| rows.requests[1].limit = 4), @"requests, row 1: output_tokens must be at most 4, got 5");
    insta::assert_snapshot!(faults(|rows| rows.requests.push(rows.requests[0])), @"requests: id 0 stands twice");
}

#[test]
fn a_fault_of_a_pass_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.passes[1].model = ModelId(2)), @"passes, row 1: model must be below 2, got 2");
    insta::assert_snapshot!(faults(|rows| rows.passes[1].shape.new_tokens = 0), @"passes, row 1: no pass has this shape: PassShape { rows: 1, new_tokens: 0, catch_up_tokens: 0, context_tokens: 0, attention_pairs: 0, logit_rows: 1 }");
    insta::assert_snapshot!(faults(|rows| rows.passes[1].duration = Span::from_nanos(11)), @"passes, row 2: a replica's passes must follow one another, got PassRecord { replica: ReplicaId(0), tick: 2, model: ModelId(1), start: Time(20), duration: Span(10), after: Other, shape: PassShape { rows: 1, new_tokens: 4, catch_up_tokens: 0, context_tokens: 0, attention_pairs: 0, logit_rows: 1 }, queued: 0, running: 1, kv_blocks_used: 2 }");
    insta::assert_snapshot!(faults(|rows| rows.passes[1].duration = Span::from_nanos(u64::MAX)), @"passes, row 2: a replica's passes must follow one another, got PassRecord { replica: ReplicaId(0), tick: 2, model: ModelId(1), start: Time(20), duration: Span(10), after: Other, shape: PassShape { rows: 1, new_tokens: 4, catch_up_tokens: 0, context_tokens: 0, attention_pairs: 0, logit_rows: 1 }, queued: 0, running: 1, kv_blocks_used: 2 }");
    // Tick 1 twice: rounds that ended at tick 2 have lost their pass.
    insta::assert_snapshot!(faults(|rows| rows.passes[2].tick = 1), @r"
    passes, row 2: a replica's passes must follow one another, got PassRecord { replica: ReplicaId(0), tick: 1, model: ModelId(1), start: Time(20), duration: Span(10), after: Other, shape: PassShape { rows: 1, new_tokens: 4, catch_up_tokens: 0, context_tokens: 0, attention_pairs: 0, logit_rows: 1 }, queued: 0, running: 1, kv_blocks_used: 2 }
    rounds, row 1: start_tick is at most end_tick, which is a pass of the replica, got 1, 2
    ");
}

#[test]
fn a_fault_of_a_round_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].emitted = 3), @"request 0: its rounds emitted 4 tokens, its output has 5");
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].position = 2), @r"
    rounds, row 1: expected round 1 at position 1, got 1 at 2
    request 0: its rounds emitted 6 tokens, its output has 5
    ");
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].round = 2), @r"
    rounds, row 1: expected round 1 at position 1, got 2 at 1
    verifications, row 0: no round 1 of request 0
    ");
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].accepted = 4), @"rounds, row 1: accepted is at most drafted and emitted at most one more, got 3, 4, 4");
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].end_tick = 9), @"rounds, row 1: start_tick is at most end_tick, which is a pass of the replica, got 1, 9");
    insta::assert_snapshot!(faults(|rows| rows.rounds[1].start_tick = 3), @"rounds, row 1: start_tick is at most end_tick, which is a pass of the replica, got 3, 2");
    insta::assert_snapshot!(faults(|rows| {
        rows.rounds[3].plan = ChainPlan::new(&[ModelId(0), ModelId(2)], &[3]).unwrap();
    }), @"rounds, row 3: models must be below 2, got chain [ModelId(0), ModelId(2)]");
}

/// Counts at the ends of their types are faults like others: nothing overflows.
#[test]
fn a_round_of_the_largest_numbers_is_a_fault_and_no_panic() {
    insta::assert_snapshot!(faults(|rows| rows.rounds[3].request = RequestId(u64::MAX)), @r"
    rounds, row 3: request must be in requests, got 18446744073709551615
    rounds, row 3: expected round 0 at position 0, got 1 at 1
    request 1: its rounds emitted 1 tokens, its output has 5
    verifications, row 1: no round 1 of request 1
    ");
    insta::assert_snapshot!(faults(|rows| rows.rounds[3].round = u32::MAX), @r"
    rounds, row 3: expected round 1 at position 1, got 4294967295 at 1
    verifications, row 1: no round 1 of request 1
    ");
    insta::assert_snapshot!(faults(|rows| rows.rounds[3].position = u32::MAX), @r"
    rounds, row 3: expected round 1 at position 1, got 1 at 4294967295
    request 1: its rounds emitted 4294967295 tokens, its output has 5
    ");
    insta::assert_snapshot!(faults(|rows| (rows.rounds[3].accepted, rows.rounds[3].emitted) = (u8::MAX, u8::MAX)), @r"
    rounds, row 3: accepted is at most drafted and emitted at most one more, got 3, 255, 255
    request 1: its rounds emitted 256 tokens, its output has 5
    ");
}

#[test]
fn a_fault_of_a_verification_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.verifications[1].round = 2), @"verifications, row 1: no round 2 of request 1");
    insta::assert_snapshot!(faults(|rows| rows.verifications[1].drafter = ModelId(1)), @"verifications, row 1: no such pair: 1 under 1");
    insta::assert_snapshot!(faults(|rows| rows.verifications[1].similarity = Some(f32::NAN)), @"verifications, row 1: accepted is at most drafted and similarity in 0 to 1, got VerificationRecord { replica: ReplicaId(0), request: RequestId(1), round: 1, level: 1, cycle: 0, tick: 5, drafter: ModelId(0), verifier: ModelId(1), drafted: 3, accepted: 3, verdict: Bonus, similarity: Some(NaN) }");
    insta::assert_snapshot!(faults(|rows| rows.verifications[1].accepted = 4), @"verifications, row 1: accepted is at most drafted and similarity in 0 to 1, got VerificationRecord { replica: ReplicaId(0), request: RequestId(1), round: 1, level: 1, cycle: 0, tick: 5, drafter: ModelId(0), verifier: ModelId(1), drafted: 3, accepted: 4, verdict: Bonus, similarity: Some(0.75) }");
}

#[test]
fn a_decision_of_an_unknown_request_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.decisions[1].request = RequestId(7)), @"decisions, row 1: request must be in requests, got 7");
}

#[test]
fn a_text_of_another_length_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.texts[1].output.truncate(4)), @"texts, row 1: request 1 has other lengths in requests, or is not there");
    insta::assert_snapshot!(faults(|rows| rows.texts[1].prompt = Some(vec![1])), @"texts, row 1: request 1 has other lengths in requests, or is not there");
}

#[test]
fn a_fault_of_a_score_is_named() {
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].position = 4), @r"
    tokens, row 8: expected position 3, got 4
    tokens, row 9: expected position 5, got 4
    ");
    insta::assert_snapshot!(faults(|rows| rows.tokens[9].position = u32::MAX), @r"
    tokens, row 9: expected position 4, got 4294967295
    request 1: tokens has 4294967295 positions, requests has another number
    ");
    insta::assert_snapshot!(faults(|rows| rows.tokens.truncate(9)), @"request 1: tokens has 4 positions, requests has another number");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].overlaps[0] = f32::NAN), @"tokens, row 8: chances are in 0 to 1 and logarithms at most 0, got TokenRecord { replica: ReplicaId(0), request: RequestId(1), position: 3, token: Some(6), models: [Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }, Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }], overlaps: [NaN], coins: [] }");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].overlaps[0] = 1.5), @"tokens, row 8: chances are in 0 to 1 and logarithms at most 0, got TokenRecord { replica: ReplicaId(0), request: RequestId(1), position: 3, token: Some(6), models: [Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }, Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }], overlaps: [1.5], coins: [] }");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].models[1].log_probability = Some(0.1)), @"tokens, row 8: chances are in 0 to 1 and logarithms at most 0, got TokenRecord { replica: ReplicaId(0), request: RequestId(1), position: 3, token: Some(6), models: [Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }, Opinion { log_probability: Some(0.1), choice: Some(6), top_probability: 0.6, entropy: 1.0 }], overlaps: [0.75], coins: [] }");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].models[1].entropy = f32::NAN), @"tokens, row 8: chances are in 0 to 1 and logarithms at most 0, got TokenRecord { replica: ReplicaId(0), request: RequestId(1), position: 3, token: Some(6), models: [Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: 1.0 }, Opinion { log_probability: Some(-0.5), choice: Some(6), top_probability: 0.6, entropy: NaN }], overlaps: [0.75], coins: [] }");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].models.truncate(1)), @"tokens, row 8: lists must be of 2 models, 1 pairs and 0 or no triples, got 1, 1, 0");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].overlaps.push(0.5)), @"tokens, row 8: lists must be of 2 models, 1 pairs and 0 or no triples, got 2, 2, 0");
    insta::assert_snapshot!(faults(|rows| rows.tokens[8].coins.push(0.5)), @"tokens, row 8: lists must be of 2 models, 1 pairs and 0 or no triples, got 2, 1, 1");
}

#[test]
fn faults_of_one_kind_are_counted_after_three() {
    insta::assert_snapshot!(faults(|rows| {
        rows.tokens.iter_mut().for_each(|token| token.overlaps.clear());
    }), @r"
    tokens, row 0: lists must be of 2 models, 1 pairs and 0 or no triples, got 2, 0, 0
    tokens, row 1: lists must be of 2 models, 1 pairs and 0 or no triples, got 2, 0, 0
    tokens, row 2: lists must be of 2 models, 1 pairs and 0 or no triples, got 2, 0, 0
    ... and 7 more rows like that
    ");
}

#[test]
fn a_lower_level_of_tables_is_missing_and_no_fault() {
    let (folder, rows) = (Folder::new(), sound());
    let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
    rows.put(&mut writer);
    writer.finish().unwrap();
    let found = folder.check();
    assert!(found.is_sound(), "{found:?}");
    insta::assert_snapshot!(folder.told(&found.missing), @"tables: passes, verifications, rounds, decisions, texts, tokens");
}

/// Killed while request 1 was in its second round, whose last pass had not been told.
fn killed(change: impl FnOnce(&mut Rows)) -> (Folder, Findings) {
    let (folder, mut rows) = (Folder::new(), sound());
    rows.requests.truncate(1);
    rows.texts.truncate(1);
    rows.passes.truncate(5);
    change(&mut rows);
    let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
    rows.put(&mut writer);
    writer.checkpoint().unwrap();
    drop(writer);
    let found = folder.check();
    (folder, found)
}

#[test]
fn what_a_killed_run_lacks_is_said_and_no_fault() {
    let (folder, found) = killed(|_| {});
    assert_eq!(found.faults, [""; 0], "rows of a request that still ran are not strange");
    insta::assert_snapshot!(folder.told(&found.missing), @r"
    the run's end: the recording was killed or still goes on
    tables: tokens
    scores of 1 of 1 texts; `specrouter trace score` makes them
    ");
    // A verification whose round was to come is none either.
    let (_, found) = killed(|rows| rows.rounds.truncate(3));
    assert_eq!(found.faults, [""; 0]);
    // An ended run has a row for every request.
    insta::assert_snapshot!(faults(|rows| {
        rows.requests.truncate(1);
        rows.texts.truncate(1);
        rows.tokens.truncate(5);
        rows.passes.truncate(5);
    }), @r"
    rounds, row 2: request must be in requests, got 1
    rounds, row 3: request must be in requests, got 1
    rounds, row 3: start_tick is at most end_tick, which is a pass of the replica, got 4, 5
    decisions, row 1: request must be in requests, got 1
    ");
}

#[test]
fn a_fault_of_a_killed_run_is_named() {
    let faults = |change: fn(&mut Rows)| {
        let (folder, found) = killed(change);
        folder.told(&found.faults)
    };
    insta::assert_snapshot!(faults(|rows| rows.rounds[3].end_tick = 6), @"rounds, row 3: start_tick is at most end_tick, which is a pass of the replica, got 4, 6");
    insta::assert_snapshot!(faults(|rows| rows.rounds[3].position = 2), @"rounds, row 3: expected round 1 at position 1, got 1 at 2");
    insta::assert_snapshot!(faults(|rows| rows.verifications[1].round = 3), @"verifications, row 1: no round 3 of request 1");
    insta::assert_snapshot!(faults(|rows| rows.requests[0].output_tokens = 4), @r"
    request 0: its rounds emitted 5 tokens, its output has 4
    texts, row 0: request 0 has other lengths in requests, or is not there
    ");
}

#[test]
fn texts_without_scores_are_said_with_what_can_be_done() {
    let mut rows = sound();
    rows.tokens.truncate(5);
    let missing = |rows: &Rows| {
        let folder = rows.write();
        let found = folder.check();
        assert!(found.is_sound(), "{found:?}");
        folder.told(&found.missing)
    };
    insta::assert_snapshot!(missing(&rows), @"scores of 1 of 2 texts; `specrouter trace score` makes them");
    rows.texts[1].prompt = None;
    insta::assert_snapshot!(missing(&rows), @"scores of 1 of 2 texts; they cannot be made: prompts were not kept");
    // A text of nothing needs no scores.
    let mut rows = sound();
    rows.requests[1].output_tokens = 0;
    rows.texts[1].output.clear();
    rows.tokens.truncate(5);
    rows.rounds.truncate(2);
    rows.verifications.truncate(1);
    assert_eq!(missing(&rows), "");
}

#[test]
fn a_table_cut_short_or_gone_is_a_fault_that_names_its_file() {
    let folder = sound().write();
    let path = folder.path().join("rounds.parquet");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..100]).unwrap();
    let cut = folder.told(&folder.check().faults).replace(&bytes.len().to_string(), "ALL");
    insta::assert_snapshot!(cut, @"table DIR/rounds.parquet is damaged: its length in bytes must be ALL, got 100");
    // The same length, one byte another.
    let mut other = bytes.clone();
    other[50] ^= 1;
    fs::write(&path, &other).unwrap();
    let faults = folder.told(&folder.check().faults);
    assert!(
        faults.starts_with("table DIR/rounds.parquet is damaged: its FNV-1a digest must be "),
        "{faults}"
    );
    assert_eq!(faults.lines().count(), 1, "nothing follows from a table that could not be read: {faults}");
    fs::remove_file(&path).unwrap();
    insta::assert_snapshot!(folder.told(&folder.check().faults), @"cannot open DIR/rounds.parquet: No such file or directory (os error 2)");
    fs::write(&path, bytes).unwrap();
    assert!(folder.check().is_sound());
}

#[test]
fn a_manifest_that_cannot_be_is_refused() {
    let folder = sound().write();
    folder.edit("\"schema_version\": 2", "\"schema_version\": 1");
    insta::assert_snapshot!(folder.refused(), @"DIR/manifest.json: schema version must be 2, got 1");
    let mut rows = sound();
    rows.run.models.clear();
    let folder = Folder::new();
    TraceWriter::create(folder.path(), Tables::Summary, rows.run).unwrap().finish().unwrap();
    insta::assert_snapshot!(folder.refused(), @"DIR/manifest.json: run.models must be 1 to 8 models, got 0");
}
