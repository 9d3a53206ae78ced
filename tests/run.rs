//! `specrouter run`, from scenario to folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn specrouter(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_specrouter")).args(args).output().expect("the program starts")
}

fn run(args: &[&str], out: &Path) -> Vec<u8> {
    let mut all = vec!["run"];
    all.extend(args);
    let out = out.display().to_string();
    all.extend(["--out", &out]);
    let result = specrouter(&all);
    assert!(result.status.success(), "{all:?}: {}", String::from_utf8_lossy(&result.stderr));
    result.stdout
}

fn json(args: &[&str], out: &Path) -> Value {
    let mut all = args.to_vec();
    all.extend(["--format", "json"]);
    serde_json::from_slice(&run(&all, out)).expect("stdout is JSON")
}

/// A recorded workload beside the checkout; `None` for those who have none.
fn recorded(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/workloads").join(name);
    if !path.exists() {
        eprintln!("{name} is not here: nothing to check");
        return None;
    }
    Some(path.display().to_string())
}

#[test]
fn invariant_3_the_same_scenario_gives_the_same_bytes_whatever_the_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["quickstart", "--set", "workload.requests=150", "--seeds", "2", "--quiet"];
    let mut outputs = Vec::new();
    for (name, jobs) in [("a", "1"), ("b", "2"), ("c", "5")] {
        let out = folder.path().join(name);
        let mut all = args.to_vec();
        all.extend(["--jobs", jobs]);
        outputs.push((run(&all, &out), out));
    }
    assert_eq!(outputs[0].0, outputs[1].0);
    assert_eq!(outputs[0].0, outputs[2].0);
    let mut files = 0;
    for entry in walk(&outputs[0].1) {
        let inside = entry.strip_prefix(&outputs[0].1).unwrap();
        assert_eq!(
            std::fs::read(&entry).unwrap(),
            std::fs::read(outputs[1].1.join(inside)).unwrap(),
            "{}",
            inside.display()
        );
        files += 1;
    }
    assert!(files > 20, "report, summary, plots and the tables of 5 arms: {files} files");
    let other = run(
        &["quickstart", "--set", "workload.requests=150", "--set", "seed=8", "--seeds", "2", "--quiet"],
        &folder.path().join("d"),
    );
    assert_ne!(outputs[0].0, other, "another seed is another run");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn invariant_1_recorded_traffic_is_conserved() {
    for (scenario, file, requests, prompt, output) in [
        ("azure-conv", "azure_llm_2023_conv.csv", 19_366u64, 22_361_870u64, 4_088_665u64),
        ("azure-code", "azure_llm_2023_code.csv", 8_819, 18_059_974, 245_896),
    ] {
        let Some(path) = recorded(file) else { return };
        let folder = tempfile::tempdir().unwrap();
        let set = format!("workload.file={path}");
        let policies = "policies=[specrouter, target_only]";
        let summary =
            json(&[scenario, "--set", &set, "--set", policies, "--seeds", "1", "--quiet"], folder.path());
        for arm in summary["arms"].as_array().unwrap() {
            let seed = &arm["seeds"][0];
            assert_eq!(seed["requests"]["arrived"], requests, "{scenario}");
            assert_eq!(seed["requests"]["finished"], requests, "{scenario}");
            assert_eq!(seed["prompt_tokens"], prompt, "{scenario}");
            assert_eq!(seed["output_tokens"], output, "{scenario}");
        }
    }
}

/// Invariant 9: under the same luck a policy differs from itself by nothing, and one that drafts
/// the longest blocks from the worst model at any load loses.
#[test]
fn invariant_9_a_bad_policy_loses() {
    let folder = tempfile::tempdir().unwrap();
    let always_longest = "{static: {chain: [llama-68m, llama-3.1-8b], windows: [16]}}";
    let policies = format!("policies=[target_only, {always_longest}, specrouter]");
    let load = [
        "--set",
        "workload.arrivals={poisson: {rate_per_s: 60}}",
        "--set",
        "workload.requests=600",
        "--set",
        "replicas=1",
    ];
    let mut args = vec!["quickstart", "--set", &policies, "--seeds", "3", "--quiet"];
    args.extend(load);
    let summary = json(&args, folder.path());
    let rate = |arm: usize| -> f64 {
        let seeds = summary["arms"][arm]["seeds"].as_array().unwrap();
        seeds.iter().map(|seed| seed["output_tokens_per_s"].as_f64().unwrap()).sum::<f64>()
            / seeds.len() as f64
    };
    assert!(rate(1) < 0.8 * rate(0), "drafting 16 tokens in overload loses: {} against {}", rate(1), rate(0));
    assert!(rate(2) > 0.98 * rate(0), "specrouter does not: {} against {}", rate(2), rate(0));
}

#[test]
fn a_fixed_model_stands_outside_comparisons() {
    let folder = tempfile::tempdir().unwrap();
    let policies = "policies=[target_only, {fixed_model: {model: llama-3.2-1b}}]";
    let args = ["quickstart", "--set", policies, "--set", "workload.requests=100", "--seeds", "2", "--quiet"];
    let text = String::from_utf8(run(&args, folder.path())).unwrap();
    assert!(text.contains("other output"), "{text}");
    let summary = json(&args, folder.path());
    assert_eq!(summary["arms"][1]["other_output"], true);
    assert!(summary["comparisons"].as_array().unwrap().is_empty(), "nothing is compared with it");
}

#[test]
fn every_shipped_scenario_runs() {
    for name in [
        "quickstart",
        "azure-conv",
        "azure-code",
        "long-context",
        "burst",
        "load-sweep",
        "eagle",
        "false-positives",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let small = if name == "burst" { "workload.horizon_s=3" } else { "workload.requests=40" };
        let text = run(&[name, "--set", small, "--seeds", "1", "--quiet"], folder.path());
        assert!(!text.is_empty());
        let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(html.contains("</html>") && html.contains("<svg"), "{name}");
        // What was resolved runs again, from anywhere, to the same table.
        let resolved = folder.path().join("scenario.resolved.yaml").display().to_string();
        let again = run(&[&resolved, "--quiet"], &folder.path().join("again"));
        let body = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(body(&text), body(&again), "{name}");
    }
}

/// Loads from idle to overload, one small cell of the table that `cargo bench --bench load_table`
/// makes: the policy, learning included, is near the best fixed chain and gives up depth with load.
#[test]
fn specrouter_follows_the_load_down_to_plain_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let chain = |models: &str, windows: &str| {
        format!("{{static: {{chain: [{models}, llama-3.1-8b], windows: [{windows}]}}}}")
    };
    let policies = format!(
        "policies=[target_only, {}, {}, {}, specrouter]",
        chain("llama-68m", "2"),
        chain("llama-68m", "4"),
        chain("llama-68m, llama-3.2-1b", "2, 4")
    );
    let sets =
        ["--set", "sweep.load=[0.2, 1.5]", "--set", "workload.requests=500", "--seeds", "4", "--quiet"];
    let mut args = vec!["load-sweep", "--set", &policies];
    args.extend(sets);
    let summary = json(&args, folder.path());
    let metric = |arm: usize, load: usize| -> Vec<f64> {
        let seeds = summary["arms"][load * 5 + arm]["seeds"].as_array().unwrap();
        let of = |seed: &Value| {
            if load == 0 {
                1.0 / seed["tpot_s"]["mean"].as_f64().unwrap()
            } else {
                seed["output_tokens_per_s"].as_f64().unwrap()
            }
        };
        seeds.iter().map(of).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    for load in 0..2 {
        let best = (0..4).map(|arm| mean(&metric(arm, load))).fold(0.0, f64::max);
        let policy = mean(&metric(4, load));
        assert!(policy > 0.97 * best, "load {load}: {policy} against {best}");
    }
    let length = |load: usize| summary["arms"][load * 5 + 4]["seeds"][0]["accepted_length"].as_f64().unwrap();
    assert!(
        length(0) > 1.8 && length(1) < length(0),
        "tokens per round: {} idle, {} in overload",
        length(0),
        length(1)
    );
}
