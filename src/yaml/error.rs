//! Why a YAML file is refused: where, what was expected, what came.

use super::node::Place;

/// A YAML file, or a `--set`, that is refused. The user's fault.
///
/// Printed as `file:line:column: path: what was expected, what came`, or as
/// `in --set path=value: ...` when the value came from the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct YamlError {
    place: String,
    message: String,
}

impl YamlError {
    /// About the file as a whole.
    pub(super) fn whole(name: &str, message: impl Into<String>) -> Self {
        Self { place: name.to_owned(), message: message.into() }
    }

    /// About a line.
    pub(super) fn on_line(name: &str, line: usize, message: impl Into<String>) -> Self {
        Self { place: format!("{name}:{line}"), message: message.into() }
    }

    /// About a place in the text.
    pub(super) fn at(name: &str, place: Place, message: impl Into<String>) -> Self {
        Self::placed(name, place, &[], message)
    }

    /// About a place; `sets` are the `--set` arguments that a place may name.
    pub(super) fn placed(name: &str, place: Place, sets: &[String], message: impl Into<String>) -> Self {
        let place = match place {
            Place::Text { line, column } => format!("{name}:{line}:{column}"),
            Place::Set(index) => {
                sets.get(index).map_or_else(|| name.to_owned(), |set| format!("in --set {set}"))
            }
        };
        Self { place, message: message.into() }
    }

    /// About a `--set` itself.
    pub(super) fn set(set: &str, message: impl Into<String>) -> Self {
        Self { place: format!("in --set {set}"), message: message.into() }
    }
}
