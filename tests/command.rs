//! The lists, the schema, the exit codes, and what goes where.

use crate::program::{Folder, SCENARIO};

fn stdout(args: &[&str]) -> String {
    let output = Folder::new().run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "a list says nothing on stderr");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_lists_name_what_a_scenario_can_name() {
    for (list, names) in [
        ("policies", &["target_only", "fixed_model", "static", "batch_table", "goodput", "specrouter"][..]),
        ("hardware", &["a100-80g", "h100-sxm", "h200", "l4", "l40s", "rtx-4090", "b200", "mi300x"]),
        ("models", &["llama-68m", "llama-3.1-8b", "qwen2.5-72b", "qwen3-32b", "ngram"]),
        (
            "scenarios",
            &[
                "quickstart",
                "azure-conv",
                "azure-code",
                "long-context",
                "burst",
                "load-sweep",
                "eagle",
                "false-positives",
                "engine-quickstart",
            ],
        ),
    ] {
        let table = stdout(&[list]);
        let json: serde_json::Value = serde_json::from_str(&stdout(&[list, "--format", "json"])).unwrap();
        let listed: Vec<&str> =
            json.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        for name in names {
            assert!(
                table.lines().any(|line| line.split_whitespace().next() == Some(name)),
                "{list} lists {name}:\n{table}"
            );
            assert!(listed.contains(name), "{list} --format json lists {name}");
        }
    }
}

#[test]
fn every_embedded_scenario_resolves_and_says_what_it_shows() {
    let json: serde_json::Value = serde_json::from_str(&stdout(&["scenarios", "--format", "json"])).unwrap();
    for entry in json.as_array().unwrap() {
        assert!(!entry["shows"].as_str().unwrap().is_empty(), "{entry} opens with what it shows");
        let name = entry["name"].as_str().unwrap();
        if !["engine-", "validate-"].iter().any(|real| name.starts_with(real)) {
            stdout(&["run", name, "--dry-run", "-q"]);
        }
    }
}

/// Those that record need models and prompts beside them: they resolve by path, and by name in a clone.
#[test]
fn scenarios_of_real_models_resolve_where_the_models_are() {
    let clone = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = |name: &str, folder: &std::path::Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_specrouter"));
        command.args(["record", name, "--dry-run", "-q"]).current_dir(folder).output().unwrap()
    };
    let name = "engine-quickstart";
    let by_name = run(name, clone);
    assert!(by_name.status.success(), "{}", String::from_utf8_lossy(&by_name.stderr));
    let elsewhere = Folder::new();
    let path = clone.join(format!("scenarios/{name}.yaml")).display().to_string();
    let by_path = run(&path, elsewhere.path());
    assert!(by_path.status.success(), "{}", String::from_utf8_lossy(&by_path.stderr));
    let alone = run(name, elsewhere.path());
    assert_eq!(alone.status.code(), Some(2), "there are no models");
    let error = String::from_utf8_lossy(&alone.stderr);
    assert!(error.contains("models/tiny"), "it says which is missing: {error}");
}

#[test]
fn the_schema_knows_the_fields_of_a_scenario() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["schema"])).unwrap();
    let fields = schema["properties"].as_object().unwrap();
    for line in SCENARIO.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic())) {
        let field = line.split(':').next().unwrap();
        assert!(fields.contains_key(field), "the schema has {field}");
    }
}

#[test]
fn completions_name_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("policies") && script.contains("dry-run"), "{shell}");
    }
}

#[test]
fn a_dry_run_sizes_and_runs_nothing() {
    let folder = Folder::new().with("scenario.yaml", SCENARIO);
    let output = folder.run(&["run", "scenario.yaml", "--dry-run", "--seeds", "3", "--out", "results"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.path().join("results").exists());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap(), @"
scenario            scenario.yaml
pool                llama-68m > llama-3.2-1b > llama-3.1-8b
hardware            h100-sxm
policies know       data sheet of h100-sxm
replicas            2, tensor parallel 1
KV cache            312010 tokens for each model and replica
context             131072 tokens
requests            40 over 3.3 s
mean prompt         479.7 tokens
mean output         49.3 tokens
seeds               3 from 7
chat, llama-68m     acceptance 0.50, SD 0.03 across requests, lag-1 correlation 0.00, tokens a round 1.87 at 3 drafts, 2.00 at 8
code, llama-68m     acceptance 0.50, SD 0.03 across requests, lag-1 correlation 0.00, tokens a round 1.87 at 3 drafts, 2.00 at 8
chat, llama-3.2-1b  acceptance 0.75, SD 0.03 across requests, lag-1 correlation 0.00, tokens a round 2.73 at 3 drafts, 3.68 at 8
code, llama-3.2-1b  acceptance 0.75, SD 0.03 across requests, lag-1 correlation 0.00, tokens a round 2.73 at 3 drafts, 3.68 at 8
policies            target_only
                    static llama-68m>llama-3.1-8b (4)
");
}

#[test]
fn a_path_inside_a_scenario_starts_from_its_folder_and_one_in_a_set_from_here() {
    let csv = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,10,5\n";
    let folder = Folder::new()
        .with(
            "deep/scenario.yaml",
            SCENARIO.replace("  requests: 40\n", "  requests: 40\n  file: trace.csv\n"),
        )
        .with("deep/trace.csv", csv)
        .with("here.csv", format!("{csv}2,10,5\n"));
    let requests = |sets: &[&str]| {
        let output =
            folder.run(&[&["run", "deep/scenario.yaml", "--dry-run", "--format", "json"], sets].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["facts"]["requests"].as_str().unwrap().split(' ').next().unwrap().to_owned()
    };
    assert_eq!(requests(&[]), "2");
    assert_eq!(requests(&["--set", "workload.file=here.csv"]), "3");
}

#[test]
fn arguments_that_are_none_are_bad_input() {
    for args in [
        &["run"][..],
        &["walk"],
        &["run", "quickstart", "--jobs", "0"],
        &["run", "quickstart", "--format", "xml"],
    ] {
        assert_eq!(Folder::new().run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_specrouter"))
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.stderr.is_empty() && output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
