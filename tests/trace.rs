//! `specrouter trace` and `replay`, on recordings of the shipped models.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use specrouter_traces::{MANIFEST_FILE, Trace};

use crate::program::{Folder, SCENARIO as SIMULATION};

/// Greedy, two models, two policies: what a few seconds record.
const SCENARIO: &str = "\
seed: 3
pool: [MODELS/small, MODELS/large]
engine: {device: cpu, mode: exact, threads: 1}
limits: {max_running: 4, token_budget: 64}
workload:
  file: prompts.jsonl
  arrivals: {closed_loop: {users: 2}}
  requests: 8
  max_tokens: 24
sampling: {temperature: 0}
policies:
  - target_only
  - static: {chain: [small, large], windows: [3]}
seeds: 1
";

/// The arm that drafts.
const DRAFTED: &str = "out/s/arms/static-small-large-3/seed-3";

fn folder() -> Folder {
    let prompts: String =
        ["It was a grey morning in", "The old bridge is", "User: Hi, I would like", "let mut sum ="]
            .iter()
            .enumerate()
            .map(|(id, text)| format!("{{\"id\": {id}, \"domain\": \"all\", \"turns\": [\"{text}\"]}}\n"))
            .collect();
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    Folder::new().with("prompts.jsonl", prompts).with("s.yaml", SCENARIO.replace("MODELS", models))
}

/// A folder with the recording in `out/s`.
#[track_caller]
fn recorded(more: &[&str]) -> Folder {
    let folder = folder();
    folder.ok(&[&["record", "s.yaml", "-q"][..], more].concat());
    folder
}

/// What goes wrong with exit code `code`: stdout and stderr.
#[track_caller]
fn wrong(folder: &Folder, code: i32, args: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = folder.run(args);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{args:?}: {stdout}{stderr}");
    (stdout, stderr)
}

/// Takes the scores out of the trace, as if a kill had come before the first of them was safe.
fn forget_scores(trace: &Path) {
    let path = trace.join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(manifest["tables"].as_object_mut().unwrap().remove("tokens").is_some());
    manifest["complete"] = false.into();
    std::fs::write(&path, serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
    std::fs::remove_file(trace.join("tokens.parquet")).unwrap();
}

#[test]
fn a_recording_is_sound_and_a_flipped_byte_is_found() {
    let folder = recorded(&[]);
    let text = folder.ok(&["trace", "check", "out/s"]);
    assert_eq!(text.matches(": sound\n").count(), 2, "{text}");
    assert!(text.contains("tokens 192\n") && !text.contains("missing") && !text.contains("fault"), "{text}");

    let path = folder.path().join(DRAFTED).join("tokens.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (text, error) = wrong(&folder, 1, &["trace", "check", "out/s"]);
    let fault = format!("  fault: table {DRAFTED}/tokens.parquet is damaged: its FNV-1a digest must be ");
    assert!(text.contains(&fault), "{text}");
    assert_eq!((text.matches(": sound\n").count(), text.matches(": DAMAGED\n").count()), (1, 1), "{text}");
    assert_eq!(error, "error: 1 of 2 traces are damaged\n");
    // As data, the same.
    let (json, _) = wrong(&folder, 1, &["trace", "check", DRAFTED, "--format", "json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["sound"], false);
    assert!(found[0]["faults"][0].as_str().unwrap().contains("tokens.parquet"), "{json}");
    // Nothing is replayed from it.
    let (_, error) = wrong(&folder, 2, &["replay", DRAFTED]);
    assert!(error.contains("tokens.parquet is damaged"), "{error}");
}

#[test]
fn scores_that_a_kill_took_are_made_again_the_same() {
    let folder = recorded(&[]);
    let trace = folder.path().join(DRAFTED);
    let first = Trace::open(&trace).unwrap().tokens().unwrap();
    assert_eq!(first.len(), 8 * 24);
    forget_scores(&trace);
    let text = folder.ok(&["trace", "check", DRAFTED]);
    insta::assert_snapshot!(text.lines().filter(|line| line.contains("missing")).collect::<Vec<_>>().join("\n"), @r"
    missing: tables: tokens
    missing: scores of 8 of 8 texts; `specrouter trace score` makes them
    ");
    let (_, error) = wrong(&folder, 2, &["replay", DRAFTED]);
    insta::assert_snapshot!(error, @"error: out/s/arms/static-small-large-3/seed-3: expected scores of every output token, got no such table; `specrouter trace score` makes them of its texts");

    let scored = folder.run(&["trace", "score", DRAFTED]);
    assert!(scored.status.success());
    insta::assert_snapshot!(String::from_utf8(scored.stderr).unwrap(), @"scored 8 texts; tokens has 192 rows now");
    assert!(Trace::open(&trace).unwrap().tokens().unwrap() == first, "scores are a function of the texts");
    let text = folder.ok(&["trace", "check", DRAFTED]);
    assert!(text.contains(": sound\n") && !text.contains("missing"), "{text}");
    // Nothing is left to score, and nothing is scored twice.
    folder.ok(&["trace", "score", DRAFTED, "-q"]);
    assert!(Trace::open(&trace).unwrap().tokens().unwrap() == first);
}

#[test]
fn a_greedy_replay_is_certain_and_the_same_bytes() {
    let folder = recorded(&[]);
    let args = ["replay", DRAFTED, "-q", "--out", "again"];
    let text = folder.ok(&args);
    let law = text.lines().find(|line| line.contains("law of replay")).unwrap_or_else(|| panic!("{text}"));
    let rounds = Trace::open(&folder.path().join(DRAFTED)).unwrap().rounds().unwrap().len();
    assert!(rounds > 30, "{rounds}");
    assert_eq!(
        law,
        format!(
            "note: law of replay: under its logged plans the trace has the accepted length it had in {rounds} of {rounds} rounds"
        )
    );
    assert!(text.contains("no policy can beat the bound") && text.contains("clairvoyant"), "{text}");
    assert!(folder.path().join("again/report.html").exists());
    assert_eq!(text, folder.ok(&args), "the same command, the same bytes");
    assert_eq!(text, folder.ok(&[&args[..], &["--jobs", "1"]].concat()));
    assert_eq!(text, folder.ok(&[&args[..], &["--jobs", "2"]].concat()));
}

#[test]
fn other_policies_are_replayed_on_other_hardware() {
    let folder = recorded(&[]);
    let text = folder.ok(&[
        "replay",
        "out/s",
        "--format",
        "json",
        "-q",
        "--policy",
        "target_only",
        "--policy",
        "static: {chain: [small, large], windows: [2]}",
        "--hardware",
        "h100-sxm",
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let arms = report["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|arm| arm["policy"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["target_only", "static small>large (2)", "clairvoyant"], "{names:?}");
    assert!(names.len() == 4 && names[3].starts_with("hindsight: "), "{names:?}");
    for arm in arms {
        assert_eq!(arm["seeds"][0]["requests"]["finished"], 8, "{arm}");
        assert_eq!(arm["seeds"][0]["output_tokens"], 8 * 24, "the text is the recorded one");
    }
    let (_, error) =
        wrong(&folder, 2, &["replay", DRAFTED, "--policy", "static: {chain: [tiny, large], windows: [2]}"]);
    assert!(error.contains("tiny"), "{error}");
}

#[test]
fn a_trace_without_texts_is_refused() {
    let folder = Folder::new().with("s.yaml", SIMULATION);
    folder.ok(&["run", "s.yaml", "-q", "--seeds", "1", "--set", "output.tables=full", "--out", "full"]);
    let text = folder.ok(&["trace", "check", "full"]);
    assert_eq!(text.matches(": sound\n").count(), 2, "{text}");
    let (_, error) = wrong(&folder, 2, &["replay", "full/arms/target_only/seed-7"]);
    insta::assert_snapshot!(error, @"error: full/arms/target_only/seed-7: request 0, output position 0: no token was scored; a simulation's trace has none to replay");
    folder.ok(&[
        "run",
        "s.yaml",
        "-q",
        "--seeds",
        "1",
        "--set",
        "output.tables=requests",
        "--out",
        "requests",
    ]);
    let (_, error) = wrong(&folder, 2, &["replay", "requests/arms/target_only/seed-7"]);
    insta::assert_snapshot!(error, @"error: requests/arms/target_only/seed-7: expected scores of every output token, got no such table; `specrouter record` keeps them, in full tables");
}

#[test]
fn a_recording_without_prompts_is_replayed_and_not_scored_again() {
    let folder = recorded(&["--no-prompts"]);
    let trace: PathBuf = folder.path().join(DRAFTED);
    assert!(Trace::open(&trace).unwrap().texts().unwrap().iter().all(|text| text.prompt.is_none()));
    let text = folder.ok(&["trace", "check", DRAFTED]);
    assert!(text.contains(": sound\n") && !text.contains("missing"), "{text}");
    let text = folder.ok(&["replay", DRAFTED, "-q", "--no-references"]);
    assert!(text.contains("law of replay"), "{text}");
    forget_scores(&trace);
    let text = folder.ok(&["trace", "check", DRAFTED]);
    assert!(text.contains("scores of 8 of 8 texts; they cannot be made: prompts were not kept"), "{text}");
    let (_, error) = wrong(&folder, 2, &["trace", "score", DRAFTED]);
    insta::assert_snapshot!(error, @"error: request 1: its prompt was not kept, so it cannot be scored");
}

#[test]
fn luck_of_a_sampled_recording_is_drawn_again_for_every_seed() {
    let sampled = ["--set", "sampling={temperature: 0.8}", "--set", "verify=speculative"];
    let folder = recorded(&sampled);
    let text = folder.ok(&["replay", DRAFTED, "-q", "--seeds", "3"]);
    assert!(text.contains("(95 % interval over 3 seeds)"), "{text}");
    assert!(text.contains("note: law of replay: under its logged plans a round keeps "), "{text}");
    let changes = text.split_once("(95 % interval over 3 seeds)").unwrap().1;
    let own = changes.lines().find(|line| line.starts_with("static")).unwrap_or_else(|| panic!("{text}"));
    assert!(own.contains(" % (") || own.contains(" ("), "{own}");
    let lengths = |seed: &Value| seed["accepted_length"].as_f64().unwrap();
    let json = folder.ok(&["replay", DRAFTED, "-q", "--seeds", "3", "--no-references", "--format", "json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    let seeds: Vec<f64> = report["arms"][1]["seeds"].as_array().unwrap().iter().map(lengths).collect();
    assert!(seeds.len() == 3 && (seeds[0] - seeds[1]).abs() > 0.0, "luck differs between seeds: {seeds:?}");
}
