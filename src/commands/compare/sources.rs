//! Where arms come from: what was typed, looked up and resolved.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use specrouter_reports::{Kind, StudyArm};
use specrouter_routing::workload::Workload;

use super::recorded;
use crate::args::CompareArgs;
use crate::commands::run::workloads;
use crate::failure::Failure;
use crate::scenario::{self, Arm, Asked, Scenario, resolve_replay};
use crate::{catalog, nearest, trace, yaml};

/// What a replay's source begins with.
const REPLAY: &str = "replay:";

/// One argument, resolved.
pub struct Source {
    /// The source as it was typed, without its policy.
    pub typed: String,
    /// What it holds.
    pub what: What,
}

/// What a source holds.
pub enum What {
    /// Something to simulate.
    Run(Box<Runs>),
    /// Something that ran.
    Recorded(Vec<StudyArm>),
}

/// A scenario to simulate: as it is written, or made of a trace.
pub struct Runs {
    /// The scenario with the arms that were asked for; nothing is written while it runs.
    pub scenario: Scenario,
    /// Whether it is a replay, and whether there is luck in it.
    pub kind: Kind,
    /// What arms must share to have met the same requests and luck, the load aside.
    pub group: String,
}

impl Runs {
    /// Its workload at every load, each with what tells it from others.
    ///
    /// # Errors
    /// As of a run's sweep.
    pub fn workloads(&self, stop: &AtomicBool) -> Result<Vec<(Option<f64>, Workload, String)>, Failure> {
        let all = workloads(&self.scenario, stop)?;
        let named = |(load, workload): (Option<f64>, Workload)| {
            // The rate that a load comes to is told by how long its requests take to arrive.
            let group = format!("{} {:?}", self.group, workload.size());
            (load, workload, group)
        };
        Ok(all.into_iter().map(named).collect())
    }
}

/// Resolves every argument. What recordings leave out is put into `notes`.
///
/// # Errors
/// A source that is none of the three, a policy that it does not have, and whatever keeps it from running.
pub fn resolve(args: &CompareArgs, notes: &mut Vec<String>) -> anyhow::Result<Vec<Source>> {
    let one = |typed: &String| {
        let (place, policy) = match typed.split_once('#') {
            Some((place, policy)) => (place, Some(policy.trim()).filter(|policy| !policy.is_empty())),
            None => (typed.as_str(), None),
        };
        let what = if let Some(folder) = place.strip_prefix(REPLAY) {
            replayed(Path::new(folder), policy, args, notes)
        } else if !catalog::scenario_names().contains(&place) && Path::new(place).is_dir() {
            recorded::read(Path::new(place), policy, notes).map(What::Recorded)
        } else {
            simulated(place, policy, args)
        };
        Ok(Source { typed: place.to_owned(), what: what.with_context(|| format!("arm {typed}"))? })
    };
    args.arms.iter().map(one).collect()
}

/// The policies of the command line as an override.
fn policies(of: &[String]) -> Option<String> {
    (!of.is_empty()).then(|| format!("policies=[{}]", of.join(", ")))
}

fn simulated(place: &str, policy: Option<&str>, args: &CompareArgs) -> anyhow::Result<What> {
    let mut sets = args.sets.clone();
    sets.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    sets.extend(policies(&args.policies));
    let mut scenario = scenario::resolve(place, &sets)?;
    if let Some(wanted) = policy
        && !keep(&mut scenario.arms, wanted)
    {
        let known: Vec<String> = scenario.arms.iter().map(|arm| arm.name.clone()).collect();
        sets.push(format!("policies=[{wanted}]"));
        scenario = scenario::resolve(place, &sets).with_context(|| unknown(wanted, &known))?;
    }
    scenario.raw.output.tables = Some(scenario::Tables::Summary);
    let text = yaml::to_text(&scenario.raw.workload)?;
    let group = format!("{text} {:?} {}", scenario.slo, scenario.limits.context);
    Ok(What::Run(Box::new(Runs { scenario, kind: Kind::Simulated, group })))
}

fn replayed(
    folder: &Path,
    policy: Option<&str>,
    args: &CompareArgs,
    notes: &mut Vec<String>,
) -> anyhow::Result<What> {
    let trace = trace::open_one_of(folder)?;
    let certain = trace.run().decoding.by_agreement();
    let asked = Asked {
        policies: &args.policies,
        seeds: args.seeds.filter(|_| !certain),
        sets: &args.sets,
        ..Asked::default()
    };
    let mut scenario = resolve_replay(&trace, &asked)?.scenario;
    if let Some(wanted) = policy
        && !keep(&mut scenario.arms, wanted)
    {
        let known: Vec<String> = scenario.arms.iter().map(|arm| arm.name.clone()).collect();
        let own = [wanted.to_owned()];
        let asked = Asked { policies: &own, ..asked };
        scenario = resolve_replay(&trace, &asked).with_context(|| unknown(wanted, &known))?.scenario;
    }
    let said = scenario.workload.notes().iter().map(|note| format!("{}: {note}", folder.display()));
    for note in said {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    let group = format!("replay of {} with {:?}", trace.folder().display(), args.sets);
    let kind = if certain { Kind::Fact } else { Kind::Replayed };
    Ok(What::Run(Box::new(Runs { scenario, kind, group })))
}

/// Keeps the arms that `wanted` names; false, and all of them, when it names none.
fn keep(arms: &mut Vec<Arm>, wanted: &str) -> bool {
    let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
    let kept = named(&names, wanted);
    let mut index = 0;
    let any = kept.contains(&true);
    if any {
        arms.retain(|_| {
            index += 1;
            kept[index - 1]
        });
    }
    any
}

/// Which of the arms `wanted` names: that of this very name, else all of this policy, whatever its parameters.
pub fn named(arms: &[&str], wanted: &str) -> Vec<bool> {
    match arms.contains(&wanted) {
        true => arms.iter().map(|arm| *arm == wanted).collect(),
        false => arms.iter().map(|arm| arm.split_whitespace().next() == Some(wanted)).collect(),
    }
}

/// What to say of a policy that is not there.
pub fn unknown(wanted: &str, known: &[String]) -> String {
    let near = nearest::hint(wanted, known.iter().map(String::as_str));
    format!("`{wanted}` names no arm of this source{near}")
}

/// Tells arms apart: by policy where all come from one source, else by source and policy; the same one again gets a
/// number. Sources go by their last name where that tells them apart.
pub fn names(arms: &[(String, String)]) -> Vec<String> {
    let one = arms.windows(2).all(|pair| pair[0].0 == pair[1].0);
    let mut names: Vec<String> = Vec::with_capacity(arms.len());
    for (source, policy) in arms {
        let clash = arms.iter().any(|(other, _)| other != source && short(other) == short(source));
        let shown = if clash { source.clone() } else { short(source) };
        let name = if one { policy.clone() } else { format!("{shown}#{policy}") };
        let again = (2..).map(|n| format!("{name} ({n})"));
        let mut free = std::iter::once(name.clone()).chain(again).filter(|name| !names.contains(name));
        names.push(free.next().expect("numbers do not end"));
    }
    names
}

/// `replay:greedy` of `replay:traces/data/greedy/`.
pub fn short(source: &str) -> String {
    let (replay, place) = source.strip_prefix(REPLAY).map_or(("", source), |place| (REPLAY, place));
    let name = Path::new(place).file_name().map_or(place.into(), |name| name.to_string_lossy());
    let stem = [".yaml", ".yml"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    format!("{replay}{stem}")
}

/// The arm that `wanted` means among these `(source, policy)` and their names.
///
/// # Errors
/// None of them, or several.
pub fn baseline(wanted: Option<&str>, arms: &[(String, String)], names: &[String]) -> anyhow::Result<usize> {
    let Some(wanted) = wanted else { return Ok(0) };
    if let Some(index) = names.iter().position(|name| name == wanted) {
        return Ok(index);
    }
    let full = |(source, policy): &(String, String)| format!("{source}#{policy}") == wanted;
    let policies: Vec<&str> = arms.iter().map(|(_, policy)| policy.as_str()).collect();
    let kept = named(&policies, wanted);
    let found: Vec<usize> = (0..arms.len()).filter(|&index| kept[index] || full(&arms[index])).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => bail!("--baseline {}", unknown(wanted, names)),
        several => {
            let several: Vec<&str> = several.iter().map(|&index| names[index].as_str()).collect();
            bail!("--baseline {wanted}: expected one arm, got {}", several.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(source: &str, policy: &str) -> (String, String) {
        (source.into(), policy.into())
    }

    #[test]
    fn arms_of_one_source_go_by_their_policy_and_others_by_both() {
        assert_eq!(names(&[arm("s", "a"), arm("s", "b"), arm("s", "a")]), ["a", "b", "a (2)"]);
        assert_eq!(names(&[arm("s", "a"), arm("t", "a")]), ["s#a", "t#a"]);
        let long = [arm("replay:x/greedy/", "a"), arm("x/greedy", "a"), arm("x/s.yaml", "a")];
        assert_eq!(names(&long), ["replay:greedy#a", "greedy#a", "s#a"]);
        assert_eq!(names(&[arm("x/s", "a"), arm("y/s", "a")]), ["x/s#a", "y/s#a"]);
    }

    #[test]
    fn a_policy_is_named_by_its_label_or_by_its_kind() {
        let arms = ["static a>b (2)", "static a>b (4)", "target_only"];
        assert_eq!(named(&arms, "static a>b (4)"), [false, true, false]);
        assert_eq!(named(&arms, "static"), [true, true, false]);
        assert_eq!(named(&arms, "specrouter"), [false, false, false]);
    }

    #[test]
    fn a_baseline_that_is_none_or_several_is_named() {
        let arms = [arm("s", "a"), arm("t", "a"), arm("t", "b (4)")];
        let names = names(&arms);
        let of = |wanted| baseline(wanted, &arms, &names);
        assert_eq!((of(None).unwrap(), of(Some("t#a")).unwrap(), of(Some("b")).unwrap()), (0, 1, 2));
        insta::assert_snapshot!(of(Some("a")).unwrap_err(), @"--baseline a: expected one arm, got s#a, t#a");
        insta::assert_snapshot!(of(Some("c")).unwrap_err(), @"--baseline `c` names no arm of this source; known: s#a, t#a, t#b (4)");
    }
}
