//! `--set path=value`: a value from the command line takes the place of one in the text.

use super::node::{self, Key, Meaning, Node, Place, Scalar, Value};
use super::{YamlError, shown};

/// Writes the value of `set` (`path=value`, the `index`-th of the command line) into the tree.
///
/// A field that the text leaves out is added: whether there is such a field is found when the tree is
/// read, which names the nearest one.
///
/// # Errors
/// No `=`, an empty path, a value that is no YAML, a list index out of range, a path through a scalar.
pub(super) fn apply(root: &mut Node, set: &str, index: usize) -> Result<(), YamlError> {
    let refuse = |message: String| YamlError::set(set, message);
    let Some((path, text)) = set.split_once('=') else {
        return Err(refuse("expected path=value, got no `=`".into()));
    };
    let place = Place::Set(index);
    let value = if text.trim().is_empty() {
        null(place)
    } else {
        node::parse("value", text)
            .or_else(|e| if matches!(text.trim(), "null" | "~") { Ok(null(place)) } else { Err(e) })
            .map_err(|e| refuse(e.to_string()))?
            .placed(place)
    };
    put(root, path, place, value).map_err(refuse)
}

/// Puts `value` where `path` leads from `root`; what the path must make on its way was written at `place`.
///
/// # Errors
/// What is wrong with the path.
pub(super) fn put(root: &mut Node, path: &str, place: Place, value: Node) -> Result<(), String> {
    // `policies[0].static` and `policies.0.static` are the same path.
    let path = path.replace('[', ".").replace(']', "");
    let segments: Vec<&str> = path.trim().split('.').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err("expected a path such as workload.requests before the `=`, got an empty name".into());
    }
    let mut at = root;
    for (depth, segment) in segments.iter().enumerate() {
        at = child(at, segment, place)
            .map_err(|message| format!("{} {message}", shown(&segments[..depth])))?;
    }
    *at = value;
    Ok(())
}

fn null(place: Place) -> Node {
    Node { place, value: Value::Scalar(Scalar { text: String::new(), plain: true }) }
}

/// The child of `node` that `segment` names, made when a map lacks it. The message of an error goes
/// on after the name of `node`.
fn child<'a>(node: &'a mut Node, segment: &str, place: Place) -> Result<&'a mut Node, String> {
    if let Value::Scalar(scalar) = &node.value {
        // A bare name stands for a map of that name: `- specrouter` is `- specrouter: {}`.
        let entries = match scalar.meaning() {
            Meaning::Null => Vec::new(),
            _ if scalar.text == segment => {
                let key = Key { place: node.place, scalar: scalar.clone() };
                vec![(key, Node { place: node.place, value: Value::Map(Vec::new()) })]
            }
            _ => return Err(format!("is `{}`, which has no field `{segment}`", scalar.text)),
        };
        node.value = Value::Map(entries);
    }
    match &mut node.value {
        Value::Scalar(_) => Err("is no map".into()), // Replaced above.
        Value::List(items) => {
            let count = items.len();
            let index = segment
                .parse::<usize>()
                .map_err(|_| format!("is a list of {count}: expected an index, got `{segment}`"))?;
            items
                .get_mut(index)
                .ok_or_else(|| format!("is a list of {count}: expected an index below {count}, got {index}"))
        }
        Value::Map(entries) => {
            let found = entries.iter().position(|(key, _)| key.scalar.text == segment);
            let at = found.unwrap_or_else(|| {
                let scalar = Scalar { text: segment.to_owned(), plain: true };
                entries.push((Key { place, scalar }, null(place)));
                entries.len() - 1
            });
            Ok(&mut entries[at].1)
        }
    }
}
