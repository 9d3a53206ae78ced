//! Broken scenarios and workload files: each error names file, place, what was expected and what
//! came; exit code 2; never a panic. What can be read is read.

use std::process::Output;

use crate::program::{Folder, SCENARIO, edited};

/// The error of a run that is refused: one line on stderr, nothing on stdout, exit code 2.
#[track_caller]
fn error(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "results are on stdout, errors are not");
    let line = stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("an error, got {stderr}"));
    assert_eq!(line.trim_end().lines().count(), 1, "printed once: {line}");
    line.trim_end().to_owned()
}

#[track_caller]
fn run(scenario: impl AsRef<[u8]>, args: &[&str]) -> Output {
    let folder = Folder::new().with("s.yaml", scenario);
    folder.run(&[&["run", "s.yaml", "--dry-run"], args].concat())
}

/// The error of a scenario.
#[track_caller]
fn refused(scenario: impl AsRef<[u8]>) -> String {
    error(&run(scenario, &[]))
}

/// The error of the scenario with one edit.
#[track_caller]
fn edit(from: &str, to: &str) -> String {
    refused(edited(from, to))
}

/// The error of the scenario with one `--set`.
#[track_caller]
fn set(set: &str) -> String {
    error(&run(SCENARIO, &["--set", set]))
}

/// The run of the scenario with this workload file.
#[track_caller]
fn with_file(name: &str, content: impl AsRef<[u8]>) -> Output {
    let workload = format!("workload:\n  file: {name}\n");
    let start = SCENARIO.find("workload:").unwrap();
    let end = SCENARIO.find("acceptance:").unwrap();
    let scenario = format!("{}{workload}{}", &SCENARIO[..start], &SCENARIO[end..]);
    Folder::new().with("s.yaml", scenario).with(name, content).run(&["run", "s.yaml", "--dry-run"])
}

/// The error of this workload file.
#[track_caller]
fn file(name: &str, content: impl AsRef<[u8]>) -> String {
    error(&with_file(name, content))
}

#[test]
fn the_scenario_itself_is_read() {
    let output = run(SCENARIO, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_no_scenario_is_refused() {
    insta::assert_snapshot!(error(&Folder::new().run(&["run", "gone.yaml", "--dry-run"])), @"cannot read scenario gone.yaml: No such file or directory (os error 2)");
    insta::assert_snapshot!(error(&Folder::new().run(&["run", "quikstart", "--dry-run"])), @"unknown scenario `quikstart`; did you mean `quickstart`?");
    insta::assert_snapshot!(error(&Folder::new().with("folder.yaml/x", "").run(&["run", "folder.yaml", "--dry-run"])), @"cannot read scenario folder.yaml: Is a directory (os error 21)");
    insta::assert_snapshot!(refused(""), @"s.yaml: expected a map of fields, got an empty file");
    insta::assert_snapshot!(refused("# only a comment\n"), @"s.yaml: expected a map of fields, got an empty file");
    insta::assert_snapshot!(refused([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]), @"s.yaml:1: expected text, got control character U+007F at offset 0");
    insta::assert_snapshot!(refused(b"seed: 7\npool: [\xff\xfe]\n"), @"s.yaml:2: expected UTF-8 text, got byte 0xff at offset 15");
    insta::assert_snapshot!(refused("just words"), @"s.yaml:1:1: expected a map of fields, got `just words`");
    insta::assert_snapshot!(refused("- a\n- list\n"), @"s.yaml:1:1: expected a map of fields, got a list");
    insta::assert_snapshot!(refused(format!("{SCENARIO}---\nseed: 8\n")), @"s.yaml:24:1: expected one document, got a second (`---`)");
    insta::assert_snapshot!(refused(&SCENARIO[..SCENARIO.find("h100-sxm").unwrap()]), @"s.yaml:2:1: missing field `workload`");
    insta::assert_snapshot!(refused("x".repeat(2 << 20)), @"s.yaml: a YAML file has at most 1048576 bytes, got 1048577");
}

#[test]
fn yaml_that_is_broken_or_hostile_is_refused() {
    insta::assert_snapshot!(edit("pool: [llama-68m,", "pool: [llama-68m"), @"s.yaml:3:8: pool[0]: unknown model `llama-68m llama-3.2-1b`; known: eagle-llama-3.1-8b, eagle3-llama-3.1-70b, llama-2-13b, llama-2-70b, llama-2-7b, llama-3.1-405b, llama-3.1-70b, llama-3.1-8b, llama-3.2-1b, llama-3.2-3b, llama-68m, ngram, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-32b, qwen2.5-72b, qwen2.5-7b, qwen3-0.6b, qwen3-1.7b, qwen3-32b, qwen3-4b, qwen3-8b");
    insta::assert_snapshot!(edit("replicas: 2", "\treplicas: 2"), @"s.yaml:4:11: not YAML: while scanning a plain scalar, found a tab");
    insta::assert_snapshot!(edit("slo: {ttft_ms: 500, tpot_ms: 30}", "slo: {ttft_ms: 500, tpot_ms: 30"), @"s.yaml:19:9: not YAML: while parsing a flow mapping, did not find expected ',' or '}'");
    insta::assert_snapshot!(edit("replicas: 2", "seed: 8"), @"s.yaml:5:1: field `seed` is given twice, first in line 2");
    insta::assert_snapshot!(edit("replicas: 2", "replicas: *none"), @"s.yaml:5:11: not YAML: while parsing node, found unknown anchor");
    insta::assert_snapshot!(edit("replicas: 2", "replicas: !!python/object:os.system 2"), @"s.yaml:5:11: tags are not read here, got `tag:yaml.org,2002:!python/object:os.system`");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    insta::assert_snapshot!(refused(format!("{bomb}{SCENARIO}")), @"s.yaml:6:1: a YAML file has at most 100000 values");
    insta::assert_snapshot!(edit("seed: 7", &format!("seed: {}{}", "[".repeat(100), "]".repeat(100))), @"s.yaml:2:69: lists and maps nest at most 64 levels deep");
}

#[test]
fn fields_that_are_not_known_name_the_nearest() {
    insta::assert_snapshot!(edit("policies:", "polcies:"), @"s.yaml:19:1: unknown field `polcies`; did you mean `policies`?");
    insta::assert_snapshot!(edit("requests: 40", "reqests: 40"), @"s.yaml:7:3: workload: unknown field `reqests`; did you mean `requests`?");
    insta::assert_snapshot!(edit("weight: 0.4", "wieght: 0.4"), @"s.yaml:11:20: workload.classes[1]: unknown field `wieght`; did you mean `weight`?");
    insta::assert_snapshot!(edit("gamma: {", "gama: {"), @"s.yaml:8:14: workload.arrivals: unknown name `gama`; did you mean `gamma`?");
    insta::assert_snapshot!(edit("- target_only", "- target_onyl"), @"s.yaml:20:5: policies[0]: unknown name `target_onyl`; did you mean `target_only`?");
    insta::assert_snapshot!(edit("tables: summary", "tables: everything"), @"s.yaml:23:18: output.tables: unknown name `everything`; known: summary, requests, full");
    insta::assert_snapshot!(edit("windows: [4]", "widnows: [4]"), @"s.yaml:21:48: policies[1].static: unknown field `widnows`; did you mean `windows`?");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\ndispatcher: least_loadde"), @"s.yaml:23:13: dispatcher: unknown name `least_loadde`; did you mean `least_loaded`?");
    insta::assert_snapshot!(edit("pool: [llama-68m, llama-3.2-1b, llama-3.1-8b]\n", ""), @"s.yaml:2:1: missing field `pool`");
    insta::assert_snapshot!(edit("hardware: h100-sxm\n", ""), @"s.yaml:2:1: hardware is missing: `run` simulates and must know what passes cost; a scenario with `engine` is for `specrouter record`");
    insta::assert_snapshot!(edit("  - target_only\n", "  - target_only: {window: 3}\n"), @"s.yaml:20:18: policies[0].target_only: `target_only` has no fields: write it alone");
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    insta::assert_snapshot!(edit("ttft_ms: 500", "ttft_ms: 500ms"), @"s.yaml:18:16: slo.ttft_ms: expected a number, got `500ms`");
    insta::assert_snapshot!(edit("rate_per_s: 12", "rate_per_s: .nan"), @"s.yaml:8:34: workload.arrivals.gamma.rate_per_s: value must be a finite number above 0, got NaN");
    insta::assert_snapshot!(edit("rate_per_s: 12", "rate_per_s: -12"), @"s.yaml:8:34: workload.arrivals.gamma.rate_per_s: value must be a finite number above 0, got -12");
    insta::assert_snapshot!(edit("rate_per_s: 12", "rate_per_s: .inf"), @"s.yaml:8:34: workload.arrivals.gamma.rate_per_s: value must be a finite number above 0, got inf");
    insta::assert_snapshot!(edit("rate_per_s: 12", "rate_per_s: 1e12"), @"s.yaml:8:34: workload.arrivals.gamma.rate_per_s: expected 0.000001 to 1e9 requests/s (time is in nanoseconds), got 1000000000000");
    insta::assert_snapshot!(edit("cv: 1.5", "cv: 0"), @"s.yaml:8:42: workload.arrivals.gamma.cv: value must be a finite number above 0, got 0");
    insta::assert_snapshot!(edit("requests: 40", "requests: 1000000000000"), @"s.yaml:7:13: workload.requests: expected 1 to 100000000 (ids, records and run time are sized for that many), got 1000000000000");
    insta::assert_snapshot!(edit("requests: 40", "requests: 0"), @"s.yaml:7:13: workload.requests: expected 1 to 100000000 (ids, records and run time are sized for that many), got 0");
    insta::assert_snapshot!(edit("requests: 40", "requests: 1.5"), @"s.yaml:7:13: workload.requests: expected a whole number from 0 to 2^64 - 1, got `1.5`");
    insta::assert_snapshot!(edit("output_tokens: {constant: 20}", "output_tokens: {constant: 0}"), @"s.yaml:11:91: workload.classes[1].output_tokens.constant: expected 1 to 16777216 tokens, got 0");
    insta::assert_snapshot!(edit("weight: 0.6", "weight: -0.6"), @"s.yaml:10:28: workload.classes[0].weight: value must be a finite number, 0 or above, got -0.6");
    insta::assert_snapshot!(edit("name: code", "name: chat"), @"s.yaml:11:14: workload.classes[1].name: expected a name of its own for every class, got `chat` twice");
    insta::assert_snapshot!(edit("llama-3.1-8b: 0.75", "llama-3.1-8b: 1.75"), @"s.yaml:17:38: acceptance.heterogeneous.matrix.all.llama-3.2-1b.llama-3.1-8b: probability must be between 0 and 1, got 1.75");
    insta::assert_snapshot!(edit("replicas: 2", "replicas: 0"), @"s.yaml:5:11: replicas: expected 1 to 65536, got 0");
    insta::assert_snapshot!(edit("replicas: 2", "replicas: -1"), @"s.yaml:5:11: replicas: expected a whole number from 0 to 4294967295, got `-1`");
    insta::assert_snapshot!(edit("seed: 7", "seed: 18446744073709551615"), @"s.yaml:2:7: seed: expected room for 2 seeds above it, got 18446744073709551615");
    insta::assert_snapshot!(edit("seed: 7", "seed: 18446744073709551616"), @"s.yaml:2:7: seed: expected a whole number from 0 to 2^64 - 1, got `18446744073709551616`");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 0"), @"s.yaml:22:8: seeds: expected 1 to 10000, got 0");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nlimits: {block_size: 17}"), @"s.yaml:23:22: limits.block_size: block_size must be a power of two between 1 and 1024 tokens, got 17");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nlimits: {max_block: 33}"), @"s.yaml:23:21: limits.max_block must be between 1 and 32, got 33");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nlimits: {kv_tokens: 3}"), @"s.yaml:23:21: limits.kv_tokens: KV memory must hold at least one block of 16 tokens, got 3 tokens");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nsampling: {top_p: 0}"), @"s.yaml:23:19: sampling.top_p: expected a share above 0 and at most 1, got 0");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nverify: greedy\nsampling: {temperature: 0.8}"), @"s.yaml:24:25: sampling.temperature: `verify: greedy` samples at temperature 0, got 0.8");
    insta::assert_snapshot!(edit("seeds: 2", "seeds: 2\nsweep: {load: [0.5, 0.2]}"), @"s.yaml:23:15: sweep.load: expected rising loads, at most 100, got [0.5, 0.2]");
}

#[test]
fn pools_that_cannot_decode_together_are_refused() {
    let pool = "pool: [llama-68m, llama-3.2-1b, llama-3.1-8b]";
    insta::assert_snapshot!(edit(pool, "pool: [llama-68m, llama-3.2-1b, llama-3.1-8bb]"), @"s.yaml:3:33: pool[2]: unknown model `llama-3.1-8bb`; did you mean `llama-3.1-8b`?");
    insta::assert_snapshot!(edit(pool, "pool: [qwen3-0.6b, llama-3.2-1b, llama-3.1-8b]"), @"s.yaml:3:8: pool[0]: the models of a pool share one vocabulary: qwen3-0.6b is of family qwen3, the target llama-3.1-8b of family llama-3");
    insta::assert_snapshot!(edit(pool, "pool: [llama-68m, llama-3.1-8b, llama-3.1-8b]"), @"s.yaml:3:33: pool[2]: model llama-3.1-8b stands in the pool twice");
    insta::assert_snapshot!(edit(pool, "pool: []"), @"s.yaml:3:7: pool: expected 1 to 8 models, target last, got 0");
    insta::assert_snapshot!(edit(pool, "pool: [llama-3.1-8b, eagle-llama-3.1-8b]"), @"s.yaml:3:22: pool[1]: the last model is the target, and eagle-llama-3.1-8b is a draft head: it cannot verify");
    insta::assert_snapshot!(edit(pool, "pool: [eagle-llama-3.1-8b, llama-3.2-1b]"), @"s.yaml:3:8: pool[0]: eagle-llama-3.1-8b is a draft head of llama-3.1-8b, which must stand after it in the pool");
    insta::assert_snapshot!(edit(pool, "pool: [llama-68m, llama-3.2-1b, llama-3.1-70b]"), @"s.yaml:4:11: hardware: model llama-3.1-70b is too large for h100-sxm: the weights of the pool need 144.0 GB on each device at tensor_parallel 1, there are 72.0 GB (90 % of its memory); use more tensor_parallel, smaller models or larger devices");
    insta::assert_snapshot!(edit("replicas: 2", "tensor_parallel: 5"), @"s.yaml:5:18: tensor_parallel must be at least 1 and divide the 12 attention heads of model llama-68m, got 5");
    insta::assert_snapshot!(edit("h100-sxm", "h100"), @"s.yaml:4:11: hardware: unknown hardware `h100`; did you mean `h100-sxm`?");
    insta::assert_snapshot!(edit("h100-sxm", "{table: gone.csv}"), @"s.yaml:4:19: hardware.table: gone.csv: No such file or directory (os error 2)");
    insta::assert_snapshot!(edit("h100-sxm", "{linear: [{pass_s: 0.01}]}"), @"s.yaml:4:20: hardware.linear: expected terms for each of the pool's 3 models, in its order, got 1");
    insta::assert_snapshot!(edit("h100-sxm", "{linear: [{pass_s: 0.01}, {pass_s: 0.02}, {pass_s: 0}]}"), @"s.yaml:4:62: hardware.linear[2].pass_s: value must be a finite number above 0, got 0");
    insta::assert_snapshot!(edit("h100-sxm", "{linear: [{pass_s: 0.01}, {pass_s: 0.02}, {pass_s: 0.1}]}"), @"s.yaml:2:1: profile: hardware given as a table or linear terms has no data sheet: say what policies know, e.g. the same again");
}

#[test]
fn cost_tables_that_are_none_are_refused() {
    let table = |content: &str| {
        let scenario = edited("h100-sxm", "{table: t.csv}");
        error(&Folder::new().with("s.yaml", scenario).with("t.csv", content).run(&[
            "run",
            "s.yaml",
            "--dry-run",
        ]))
    };
    insta::assert_snapshot!(table(""), @"s.yaml:4:19: hardware.table: t.csv: line 1: expected the heading model,rows,new_tokens,context_tokens,seconds, got ``");
    insta::assert_snapshot!(table("model,rows,new_tokens,context_tokens,seconds\nllama-68m,1,1,0\n"), @"s.yaml:4:19: hardware.table: t.csv: line 2: expected 5 columns, got 4");
    insta::assert_snapshot!(table("model,rows,new_tokens,context_tokens,seconds\nllama-68m,1,1,0,fast\n"), @"s.yaml:4:19: hardware.table: t.csv: line 2: seconds: expected a number, got `fast`");
    insta::assert_snapshot!(table("model,rows,new_tokens,context_tokens,seconds\nllama-68m,1,1,0,0.001\n"), @"s.yaml:4:19: hardware.table: t.csv: cost table: no rows for model llama-3.2-1b; it has rows for llama-68m");
}

#[test]
fn acceptance_that_no_models_have_is_refused() {
    insta::assert_snapshot!(edit("llama-3.1-8b: 0.5}", "llama-3.1-8b: 0.05}"), @"s.yaml:15:7: acceptance.heterogeneous.matrix.chat: no distributions of llama-68m, llama-3.1-8b and llama-3.2-1b have these acceptances: llama-3.1-8b rejects llama-68m at 0.9500, which may be at most 0.4000 + 0.2500 by way of llama-3.2-1b");
    insta::assert_snapshot!(edit("        llama-3.2-1b: {llama-3.1-8b: 0.75}\n", ""), @"s.yaml:16:9: acceptance.heterogeneous.matrix.all: llama-3.2-1b under llama-3.1-8b is missing; given under llama-3.2-1b are none");
    insta::assert_snapshot!(edit("        llama-3.2-1b: {llama-3.1-8b: 0.75}\n", "        qwen3-8b: {llama-3.1-8b: 0.75}\n"), @"s.yaml:16:9: acceptance.heterogeneous.matrix.all: qwen3-8b is no model of the pool; the pool has llama-68m, llama-3.2-1b, llama-3.1-8b");
    insta::assert_snapshot!(edit("      all:\n", "      talk:\n"), @"s.yaml:15:7: acceptance.heterogeneous.matrix: talk is no request class; there are chat, code (or `all`)");
    insta::assert_snapshot!(edit("    matrix:\n", "    request_spread: 0.9\n    matrix:\n"), @"s.yaml:14:21: acceptance.heterogeneous.request_spread must be at most 0.3477 with the matrix of class chat, got 0.9");
}

#[test]
fn a_decision_table_that_cannot_be_meant_is_refused_with_its_place() {
    let chain = "chain: [llama-68m, llama-3.1-8b], windows: [4]";
    let table =
        |rules: &str| edit(&format!("static: {{{chain}}}"), &format!("decision_table: {{rules: [{rules}]}}"));
    insta::assert_snapshot!(table(&format!("{{when: {{class: math}}, {chain}}}")), @"s.yaml:21:45: policies[1].decision_table.rules[0].when.class: policy decision_table: class math is not in the workload (chat, code)");
    insta::assert_snapshot!(table(&format!("{{when: {{clas: chat}}, {chain}}}")), @"s.yaml:21:38: policies[1].decision_table.rules[0].when: unknown field `clas`; did you mean `class`?");
    insta::assert_snapshot!(table(&format!("{{when: {{acceptance_at_least: 1.5}}, {chain}}}")), @"s.yaml:21:59: policies[1].decision_table.rules[0].when.acceptance_at_least: probability must be between 0 and 1, got 1.5");
    insta::assert_snapshot!(table(&format!("{{when: {{batch_at_least: 5, batch_at_most: 4}}, {chain}}}")), @"s.yaml:21:72: policies[1].decision_table.rules[0].when.batch_at_most: policy decision_table: batch_at_most must be its _at_least or more, got 4");
    insta::assert_snapshot!(table(&format!("{{when: {{class: chat}}, {chain}}}, {{{chain}}}, {{when: {{queue_at_most: 3}}, chain: [llama-3.1-8b]}}")), @"s.yaml:21:158: policies[1].decision_table.rules[2].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {queue_at_most: 3}");
    insta::assert_snapshot!(table("{chain: [llama-3.1-8b, llama-68m], windows: [4]}"), @"s.yaml:21:38: policies[1].decision_table.rules[0].chain: policy decision_table: a chain follows the pool's order, cheapest first, each model once; got models [2, 0] (models: 0 llama-68m, 1 llama-3.2-1b, 2 llama-3.1-8b)");
}

#[test]
fn policies_that_cannot_be_built_are_refused() {
    let windows = "{chain: [llama-68m, llama-3.1-8b], windows: [4]}";
    insta::assert_snapshot!(edit(windows, "{chain: [llama-68m, llama-3.2-1b], windows: [4]}"), @"s.yaml:21:21: policies[1].static.chain: policy static: a chain ends in the target, model 2; got models [0, 1] (models: 0 llama-68m, 1 llama-3.2-1b, 2 llama-3.1-8b)");
    insta::assert_snapshot!(edit(windows, "{chain: [llama-68m, llama-3.1-8b], windows: [0]}"), @"s.yaml:21:57: policies[1].static.windows: policy static: windows must each be at least 1 and add up to at most 32, got [0]");
    insta::assert_snapshot!(edit(windows, "{chain: [llama-68m, llama-3.1-8b], windows: [40]}"), @"s.yaml:21:57: policies[1].static.windows: policy static: windows must each be at least 1 and add up to at most 32, got [40]");
    insta::assert_snapshot!(edit(windows, "{chain: [llama-68m, llama-3.1-8b], windows: [4, 4]}"), @"s.yaml:21:57: policies[1].static.windows: policy static: a chain of 2 needs 1 windows, got 2");
    insta::assert_snapshot!(edit(windows, "{chain: [llama-3.1-8b, llama-68m], windows: [4]}"), @"s.yaml:21:21: policies[1].static.chain: policy static: a chain follows the pool's order, cheapest first, each model once; got models [2, 0] (models: 0 llama-68m, 1 llama-3.2-1b, 2 llama-3.1-8b)");
    insta::assert_snapshot!(edit(windows, "{chain: [qwen3-0.6b, llama-3.1-8b], windows: [4]}"), @"s.yaml:21:21: policies[1].static.chain: policy static: model qwen3-0.6b is not in the pool (llama-68m, llama-3.2-1b, llama-3.1-8b)");
    insta::assert_snapshot!(edit(&format!("static: {windows}"), "target_only"), @"s.yaml:21:5: policies[1]: the same policy stands at policies[0]");
    insta::assert_snapshot!(edit(&format!("  - target_only\n  - static: {windows}\n"), "  []\n"), @"s.yaml:20:3: policies: expected 1 to 256 policies, got 0");
}

#[test]
fn a_set_that_fits_nowhere_is_refused() {
    insta::assert_snapshot!(set("worklod.requests=5"), @"in --set worklod.requests=5: unknown field `worklod`; did you mean `workload`?");
    insta::assert_snapshot!(set("workload.requets=5"), @"in --set workload.requets=5: workload: unknown field `requets`; did you mean `requests`?");
    insta::assert_snapshot!(set("workload.requests=abc"), @"in --set workload.requests=abc: workload.requests: expected a whole number from 0 to 2^64 - 1, got `abc`");
    insta::assert_snapshot!(set("workload.requests=-1"), @"in --set workload.requests=-1: workload.requests: expected a whole number from 0 to 2^64 - 1, got `-1`");
    insta::assert_snapshot!(set("policies.7=specrouter"), @"in --set policies.7=specrouter: policies is a list of 2: expected an index below 2, got 7");
    insta::assert_snapshot!(set("policies.first=specrouter"), @"in --set policies.first=specrouter: policies is a list of 2: expected an index, got `first`");
    insta::assert_snapshot!(set("policies.1.static.windows=[0]"), @"in --set policies.1.static.windows=[0]: policies[1].static.windows: policy static: windows must each be at least 1 and add up to at most 32, got [0]");
    insta::assert_snapshot!(set("replicas.count=2"), @"in --set replicas.count=2: replicas is `2`, which has no field `count`");
    insta::assert_snapshot!(set("replicas"), @"in --set replicas: expected path=value, got no `=`");
    insta::assert_snapshot!(set("=2"), @"in --set =2: expected a path such as workload.requests before the `=`, got an empty name");
    insta::assert_snapshot!(set("seed=[1"), @"in --set seed=[1: value:2:1: not YAML: while parsing a flow sequence, expected ',' or ']'");
    insta::assert_snapshot!(set("pool.2=llama-3.1-405b"), @"s.yaml:4:11: hardware: model llama-3.1-405b is too large for h100-sxm: the weights of the pool need 814.6 GB on each device at tensor_parallel 1, there are 72.0 GB (90 % of its memory); use more tensor_parallel, smaller models or larger devices");
    insta::assert_snapshot!(set("tensor_parallel=3"), @"in --set tensor_parallel=3: tensor_parallel must be at least 1 and divide the 32 attention heads of model llama-3.2-1b, got 3");
    insta::assert_snapshot!(set("workload.file=gone.csv"), @"workload file gone.csv: expected a readable file, got: No such file or directory (os error 2)");
}

#[test]
fn workload_files_that_are_none_are_refused() {
    insta::assert_snapshot!(file("t.csv", ""), @"workload file t.csv: expected the first line of a known format: TIMESTAMP,ContextTokens,GeneratedTokens (azure_csv); client,window_start_s,rate_rps,cv,dist,shape,scale_s (servegen); input_tokens,output_tokens (lengths_csv); arrival_s,prompt_tokens,output_tokens (csv); or a JSON object (mooncake_jsonl), got an empty file");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n"), @"workload file t.csv: expected at least one row after the header, got none");
    insta::assert_snapshot!(file("t.csv", "when,what\n1,2\n"), @"workload file t.csv, line 1: expected the first line of a known format: TIMESTAMP,ContextTokens,GeneratedTokens (azure_csv); client,window_start_s,rate_rps,cv,dist,shape,scale_s (servegen); input_tokens,output_tokens (lengths_csv); arrival_s,prompt_tokens,output_tokens (csv); or a JSON object (mooncake_jsonl), got `when,what`");
    insta::assert_snapshot!(file("t.csv", [0x1f, 0x8b, 0, 1, 2, 3]), @"workload file t.csv: expected to read on after line 0, got: unexpected end of file");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,10\n"), @"workload file t.csv, line 3: expected 3 fields (arrival_s,prompt_tokens,output_tokens), got 2 in `1,10`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,10,0\n"), @"workload file t.csv, line 3, column output_tokens: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n0,0,5\n"), @"workload file t.csv, line 2, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\nnan,10,5\n"), @"workload file t.csv, line 2, column arrival_s: expected a finite number of seconds, 0 or more and under 584 years, got `nan`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n-1,10,5\n"), @"workload file t.csv, line 2, column arrival_s: expected a finite number of seconds, 0 or more and under 584 years, got `-1`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n0,10,1000000000000\n"), @"workload file t.csv, line 2, column output_tokens: expected a whole number of tokens, 1 to 16777216, got `1000000000000`");
    insta::assert_snapshot!(file("t.csv", "arrival_s,prompt_tokens,output_tokens\n0,ten,5\n"), @"workload file t.csv, line 2, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got `ten`");
    insta::assert_snapshot!(file("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,39"), @"workload file t.csv, line 3: expected 3 fields (TIMESTAMP,ContextTokens,GeneratedTokens), got 2 in `2023-11-16 18:15:50.9951690,39`");
    insta::assert_snapshot!(file("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,374,44\n"), @"workload file t.csv, line 2, column TIMESTAMP: expected a time like 2023-11-16 18:17:03.9799600, got `yesterday`");
    insta::assert_snapshot!(file("t.jsonl", "{\"timestamp\": 0, \"input_length\": 10, \"output_length\": 5, \"hash_ids\": []}\n{\"timestamp\": 1, \"input_le"), @"workload file t.jsonl, line 2, character 26: expected a JSON object with timestamp, input_length and output_length, got: EOF while parsing a string");
    insta::assert_snapshot!(file("t.jsonl", "{\"timestamp\": 0, \"input_length\": 10, \"hash_ids\": []}\n"), @"workload file t.jsonl, line 1, character 52: expected a JSON object with timestamp, input_length and output_length, got: missing field `output_length`");
    insta::assert_snapshot!(file("t.jsonl", "{\"timestamp\": 0, \"input_length\": 10, \"output_length\": 0, \"hash_ids\": []}\n"), @"workload file t.jsonl, line 1, column output_length: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(file("t.csv", "input_tokens,output_tokens\n42,285\n"), @"s.yaml:7:3: workload.arrivals is missing: the file holds lengths only");
}

#[test]
fn what_can_be_read_is_read() {
    let readable = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = readable(run(SCENARIO, &[]));
    assert_eq!(readable(run(SCENARIO.replace('\n', "\r\n"), &[])), plain, "CRLF");
    assert_eq!(readable(run(format!("\u{feff}{SCENARIO}"), &[])), plain, "byte order mark");
    let rows = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n2,20,5\n4,30,5\n";
    let read = readable(with_file("t.csv", rows));
    assert_eq!(readable(with_file("t.csv", rows.replace('\n', "\r\n"))), read, "CRLF");
    assert_eq!(readable(with_file("t.csv", format!("\u{feff}{rows}"))), read, "byte order mark");
    assert_eq!(readable(with_file("t.csv", rows.trim_end())), read, "no last line break");
    let swapped =
        readable(with_file("t.csv", "arrival_s,prompt_tokens,output_tokens\n2,20,5\n0,10,5\n4,30,5\n"));
    assert!(swapped.contains("order"), "rows out of order are read, and it is said: {swapped}");
    assert!(swapped.contains("3 over 4"), "as many requests over the same time: {swapped}");
}
