//! Round trips, crashes and damage: what was written is what is read, or an error that says why.

use std::fs;

use proptest::option;
use proptest::prelude::*;
use specrouter_routing::backend::After;
use specrouter_routing::chain::{ChainPlan, MAX_LEVELS, StopRule};
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
use specrouter_routing::profile::PassShape;
use specrouter_routing::record::{Decoding, Opinion, Prediction, Status, Verdict};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Span, Time};

use super::*;
use crate::manifest::Mode;
use crate::read::Trace;
use crate::scratch::{Folder, member};

fn run() -> Run {
    Run {
        tool_version: "0.1.0".to_owned(),
        scenario: "pool: [a, b, c, d]\n".to_owned(),
        seed: u64::MAX,
        policy: "specrouter".to_owned(),
        models: ["a", "b", "c", "d"].map(member).to_vec(),
        classes: ["chat", "code"].map(str::to_owned).to_vec(),
        device: "simulated H100-SXM".to_owned(),
        decoding: Decoding::Speculative,
        mode: Mode::Simulated,
        kv_tokens: 4096,
        users: None,
    }
}

/// A record of any table.
#[derive(Clone, Debug, PartialEq)]
enum Any {
    Request(RequestRecord),
    Pass(PassRecord),
    Verification(VerificationRecord),
    Round(RoundRecord),
    Decision(DecisionRecord),
    Text(TextRecord),
    Token(TokenRecord),
}

fn put(writer: &mut TraceWriter, rows: &[Any]) {
    for row in rows {
        match row {
            Any::Request(r) => writer.request(r),
            Any::Pass(r) => writer.pass(r),
            Any::Verification(r) => writer.verification(r),
            Any::Round(r) => writer.round(r),
            Any::Decision(r) => writer.decision(r),
            Any::Text(r) => writer.text(r),
            Any::Token(r) => writer.token(r),
        }
    }
}

/// Every row of a full trace, table by table.
fn rows_of(trace: &Trace) -> Vec<Any> {
    let mut rows: Vec<Any> = trace.requests().unwrap().into_iter().map(Any::Request).collect();
    rows.extend(trace.passes().unwrap().into_iter().map(Any::Pass));
    rows.extend(trace.verifications().unwrap().into_iter().map(Any::Verification));
    rows.extend(trace.rounds().unwrap().into_iter().map(Any::Round));
    rows.extend(trace.decisions().unwrap().into_iter().map(Any::Decision));
    rows.extend(trace.texts().unwrap().into_iter().map(Any::Text));
    rows.extend(trace.tokens().unwrap().into_iter().map(Any::Token));
    rows
}

/// `rows` in the order in which [`rows_of`] gives them.
fn by_table(rows: &[Any]) -> Vec<Any> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|row| match row {
        Any::Request(_) => 0,
        Any::Pass(_) => 1,
        Any::Verification(_) => 2,
        Any::Round(_) => 3,
        Any::Decision(_) => 4,
        Any::Text(_) => 5,
        Any::Token(_) => 6,
    });
    sorted
}

fn request(id: u64) -> RequestRecord {
    RequestRecord {
        id: RequestId(id),
        replica: ReplicaId(1),
        class: ClassId((id % 2) as u16),
        arrival: Time::from_nanos(id * 1_000),
        first_token: Some(Time::from_nanos(id * 1_000 + 7)),
        last_token: Some(Time::from_nanos(id * 1_000 + 9)),
        prompt_tokens: 100,
        output_tokens: 20,
        limit: 30,
        priority: 2,
        slo: Slo { ttft: Some(Span::from_nanos(5)), tpot: None },
        rounds: 6,
        preemptions: 0,
        slo_met: Some(true),
        status: Status::Finished,
    }
}

fn plan() -> impl Strategy<Value = ChainPlan> {
    let stop = prop_oneof![
        Just(StopRule::Never),
        (0.0f32..1.0).prop_map(StopRule::TopProbabilityBelow),
        (0.0f32..12.0).prop_map(StopRule::EntropyAbove),
    ];
    let models = proptest::sample::subsequence((0u8..8).collect::<Vec<_>>(), 1..=MAX_LEVELS);
    (models, proptest::collection::vec(1u32..=6, MAX_LEVELS - 1), stop).prop_map(|(models, windows, stop)| {
        let models: Vec<_> = models.into_iter().map(ModelId).collect();
        ChainPlan::new(&models, &windows[..models.len() - 1]).unwrap().stopping(stop)
    })
}

fn any_row() -> impl Strategy<Value = Any> {
    let time = || any::<u64>().prop_map(Time::from_nanos);
    let replica = || any::<u32>().prop_map(ReplicaId);
    let id = || any::<u64>().prop_map(RequestId);
    let model = || any::<u8>().prop_map(ModelId);
    let status = prop_oneof![
        Just(Status::Finished),
        Just(Status::Running),
        Just(Status::Waiting),
        Just(Status::TooLong)
    ];
    let verdict = prop_oneof![Just(Verdict::Reject), Just(Verdict::Bonus), Just(Verdict::End)];
    let shape = (any::<[u32; 4]>(), any::<[u64; 2]>()).prop_map(|(a, b)| PassShape {
        rows: a[0],
        new_tokens: a[1],
        catch_up_tokens: a[2],
        context_tokens: b[0],
        attention_pairs: b[1],
        logit_rows: a[3],
    });
    let after = prop_oneof![Just(After::Same), Just(After::Other), Just(After::Idle)];
    let prediction =
        option::of((any::<[f32; 3]>()).prop_filter("NaN equals nothing", |x| !x.iter().any(|x| x.is_nan())));
    prop_oneof![
        (
            (id(), replica(), 0u16..2, time()),
            (option::of(time()), option::of(time()), any::<u8>(), option::of(any::<u64>())),
            any::<[u32; 5]>(),
            option::of(any::<bool>()),
            status
        )
            .prop_map(
                |(
                    (id, replica, class, arrival),
                    (first_token, last_token, priority, tpot),
                    n,
                    slo_met,
                    status,
                )| {
                    Any::Request(RequestRecord {
                        id,
                        replica,
                        class: ClassId(class),
                        arrival,
                        first_token,
                        last_token,
                        prompt_tokens: n[0],
                        output_tokens: n[1],
                        limit: n[2],
                        priority,
                        slo: Slo { ttft: None, tpot: tpot.map(Span::from_nanos) },
                        rounds: n[3],
                        preemptions: n[4],
                        slo_met,
                        status,
                    })
                }
            ),
        (replica(), any::<[u64; 3]>(), model(), time(), (shape, after), any::<[u32; 2]>()).prop_map(
            |(replica, a, model, start, (shape, after), b)| {
                Any::Pass(PassRecord {
                    replica,
                    tick: a[0],
                    model,
                    start,
                    duration: Span::from_nanos(a[1]),
                    after,
                    shape,
                    queued: b[0],
                    running: b[1],
                    kv_blocks_used: a[2],
                })
            }
        ),
        (
            replica(),
            id(),
            any::<u32>(),
            any::<[u8; 4]>(),
            any::<u64>(),
            (model(), model()),
            verdict,
            option::of(0.0f32..1.0)
        )
            .prop_map(
                |(replica, request, round, n, tick, (drafter, verifier), verdict, similarity)| {
                    Any::Verification(VerificationRecord {
                        replica,
                        request,
                        round,
                        level: n[0],
                        cycle: n[1],
                        tick,
                        drafter,
                        verifier,
                        drafted: n[2],
                        accepted: n[3],
                        verdict,
                        similarity,
                    })
                }
            ),
        (replica(), id(), any::<[u32; 2]>(), any::<[u64; 2]>(), plan(), any::<[u8; 3]>()).prop_map(
            |(replica, request, a, b, plan, n)| {
                Any::Round(RoundRecord {
                    replica,
                    request,
                    round: a[0],
                    position: a[1],
                    start_tick: b[0],
                    end_tick: b[1],
                    plan,
                    drafted: n[0],
                    accepted: n[1],
                    emitted: n[2],
                })
            }
        ),
        (replica(), any::<u64>(), time(), id(), plan(), plan(), prediction).prop_map(
            |(replica, tick, time, request, planned, executed, predicted)| {
                let predicted = predicted.map(|[round_seconds, tokens, propensity]| Prediction {
                    round_seconds,
                    tokens,
                    propensity,
                });
                Any::Decision(DecisionRecord { replica, tick, time, request, planned, executed, predicted })
            }
        ),
        any_text().prop_map(Any::Text),
        any_token().prop_map(Any::Token),
    ]
}

fn any_text() -> impl Strategy<Value = TextRecord> {
    let ids = || proptest::collection::vec(any::<u32>(), 0..9);
    let cut = (option::of(1u32..100), option::of(0.1f32..1.0));
    (any::<u32>(), any::<[u64; 2]>(), 0.0f32..3.0, cut, option::of(ids()), ids(), any::<bool>()).prop_map(
        |(replica, [request, seed], temperature, (top_k, top_p), prompt, output, stopped)| TextRecord {
            replica: ReplicaId(replica),
            request: RequestId(request),
            seed,
            temperature,
            top_k,
            top_p,
            prompt,
            output,
            stopped,
        },
    )
}

fn any_token() -> impl Strategy<Value = TokenRecord> {
    let opinion = (option::of(-30.0f32..0.0), option::of(any::<u32>()), 0.0f32..1.0, 0.0f32..9.0).prop_map(
        |(log_probability, choice, top_probability, entropy)| Opinion {
            log_probability,
            choice,
            top_probability,
            entropy,
        },
    );
    let (models, shares) =
        (proptest::collection::vec(opinion, 1..=4), || proptest::collection::vec(0.0f32..1.0, 0..=6));
    (any::<[u32; 2]>(), any::<u64>(), option::of(any::<u32>()), models, shares(), shares()).prop_map(
        |([replica, position], request, token, models, overlaps, coins)| TokenRecord {
            replica: ReplicaId(replica),
            request: RequestId(request),
            position,
            token,
            models,
            overlaps,
            coins,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_what_is_read(
        rows in proptest::collection::vec(any_row(), 0..60), row_group in 1usize..12, cut in 0usize..60,
    ) {
        let folder = Folder::new();
        let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
        writer.row_group = row_group;
        let cut = cut.min(rows.len());
        put(&mut writer, &rows[..cut]);
        writer.checkpoint().unwrap();
        put(&mut writer, &rows[cut..]);
        let manifest = writer.finish().unwrap();
        let trace = Trace::open(folder.path()).unwrap();
        prop_assert_eq!(trace.manifest(), &manifest);
        prop_assert!(manifest.complete);
        prop_assert_eq!(rows_of(&trace), by_table(&rows));
        let counted: u64 = Table::ALL.into_iter().map(|t| manifest.rows(t).unwrap()).sum();
        prop_assert_eq!(counted, rows.len() as u64);
    }

    #[test]
    fn the_same_rows_make_the_same_bytes(rows in proptest::collection::vec(any_row(), 0..40)) {
        let bytes = || {
            let folder = Folder::new();
            let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
            put(&mut writer, &rows);
            writer.finish().unwrap();
            let read = |table: Table| fs::read(folder.path().join(table.file_name(0))).unwrap();
            (Table::ALL.map(read), fs::read(folder.path().join(MANIFEST_FILE)).unwrap())
        };
        prop_assert_eq!(bytes(), bytes());
    }

    #[test]
    fn a_damaged_table_is_an_error_and_never_a_panic(at in any::<prop::sample::Index>(), flip in 1u8..=255, shorter in any::<bool>()) {
        let folder = Folder::new();
        let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
        (0..50).for_each(|id| writer.request(&request(id)));
        writer.finish().unwrap();
        let path = folder.path().join("requests.parquet");
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if shorter { bytes.truncate(at) } else { bytes[at] ^= flip }
        fs::write(&path, bytes).unwrap();
        let error = Trace::open(folder.path()).unwrap().requests().unwrap_err();
        prop_assert!(matches!(error, TraceError::Damaged { .. }), "{}", error);
    }

    #[test]
    fn no_manifest_text_panics(text in "\\PC{0,200}") {
        let folder = Folder::new();
        fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
        prop_assert!(Trace::open(folder.path()).is_err());
    }
}

#[test]
fn a_level_keeps_its_tables_and_no_others() {
    for (level, wants, tables) in [
        (Tables::Summary, false, vec![]),
        (Tables::Requests, false, vec!["requests"]),
        (
            Tables::Full,
            true,
            vec!["decisions", "passes", "requests", "rounds", "texts", "tokens", "verifications"],
        ),
    ] {
        let folder = Folder::new();
        let mut writer = TraceWriter::create(folder.path(), level, run()).unwrap();
        assert_eq!(writer.wants().passes, wants);
        writer.request(&request(0));
        let manifest = writer.finish().unwrap();
        assert_eq!(manifest.tables.keys().collect::<Vec<_>>(), tables);
        assert_eq!(manifest.rows(Table::Requests), (level != Tables::Summary).then_some(1));
    }
}

#[test]
fn rows_go_to_disk_in_groups_and_do_not_pile_up() {
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
    writer.row_group = 10;
    for id in 0..95 {
        writer.request(&request(id));
        assert!(writer.tables[0].cells.rows() < 10);
    }
    assert_eq!(writer.finish().unwrap().rows(Table::Requests), Some(95));
}

#[test]
fn a_killed_run_leaves_finished_parts_and_says_that_it_is_not_complete() {
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
    writer.row_group = 1;
    writer.request(&request(0));
    writer.checkpoint().unwrap();
    writer.request(&request(1));
    drop(writer); // Killed: the second part is open.
    let names = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["manifest.json", "requests.1.parquet.part", "requests.parquet"]);
    let trace = Trace::open(folder.path()).unwrap();
    assert!(!trace.manifest().complete);
    assert_eq!(trace.requests().unwrap(), [request(0)]);

    // The next run in that folder starts clean, and touches no file that is not a trace's.
    fs::write(folder.path().join("requests.mine.parquet"), "mine").unwrap();
    TraceWriter::create(folder.path(), Tables::Summary, run()).unwrap().finish().unwrap();
    assert_eq!(names(folder.path()), ["manifest.json", "requests.mine.parquet"]);
}

#[test]
fn a_run_killed_before_any_part_has_no_table() {
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
    writer.request(&request(0));
    drop(writer);
    let trace = Trace::open(folder.path()).unwrap();
    let error = trace.requests().unwrap_err();
    insta::assert_snapshot!(folder.text(&error), @"trace DIR has no table requests; it has none");
}

#[test]
fn a_disk_that_fails_is_named() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = TraceWriter::create(&file.join("trace"), Tables::Full, run()).err().unwrap();
    insta::assert_snapshot!(folder.text(&error), @"cannot create folder DIR/file/trace: Not a directory (os error 20)");

    // A folder in the way of a table: the first row group fails, later rows are dropped, `finish` tells.
    let mut writer = TraceWriter::create(&folder.path().join("sub"), Tables::Requests, run()).unwrap();
    fs::create_dir(folder.path().join("sub/requests.parquet.part")).unwrap();
    writer.row_group = 1;
    (0..3).for_each(|id| writer.request(&request(id)));
    assert!(writer.failed().is_some());
    insta::assert_snapshot!(folder.text(&writer.finish().unwrap_err()), @"cannot create DIR/sub/requests.parquet.part: Is a directory (os error 21)");
    assert!(!Trace::open(&folder.path().join("sub")).unwrap().manifest().complete);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_of_the_table() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("requests.parquet.part")).unwrap();
    writer.request(&request(0));
    let error = folder.text(&writer.finish().unwrap_err());
    assert!(error.starts_with("cannot write table DIR/requests.parquet.part: "), "{error}");
    assert!(error.contains("No space left on device"), "{error}");
    assert!(!folder.path().join("requests.parquet").exists());
}

#[test]
fn a_class_that_the_run_does_not_have_is_refused() {
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Requests, run()).unwrap();
    writer.request(&RequestRecord { class: ClassId(2), ..request(5) });
    insta::assert_snapshot!(writer.finish().unwrap_err(), @"request 5: class must be below 2, the classes of the run, got 2");
}

#[test]
fn what_is_no_trace_is_named() {
    let folder = Folder::new();
    let path = folder.path().join(MANIFEST_FILE);
    let open = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        folder.text(&Trace::open(folder.path()).unwrap_err())
    };
    insta::assert_snapshot!(open(None), @"cannot open DIR/manifest.json: No such file or directory (os error 2)");
    insta::assert_snapshot!(open(Some("{\"schema_version\": ")), @"DIR/manifest.json is not a trace manifest: EOF while parsing a value at line 1 column 19");
    insta::assert_snapshot!(open(Some("[]")), @"DIR/manifest.json: schema_version must be a whole number, got none");
    insta::assert_snapshot!(open(Some("{\"schema_version\": 3, \"fields\": \"of the future\"}")), @"DIR/manifest.json: schema version must be 2, got 3; a newer specrouter wrote this trace");
    insta::assert_snapshot!(open(Some("{\"schema_version\": 0}")), @"DIR/manifest.json: schema version must be 2, got 0");
    insta::assert_snapshot!(open(Some("{\"schema_version\": 2, \"complete\": true}")), @"DIR/manifest.json is not a trace manifest: missing field `ended` at line 1 column 39");

    let mut manifest = Manifest::new(run());
    manifest.tables.insert("gossip".to_owned(), Vec::new());
    insta::assert_snapshot!(open(Some(&serde_json::to_string(&manifest).unwrap())), @"DIR/manifest.json: a name in tables must be one of requests, passes, verifications, rounds, decisions, texts, tokens, got gossip");
    manifest.tables.clear();
    let part =
        crate::Part { file: "../../secret.parquet".to_owned(), rows: 1, bytes: 1, fnv1a: String::new() };
    manifest.tables.insert("rounds".to_owned(), vec![part]);
    insta::assert_snapshot!(open(Some(&serde_json::to_string(&manifest).unwrap())), @"DIR/manifest.json: tables.rounds[0].file must be rounds.parquet, got ../../secret.parquet");
}

#[test]
fn a_table_that_is_gone_or_of_another_trace_is_named() {
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
    writer.request(&request(0));
    let mut manifest = writer.finish().unwrap();
    let open = || Trace::open(folder.path()).unwrap();

    // The file of another table, with the manifest changed to fit it: columns are checked by name.
    let (mut requests, passes) =
        (manifest.tables["requests"][0].clone(), manifest.tables["passes"][0].clone());
    fs::copy(folder.path().join("passes.parquet"), folder.path().join("requests.parquet")).unwrap();
    (requests.rows, requests.bytes, requests.fnv1a) = (passes.rows, passes.bytes, passes.fnv1a);
    manifest.tables.insert("requests".to_owned(), vec![requests]);
    manifest.write(folder.path()).unwrap();
    insta::assert_snapshot!(folder.text(&open().requests().unwrap_err()), @"table DIR/requests.parquet: column id must be u64, got none");

    fs::remove_file(folder.path().join("requests.parquet")).unwrap();
    insta::assert_snapshot!(folder.text(&open().requests().unwrap_err()), @"cannot open DIR/requests.parquet: No such file or directory (os error 2)");
}

#[test]
fn a_killed_scoring_goes_on_where_it_was_made_safe() {
    let token = |request, position| TokenRecord {
        request: RequestId(request),
        position,
        models: vec![Opinion::default(); 4],
        ..TokenRecord::default()
    };
    let folder = Folder::new();
    let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
    writer.row_group = 1;
    writer.request(&request(0));
    writer.end_run().unwrap();
    writer.token(&token(0, 0));
    writer.checkpoint().unwrap();
    writer.token(&token(1, 0));
    drop(writer); // Killed: the second part of the tokens is open.
    let manifest = Manifest::read(folder.path()).unwrap();
    assert!(manifest.ended && !manifest.complete);

    let mut writer = TraceWriter::resume(folder.path()).unwrap();
    assert!(!folder.path().join("tokens.1.parquet.part").exists());
    writer.token(&token(1, 0));
    writer.request(&request(7)); // No part of what is resumed.
    let manifest = writer.finish().unwrap();
    assert!(manifest.complete);
    let trace = Trace::open(folder.path()).unwrap();
    assert_eq!(trace.tokens().unwrap(), [token(0, 0), token(1, 0)]);
    assert_eq!(trace.requests().unwrap(), [request(0)]);

    // Of a run that was killed itself, what there is can be scored; it does not become whole.
    let mut writer = TraceWriter::create(folder.path(), Tables::Full, run()).unwrap();
    writer.checkpoint().unwrap();
    drop(writer);
    assert!(!TraceWriter::resume(folder.path()).unwrap().finish().unwrap().complete);
}
