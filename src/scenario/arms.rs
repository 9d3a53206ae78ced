//! The arms of a scenario: its policies, each with the models it hosts.

use specrouter_routing::luck::{Draws, Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyError, PolicyPool};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{ModelKind, ModelSpec};

use super::{MOST_ARMS, ScenarioError};
use crate::yaml::Document;

/// A policy of the scenario.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What tells it from the others; unique.
    pub name: String,
    /// What builds its policy.
    pub decides: Decides,
    /// The models it hosts, as indices into the scenario's pool.
    pub members: Vec<usize>,
    /// Its text comes from another target: shown, never ranked.
    pub other_output: bool,
    /// One line for people; may be empty.
    pub label: &'static str,
}

/// Who decides in an arm.
#[derive(Clone, Debug)]
pub enum Decides {
    /// A policy, by its configuration.
    Policy(PolicyConfig),
    /// The reference that knows each request's future.
    Clairvoyant,
}

/// The policy of `config` over the pool's models at `members`, for one replica, with luck of its own. `classes` are the
/// workload's.
///
/// # Errors
/// [`PolicyError`]; [`super::resolve`] has met it before.
pub fn build(
    config: &PolicyConfig,
    pool: &[ModelSpec],
    members: &[usize],
    classes: &[String],
    max_block: u32,
    draws: Draws,
) -> Result<Box<dyn Policy>, PolicyError> {
    let members: Vec<ModelSpec> = members.iter().map(|&index| pool[index].clone()).collect();
    let names: Vec<String> = members.iter().map(|model| model.name.clone()).collect();
    let candidates = Candidates::of_pool(&members);
    config.build(&PolicyPool { names: &names, candidates, classes, max_block, draws })
}

/// Names every policy and builds it once, so that what is wrong with it is known before the run.
///
/// # Errors
/// No policy or too many, one twice, and whatever keeps one from being built.
pub(super) fn resolve(
    policies: &[PolicyConfig],
    pool: &[ModelSpec],
    classes: &[String],
    max_block: u32,
    document: &Document,
) -> Result<Vec<Arm>, ScenarioError> {
    if policies.is_empty() || policies.len() > MOST_ARMS {
        return Err(document
            .error("policies", format_args!("expected 1 to {MOST_ARMS} policies, got {}", policies.len()))
            .into());
    }
    let mut arms: Vec<Arm> = Vec::new();
    let draws = Luck::new(0).stream(Stream::Policy); // Any will do: nothing is run.
    for (index, policy) in policies.iter().enumerate() {
        let place = format!("policies[{index}]");
        if let Some(first) = policies[..index].iter().position(|other| other == policy) {
            return Err(document
                .error(&place, format_args!("the same policy stands at policies[{first}]"))
                .into());
        }
        let (members, other_output) = match policy {
            PolicyConfig::FixedModel(fixed) => {
                match pool.iter().position(|model| model.name == fixed.model) {
                    Some(member) if pool[member].kind != ModelKind::Model => {
                        let message = format!(
                            "{} cannot answer by itself: it is a draft head or a look-up",
                            fixed.model
                        );
                        return Err(document.error(&place, message).into());
                    }
                    // The target itself is `target_only` under another name.
                    Some(member) => (vec![member], member + 1 < pool.len()),
                    // The build below says so.
                    None => ((0..pool.len()).collect(), true),
                }
            }
            _ => ((0..pool.len()).collect(), false),
        };
        let label = policy.label();
        // Parameters that a label does not show tell these apart, so they are counted.
        let same = policies[..index].iter().filter(|other| other.label() == label).count();
        let name = if same == 0 { label } else { format!("{label} #{}", same + 1) };
        let label = if other_output { "other output" } else { "" };
        build(policy, pool, &members, classes, max_block, draws).map_err(|e| {
            let place = format!("{place}.{}.{}", policy.name(), e.parameter());
            document.error(&place, with_numbers(&e, pool))
        })?;
        arms.push(Arm { name, decides: Decides::Policy(policy.clone()), members, other_output, label });
    }
    Ok(arms)
}

/// A chain's error speaks of models by number: says which is which.
fn with_numbers(error: &PolicyError, pool: &[ModelSpec]) -> String {
    let text = error.to_string();
    match error.fault() {
        PolicyError::Chain { .. } if text.contains("model") => {
            let models: Vec<String> =
                pool.iter().enumerate().map(|(index, model)| format!("{index} {}", model.name)).collect();
            format!("{text} (models: {})", models.join(", "))
        }
        _ => text,
    }
}
