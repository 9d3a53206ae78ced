//! Tidiness is a test: who may depend on whom, under which licence, and what no library may do.
//! (Architecture: the floors and the nevers.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// The package graph of every platform and feature.
static GRAPH: LazyLock<Metadata> = LazyLock::new(|| {
    let manifest = root().join("Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .exec()
        .expect("cargo metadata describes the workspace")
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The workspace's own packages by short name; the root is `specrouter`.
fn members() -> BTreeMap<String, &'static Package> {
    let short = |p: &Package| p.name.strip_prefix("specrouter-").unwrap_or(&p.name).to_owned();
    GRAPH.workspace_packages().into_iter().map(|p| (short(p), p)).collect()
}

/// Names of the packages that `package` states, of any kind but development.
fn direct(package: &Package) -> BTreeSet<String> {
    let shipped = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
    shipped.map(|d| d.name.clone()).collect()
}

#[test]
fn no_arrow_between_floors_runs_the_wrong_way() {
    let routing = || BTreeSet::from(["routing".to_owned()]);
    let floors = BTreeMap::from([
        ("routing", BTreeSet::new()),
        ("sim", routing()),
        ("engine", routing()),
        ("traces", routing()),
        ("reports", routing()),
        ("specrouter", ["routing", "sim", "engine", "traces", "reports"].map(str::to_owned).into()),
    ]);
    let members = members();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        floors.keys().copied().collect::<Vec<_>>()
    );
    for (name, package) in &members {
        // Development included: a crate that tests itself with a sibling leans on it.
        let stated = package.dependencies.iter().filter_map(|d| d.name.strip_prefix("specrouter-"));
        let siblings: BTreeSet<String> = stated.map(str::to_owned).collect();
        assert_eq!(siblings, floors[name.as_str()], "workspace dependencies of {name}");
    }
}

#[test]
fn heavy_dependencies_have_one_home() {
    // A name ending in * stands for every package whose name begins so.
    const HOMES: [(&str, &[&str]); 20] = [
        ("polars*", &["traces"]),
        ("parquet*", &["traces"]),
        ("arrow*", &["traces"]),
        ("plotters*", &["reports"]),
        ("candle*", &["engine"]),
        ("tokenizers", &["engine"]),
        ("safetensors", &["engine"]),
        ("hf-hub", &["engine"]),
        ("rayon", &["engine"]),
        ("clap*", &["specrouter"]),
        ("serde_yaml", &["specrouter"]),
        ("saphyr*", &["specrouter"]),
        ("indicatif", &["specrouter"]),
        ("anyhow", &["specrouter"]),
        ("ctrlc", &["specrouter"]),
        ("include_dir", &["specrouter"]),
        ("flate2", &["specrouter"]),
        ("rand_distr", &["routing", "sim"]),
        ("rand", &["routing", "sim", "engine"]),
        ("statrs", &["engine", "reports", "traces"]),
    ];
    for (name, package) in members() {
        for dependency in direct(package) {
            for (pattern, homes) in HOMES {
                let meant = match pattern.strip_suffix('*') {
                    Some(beginning) => dependency.starts_with(beginning),
                    None => dependency == pattern,
                };
                assert!(
                    !meant || homes.contains(&name.as_str()),
                    "{dependency} lives in {homes:?}, and {name} states it"
                );
            }
        }
    }
}

#[test]
fn every_shipped_dependency_has_a_licence_that_permits() {
    let resolve = GRAPH.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&PackageId> = GRAPH.workspace_members.iter().collect();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id) {
            continue;
        }
        let shipped = |kinds: &[cargo_metadata::DepKindInfo]| {
            kinds.iter().any(|k| k.kind != DependencyKind::Development)
        };
        waiting.extend(nodes[id].deps.iter().filter(|dep| shipped(&dep.dep_kinds)).map(|dep| &dep.pkg));
    }
    assert!(reached.len() > 50, "the graph has its hundreds of packages, not {}", reached.len());
    let mut refused = Vec::new();
    for id in reached {
        let package = &GRAPH[id];
        match package.license.as_deref().map(permits) {
            Some(Ok(true)) => {}
            other => refused
                .push(format!("{} {}: {:?} ({other:?})", package.name, package.version, package.license)),
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Licences that ask for no more than their text beside the binary.
const PERMISSIVE: [&str; 17] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Does an SPDX expression leave a choice that [`PERMISSIVE`] grants: OR by either side, AND by
/// both; AND binds tighter, WITH tightest. The old `A/B` means OR.
fn permits(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let granted = either(&words, &mut at)?;
    if at == words.len() { Ok(granted) } else { Err(format!("unexpected {:?}", words[at])) }
}

fn either(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let mut granted = both(words, at)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        granted |= both(words, at)?;
    }
    Ok(granted)
}

fn both(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let mut granted = one(words, at)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        granted &= one(words, at)?;
    }
    Ok(granted)
}

fn one(words: &[&str], at: &mut usize) -> Result<bool, String> {
    let word = *words.get(*at).ok_or("unexpected end")?;
    *at += 1;
    match word {
        "(" => {
            let granted = either(words, at)?;
            if words.get(*at) != Some(&")") {
                return Err("unclosed (".to_owned());
            }
            *at += 1;
            Ok(granted)
        }
        ")" | "AND" | "OR" | "WITH" => Err(format!("unexpected {word:?}")),
        id if words.get(*at) == Some(&"WITH") => {
            let exception = *words.get(*at + 1).ok_or("unexpected end")?;
            *at += 2;
            Ok(PERMISSIVE.contains(&format!("{id} WITH {exception}").as_str()))
        }
        id => Ok(PERMISSIVE.contains(&id)),
    }
}

#[test]
fn licence_expressions_mean_what_spdx_says() {
    for yes in [
        "MIT",
        "MIT/Apache-2.0",
        "MIT OR GPL-3.0-only",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "GPL-3.0-only OR MIT AND ISC",
        "Apache-2.0 WITH LLVM-exception",
        "((MIT))",
    ] {
        assert_eq!(permits(yes), Ok(true), "{yes}");
    }
    for no in [
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR Apache-2.0) AND LGPL-2.1-or-later",
        "MIT WITH LLVM-exception",
        "GPL-3.0-only AND MIT OR LGPL-3.0-only",
        "mit",
        "LicenseRef-ours",
    ] {
        assert_eq!(permits(no), Ok(false), "{no}");
    }
    for bad in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "OR MIT", "MIT WITH"] {
        assert!(permits(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_shipped_binary_has_no_network_stack() {
    // `cargo tree` knows which features are on; the graph above has what could be.
    let tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", "specrouter"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).expect("package names are UTF-8");
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains("specrouter-routing") && names.len() > 50, "{names:?}");
    const NETWORK: [&str; 17] = [
        "aws-lc-rs",
        "boring",
        "curl",
        "h2",
        "hf-hub",
        "hyper",
        "isahc",
        "native-tls",
        "object_store",
        "openssl",
        "openssl-sys",
        "quinn",
        "reqwest",
        "ring",
        "rustls",
        "ureq",
        "webpki-roots",
    ];
    let found: Vec<_> = NETWORK.into_iter().filter(|name| names.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Every `.rs` file under `folder`, sorted.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in
            fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.expect("a readable folder"))
        {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a source that are shipped: without comments, and without what stands in or after a
/// test module.
fn shipped(path: &Path) -> Vec<(usize, String)> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    if name == "tests"
        || name.ends_with("_tests")
        || path.components().any(|part| part.as_os_str() == "tests")
    {
        return Vec::new();
    }
    let text = fs::read_to_string(path).expect("a source is UTF-8");
    shipped_lines(&text)
}

fn shipped_lines(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let opens_tests = |at: usize| {
        lines[at] == "#[cfg(test)]"
            && lines[at + 1..]
                .iter()
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod "))
    };
    let end = (0..lines.len()).find(|&at| opens_tests(at)).unwrap_or(lines.len());
    let code = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    lines[..end]
        .iter()
        .enumerate()
        .map(|(at, line)| (at + 1, code(line)))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// Does `line` hold `word` with no letter, digit or underscore at either side.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.chars().next_back().is_some_and(inside) && !after.chars().next().is_some_and(inside)
    })
}

#[test]
fn no_library_does_what_only_the_command_may() {
    const CLOCK: &[&str] = &["Instant::now", "SystemTime", "UNIX_EPOCH", "time::Instant", "thread::sleep"];
    const HASHED: &[&str] = &["HashMap", "HashSet", "RandomState", "DefaultHasher"];
    const SAYS: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!", "stdout()", "stderr()"];
    const ENDS: &[&str] =
        &["process::exit", "process::abort", "std::env", "env::var", "current_dir", "set_var"];
    let rules: [(&str, &[&[&str]]); 5] = [
        ("routing", &[CLOCK, HASHED, SAYS, ENDS]),
        ("sim", &[CLOCK, HASHED, SAYS, ENDS]),
        ("traces", &[CLOCK, SAYS, ENDS]),
        ("reports", &[CLOCK, SAYS, ENDS]),
        ("engine", &[CLOCK, SAYS, ENDS]),
    ];
    let mut broken = Vec::new();
    for (home, rules) in rules {
        let files = sources(&root().join(home).join("src"));
        assert!(!files.is_empty(), "{home} has sources");
        for path in files.iter().filter(|path| !path.ends_with("engine/src/stopwatch.rs")) {
            for (number, line) in shipped(path) {
                for word in rules.iter().copied().flatten().filter(|word| has_word(&line, word)) {
                    let name = path.strip_prefix(root()).unwrap_or(path).display();
                    broken.push(format!("{name}:{number}: {word}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_search_sees_code_and_neither_comments_nor_tests() {
    let text = "use a; // println!\n/// HashMap\nlet x = print_stdout!(1);\n#[cfg(test)]\nfn helper() { dbg!(1) }\n\
                #[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nprintln!()\n";
    let lines = shipped_lines(text);
    assert_eq!(lines.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert!(lines.iter().any(|(_, line)| has_word(line, "dbg!")));
    assert!(!lines.iter().any(|(_, line)| has_word(line, "println!") || has_word(line, "HashMap")));
    assert!(!has_word("eprintln!()", "println!") && has_word("{println!()", "println!"));
}

/// The policies that ship get what a user's policy gets: the contract, the words, the arithmetic.
#[test]
fn policies_stand_on_the_public_contract_alone() {
    const ALLOWED: &[&str] =
        &["chain", "estimate", "ids", "luck", "policies", "policy", "profile", "record", "slo", "units"];
    let mut found = 0;
    for path in sources(&root().join("routing/src/policies")) {
        for (number, line) in shipped(&path) {
            for after in line.split("crate::").skip(1) {
                let module = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
                found += 1;
                assert!(
                    ALLOWED.contains(&module),
                    "{}:{number}: a policy imports crate::{module}, which a user's policy cannot see",
                    path.display()
                );
            }
        }
    }
    assert!(found > 20, "the search found {found} imports");
}

#[test]
fn no_source_outgrows_its_reader() {
    const MOST_LINES: usize = 600;
    // (file, why it may be longer)
    const LONGER: [(&str, &str); 0] = [];
    let mut long = Vec::new();
    for folder in ["src", "tests", "benches", "routing", "sim", "engine", "traces", "reports"] {
        for path in sources(&root().join(folder)) {
            let lines = fs::read_to_string(&path).expect("a source is UTF-8").lines().count();
            let excused = LONGER.iter().any(|(name, reason)| path.ends_with(name) && !reason.is_empty());
            if lines > MOST_LINES && !excused {
                long.push(format!("{}: {lines} lines", path.strip_prefix(root()).unwrap_or(&path).display()));
            }
        }
    }
    assert!(long.is_empty(), "more than {MOST_LINES} lines: {long:#?}");
}
