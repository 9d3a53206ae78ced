//! The pool: names to descriptions, and what a pool must be.

use std::path::Path;

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::profile::{ModelKind, ModelSpec};

use super::{Paths, ScenarioError, folder};
use crate::catalog;
use crate::yaml::Document;

/// Looks the pool's models up and checks that they can decode together.
///
/// # Errors
/// An unknown name or an unreadable file; no model, or too many; a name twice; a target that is no whole model;
/// vocabularies that differ; a head that does not stand below its own target.
pub(super) fn resolve(
    names: &[String],
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Vec<ModelSpec>, ScenarioError> {
    if names.is_empty() || names.len() > MAX_MODELS {
        return Err(document
            .error(
                "pool",
                format_args!("expected 1 to {MAX_MODELS} models, target last, got {}", names.len()),
            )
            .into());
    }
    let mut pool: Vec<ModelSpec> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let place = format!("pool[{index}]");
        let model = if catalog::is_path(name) {
            let path = paths.resolve(&place, Path::new(name));
            if path.is_dir() {
                folder::read(&path)
            } else {
                catalog::model_file(&path).map_err(ScenarioError::from)
            }
        } else {
            catalog::model(name).map_err(ScenarioError::from)
        }
        .map_err(|e| document.error(&place, e))?;
        if pool.iter().any(|other| other.name == model.name) {
            return Err(document
                .error(&place, format_args!("model {} stands in the pool twice", model.name))
                .into());
        }
        pool.push(model);
    }
    check(&pool).map_err(|(index, message)| document.error(&format!("pool[{index}]"), message))?;
    Ok(pool)
}

/// Can these models decode together?
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_pool(pool: &[ModelSpec]) -> Result<(), String> {
    check(pool).map_err(|(index, message)| format!("pool[{index}]: {message}"))
}

/// The index of the model at fault, and what is wrong.
fn check(pool: &[ModelSpec]) -> Result<(), (usize, String)> {
    let Some((target, below)) = pool.split_last() else { return Ok(()) };
    match &target.kind {
        ModelKind::Model => {}
        ModelKind::Head { .. } => {
            return Err((
                below.len(),
                format!(
                    "the last model is the target, and {} is a draft head: it cannot verify",
                    target.name
                ),
            ));
        }
        ModelKind::Ngram => {
            return Err((
                below.len(),
                format!(
                    "the last model is the target, and {} is an n-gram look-up: it cannot verify",
                    target.name
                ),
            ));
        }
    }
    for (index, model) in below.iter().enumerate() {
        // A look-up proposes whatever stands in the text: it has no vocabulary of its own.
        if model.kind != ModelKind::Ngram && !folder::same_vocabulary(model, target) {
            return Err((
                index,
                format!(
                    "the models of a pool share one vocabulary: {} is of family {}, the target {} of family {}",
                    model.name, model.family, target.name, target.family
                ),
            ));
        }
        if let ModelKind::Head { of } = &model.kind
            && !pool[index + 1..].iter().any(|above| above.name == *of)
        {
            return Err((
                index,
                format!("{} is a draft head of {of}, which must stand after it in the pool", model.name),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, kind: ModelKind, family: &str) -> ModelSpec {
        ModelSpec {
            name: name.into(),
            kind,
            family: family.into(),
            ..catalog::model("llama-3.2-1b").unwrap()
        }
    }

    #[test]
    fn a_pool_decodes_together_or_is_refused() {
        let head = |of: &str| ModelKind::Head { of: of.into() };
        let (a, b) = (spec("a", ModelKind::Model, "x"), spec("b", ModelKind::Model, "x"));
        let error =
            |pool: &[&ModelSpec]| check(&pool.iter().map(|&m| m.clone()).collect::<Vec<_>>()).unwrap_err().1;
        assert!(check(&[a.clone(), b.clone()]).is_ok());
        assert!(check(&[spec("n", ModelKind::Ngram, "any"), spec("h", head("b"), "x"), b.clone()]).is_ok());
        insta::assert_snapshot!(error(&[&spec("q", ModelKind::Model, "y"), &b]), @"the models of a pool share one vocabulary: q is of family y, the target b of family x");
        insta::assert_snapshot!(error(&[&a, &spec("h", head("a"), "x"), &b]), @"h is a draft head of a, which must stand after it in the pool");
        insta::assert_snapshot!(error(&[&a, &spec("h", head("a"), "x")]), @"the last model is the target, and h is a draft head: it cannot verify");
        insta::assert_snapshot!(error(&[&spec("n", ModelKind::Ngram, "x")]), @"the last model is the target, and n is an n-gram look-up: it cannot verify");
    }
}
