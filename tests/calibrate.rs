//! `specrouter calibrate`: what a simulation was run with comes back from its traces.

use serde_json::Value;

use crate::program::Folder;

/// Known terms, known acceptance, three policies that run every model.
const SCENARIO: &str = "\
seed: 3
pool: [llama-68m, llama-3.2-1b, llama-3.1-8b]
hardware: TERMS
profile: TERMS
limits: {kv_tokens: 400000, max_running: 32}
workload:
  requests: 500
  arrivals: {poisson: {rate_per_s: 12}}
  classes:
    - {name: chat, weight: 0.5, prompt_tokens: {lognormal: {median: 200, sigma: 0.8}}, output_tokens: {lognormal: {median: 160, sigma: 0.5}}}
    - {name: code, weight: 0.5, prompt_tokens: {constant: 300}, output_tokens: {constant: 220}}
acceptance:
  heterogeneous:
    matrix:
      chat: {llama-68m: {llama-3.2-1b: 0.62, llama-3.1-8b: 0.5}, llama-3.2-1b: {llama-3.1-8b: 0.75}}
      code: {llama-68m: {llama-3.2-1b: 0.7, llama-3.1-8b: 0.6}, llama-3.2-1b: {llama-3.1-8b: 0.82}}
    request_spread: 0.08
    regime: {stay_tokens: 20, spread: 0.12}
    signal_correlation: 0.6
policies:
  - target_only
  - static: {chain: [llama-68m, llama-3.1-8b], windows: [3]}
  - static: {chain: [llama-68m, llama-3.2-1b, llama-3.1-8b], windows: [2, 4]}
seeds: 1
output: {tables: full}
";

/// What passes take, for real and as policies know it.
const TERMS: &str = "{linear: [\
    {pass_s: 0.0004, row_s: 2.0e-6, token_s: 3.0e-7, context_token_s: 2.0e-9}, \
    {pass_s: 0.0016, row_s: 5.0e-6, token_s: 2.0e-6, context_token_s: 1.0e-8, pair_s: 5.0e-11}, \
    {pass_s: 0.006, row_s: 1.0e-5, token_s: 1.2e-5, context_token_s: 4.0e-8, pair_s: 1.0e-10}]}";

fn scenario() -> String {
    SCENARIO.replace("TERMS", TERMS)
}

#[track_caller]
fn refused(folder: &Folder, args: &[&str]) -> String {
    let result = folder.run(args);
    assert_eq!(result.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&result.stdout));
    String::from_utf8(result.stderr).unwrap()
}

fn yaml(folder: &Folder, path: &str) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(folder.path().join(path)).unwrap()).unwrap()
}

#[track_caller]
fn near(found: &Value, truth: f64, within: f64) {
    let value = found.as_f64().unwrap_or(f64::NAN);
    assert!((value - truth).abs() <= within, "{found} for {truth}, within {within}");
}

#[test]
fn a_simulation_is_recovered_from_its_traces_and_runs_again_from_them() {
    let folder = Folder::new().with("s.yaml", scenario());
    folder.ok(&["run", "s.yaml", "--out", "run", "-q"]);
    let fits: Value =
        serde_json::from_str(&folder.ok(&["calibrate", "run", "--out", "fit", "--format", "json", "-q"]))
            .unwrap();
    let profile = yaml(&folder, "fit/profile.yaml");

    // Acceptance: the truth lies in the intervals, which are narrow; judged blocks alone are low.
    let matrix = &profile["acceptance"]["heterogeneous"]["matrix"];
    for (class, pairs) in [("chat", [0.62, 0.5, 0.75]), ("code", [0.7, 0.6, 0.82])] {
        let (tiny, small) = (&matrix[class]["llama-68m"], &matrix[class]["llama-3.2-1b"]);
        let found = [&tiny["llama-3.2-1b"], &tiny["llama-3.1-8b"], &small["llama-3.1-8b"]];
        let fit = fits["classes"].as_array().unwrap().iter().find(|c| c["class"] == class).unwrap();
        for (index, truth) in pairs.into_iter().enumerate() {
            let error = fit["pairs"][index]["scores"]["Ok"]["standard_error"].as_f64().unwrap();
            assert!(error < 0.01, "{error}");
            near(found[index], truth, 3.5 * error);
        }
    }
    let all = fits["classes"].as_array().unwrap().iter().find(|c| c["class"] == "all").unwrap();
    let (scores, rounds) = (&all["pairs"][1]["scores"]["Ok"], &all["pairs"][1]["rounds"]["Ok"]);
    assert!(rounds["mean"].as_f64() < scores["mean"].as_f64(), "{rounds} {scores}");

    // How it varies.
    let varies = &profile["acceptance"]["heterogeneous"];
    near(&varies["request_spread"], 0.08, 0.012);
    near(&varies["regime"]["spread"], 0.12, 0.012);
    near(&varies["regime"]["stay_tokens"], 20.0, 4.0);
    near(&varies["signal_correlation"], 0.6, 0.05);
    let test = &fits["courses"][1]["rounds_against_scores"]["Ok"]["test"];
    assert!(test["p"].as_f64().unwrap() > 1e-4 && test["count"].as_u64().unwrap() > 10_000, "{test}");
    assert!(fits["courses"][1]["one_coin"]["Ok"][1]["p"].as_f64().unwrap() < 1e-3);

    // Costs: simulated without noise, so the terms are exact and beat the table.
    let terms = profile["costs"]["linear"].as_array().unwrap();
    let truth = [
        [0.0004, 2e-6, 3e-7, 2e-9, 0.0],
        [0.0016, 5e-6, 2e-6, 1e-8, 5e-11],
        [0.006, 1e-5, 1.2e-5, 4e-8, 1e-10],
    ];
    for (terms, truth) in terms.iter().zip(truth) {
        let names = ["pass_s", "row_s", "token_s", "context_token_s", "pair_s"];
        for (name, truth) in names.into_iter().zip(truth) {
            // Pass times are whole nanoseconds, and that is all the noise there is.
            near(&terms[name], truth, 0.02 * truth + 1e-12);
        }
    }
    for model in ["llama-68m", "llama-3.2-1b", "llama-3.1-8b"] {
        near(&profile["fit"]["costs"][model]["linear_p95"], 0.0, 1e-5);
    }
    assert_eq!(profile["measured"]["traces"].as_array().unwrap().len(), 3);

    // The page stands alone and says what it shows.
    let page = std::fs::read_to_string(folder.path().join("fit/fit.html")).unwrap();
    assert!(!page.contains("src=") && !page.contains("href=") && page.matches("<svg").count() >= 5);
    for title in ["Pass times", "Acceptance", "How acceptance varies", "Signals", "Accepted lengths"] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }

    // The profile stands for hardware, costs known and acceptance: other luck, the same serving.
    let text = scenario();
    let (head, rest) = text.split_once("hardware:").unwrap();
    let rest = &rest[rest.find("workload:").unwrap()..];
    let (workload, policies) =
        (rest.split_once("acceptance:").unwrap().0, &rest[rest.find("policies:").unwrap()..]);
    let again = format!("{head}profile: fit/profile.yaml\nlimits: {{max_running: 32}}\n{workload}{policies}");
    std::fs::write(folder.path().join("again.yaml"), again).unwrap();
    let summary = |scenario: &str, out: &str| -> Value {
        let text = folder.ok(&[
            "run",
            scenario,
            "--set",
            "output.tables=summary",
            "--out",
            out,
            "--format",
            "json",
            "-q",
        ]);
        serde_json::from_str(&text).unwrap()
    };
    let (first, second) = (summary("s.yaml", "a"), summary("again.yaml", "b"));
    for arm in 0..3 {
        let tpot = |of: &Value| of["arms"][arm]["seeds"][0]["tpot_s"]["mean"].as_f64().unwrap();
        let change = tpot(&second) / tpot(&first) - 1.0;
        assert!(change.abs() < 0.02, "arm {arm}: {change}");
    }
    let resolved = std::fs::read_to_string(folder.path().join("b/scenario.resolved.yaml")).unwrap();
    assert!(resolved.contains("fit/profile.yaml") && !resolved.contains("hardware:"), "{resolved}");

    // The same traces give the same bytes.
    folder.ok(&["calibrate", "run", "--out", "twice", "-q"]);
    for file in ["profile.yaml", "costs.csv", "fit.json"] {
        let read = |out: &str| std::fs::read(folder.path().join(out).join(file)).unwrap();
        assert_eq!(read("fit"), read("twice"), "{file}");
    }

    // A slip in the profile is named with its place.
    let slip = std::fs::read_to_string(folder.path().join("fit/profile.yaml")).unwrap();
    std::fs::write(folder.path().join("fit/profile.yaml"), slip.replace("acceptance:", "acceptence:"))
        .unwrap();
    let error = refused(&folder, &["run", "again.yaml", "--dry-run"]);
    assert!(error.contains("unknown field `acceptence`; did you mean `acceptance`?"), "{error}");
}

#[test]
fn files_of_other_tools_make_profiles_too() {
    let mut table = String::from("model,rows,new_tokens,context_tokens,seconds\n");
    for model in ["llama-3.2-1b", "llama-3.1-8b"] {
        for rows in [1, 2, 4, 8] {
            for new in [1, 4, 8] {
                let seconds = 1e-3 * f64::from(rows * new).sqrt();
                table += &format!("{model},{rows},{},512,{seconds}\n", rows * new);
            }
        }
    }
    // 40 requests of 10 rounds: .75 by count, all of four tokens.
    let mut rounds = String::from("class,request,drafter,verifier,drafted,accepted\n");
    for request in 0..40 {
        for round in 0..10 {
            let accepted = [4, 0, 4, 1, 3, 4, 4, 2, 4, 4][(request + round) % 10];
            rounds += &format!("chat,r{request},llama-3.2-1b,llama-3.1-8b,4,{accepted}\n");
        }
    }
    let folder = Folder::new().with("table.csv", &table).with("rounds.csv", &rounds);
    let text = folder.ok(&[
        "calibrate",
        "--from-table",
        "table.csv",
        "--from-rounds",
        "rounds.csv",
        "--out",
        "p",
        "-q",
    ]);
    assert!(text.contains("judged blocks") && text.contains("low where it varies"), "{text}");
    let profile = yaml(&folder, "p/profile.yaml");
    assert_eq!(profile["pool"], serde_json::json!(["llama-3.2-1b", "llama-3.1-8b"]));
    assert!(profile["costs"].is_object() && profile["fit"]["costs"]["llama-3.1-8b"]["table_p95"].is_number());
    let rows = std::fs::read_to_string(folder.path().join("p/costs.csv")).unwrap();
    assert_eq!(rows.lines().count(), table.lines().count(), "the table is taken as it was measured");
    // Accepted 30 a request, rejections 4.
    near(
        &profile["acceptance"]["heterogeneous"]["matrix"]["chat"]["llama-3.2-1b"]["llama-3.1-8b"],
        30.0 / 34.0,
        1e-6,
    );
    let workload = "workload: {requests: 20, arrivals: {poisson: {rate_per_s: 5}}, classes: [{name: chat, prompt_tokens: {constant: 64}, output_tokens: {constant: 16}}]}\npolicies: [target_only]\nseeds: 1\noutput: {tables: summary}\n";
    let head = "pool: [llama-3.2-1b, llama-3.1-8b]\nprofile: p/profile.yaml\nlimits: {kv_tokens: 100000}\n";
    std::fs::write(folder.path().join("s.yaml"), format!("{head}{workload}")).unwrap();
    folder.ok(&["run", "s.yaml", "--out", "o", "-q"]);

    // Acceptance alone: hardware is said, and policies know its data sheet.
    folder.ok(&["calibrate", "--from-rounds", "rounds.csv", "--out", "p", "-q"]);
    assert_eq!(yaml(&folder, "p/profile.yaml")["costs"], Value::Null);
    folder.ok(&["run", "s.yaml", "--set", "hardware=h100-sxm", "--out", "o", "-q"]);
    let error = refused(&folder, &["run", "s.yaml", "--dry-run"]);
    assert!(error.contains("costs is missing"), "{error}");
}

#[test]
fn what_cannot_be_calibrated_is_named() {
    let head = "drafter,verifier,drafted,accepted\n";
    let folder = Folder::new()
        .with("more.csv", format!("{head}a,b,4,5\n"))
        .with("word.csv", format!("{head}a,b,four,3\n"))
        .with("circle.csv", format!("{head}a,b,4,3\nb,a,4,3\n"))
        .with("column.csv", "drafter,verifer,drafted,accepted\n")
        .with("none.csv", head)
        .with("table.csv", "model,rows,new_tokens,context_tokens,seconds\nm,2,1,0,1\n")
        .with("bare.csv", "model,rows,new_tokens,context_tokens,seconds\n")
        .with("empty/readme.txt", "");
    let rounds = |file: &str| refused(&folder, &["calibrate", "--from-rounds", file]);
    insta::assert_snapshot!(rounds("more.csv"), @"error: more.csv: line 2: accepted: expected at most 4, got 5");
    insta::assert_snapshot!(rounds("word.csv"), @"error: word.csv: line 2: drafted: expected a whole number, got `four`");
    insta::assert_snapshot!(rounds("circle.csv"), @"error: circle.csv: the models a, b draft for each other in a circle");
    insta::assert_snapshot!(rounds("column.csv"), @"error: column.csv: line 1: unknown column `verifer`; did you mean `verifier`?");
    insta::assert_snapshot!(rounds("none.csv"), @"error: none.csv: expected rounds, got none");
    insta::assert_snapshot!(refused(&folder, &["calibrate", "--from-table", "table.csv"]), @"error: table.csv: expected rows of at least one token each, a context of 0 or more and seconds above 0, got TableRow { model: \"m\", rows: 2, new_tokens: 1, context_tokens: 0.0, seconds: 1.0 }");
    insta::assert_snapshot!(refused(&folder, &["calibrate", "--from-table", "bare.csv"]), @"error: bare.csv: expected rows of measured passes, got none");
    insta::assert_snapshot!(refused(&folder, &["calibrate", "empty"]), @"error: empty: expected a trace's folder (one with a manifest.json), or a run's");
}

#[test]
fn a_profile_is_of_one_device_and_says_what_was_not_enough() {
    let small =
        scenario().replace("requests: 500", "requests: 12").replace("tables: full", "tables: requests");
    let folder = Folder::new().with("s.yaml", small);
    folder.ok(&["run", "s.yaml", "--out", "a", "-q"]);
    let sets = ["--set", "hardware=h100-sxm", "--set", "output.tables=full"];
    folder.ok(&[&["run", "s.yaml", "--out", "b", "-q"], &sets[..]].concat());
    let error = refused(&folder, &["calibrate", "a", "b", "--out", "p"]);
    assert!(error.contains("a profile is of one device") && error.contains("linear terms"), "{error}");
    // Tables of requests alone have no passes; 12 requests give no interval.
    let none = folder.ok(&["calibrate", "a", "--out", "p", "-q"]);
    assert!(none.contains("run with output.tables=full"), "{none}");
    let few = folder.ok(&["calibrate", "b", "--out", "p", "-q"]);
    assert!(few.contains("not enough data: 12 scored requests, 20 needed"), "{few}");
}
