//! `specrouter record`, `profile` and `generate`, on random weights in small shapes.

use std::path::Path;

use serde_json::Value;

use crate::program::Folder;

/// A model description of a small size; all of one family.
fn model(name: &str, hidden: u32, layers: u32) -> String {
    format!(
        "{{name: {name}, source: a test, family: test, layers: {layers}, hidden: {hidden}, heads: 4, kv_heads: 2, head_dim: 16, \
         intermediate: {}, vocab: 300, tied_embeddings: false, context: 256, precision: bf16, kv_bytes: 4}}\n",
        2 * hidden
    )
}

const SCENARIO: &str = "\
seed: 3
pool: [small.yaml, large.yaml]
engine: {weights: dummy, threads: 2}
limits: {max_running: 4, token_budget: 64}
workload:
  file: prompts.jsonl
  arrivals: {closed_loop: {users: 3}}
  requests: 10
  max_tokens: 12
sampling: {temperature: 0}
policies:
  - target_only
  - static: {chain: [small, large], windows: [3]}
  - specrouter
seeds: 2
";

fn folder() -> Folder {
    let prompts: String = (0..4)
        .map(|i| {
            let text = "word ".repeat(5 + 9 * i);
            format!("{{\"id\": {i}, \"domain\": \"{}\", \"turns\": [\"{text}\"]}}\n", ["chat", "code"][i % 2])
        })
        .collect();
    Folder::new()
        .with("small.yaml", model("small", 32, 1))
        .with("large.yaml", model("large", 64, 3))
        .with("prompts.jsonl", prompts)
        .with("s.yaml", SCENARIO)
}

fn texts(folder: &Folder, arm: &str, seed: u32) -> Vec<Value> {
    let path = folder.path().join(format!("out/s/arms/{arm}/seed-{seed}/texts.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["request"].as_u64());
    lines
}

#[test]
fn every_policy_writes_the_targets_text_and_its_own_tables() {
    let folder = folder();
    let report: Value = serde_json::from_str(&folder.ok(&["record", "s.yaml", "--format", "json"])).unwrap();
    assert_eq!(report["arms"].as_array().unwrap().len(), 3);
    let alone = texts(&folder, "target_only", 3);
    assert_eq!(alone.len(), 10);
    let tokens = |line: &Value| line["token_ids"].clone();
    for arm in ["static-small-large-3", "specrouter"] {
        for seed in [3, 4] {
            let texts = texts(&folder, arm, seed);
            assert!(
                alone.iter().map(tokens).eq(texts.iter().map(tokens)),
                "greedy text of {arm}, seed {seed}"
            );
        }
    }
    let drafted = texts(&folder, "static-small-large-3", 3);
    let steps = |line: &Value| line["spec_decode"]["per_step_drafted"].as_array().unwrap().len();
    assert!(drafted.iter().all(|line| steps(line) > 0 && line["output_tokens"] == 12));
    assert!(
        alone.iter().all(|line| steps(line) == 0 && line["spec_decode"]["mean_acceptance_length"].is_null())
    );
    for table in ["requests", "passes", "verifications", "rounds", "decisions"] {
        let path = format!("out/s/arms/specrouter/seed-3/{table}.parquet");
        assert!(folder.path().join(&path).exists(), "{path}");
    }
    for file in ["report.html", "summary.json", "scenario.resolved.yaml"] {
        assert!(folder.path().join("out/s").join(file).exists(), "{file}");
    }
    let manifest =
        std::fs::read_to_string(folder.path().join("out/s/arms/specrouter/seed-3/manifest.json")).unwrap();
    assert!(manifest.contains("\"complete\": true") && manifest.contains("2 threads"), "{manifest}");
}

#[test]
fn a_resolved_recording_runs_again_from_anywhere() {
    let folder = folder();
    folder.ok(&["record", "s.yaml", "--quiet", "--no-texts", "--seeds", "1"]);
    assert!(!folder.path().join("out/s/arms/target_only/seed-3/texts.jsonl").exists());
    let elsewhere = Folder::new();
    let resolved = folder.path().join("out/s/scenario.resolved.yaml");
    let again = elsewhere.ok(&["record", &resolved.display().to_string(), "--dry-run"]);
    assert!(again.contains("10 until they are answered"), "{again}");
}

#[test]
fn sampled_and_coupled_texts_keep_their_promises() {
    let folder = folder();
    let sampled =
        ["record", "s.yaml", "-q", "--seeds", "1", "--set", "sampling={temperature: 1, top_p: 0.9}"];
    let coupled = [&sampled[..], &["--set", "verify=coupled"]].concat();
    folder.ok(&coupled);
    let ids =
        |arm: &str| texts(&folder, arm, 3).iter().map(|line| line["token_ids"].clone()).collect::<Vec<_>>();
    let alone = ids("target_only");
    assert_eq!(alone, ids("static-small-large-3"), "coupled text is a function of target and seed");
    assert_eq!(alone, ids("specrouter"));
    folder.ok(&sampled);
    let first = ids("target_only");
    assert_ne!(first, ids("static-small-large-3"), "sampled text depends on the coins that a chain tosses");
    folder.ok(&sampled);
    assert_eq!(first, ids("target_only"), "the same seed, the same text");
}

#[test]
fn prompts_that_do_not_fit_are_told_and_the_others_are_answered() {
    let long = format!(
        "{{\"id\": \"long\", \"domain\": \"chat\", \"turns\": [\"{}\"]}}\n",
        "many words ".repeat(200)
    );
    let short = "{\"id\": \"short\", \"domain\": \"chat\", \"turns\": [\"a few words\"]}\n";
    let folder = folder().with("prompts.jsonl", long + short);
    let args = [
        "record",
        "s.yaml",
        "--seeds",
        "1",
        "--set",
        "workload.requests=4",
        "--set",
        "policies=[target_only]",
    ];
    folder.ok(&args);
    let answered = texts(&folder, "target_only", 3);
    assert!(answered.len() == 2 && answered.iter().all(|line| line["id"] == "short"));
    let report = std::fs::read_to_string(folder.path().join("out/s/summary.json")).unwrap();
    assert!(report.contains("1 of 2 prompts do not fit the context of 256 tokens"), "{report}");
}

#[test]
fn a_profile_is_a_cost_table_that_a_simulation_reads() {
    let folder = folder();
    let grid = ["--rows", "1,2", "--new-tokens", "1,4", "--context-tokens", "16,64", "--repeats", "1"];
    let scenario = "\
pool: [small.yaml, large.yaml]
hardware: {table: table.csv}
profile: {table: table.csv}
limits: {kv_tokens: 4096}
workload:
  requests: 20
  arrivals: {closed_loop: {users: 2}}
  classes: [{name: all, prompt_tokens: {constant: 20}, output_tokens: {constant: 10}}]
acceptance: {constant: {small: {large: 0.6}}}
policies: [target_only, {static: {chain: [small, large], windows: [2]}}]
seeds: 1
";
    let folder = folder.with("sim.yaml", scenario);
    folder
        .ok(&[&["profile", "small.yaml", "large.yaml", "--dummy", "--out", "table.csv"][..], &grid].concat());
    let table = std::fs::read_to_string(folder.path().join("table.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 8, "{table}");
    folder.ok(&["run", "sim.yaml", "-q"]);
}

#[test]
fn a_disk_that_is_full_ends_the_run_with_its_own_words() {
    if !Path::new("/dev/full").exists() {
        eprintln!("no /dev/full here: nothing to check");
        return;
    }
    let folder = folder();
    let out = folder.path().join("full");
    std::fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink("/dev/full", out.join("summary.tmp")).unwrap();
    let result = folder.run(&["record", "s.yaml", "-q", "--seeds", "1", "--out", "full"]);
    let error = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(
        result.status.code() == Some(1) && error.contains("summary.json") && error.contains("space"),
        "{error}"
    );
    assert!(out.join("arms/target_only/seed-3/texts.jsonl").exists(), "what had finished stays");
}

#[cfg(unix)]
#[test]
fn a_recording_killed_in_the_middle_leaves_what_had_finished() {
    let folder = folder();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_specrouter"))
        .args(["record", "s.yaml", "-q", "--set", "workload.requests=1000000"])
        .current_dir(folder.path())
        .spawn()
        .unwrap();
    let path = folder.path().join("out/s/arms/target_only/seed-3/texts.jsonl");
    // Until something has finished; the test's own limit is the suite's.
    let enough = || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() > 20);
    while !enough() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert!(whole >= 20 && text.lines().count() - whole <= 1, "every line but the last is whole");
    let manifest = path.with_file_name("manifest.json");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    assert!(manifest.contains("\"complete\": false"), "{manifest}");
}

#[test]
fn what_cannot_be_recorded_is_named() {
    let error = |from: &str, to: &str| {
        assert_eq!(SCENARIO.matches(from).count(), 1, "`{from}` stands in the scenario once");
        let folder = folder().with("s.yaml", SCENARIO.replace(from, to));
        let result = folder.run(&["record", "s.yaml", "--dry-run"]);
        assert_eq!(result.status.code(), Some(2), "{from} -> {to}");
        String::from_utf8_lossy(&result.stderr).replace(&folder.path().display().to_string(), "HERE")
    };
    insta::assert_snapshot!(error("engine: {weights: dummy, threads: 2}", "hardware: h100-sxm"), @"error: s.yaml:1:1: engine is missing: `record` runs real models and must know where, e.g. `engine: {device: cpu}`; a scenario with `hardware` is for `specrouter run`");
    insta::assert_snapshot!(error("{weights: dummy, threads: 2}", "{device: gpu}"), @r#"error: s.yaml:3:18: engine.device: device must be cpu or cuda:N with N a whole number, got "gpu""#);
    insta::assert_snapshot!(error("{weights: dummy, threads: 2}", "{device: \"cuda:0\"}"), @"error: s.yaml:3:9: engine: mode exact needs device cpu, got cuda:0; use mode fast there");
    insta::assert_snapshot!(error("{weights: dummy, threads: 2}", "{device: cpu}"), @"error: s.yaml:2:8: pool[0]: expected a folder with weights, got `small.yaml`; `engine: {weights: dummy}` runs any catalog model with random ones");
    insta::assert_snapshot!(error("prompts.jsonl", "nothing.jsonl"), @"error: s.yaml:6:9: workload.file: nothing.jsonl: No such file or directory (os error 2)");
    insta::assert_snapshot!(error("prompts.jsonl", "small.yaml"), @r#"error: s.yaml:6:9: workload.file: small.yaml:1: expected {"id", "domain", "turns": [..]}: key must be a string at line 1 column 2"#);
    insta::assert_snapshot!(error("temperature: 0", "temperature: -1"), @"error: s.yaml:10:25: sampling.temperature: value must be a finite number, 0 or above, got -1");
    insta::assert_snapshot!(error("  - specrouter", "  - fixed_model: {model: small}"), @"error: s.yaml:14:5: policies[2]: expected a policy whose output is the target's; record the other model as the target of a pool of its own");
    insta::assert_snapshot!(error("seeds: 2", "replicas: 2"), @"error: s.yaml:15:11: replicas: expected 1: `record` runs one replica on one device, got 2");
    insta::assert_snapshot!(error("small.yaml, ", "nowhere/small, "), @"error: s.yaml:2:8: pool[0]: cannot read model nowhere/small: No such file or directory (os error 2)");
}

#[test]
fn a_scenario_for_the_other_command_says_so() {
    let folder = folder();
    let result = folder.run(&["run", "s.yaml"]);
    assert_eq!(result.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8_lossy(&result.stderr), @"error: s.yaml:1:1: hardware is missing: `run` simulates and must know what passes cost; a scenario with `engine` is for `specrouter record`");
}
