//! The one place that knows YAML: strict reading with a place for every complaint, `--set`, and
//! writing.
//!
//! Reading is by saphyr-parser's events, since serde_yaml says neither where a value inside an enum
//! stands nor where a rejected number does; writing is by serde_yaml. Enums are externally tagged:
//! a name, or a map of one name.

mod de;
mod error;
mod node;
mod set;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::YamlError;
use node::{Node, Place, Value};

/// A YAML document: a tree in which every node knows where it was written.
#[derive(Clone, Debug)]
pub struct Document {
    name: String,
    root: Node,
    sets: Vec<String>,
}

impl Document {
    /// Reads the one document in `bytes`; `name` is what errors call the file.
    ///
    /// # Errors
    /// [`YamlError`] for what is no text, no YAML, empty, more than one document, too large or too
    /// deep, and for repeated keys.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, YamlError> {
        let root = node::parse(name, node::decode(name, bytes)?)?;
        Ok(Self { name: name.to_owned(), root, sets: Vec::new() })
    }

    /// Applies one `--set path=value`. Whether the path names a field is found by [`Self::read`].
    ///
    /// # Errors
    /// [`YamlError`] for what is no `path=value`, an index out of range, or a path through a scalar.
    pub fn set(&mut self, set: &str) -> Result<(), YamlError> {
        set::apply(&mut self.root, set, self.sets.len())?;
        self.sets.push(set.to_owned());
        Ok(())
    }

    /// What was written at `path`, as a document of its own; errors still name the file and the place.
    pub fn part(&self, path: &str) -> Option<Self> {
        let (root, rest) = self.nearest(path);
        rest.is_empty().then(|| Self { root: root.clone(), ..self.clone() })
    }

    /// Puts every value of `changes`, a map of paths to values, where its path leads, as [`Self::set`] does.
    ///
    /// # Errors
    /// [`YamlError`] for what is no map, an index out of range, or a path through a scalar.
    pub fn put_all(&mut self, changes: &Self) -> Result<(), YamlError> {
        let Value::Map(entries) = &changes.root.value else {
            return Err(changes.error("", "expected a map of paths to values"));
        };
        for (path, value) in entries {
            let placed = set::put(&mut self.root, &path.scalar.text, path.place, value.clone());
            placed.map_err(|message| YamlError::placed(&self.name, path.place, &self.sets, message))?;
        }
        Ok(())
    }

    /// Puts `part` at `path`.
    ///
    /// # Errors
    /// As [`Self::put_all`].
    pub fn put(&mut self, path: &str, part: &Self) -> Result<(), YamlError> {
        let place = part.root.place;
        let placed = set::put(&mut self.root, path, place, part.root.clone());
        placed.map_err(|message| YamlError::placed(&self.name, place, &self.sets, message))
    }

    /// Every key and every value that is one of `names` becomes what the name stands for.
    pub fn rename(&mut self, names: &std::collections::BTreeMap<String, String>) {
        self.root.rename(names);
    }

    /// The items of the list at `path`, put together in one list.
    pub fn concatenated<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Self {
        let mut items = Vec::new();
        for part in paths.filter_map(|path| self.part(path)) {
            if let Value::List(own) = part.root.value {
                items.extend(own);
            }
        }
        Self { root: Node { place: self.root.place, value: Value::List(items) }, ..self.clone() }
    }

    /// Reads the document as a `T`.
    ///
    /// # Errors
    /// [`YamlError`], naming the place, the path, what was expected and what came.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        de::from_node(&self.root).map_err(|e| {
            let (place, message) = e.into_parts(self.root.place);
            YamlError::placed(&self.name, place, &self.sets, message)
        })
    }

    /// Was the value at `path` given by a `--set`?
    pub fn was_set(&self, path: &str) -> bool {
        matches!(self.nearest(path), (node, "") if matches!(node.place, Place::Set(_)))
    }

    /// Was anything written at `path`?
    pub fn has(&self, path: &str) -> bool {
        self.nearest(path).1.is_empty()
    }

    /// An error about the value at `path` (`policies[0].static`), or about the nearest one above it that
    /// was written.
    pub fn error(&self, path: &str, message: impl std::fmt::Display) -> YamlError {
        let message = if path.is_empty() { message.to_string() } else { format!("{path}: {message}") };
        YamlError::placed(&self.name, self.nearest(path).0.place, &self.sets, message)
    }

    /// As [`Self::error`], for a message that begins with its path, as those of libraries do.
    pub fn complaint(&self, message: impl std::fmt::Display) -> YamlError {
        let message = message.to_string();
        let path = message.split([' ', ':']).next().unwrap_or_default();
        YamlError::placed(&self.name, self.nearest(path).0.place, &self.sets, &message)
    }

    /// The deepest written node on the way along `path`, and what is left of the path there. Keys
    /// may hold points themselves (`matrix.chat.llama-3.2-1b`).
    fn nearest<'p>(&self, path: &'p str) -> (&Node, &'p str) {
        let mut node = &self.root;
        let mut rest = path;
        loop {
            let after = |name: &str| {
                let after = rest.strip_prefix(name)?;
                (after.is_empty() || after.starts_with(['.', '['])).then_some(after)
            };
            let next = match &node.value {
                Value::Scalar(scalar) => {
                    after(&scalar.text).map(|after| (node, after)).filter(|_| !rest.is_empty())
                }
                Value::List(items) => rest
                    .strip_prefix('[')
                    .and_then(|r| r.split_once(']'))
                    .and_then(|(index, after)| Some((items.get(index.parse::<usize>().ok()?)?, after))),
                Value::Map(entries) => entries
                    .iter()
                    .filter_map(|(key, node)| Some((node, after(&key.scalar.text)?)))
                    .min_by_key(|(_, after)| after.len()),
            };
            let Some((found, after)) = next else { return (node, rest) };
            node = found;
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
}

/// A path as errors show it: `workload.classes[1].weight`.
fn shown<S: AsRef<str>>(segments: &[S]) -> String {
    let mut path = String::new();
    for segment in segments.iter().map(AsRef::as_ref) {
        if !path.is_empty() && segment.bytes().all(|b| b.is_ascii_digit()) {
            path += &format!("[{segment}]");
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path += segment;
        }
    }
    if path.is_empty() { "the document".into() } else { path }
}

/// `value` as YAML text, enums as maps of one name; [`Document::parse`] reads it back.
///
/// # Errors
/// A value that YAML cannot hold: a bug of its type, never the user's doing.
pub fn to_text<T: Serialize>(value: &T) -> Result<String, serde_yaml::Error> {
    let value = serde_yaml::with::singleton_map_recursive::serialize(value, serde_yaml::value::Serializer)?;
    serde_yaml::to_string(&value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use specrouter_routing::units::{Positive, Probability};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        count: u32,
        #[serde(default)]
        rate: Option<Positive>,
        #[serde(default)]
        items: Vec<Item>,
        #[serde(default)]
        arms: Vec<Arm>,
        #[serde(default)]
        table: BTreeMap<u32, String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        name: String,
        weight: Probability,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Arm {
        Off,
        Fixed(Options),
        Windows { windows: Vec<u32> },
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Options {
        warm: bool,
    }

    const TEXT: &str = "count: 3\nrate: 2\nitems:\n  - {name: a, weight: 0.5}\n  - name: b\n    weight: 1\narms:\n  - off\n  - fixed\n  - windows: {windows: [4, 2]}\ntable: {1: x}\n";

    fn read(text: &str, sets: &[&str]) -> Result<Sample, YamlError> {
        let mut document = Document::parse("x.yaml", text.as_bytes())?;
        for set in sets {
            document.set(set)?;
        }
        document.read()
    }

    #[track_caller]
    fn error(text: &str, sets: &[&str]) -> String {
        read(text, sets).unwrap_err().to_string()
    }

    #[test]
    fn a_document_is_read_and_written_and_read_again() {
        let sample = read(TEXT, &[]).unwrap();
        assert_eq!(
            sample.arms,
            [Arm::Off, Arm::Fixed(Options::default()), Arm::Windows { windows: vec![4, 2] }]
        );
        assert_eq!(sample.table[&1], "x");
        assert_eq!(read(&to_text(&sample).unwrap(), &[]).unwrap(), sample);
        let marked = format!("\u{feff}{}", TEXT.replace('\n', "\r\n"));
        assert_eq!(read(&marked, &[]).unwrap(), sample, "a byte order mark and CRLF change nothing");
    }

    #[test]
    fn errors_name_file_place_path_and_what_was_expected() {
        insta::assert_snapshot!(error("count: 3\nratte: 2\n", &[]), @"x.yaml:2:1: unknown field `ratte`; did you mean `rate`?");
        insta::assert_snapshot!(error("count: 3\nzebra: 2\n", &[]), @"x.yaml:2:1: unknown field `zebra`; known: count, rate, items, arms, table");
        insta::assert_snapshot!(error("rate: 2\n", &[]), @"x.yaml:1:1: missing field `count`");
        insta::assert_snapshot!(error("count: many\n", &[]), @"x.yaml:1:8: count: expected a whole number from 0 to 4294967295, got `many`");
        insta::assert_snapshot!(error("count: -3\n", &[]), @"x.yaml:1:8: count: expected a whole number from 0 to 4294967295, got `-3`");
        insta::assert_snapshot!(error("count: 1.5\n", &[]), @"x.yaml:1:8: count: expected a whole number from 0 to 4294967295, got `1.5`");
        insta::assert_snapshot!(error("count: 1e12\n", &[]), @"x.yaml:1:8: count: expected a whole number from 0 to 4294967295, got `1000000000000`");
        insta::assert_snapshot!(error("count: 3\nrate: .nan\n", &[]), @"x.yaml:2:7: rate: value must be a finite number above 0, got NaN");
        insta::assert_snapshot!(error("count: 3\nrate: 12ms\n", &[]), @"x.yaml:2:7: rate: expected a number, got `12ms`");
        insta::assert_snapshot!(error("count: 3\nitems:\n  - {name: a, weight: 0.5}\n  - name: b\n    weight: 1.5\n", &[]), @"x.yaml:5:13: items[1].weight: probability must be between 0 and 1, got 1.5");
        insta::assert_snapshot!(error("count: 3\nitems: {name: a}\n", &[]), @"x.yaml:2:8: items: expected a list, got a map");
        insta::assert_snapshot!(error("count: 3\nitems: [{name: a}]\n", &[]), @"x.yaml:2:9: items[0]: missing field `weight`");
        insta::assert_snapshot!(error("count: 3\narms: [of]\n", &[]), @"x.yaml:2:8: arms[0]: unknown name `of`; did you mean `off`?");
        insta::assert_snapshot!(error("count: 3\narms: [windows]\n", &[]), @"x.yaml:2:8: arms[0].windows: missing field `windows`");
        insta::assert_snapshot!(error("count: 3\narms:\n  - fixed: {warm: maybe}\n", &[]), @"x.yaml:3:19: arms[0].fixed.warm: expected true or false, got `maybe`");
        insta::assert_snapshot!(error("count: 3\narms:\n  - fixed: {}\n    off: {}\n", &[]), @"x.yaml:3:5: arms[0]: expected one of off, fixed, windows, got 2 names: fixed, off");
        insta::assert_snapshot!(error("count: 3\narms:\n  - off: {x: 1}\n", &[]), @"x.yaml:3:10: arms[0].off: `off` has no fields: write it alone");
        insta::assert_snapshot!(error("- 1\n", &[]), @"x.yaml:1:1: expected a map of fields, got a list");
    }

    #[test]
    fn a_set_takes_the_place_of_what_was_written() {
        let sets = [
            "count=9",
            "items.1.weight=0.25",
            "arms[1].fixed.warm=true",
            "rate=null",
            "arms.2={windows: {windows: [1]}}",
            "table.1=y",
        ];
        let sample = read(TEXT, &sets).unwrap();
        assert_eq!((sample.count, sample.rate, sample.items[1].weight.get()), (9, None, 0.25));
        assert_eq!(
            sample.arms,
            [Arm::Off, Arm::Fixed(Options { warm: true }), Arm::Windows { windows: vec![1] }]
        );
        assert_eq!(sample.table[&1], "y");
        assert_eq!(
            read("count: 1\n", &["rate=2"]).unwrap().rate.map(Positive::get),
            Some(2.0),
            "a field left out can be set"
        );
    }

    #[test]
    fn a_set_that_fits_nowhere_is_named() {
        insta::assert_snapshot!(error(TEXT, &["cuont=4"]), @"in --set cuont=4: unknown field `cuont`; did you mean `count`?");
        insta::assert_snapshot!(error(TEXT, &["items.1.wieght=4"]), @"in --set items.1.wieght=4: items[1]: unknown field `wieght`; did you mean `weight`?");
        insta::assert_snapshot!(error(TEXT, &["count=abc"]), @"in --set count=abc: count: expected a whole number from 0 to 4294967295, got `abc`");
        insta::assert_snapshot!(error(TEXT, &["items.7.weight=1"]), @"in --set items.7.weight=1: items is a list of 2: expected an index below 2, got 7");
        insta::assert_snapshot!(error(TEXT, &["items.b.weight=1"]), @"in --set items.b.weight=1: items is a list of 2: expected an index, got `b`");
        insta::assert_snapshot!(error(TEXT, &["count.x=1"]), @"in --set count.x=1: count is `3`, which has no field `x`");
        insta::assert_snapshot!(error(TEXT, &["count"]), @"in --set count: expected path=value, got no `=`");
        insta::assert_snapshot!(error(TEXT, &["=4"]), @"in --set =4: expected a path such as workload.requests before the `=`, got an empty name");
        insta::assert_snapshot!(error(TEXT, &["count=[1"]), @"in --set count=[1: value:2:1: not YAML: while parsing a flow sequence, expected ',' or ']'");
    }

    #[test]
    fn a_later_check_finds_the_place_of_what_it_refuses() {
        let mut document = Document::parse("x.yaml", TEXT.as_bytes()).unwrap();
        insta::assert_snapshot!(document.error("items[1].weight", "is refused"), @"x.yaml:6:13: items[1].weight: is refused");
        insta::assert_snapshot!(document.error("items[1].colour", "is missed"), @"x.yaml:5:5: items[1].colour: is missed");
        insta::assert_snapshot!(document.complaint("items[1] (b).weight is refused"), @"x.yaml:5:5: items[1] (b).weight is refused");
        insta::assert_snapshot!(document.complaint("table.1: is refused"), @"x.yaml:11:12: table.1: is refused");
        document.set("count=5").unwrap();
        assert!(document.was_set("count") && !document.was_set("rate") && !document.was_set("none"));
        insta::assert_snapshot!(document.error("count", "is refused"), @"in --set count=5: count: is refused");
    }
}
