//! Prompt files: one JSON object a line with `id`, `domain`, `turns` and optionally `reference`.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Most bytes of a line.
pub const MOST_LINE_BYTES: u64 = 4 << 20;
/// Most prompts of a file.
pub const MOST_PROMPTS: usize = 1_000_000;

/// A prompt as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptText {
    /// Its name, unique in its file.
    #[serde(deserialize_with = "text_or_number")]
    pub id: String,
    /// What kind of text it asks for: the class of its request.
    pub domain: String,
    /// The user's turns, in order. The engine continues the first.
    pub turns: Vec<String>,
    /// An expected output, where the source has one. Not used.
    #[serde(default)]
    pub reference: Option<serde_json::Value>,
}

/// A prompt file that cannot be read. Its author is at fault, or the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptFileError {
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is no prompt.
    #[error("{}:{line}: expected {{\"id\", \"domain\", \"turns\": [..]}}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// No prompt at all.
    #[error("{}: expected at least one prompt, got none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a prompt file. Empty lines are passed over.
///
/// # Errors
/// [`PromptFileError`], naming file and line.
pub fn read_prompts(path: &Path) -> Result<Vec<PromptText>, PromptFileError> {
    let disk = |source| PromptFileError::Disk { path: path.to_owned(), source };
    parse_prompts(path, std::io::BufReader::new(std::fs::File::open(path).map_err(disk)?))
}

/// Reads prompts from `reader`; `path` is for messages.
///
/// # Errors
/// [`PromptFileError`], naming file and line.
pub fn parse_prompts(path: &Path, mut reader: impl BufRead) -> Result<Vec<PromptText>, PromptFileError> {
    let mut prompts: Vec<PromptText> = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let wrong = |reason: String| PromptFileError::Line { path: path.to_owned(), line, reason };
        bytes.clear();
        let read = reader.by_ref().take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(|source| PromptFileError::Disk { path: path.to_owned(), source })?;
        if read == 0 {
            break;
        }
        if read as u64 > MOST_LINE_BYTES {
            return Err(wrong(format!("a line has at most {MOST_LINE_BYTES} bytes")));
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let prompt: PromptText = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        match prompt.turns.first() {
            None => return Err(wrong("expected at least one turn, got none".into())),
            Some(turn) if turn.is_empty() => return Err(wrong("the first turn is empty".into())),
            Some(_) => {}
        }
        if prompts.len() == MOST_PROMPTS {
            return Err(wrong(format!("a file has at most {MOST_PROMPTS} prompts")));
        }
        prompts.push(prompt);
    }
    match prompts.is_empty() {
        true => Err(PromptFileError::Empty { path: path.to_owned() }),
        false => Ok(prompts),
    }
}

/// Some sources number their prompts.
fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("id must be a text or a number, got {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Vec<PromptText>, String> {
        parse_prompts(Path::new("p.jsonl"), text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn prompts_are_read_line_by_line() {
        let text = "{\"id\": 7, \"domain\": \"math\", \"turns\": [\"1+1=\"]}\n\n{\"id\": \"b\", \"domain\": \"code\", \"turns\": [\"def\", \"x\"], \"reference\": [1]}";
        let read = parse(text).unwrap();
        assert_eq!((read[0].id.as_str(), read[1].turns.len()), ("7", 2));
    }

    #[test]
    fn a_line_that_is_no_prompt_is_named() {
        insta::assert_snapshot!(parse("\n{\"id\": \"a\"}").unwrap_err(), @r#"p.jsonl:2: expected {"id", "domain", "turns": [..]}: missing field `domain` at line 1 column 11"#);
        insta::assert_snapshot!(parse("{\"id\": [], \"domain\": \"d\", \"turns\": [\"t\"]}").unwrap_err(), @r#"p.jsonl:1: expected {"id", "domain", "turns": [..]}: id must be a text or a number, got [] at line 1 column 9"#);
        insta::assert_snapshot!(parse("{\"id\": 1, \"domain\": \"d\", \"turns\": []}").unwrap_err(), @r#"p.jsonl:1: expected {"id", "domain", "turns": [..]}: expected at least one turn, got none"#);
        insta::assert_snapshot!(parse("{\"id\": 1, \"domain\": \"d\", \"turns\": [\"\"]}").unwrap_err(), @r#"p.jsonl:1: expected {"id", "domain", "turns": [..]}: the first turn is empty"#);
        insta::assert_snapshot!(parse(" \n").unwrap_err(), @"p.jsonl: expected at least one prompt, got none");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_prompts(Path::new("p"), bytes.as_slice());
        }
    }
}
