//! YAML text as a tree in which every node knows where it stands.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::YamlError;

/// Most bytes of one file: a scenario is a page, and a bomb is not read to its end.
const MOST_BYTES: usize = 1 << 20;
/// Most levels of nesting.
const MOST_LEVELS: usize = 64;
/// Most nodes of one file with its aliases written out.
const MOST_NODES: usize = 100_000;

/// Where a node was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the text; both count from 1.
    Text { line: usize, column: usize },
    /// By the `--set` of this index.
    Set(usize),
}

/// A scalar as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes, so it may mean a number, a truth value or null.
    pub plain: bool,
}

/// What stands at a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order written; keys differ.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub place: Place,
    pub scalar: Scalar,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a scalar means (YAML 1.2 core schema).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl Scalar {
    pub fn meaning(&self) -> Meaning<'_> {
        let text = self.text.as_str();
        if !self.plain {
            return Meaning::Text(text);
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
            "true" | "True" | "TRUE" => return Meaning::Bool(true),
            "false" | "False" | "FALSE" => return Meaning::Bool(false),
            ".nan" | ".NaN" | ".NAN" => return Meaning::Float(f64::NAN),
            _ => {}
        }
        let (sign, bare) = match text.as_bytes()[0] {
            b'-' => ("-", &text[1..]),
            b'+' => ("", &text[1..]),
            _ => ("", text),
        };
        if matches!(bare, ".inf" | ".Inf" | ".INF") {
            return Meaning::Float(if sign == "-" { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        let digits = |radix: u32, text: &str| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(rest) = text.strip_prefix(prefix).filter(|rest| digits(radix, rest)) {
                return u64::from_str_radix(rest, radix).map_or(Meaning::Text(text), Meaning::Unsigned);
            }
        }
        // A number begins with a digit or a point with one: `inf`, `nan` and `e5` are words.
        let number = bare.strip_prefix('.').unwrap_or(bare).starts_with(|c: char| c.is_ascii_digit());
        if !number {
            return Meaning::Text(text);
        }
        if sign.is_empty()
            && digits(10, bare)
            && let Ok(value) = bare.parse()
        {
            return Meaning::Unsigned(value);
        }
        if digits(10, bare)
            && let Ok(value) = text.parse()
        {
            return Meaning::Signed(value);
        }
        // Rust's grammar of floats is that of the core schema, but for the words refused above.
        text.parse::<f64>().map_or(Meaning::Text(text), Meaning::Float)
    }
}

impl Node {
    /// Nodes in the tree below and including this one.
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.count()).sum(),
        }
    }

    /// Levels of the tree below and including this one.
    fn levels(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::levels).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.levels()).max().unwrap_or(0),
        }
    }

    /// Keys and values that are one of `names` become what the name stands for.
    pub fn rename(&mut self, names: &BTreeMap<String, String>) {
        let rename = |scalar: &mut Scalar| {
            if let Some(name) = names.get(&scalar.text) {
                name.clone_into(&mut scalar.text);
            }
        };
        match &mut self.value {
            Value::Scalar(scalar) => rename(scalar),
            Value::List(items) => items.iter_mut().for_each(|item| item.rename(names)),
            Value::Map(entries) => entries.iter_mut().for_each(|(key, node)| {
                rename(&mut key.scalar);
                node.rename(names);
            }),
        }
    }

    /// Gives the whole tree one place.
    pub fn placed(mut self, place: Place) -> Self {
        self.place = place;
        self.value = match self.value {
            Value::Scalar(scalar) => Value::Scalar(scalar),
            Value::List(items) => Value::List(items.into_iter().map(|item| item.placed(place)).collect()),
            Value::Map(entries) => Value::Map(
                entries.into_iter().map(|(key, node)| (Key { place, ..key }, node.placed(place))).collect(),
            ),
        };
        self
    }
}

/// Bytes to text: UTF-8 (a byte order mark is skipped), no control characters, at most 1 MB.
pub(super) fn decode<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, YamlError> {
    if bytes.len() > MOST_BYTES {
        return Err(YamlError::whole(
            name,
            format!("a YAML file has at most {MOST_BYTES} bytes, got {}", bytes.len()),
        ));
    }
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|&&b| b == b'\n').count();
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let message = format!("expected UTF-8 text, got byte 0x{:02x} at offset {at}", bytes[at]);
        YamlError::on_line(name, line_of(at), message)
    })?;
    if let Some((at, c)) =
        text.char_indices().find(|&(_, c)| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        let message = format!("expected text, got control character U+{:04X} at offset {at}", u32::from(c));
        return Err(YamlError::on_line(name, line_of(at), message));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A list or map whose end has not come.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<Key>,
}

/// Reads the one document of `text`.
///
/// # Errors
/// What is no YAML, and what is refused though YAML allows it: no or several documents, repeated keys,
/// keys that are no scalars, tags, deep nesting, aliases that expand past the budget.
pub(super) fn parse(name: &str, text: &str) -> Result<Node, YamlError> {
    let mut anchors: BTreeMap<usize, Node> = BTreeMap::new();
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    let mut documents = 0;
    let mut nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            YamlError::at(name, place(e.marker().line(), e.marker().col()), format!("not YAML: {}", e.info()))
        })?;
        let here = start(span);
        let refuse = |message: String| YamlError::at(name, here, message);
        nodes += 1;
        if nodes > MOST_NODES {
            return Err(refuse(format!("a YAML file has at most {MOST_NODES} values")));
        }
        let (node, anchor) = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(refuse("expected one document, got a second (`---`)".into()));
                }
                continue;
            }
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                return Err(refuse(format!("tags are not read here, got `{tag}`")));
            }
            Event::Scalar(text, style, anchor, None) => {
                let scalar = Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (Node { place: here, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, None) | Event::MappingStart(anchor, None) => {
                if open.len() + 1 >= MOST_LEVELS {
                    return Err(refuse(format!("lists and maps nest at most {MOST_LEVELS} levels deep")));
                }
                let value = if matches!(event, Event::SequenceStart(..)) {
                    Value::List(Vec::new())
                } else {
                    Value::Map(Vec::new())
                };
                open.push(Open { node: Node { place: here, value }, anchor, key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = open.pop() else { continue };
                (closed.node, closed.anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = anchors.get(&anchor) else {
                    return Err(refuse("an alias cannot stand inside what it names".into()));
                };
                nodes += node.count();
                if nodes > MOST_NODES {
                    return Err(refuse(format!("aliases expand past {MOST_NODES} values")));
                }
                if open.len() + node.levels() > MOST_LEVELS {
                    return Err(refuse(format!("lists and maps nest at most {MOST_LEVELS} levels deep")));
                }
                (node.clone(), 0)
            }
        };
        if anchor > 0 {
            nodes += node.count(); // The kept copy counts too.
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut() {
            None => root = Some(node),
            Some(parent) => attach(name, parent, node)?,
        }
    }
    root.filter(|node| !matches!(&node.value, Value::Scalar(s) if s.meaning() == Meaning::Null))
        .ok_or_else(|| YamlError::whole(name, "expected a map of fields, got an empty file"))
}

/// Puts a finished node into the list or map around it.
fn attach(name: &str, parent: &mut Open, node: Node) -> Result<(), YamlError> {
    match &mut parent.node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.push(node),
        Value::Map(entries) => match parent.key.take() {
            Some(key) => entries.push((key, node)),
            None => {
                let place = node.place;
                let Value::Scalar(scalar) = node.value else {
                    return Err(YamlError::at(name, place, "a key is a word, got a list or a map"));
                };
                if let Some((first, _)) = entries.iter().find(|(key, _)| key.scalar.text == scalar.text) {
                    let Place::Text { line, .. } = first.place else { return Ok(()) };
                    let message = format!("field `{}` is given twice, first in line {line}", scalar.text);
                    return Err(YamlError::at(name, place, message));
                }
                parent.key = Some(Key { place, scalar });
            }
        },
    }
    Ok(())
}

fn start(span: Span) -> Place {
    place(span.start.line(), span.start.col())
}

fn place(line: usize, column_from_0: usize) -> Place {
    Place::Text { line, column: column_from_0 + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        let meaning = |text: &str| match (Scalar { text: text.into(), plain: true }).meaning() {
            Meaning::Text(_) => "text".to_owned(),
            other => format!("{other:?}"),
        };
        let all = [
            "",
            "~",
            "true",
            "7",
            "-7",
            "+7",
            "0x1f",
            "1.5",
            "-.5",
            "1e12",
            ".inf",
            "-.inf",
            ".nan",
            "nan",
            "inf",
            "7up",
            "1_000",
            "--7",
            "18446744073709551616",
            "-",
        ];
        let read: Vec<String> = all.iter().map(|text| meaning(text)).collect();
        assert_eq!(
            read.join(" "),
            "Null Null Bool(true) Unsigned(7) Signed(-7) Unsigned(7) Unsigned(31) Float(1.5) Float(-0.5) \
             Float(1000000000000.0) Float(inf) Float(-inf) Float(NaN) text text text text text Float(1.8446744073709552e19) text"
        );
    }

    #[test]
    fn every_node_knows_its_line_and_column() {
        let root = parse("x.yaml", "a: 1\nb:\n  - {c: 2,\n     d: [3]}\n").unwrap();
        let Value::Map(entries) = &root.value else { panic!("a map") };
        assert_eq!(entries[1].0.place, Place::Text { line: 2, column: 1 });
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        let Value::Map(inner) = &items[0].value else { panic!("a map") };
        assert_eq!(inner[1].0.place, Place::Text { line: 4, column: 6 });
        assert_eq!(inner[1].1.place, Place::Text { line: 4, column: 9 });
    }

    #[test]
    fn an_alias_stands_for_what_it_names() {
        let root = parse("x.yaml", "a: &x {n: 1}\nb: *x\n").unwrap();
        let Value::Map(entries) = &root.value else { panic!("a map") };
        assert_eq!(entries[0].1.value, entries[1].1.value);
    }

    #[test]
    fn what_yaml_allows_and_we_do_not_is_named() {
        let error = |text: &str| parse("x.yaml", text).unwrap_err().to_string();
        insta::assert_snapshot!(error("a: 1\nb: 2\na: 3\n"), @"x.yaml:3:1: field `a` is given twice, first in line 1");
        insta::assert_snapshot!(error("a: 1\n---\nb: 2\n"), @"x.yaml:2:1: expected one document, got a second (`---`)");
        insta::assert_snapshot!(error("a: !!binary aGk=\n"), @"x.yaml:1:4: tags are not read here, got `tag:yaml.org,2002:!binary`");
        insta::assert_snapshot!(error("a: &x [*x]\n"), @"x.yaml:1:8: an alias cannot stand inside what it names");
        insta::assert_snapshot!(error("[a]: 1\n"), @"x.yaml:1:1: a key is a word, got a list or a map");
        insta::assert_snapshot!(error(""), @"x.yaml: expected a map of fields, got an empty file");
        insta::assert_snapshot!(error("# nothing\n"), @"x.yaml: expected a map of fields, got an empty file");
        insta::assert_snapshot!(error(&"[".repeat(5_000)), @"x.yaml:1:256: not YAML: recursion limit exceeded");
        insta::assert_snapshot!(error("a: [1, 2\nb: 3\n"), @"x.yaml:2:2: not YAML: illegal placement of ':' indicator");
        insta::assert_snapshot!(error("a: b: c\n"), @"x.yaml:1:5: not YAML: mapping values are not allowed in this context");
        let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![last; 9].join(", "));
        }
        insta::assert_snapshot!(error(&bomb), @"x.yaml:6:1: a YAML file has at most 100000 values");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-a-c0-9:,?&*!|>'\"%@\\[\\]{}#~ \t\n\r\u{feff}\u{e9}]{0,60}") {
            let _ = parse("x.yaml", &text);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = decode("x.yaml", &bytes).map(|text| parse("x.yaml", text));
        }
    }
}
