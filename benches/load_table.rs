//! The load table: how far is `specrouter`, learning included, from the best fixed chain?
//!
//! `cargo bench --bench load_table [-- QUICK]` drives the built program over loads from idle to overload on two pools.
//! At each load the best static arm is picked on ten selection seeds; on twenty other seeds the
//! mean log-ratio (static over policy, of tokens per second above saturation, of the inverse of mean TPOT below) and its 95 %
//! upper limit are printed. Above 2 % the policy falls short. Progress goes to stderr.

// A command of its own: the table is its output, and it tells of its progress.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::process::Command;

use serde_json::Value;

/// A pool and the hardware it runs on.
struct Pool {
    name: &'static str,
    models: [&'static str; 3],
    hardware: &'static str,
    tensor_parallel: u32,
    /// α of (0,1), (0,2), (1,2).
    alphas: [f64; 3],
    prompt: &'static str,
    output: &'static str,
}

const POOLS: [Pool; 2] = [
    Pool {
        name: "H100, 8B",
        models: ["llama-68m", "llama-3.2-1b", "llama-3.1-8b"],
        hardware: "h100-sxm",
        tensor_parallel: 1,
        alphas: [0.62, 0.55, 0.80],
        prompt: "{lognormal: {median: 250, sigma: 0.7, max: 4000}}",
        output: "{lognormal: {median: 220, sigma: 0.6, max: 2000}}",
    },
    Pool {
        name: "A100 TP4, 70B",
        models: ["llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"],
        hardware: "a100-80g",
        tensor_parallel: 4,
        alphas: [0.75, 0.62, 0.80],
        prompt: "{lognormal: {median: 250, sigma: 0.7, max: 4000}}",
        output: "{lognormal: {median: 220, sigma: 0.6, max: 2000}}",
    },
];

const LOADS: [f64; 8] = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.2, 1.5];
const THREE_LEVEL: [[u32; 2]; 6] = [[1, 1], [2, 2], [2, 4], [3, 3], [3, 5], [4, 6]];

fn main() {
    let quick = std::env::args().any(|arg| arg == "QUICK");
    let (selection, held_out, requests) = if quick { (3, 4, 300) } else { (10, 20, 1000) };
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Shares of target-only capacity; {requests} requests a run, best static arm of {} picked on {selection} seeds, compared on {held_out} others.\n\
         Loss: mean log-ratio best static over specrouter, with the upper 95 % limit. Metric: mean TPOT below load 1, output tokens/s above.\n",
        statics(&POOLS[0]).len()
    );
    for pool in &POOLS {
        table(pool, selection, held_out, requests, &mut out);
    }
    print!("{out}");
}

fn table(pool: &Pool, selection: u32, held_out: u32, requests: u32, out: &mut String) {
    let _ = writeln!(out, "### {}\n", pool.name);
    let _ = writeln!(
        out,
        "| load | best static | static | specrouter | loss | upper 95 % | chains of specrouter | first 30 requests: loss |"
    );
    let _ = writeln!(out, "|--:|---|--:|--:|--:|--:|---|--:|");
    let statics = statics(pool);
    let picked = run(&scenario(pool, &statics, 1, selection, requests, &LOADS));
    for (index, &load) in LOADS.iter().enumerate() {
        let best = (0..statics.len())
            .max_by(|&a, &b| {
                mean(&picked, a, index, statics.len(), load).total_cmp(&mean(
                    &picked,
                    b,
                    index,
                    statics.len(),
                    load,
                ))
            })
            .expect("there are static arms");
        let pair = vec![statics[best].clone(), "specrouter: {scope: per_batch}".to_owned()];
        let tested = run(&scenario(pool, &pair, 101, held_out, requests, &LOADS));
        let (fixed, policy) = (values(&tested, 0, index, 2, load), values(&tested, 1, index, 2, load));
        let (loss, upper) = log_ratio(&fixed, &policy);
        let early = run(&scenario(pool, &pair, 101, held_out, 30, &LOADS));
        let (first, _) = log_ratio(&values(&early, 0, index, 2, load), &values(&early, 1, index, 2, load));
        let show = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            if load < 1.0 { format!("{:.2} ms", 1e3 / mean) } else { format!("{mean:.0} tok/s") }
        };
        let chains = chains(&tested["arms"][index * 2 + 1], &pool.models);
        let _ = writeln!(
            out,
            "| {load} | {} | {} | {} | {:+.2} % | {:+.2} % | {chains} | {:+.1} % |",
            label(&statics[best]),
            show(&fixed),
            show(&policy),
            100.0 * loss,
            100.0 * upper,
            100.0 * first
        );
        eprintln!("{} load {load}: {:+.2} % ({:+.2} %)", pool.name, 100.0 * loss, 100.0 * upper);
    }
    let _ = writeln!(out);
}

/// Off, windows of 1, 2, 4, 8 for each draft, six three-level chains.
fn statics(pool: &Pool) -> Vec<String> {
    let [low, middle, target] = pool.models;
    let mut arms = vec!["target_only".to_owned()];
    for draft in [low, middle] {
        for window in [1, 2, 4, 8] {
            arms.push(format!("static: {{chain: [{draft}, {target}], windows: [{window}]}}"));
        }
    }
    for [a, b] in THREE_LEVEL {
        arms.push(format!("static: {{chain: [{low}, {middle}, {target}], windows: [{a}, {b}]}}"));
    }
    arms
}

fn scenario(pool: &Pool, policies: &[String], seed: u32, seeds: u32, requests: u32, loads: &[f64]) -> String {
    let [low, middle, target] = pool.models;
    let [a01, a02, a12] = pool.alphas;
    let policies: String = policies.iter().map(|policy| format!("  - {policy}\n")).collect();
    format!(
        "seed: {seed}\npool: [{low}, {middle}, {target}]\nhardware: {}\ntensor_parallel: {}\nreplicas: 1\n\
         limits: {{max_running: 256, token_budget: 8192}}\n\
         workload:\n  requests: {requests}\n  arrivals: {{poisson: {{rate_per_s: 1}}}}\n  classes:\n    - {{name: chat, prompt_tokens: {}, output_tokens: {}}}\n\
         acceptance:\n  heterogeneous:\n    matrix: {{all: {{{low}: {{{middle}: {a01}, {target}: {a02}}}, {middle}: {{{target}: {a12}}}}}}}\n    request_spread: 0.08\n\
         sweep: {{load: {loads:?}}}\nseeds: {seeds}\noutput: {{tables: summary}}\npolicies:\n{policies}",
        pool.hardware, pool.tensor_parallel, pool.prompt, pool.output
    )
}

fn run(scenario: &str) -> Value {
    let folder = std::env::temp_dir().join(format!("specrouter-load-table-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be made");
    let file = folder.join("scenario.yaml");
    std::fs::write(&file, scenario).expect("the scenario can be written");
    // SPECROUTER names another build of the program, so that this one may be rebuilt meanwhile.
    let program = std::env::var("SPECROUTER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_specrouter").into());
    let result = Command::new(program)
        .args(["run", "--format", "json", "--quiet", "--out"])
        .arg(folder.join("out"))
        .arg(&file)
        .output()
        .expect("the program starts");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let summary = serde_json::from_slice(&result.stdout).expect("the summary is JSON");
    let _ = std::fs::remove_dir_all(&folder);
    summary
}

/// `a>b (w)` for `static: {chain: [a, b], windows: [w]}`.
fn label(arm: &str) -> String {
    let inside = |from: &str| arm.split(from).nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("");
    match inside("chain: [") {
        "" => arm.to_owned(),
        chain => format!("{} ({})", chain.replace(", ", " > "), inside("windows: [")),
    }
}

/// The metric of an arm at a load, more is better, seed by seed: tokens per second above
/// saturation, 1 / mean TPOT below.
fn values(summary: &Value, arm: usize, load_index: usize, arms: usize, load: f64) -> Vec<f64> {
    let seeds = summary["arms"][load_index * arms + arm]["seeds"].as_array().expect("an arm has seeds");
    let metric = |seed: &Value| {
        if load < 1.0 {
            1.0 / seed["tpot_s"]["mean"].as_f64().unwrap_or(f64::NAN)
        } else {
            seed["output_tokens_per_s"].as_f64().unwrap_or(f64::NAN)
        }
    };
    seeds.iter().map(metric).collect()
}

fn mean(summary: &Value, arm: usize, load_index: usize, arms: usize, load: f64) -> f64 {
    let values = values(summary, arm, load_index, arms, load);
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean log-ratio of a over b, and the upper end of its two-sided 95 % t interval.
fn log_ratio(a: &[f64], b: &[f64]) -> (f64, f64) {
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a / b).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // t quantiles at 97.5 %; 19 degrees of freedom for the full table, 3 for the quick one.
    let t = if logs.len() >= 20 { 2.093 } else { 3.182 };
    (mean, mean + t * (variance / n).sqrt())
}

/// Share of the target's verified tokens by what stood below it.
fn chains(arm: &Value, models: &[&str; 3]) -> String {
    let seed = &arm["seeds"][0];
    let length = seed["accepted_length"].as_f64().unwrap_or(f64::NAN);
    let passes = |model: &str| {
        let found = seed["models"].as_array().into_iter().flatten().find(|m| m["model"] == model);
        found.and_then(|m| m["passes"].as_f64()).unwrap_or(0.0)
    };
    let target = passes(models[2]).max(1.0);
    format!(
        "{length:.2} tokens/round; passes per target pass {:.2} / {:.2}",
        passes(models[0]) / target,
        passes(models[1]) / target
    )
}
