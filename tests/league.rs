//! The league: its committed result is what the program gives.

use std::path::PathBuf;

use serde_json::Value;

use crate::program::Folder;

const LEAGUE: &str = "scenarios/league.yaml";
const AGAIN: &str = "make it again with `specrouter run scenarios/league.yaml --out out/league`, and copy league.json and \
                     league.html to reports/reference/";

fn clone() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> Value {
    let text = std::fs::read_to_string(clone().join("reports/reference/league.json")).unwrap();
    assert!(text.len() < 300_000, "{} bytes are much for a file that is committed", text.len());
    serde_json::from_str(&text).unwrap()
}

fn league() -> String {
    clone().join(LEAGUE).display().to_string()
}

/// Position of the cell, by its names of regime, pool and variant.
fn position(document: &Value, cell: &Value) -> usize {
    let same = |other: &Value| (0..3).all(|part| other[part] == cell[part]);
    document["cells"].as_array().unwrap().iter().position(same).unwrap()
}

/// Equal in three significant digits: no further apart than half a unit of the third.
fn agree(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => {
            let size = one.abs().max(other.abs()).max(f64::MIN_POSITIVE);
            (one - other).abs() <= 0.5 * 10f64.powi(size.log10().floor() as i32 - 2)
        }
        _ => one.is_null() && other.is_null(),
    }
}

/// Two cells of the reference's sample, on the first of its seeds: every measure of every policy in it. No two share
/// regime, pool or variant.
#[test]
fn two_cells_of_the_committed_league_come_out_again() {
    let reference = reference();
    let sample = &reference["sample"];
    let cells: Vec<usize> =
        sample["cells"].as_array().unwrap().iter().map(|cell| cell.as_u64().unwrap() as usize).collect();
    let seeds = sample["seeds"].to_string();
    let file = clone().join("reports/reference/league.json").display().to_string();
    let (folder, league) = (Folder::new(), league());
    let mut args = vec![
        "run",
        &league,
        "--reference",
        &file,
        "--seeds",
        &seeds,
        "--format",
        "json",
        "--quiet",
        "--out",
        "out",
    ];
    let chosen = [0, 1];
    let names: Vec<String> = chosen
        .iter()
        .map(|&index| {
            let cell = &reference["cells"][cells[index]];
            [&cell[0], &cell[1], &cell[2]].map(|name| name.as_str().unwrap()).join("/")
        })
        .collect();
    names.iter().for_each(|name| args.extend(["--only", name]));
    let again: Value = serde_json::from_str(&folder.ok(&args)).unwrap();
    assert_eq!(again["cells"].as_array().unwrap().len(), chosen.len());
    let row = |document: &Value, name: &Value| {
        document["rows"].as_array().unwrap().iter().position(|row| row["name"] == *name)
    };
    let mut compared = 0;
    for &index in &chosen {
        let there = position(&again, &reference["cells"][cells[index]]);
        for (measure, table) in sample["means"].as_object().unwrap() {
            for (number, wanted) in table[index].as_array().unwrap().iter().enumerate() {
                let name = &reference["rows"][number]["name"];
                let here =
                    row(&again, name).unwrap_or_else(|| panic!("the league has no {name} any more: {AGAIN}"));
                let value = &again["means"][measure][there][here];
                assert!(
                    agree(value, wanted),
                    "{}, {name}, {measure}: {value}, and the reference has {wanted}. If that is meant, {AGAIN}",
                    names[index]
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 2 * 9 * 6, "{compared} values");
}

/// The reference is of the league as it stands: every policy, regime and pool of the file.
#[test]
fn the_committed_league_holds_every_policy_of_the_file() {
    let reference = reference();
    let size: Value = serde_json::from_str(&Folder::new().ok(&[
        "run",
        &league(),
        "--dry-run",
        "--format",
        "json",
        "--quiet",
    ]))
    .unwrap();
    let ranked: Vec<&Value> = reference["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["role"] == "policy")
        .map(|row| &row["name"])
        .collect();
    let missing: Vec<&Value> =
        size["policies"].as_array().unwrap().iter().filter(|name| !ranked.contains(name)).collect();
    assert!(missing.is_empty(), "reports/reference/league.json knows nothing of {missing:?}: {AGAIN}");
    assert_eq!(size["facts"]["cells"], reference["cells"].as_array().unwrap().len().to_string(), "{AGAIN}");
    let page = std::fs::read_to_string(clone().join("reports/reference/league.html")).unwrap();
    assert!(page.ends_with("</html>\n") && page.len() < 1_500_000, "{} bytes", page.len());
}

/// A league of one pool, two regimes and two variants, run in seconds.
const SMALL: &str = "\
# A small league.
tuning: {first: 1, count: 2}
report: {first: 11, count: 3}
scenario:
  pool: [small, large]
  limits: {max_running: 16}
  workload:
    requests: 12
    arrivals: {poisson: {rate_per_s: 1}}
    classes: [{name: chat, prompt_tokens: {constant: 100}, output_tokens: {constant: 20}}]
  acceptance: {heterogeneous: {matrix: {all: {small: {large: 0.7}}}, request_spread: 0.1}}
  policies: []
  seeds: 1
  output: {tables: summary}
pools:
  - name: pair
    models: {small: llama-68m, large: llama-3.1-8b}
    set: {hardware: h100-sxm, slo: {ttft_ms: 500, tpot_ms: 20}}
regimes:
  - {name: quiet, about: little to do, load: 0.1}
  - {name: busy hours, about: much to do, load: 0.8}
variants:
  - {name: as written}
  - {name: fast, rate: 1.5}
policies:
  - {name: target_only, tune: [target_only]}
  - {name: static, statics: true}
  - name: specrouter
    signals: [0.2, 0.8]
    tune: [specrouter, specrouter: {half_life: 128}]
";

fn small() -> Folder {
    Folder::new().with("small.yaml", SMALL)
}

#[test]
fn a_league_gives_the_same_bytes_whatever_the_jobs_and_writes_cells_that_run() {
    let folder = small();
    let one = folder.ok(&["run", "small.yaml", "--format", "json", "-q", "--jobs", "1"]);
    let two = folder.ok(&["run", "small.yaml", "--format", "json", "-q", "--jobs", "3", "--out", "two"]);
    assert_eq!(one, two);
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(read("out/small/league.json"), one);
    assert_eq!(read("out/small/league.html"), read("two/league.html"));
    let json: Value = serde_json::from_str(&one).unwrap();
    let names: Vec<&str> =
        json["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    let signals = ["specrouter, signals at 0.2", "specrouter, signals at 0.8"];
    assert_eq!(
        names,
        [&["target_only", "static", "specrouter", "hindsight", "clairvoyant"][..], &signals].concat()
    );
    assert_eq!(json["seeds"], serde_json::json!({ "tuning": [1, 2], "report": [11, 12, 13] }));
    folder.ok(&[
        "run",
        "out/small/cells/pair--busy-hours--fast.yaml",
        "--set",
        "policies=[target_only]",
        "-q",
    ]);
}

#[test]
fn cells_alone_have_the_numbers_that_they_have_among_all() {
    let folder = small();
    let all: Value =
        serde_json::from_str(&folder.ok(&["run", "small.yaml", "--format", "json", "-q"])).unwrap();
    for more in [&[][..], &["--reference", "out/small/league.json"]] {
        let args = [
            "run",
            "small.yaml",
            "--format",
            "json",
            "-q",
            "--out",
            "alone",
            "--only",
            "busy hours/pair/fast",
        ];
        let alone: Value = serde_json::from_str(&folder.ok(&[&args, more].concat())).unwrap();
        assert_eq!(alone["cells"], serde_json::json!([all["cells"][3]]));
        for (measure, table) in alone["means"].as_object().unwrap() {
            assert_eq!(table[0], all["means"][measure][3], "{measure}");
        }
        assert_eq!(alone["tuned"], all["tuned"]);
    }
}

#[test]
fn a_dry_run_counts_a_league() {
    insta::assert_snapshot!(small().ok(&["run", "small.yaml", "--dry-run"]), @"
scenario    small.yaml
cells       4
regimes     quiet, busy hours
pools       pair
variants    as written, fast
candidates  3 of policies, 9 static plans
tuning      48 runs, 2 seeds from 1
measuring   72 runs, 3 seeds from 11
requests    1440 in all runs
policies    target_only
            static
            specrouter
");
    assert!(small().ok(&["run", "small.yaml", "--dry-run", "--only", "quiet"]).contains("cells       2\n"));
}

#[test]
fn what_a_league_has_not_is_named() {
    let folder = small().with("old.json", "{\"tuned\": [{\"pool\": \"pair\", \"policy\": \"static\", \"to\": \"x\", \"candidate\": 0}], \"cells\": []}");
    let error = |args: &[&str]| {
        let output = folder.run(&[&["run", "small.yaml", "-q"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    insta::assert_snapshot!(error(&["--only", "quite"]), @"error: --only quite: unknown regime `quite`; did you mean `quiet`?");
    insta::assert_snapshot!(error(&["--only", "quiet/pair/fast/1"]), @"error: --only quiet/pair/fast/1: expected REGIME/POOL/VARIANT at most, got 4 parts");
    insta::assert_snapshot!(error(&["--reference", "old.json"]), @"error: old.json: static on pair: candidate 0 is not x; the league has changed since: make the file again with `specrouter run small.yaml`");
    let doubled = folder.run(&["run", "small.yaml", "-q", "--set", "regimes.1.name=quiet"]);
    assert_eq!(doubled.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8(doubled.stderr).unwrap(), @"error: in --set regimes.1.name=quiet: regimes[1].name: `quiet` is taken");
    let scenario = folder.run(&["run", "quickstart", "--only", "quiet"]);
    assert_eq!(scenario.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8(scenario.stderr).unwrap(), @"error: --only and --reference are for leagues; quickstart is a scenario");
}
