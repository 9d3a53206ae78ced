//! `docs/write-a-policy.md` says what is so: its scenarios and policies are read, its quick commands run
//! and print the rows that it shows, its Rust stands in files that are compiled.

use std::path::Path;
use std::process::Command;

use crate::program::Folder;

/// Its fenced blocks: what stands behind the fence, and the lines.
fn blocks() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/write-a-policy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, content))) => *content += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "every block is closed");
    blocks
}

fn of(language: &str) -> Vec<String> {
    blocks().into_iter().filter(|block| block.0 == language).map(|block| block.1).collect()
}

/// A folder with the files that the guide has its reader save: the scenario, and the league with an entrant more.
fn folder() -> Folder {
    let yaml = of("yaml");
    let named = |name: &str| yaml.iter().find(|block| block.starts_with(&format!("# {name}"))).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/league.yaml");
    let league = std::fs::read_to_string(shipped).unwrap() + named("my-league.yaml");
    Folder::new().with("mine.yaml", named("mine.yaml")).with("my-league.yaml", league)
}

/// The scenario with other policies.
fn with_policies(policies: &str) -> String {
    let scenario = of("yaml").into_iter().find(|block| block.starts_with("# mine.yaml")).unwrap();
    let (before, after) = scenario.split_once("policies:\n").unwrap();
    let rest = &after[after.find("\nseeds:").unwrap()..];
    let indented: String = policies.lines().map(|line| format!("  {line}\n")).collect();
    format!("{before}policies:\n{indented}{rest}")
}

#[test]
fn every_policy_and_scenario_of_the_guide_is_read() {
    let (mut scenarios, mut policies) = (0, 0);
    for block in of("yaml") {
        let text = match block.starts_with("- ") {
            true => with_policies(&block),
            false if block.starts_with("# my-league.yaml") => continue, // Below.
            false => block.clone(),
        };
        Folder::new().with("s.yaml", text).ok(&["run", "s.yaml", "--dry-run"]);
        *if block.starts_with("- ") { &mut policies } else { &mut scenarios } += 1;
    }
    assert_eq!((scenarios, policies), (1, 1));
}

/// The entrant's policies are read in every cell before any runs; a window that is none stops it there.
#[test]
fn the_guide_s_entrant_of_the_league_is_read() {
    let league = include_str!("../scenarios/league.yaml");
    let shipped = league.split_once("\npolicies:\n").unwrap().1.matches("\n  - name: ").count() + 1;
    let (folder, index) = (folder(), shipped); // The guide's comes after them.
    let set = format!("policies.{index}.tune.1.decision_table.rules.1.windows=[0]");
    let refused = folder.run(&["run", "my-league.yaml", "--set", &set]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("decision_table.rules[1].windows"), "{error}");
}

/// Commands with what the guide shows of their output.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for block in of("console") {
        let joined = block.replace("\\\n", " ");
        for line in joined.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), Vec::new())),
                None => commands.last_mut().unwrap().1.push(line.to_owned()),
            }
        }
    }
    commands
}

/// What of a line does not change with the machine's or the project's progress: the words before its columns.
fn beginning(line: &str) -> &str {
    line.split("  ").next().unwrap_or("").split('…').next().unwrap_or("").trim()
}

#[test]
fn quick_commands_of_the_guide_run_and_print_its_rows() {
    let clone = env!("CARGO_MANIFEST_DIR");
    let folder = folder();
    let mut run = 0;
    for (command, shown) in commands() {
        // A comment behind a command says why it is not for here: it takes long, or the reader has changed the library.
        let Some(arguments) = command.strip_prefix("cargo run --release -- ").filter(|c| !c.contains('#'))
        else {
            continue;
        };
        if arguments.contains("last_round") {
            continue;
        }
        let line =
            format!("\"$SPECROUTER\" {}", arguments.replace("traces/data", &format!("{clone}/traces/data")));
        let output = Command::new("sh")
            .args(["-c", &line])
            .env("SPECROUTER", env!("CARGO_BIN_EXE_specrouter"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let fails = shown.iter().any(|line| line.starts_with("error: "));
        assert_eq!(output.status.success(), !fails, "{command}: {error}");
        for line in shown.iter().map(|line| beginning(line)).filter(|line| !line.is_empty()) {
            let said = out.lines().chain(error.lines()).any(|said| said.trim_start().starts_with(line));
            assert!(said, "{command} prints no more: {line}\n{out}{error}");
        }
        run += 1;
    }
    assert_eq!(run, 3, "a scenario, an error and a replay");
}

#[test]
fn the_rust_of_the_guide_is_compiled_somewhere() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let compiled = [read("sim/examples/own_policy.rs"), read("routing/src/policies/last_round.rs")];
    let blocks = of("rust");
    assert!(blocks.len() >= 5);
    for block in blocks {
        assert!(compiled.iter().any(|file| file.contains(&block)), "no file has\n{block}");
    }
}
