use proptest::prelude::*;

use super::*;
use crate::luck::{Luck, Stream};
use crate::policies::{PolicyConfig, PolicyPool};
use crate::policy::price::Candidates;

/// What building a table's JSON over small, medium, large and the classes chat and code says.
fn build(table: &str) -> Result<(), PolicyError> {
    let config: PolicyConfig = serde_json::from_str(&format!(r#"{{"decision_table": {table}}}"#)).unwrap();
    let (names, classes) =
        (["small", "medium", "large"].map(String::from), ["chat", "code"].map(String::from));
    let draws = Luck::new(1).stream(Stream::Policy);
    let candidates = Candidates::all(3);
    let pool = PolicyPool { names: &names, candidates, classes: &classes, max_block: 32, draws };
    config.build(&pool).map(|_| ())
}

/// Rules with these conditions, all with the same chain.
fn rules(conditions: &[&str]) -> Result<(), PolicyError> {
    let rule =
        |when: &&str| format!(r#"{{"when": {{{when}}}, "chain": ["small", "large"], "windows": [2]}}"#);
    let rules: Vec<String> = conditions.iter().map(rule).collect();
    build(&format!(r#"{{"rules": [{}]}}"#, rules.join(", ")))
}

/// The place and the message of what is wrong.
#[track_caller]
fn refused(result: Result<(), PolicyError>) -> String {
    let error = result.unwrap_err();
    format!("{}: {error}", error.parameter())
}

#[test]
fn a_bad_table_is_refused_with_its_place() {
    insta::assert_snapshot!(refused(build(r#"{"rules": []}"#)), @"rules: policy decision_table: rules must be 1 to 256 rules, got 0");
    insta::assert_snapshot!(refused(rules(&[r#""batch_at_most": 4"#, r#""class": "cod""#])), @"rules[1].when.class: policy decision_table: class cod is not in the workload (chat, code)");
    insta::assert_snapshot!(refused(rules(&[r#""batch_at_least": 9, "batch_at_most": 8"#])), @"rules[0].when.batch_at_most: policy decision_table: batch_at_most must be its _at_least or more, got 8");
    insta::assert_snapshot!(refused(rules(&[r#""batch_at_most": 0"#])), @"rules[0].when.batch_at_most: policy decision_table: batch_at_most must be at least 1: this sequence is counted, got 0");
    insta::assert_snapshot!(refused(rules(&[r#""acceptance_at_least": 0.6, "acceptance_at_most": 0.5"#])), @"rules[0].when.acceptance_at_most: policy decision_table: acceptance_at_most must be its _at_least or more, got 0.5");
    insta::assert_snapshot!(refused(build(r#"{"rules": [{"when": {"acceptance_at_most": 0.2}, "chain": ["large"]}]}"#)), @"rules[0].when.acceptance_at_most: policy decision_table: acceptance_at_most must be left out of a rule whose chain has no drafter, got 0.2");
    insta::assert_snapshot!(refused(build(r#"{"rules": [{"chain": ["tiny", "large"], "windows": [2]}]}"#)), @"rules[0].chain: policy decision_table: model tiny is not in the pool (small, medium, large)");
    insta::assert_snapshot!(refused(build(r#"{"rules": [{"chain": ["small", "large"], "windows": [2, 2]}]}"#)), @"rules[0].windows: policy decision_table: a chain of 2 needs 1 windows, got 2");
    insta::assert_snapshot!(refused(build(r#"{"rules": [{"when": {"class": "code"}, "chain": ["large"]}], "otherwise": {"chain": ["small"]}}"#)), @"otherwise.chain: policy decision_table: a chain ends in the target, model 2; got models [0]");
}

#[test]
fn a_rule_that_can_never_be_reached_is_refused() {
    insta::assert_snapshot!(refused(rules(&["", r#""class": "code""#])), @"rules[1].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {class: code}");
    insta::assert_snapshot!(refused(rules(&[r#""batch_at_most": 16"#, r#""class": "code", "batch_at_most": 8"#])), @"rules[1].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {class: code, batch_at_most: 8}");
    // Together those before take all of it, each of them a part.
    insta::assert_snapshot!(refused(rules(&[r#""batch_at_most": 16"#, r#""batch_at_least": 17, "class": "code""#, r#""class": "code", "context_at_most": 100"#])), @"rules[2].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {class: code, context_at_most: 100}");
    insta::assert_snapshot!(refused(rules(&[r#""class": "chat""#, r#""class": "code""#, ""])), @"rules[2].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {}");
    insta::assert_snapshot!(refused(rules(&[r#""acceptance_at_least": 0.5"#, r#""acceptance_at_most": 0.5"#, r#""queue_at_least": 3"#])), @"rules[2].when: policy decision_table: when must be met by some sequence that no rule before it takes, got {queue_at_least: 3}");
    let all = r#"{"chain": ["small", "large"], "windows": [2]}"#;
    insta::assert_snapshot!(refused(build(&format!(r#"{{"rules": [{all}], "otherwise": {{"chain": ["large"]}}}}"#))), @"otherwise: policy decision_table: otherwise must be left out where the rules take every sequence, got large");
    // One batch size is left between them.
    rules(&[r#""batch_at_most": 16"#, r#""batch_at_least": 18"#, ""]).unwrap();
    // Another pair's acceptance is another number.
    let two = r#"[{"when": {"acceptance_at_least": 0.5}, "chain": ["small", "large"], "windows": [2]},
        {"when": {"acceptance_at_least": 0.6}, "chain": ["medium", "large"], "windows": [2]}]"#;
    build(&format!(r#"{{"rules": {two}}}"#)).unwrap();
}

#[test]
fn a_table_is_called_what_it_says_or_by_its_size() {
    let label = |more: &str| {
        let rule = r#"{"chain": ["small", "large"], "windows": [2]}"#;
        let text = format!(r#"{{"decision_table": {{"rules": [{rule}]{more}}}}}"#);
        serde_json::from_str::<PolicyConfig>(&text).unwrap().label()
    };
    assert_eq!(label(""), "decision_table of 1 rule");
    assert_eq!(label(r#", "name": "night shift""#), "decision_table night shift");
}

#[test]
fn bounds_are_wider_for_the_rule_that_a_sequence_has() {
    let bounds = rule::Bounds { least: 10.0, most: 20.0 };
    let rule = Rule {
        class: None,
        counts: [bounds; 4],
        acceptance: None,
        chain: ChainPlan::target_only(ModelId(0)),
    };
    let fits = |count, slack| rule.fits(ClassId(0), &[count; 4], slack, |_| 0.0);
    assert!(fits(10.0, 0.0) && fits(20.0, 0.0) && !fits(9.0, 0.0) && !fits(21.0, 0.0));
    assert!(fits(9.0, 0.1) && fits(22.0, 0.1) && !fits(8.0, 0.1) && !fits(23.0, 0.1));
}

fn beliefs(half_life: f64) -> Beliefs {
    let text = format!(r#"{{"rules": [], "half_life": {half_life}, "forget_passes": 100}}"#);
    Beliefs::new(&serde_json::from_str(&text).unwrap(), vec![(ModelId(0), ModelId(2))], 2)
}

fn row(class: u16, drafted: u8, accepted: u8, committed: u8) -> RowReport {
    RowReport {
        slot: crate::ids::Slot(0),
        request: crate::ids::RequestId(0),
        class: ClassId(class),
        drafter: ModelId(0),
        verifier: ModelId(2),
        drafted,
        accepted,
        examined: 0,
        similarity: 0.0,
        committed,
    }
}

#[test]
fn acceptance_is_a_class_s_own_knows_censoring_and_is_forgotten() {
    let mut beliefs = beliefs(1e6);
    let acceptance = |b: &Beliefs, class, tick| b.acceptance(ClassId(class), 0, tick);
    assert!((acceptance(&beliefs, 0, 0) - 0.7).abs() < 1e-9, "the initial one");
    for tick in 0..200 {
        // Four of five kept, whatever the window: three rounds kept whole, one stopped at its second.
        beliefs.learn(&if tick % 2 == 0 { row(0, 3, 3, 4) } else { row(0, 4, 1, 2) }, tick);
    }
    // 16 positions of 0.7 and 500 of 0.8.
    assert!((acceptance(&beliefs, 0, 200) - 411.2 / 516.0).abs() < 1e-3);
    assert!((acceptance(&beliefs, 1, 200) - 0.7).abs() < 1e-9, "nothing was seen of the other class");
    assert!((acceptance(&beliefs, 0, 300) - 0.7).abs() < 1e-9, "nor lately of this one");
    beliefs.learn(&row(0, 4, 0, 1), 400);
    assert!((acceptance(&beliefs, 0, 400) - 11.2 / 17.0).abs() < 1e-3, "it begins anew");
    let before = acceptance(&beliefs, 0, 401);
    beliefs.learn(&row(0, 4, 0, 0), 401); // No verdict of the target: a rejection, by any count.
    assert!(acceptance(&beliefs, 0, 401) < before);
    beliefs.learn(&row(7, 4, 1, 2), 401); // A class that the workload does not have.
    let ends = acceptance(&beliefs, 1, 401);
    beliefs.learn(&row(1, 4, 2, 2), 402);
    assert!(acceptance(&beliefs, 1, 402) > ends, "an output that ended in its draft was not rejected");
}

proptest! { // What `shadowed` says of a table is what trying every sequence says.
    #[test]
    fn a_rule_is_shadowed_where_no_sequence_finds_it(
        boxes in prop::collection::vec(
            (0u16..3, 1u32..5, 0u32..4, 1u32..5, 0u32..4, 0u32..4, 0u32..4), 1..7,
        ),
    ) {
        let open = |value: u32| if value >= 4 { f64::INFINITY } else { f64::from(value) };
        let range = |from: u32, more: u32| rule::Bounds { least: f64::from(from), most: open(from + more) };
        let all = rule::Bounds { least: 0.0, most: f64::INFINITY };
        let rules: Vec<Rule> = boxes
            .iter()
            .map(|&(class, a, b, c, d, e, f)| Rule {
                class: (class < 2).then_some(ClassId(class)),
                counts: [range(a, b), range(c, d), all, all],
                acceptance: (e < 3).then(|| {
                    (0, rule::Bounds { least: f64::from(e) / 4.0, most: f64::from((e + f).min(4)) / 4.0 })
                }),
                chain: ChainPlan::target_only(ModelId(0)),
            })
            .collect();
        let mut found = vec![false; rules.len() + 1];
        for class in 0..2 {
            for (batch, context) in (1..=8).flat_map(|b| (1..=8).map(move |c| (f64::from(b), f64::from(c)))) {
                for eighth in 0..=8 {
                    let counts = [batch, context, 0.0, 0.0];
                    let fits = |rule: &Rule| rule.fits(ClassId(class), &counts, 0.0, |_| f64::from(eighth) / 8.0);
                    found[rules.iter().position(fits).unwrap_or(rules.len())] = true;
                }
            }
        }
        let unfound = found[..rules.len()].iter().position(|found| !found);
        prop_assert_eq!(reach::shadowed(&rules, 2, 1), unfound);
        prop_assert_eq!(reach::complete(&rules, 2, 1), !found[rules.len()]);
    }
}
