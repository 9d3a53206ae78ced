//! Text to tokens and back, by a model's `tokenizer.json`.
//!
//! What a user writes is text and nothing else: where it spells `<|endoftext|>`, or any other token that was added
//! to the vocabulary, it becomes ordinary tokens that decode to the same letters. The tokens that a model wants at
//! the start of every text come from the tokenizer's own post-processor. Chat templates are out of scope.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedVocabulary, Tokenizer as Library};

use crate::load::{LoadError, open_folder_file, short};

/// Most bytes of a `tokenizer.json`.
pub const MOST_BYTES: u64 = 64 << 20;

/// Must come back from encoding and decoding as it is. Many scripts, both cases, runs of white space, and no
/// character that canonical composition would change.
///
/// A regular expression that gives up in the middle of a text does so silently; so does a vocabulary that lacks
/// bytes. A tokenizer that fails here would lose part of a prompt.
const PROBE: &str = "Route 66: the café's naïve façade, 東京の夜, Привет мир, שלום, مرحبا, नमस्ते, 안녕 🙂!\n\tlet x = a[0] != 1_000;  // Done";

/// Tokens of text before a stream's beginning that can change how its first token reads.
const CONTEXT: usize = 8;

/// Decoders that the library knows.
const DECODERS: [&str; 10] = [
    "BPEDecoder",
    "ByteFallback",
    "ByteLevel",
    "CTC",
    "Fuse",
    "Metaspace",
    "Replace",
    "Sequence",
    "Strip",
    "WordPiece",
];

/// Most tokens that a stream holds back. A character is at most four bytes; more is no text.
const MOST_HELD: usize = 64;

/// Why a tokenizer is refused, or a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Larger than any tokenizer.
    #[error("{model}/tokenizer.json: must be at most {MOST_BYTES} bytes, got {bytes}")]
    TooLong {
        /// The model's name.
        model: String,
        /// Length of the text.
        bytes: usize,
    },
    /// The tokenizer library refuses the file, or a text.
    #[error("{model}/tokenizer.json: expected {expected}, got an error: {source}")]
    Library {
        /// The model's name.
        model: String,
        /// What should have come.
        expected: &'static str,
        /// What the library says.
        source: tokenizers::Error,
    },
    /// Not JSON.
    #[error("{model}/tokenizer.json: expected a tokenizer, got something else: {source}")]
    Json {
        /// The model's name.
        model: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A setting that the engine does not take: equal texts would give different tokens, or the library fail.
    #[error("{model}/tokenizer.json: {field} must be {expected}, got {got}")]
    Setting {
        /// The model's name.
        model: String,
        /// The setting.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What came, cut to a line.
        got: String,
    },
    /// Text does not survive this tokenizer.
    #[error("{model}/tokenizer.json: must decode what it encodes, expected {expected:?}, got {got:?}")]
    RoundTrip {
        /// The model's name.
        model: String,
        /// A text, from the first difference.
        expected: String,
        /// What came back, from there.
        got: String,
    },
    /// A token that the model has no row for.
    #[error("{model}/tokenizer.json: token ids must be below vocab_size {vocab}, got {got}")]
    PastVocabulary {
        /// The model's name.
        model: String,
        /// `vocab_size` of its config.
        vocab: u32,
        /// The highest id.
        got: u32,
    },
    /// No text: the model would have nothing to continue.
    #[error("{model}: the prompt must hold at least one token, got an empty text")]
    Empty {
        /// The model's name.
        model: String,
    },
    /// The vocabulary itself, not its added part, spells part of the text with a special token.
    #[error(
        "{model}: text must encode to ordinary tokens, got special token {token} ({id}) at token {index}"
    )]
    Special {
        /// The model's name.
        model: String,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Its position among the text's tokens.
        index: usize,
    },
    /// Two models of a pool that cannot verify each other.
    #[error(
        "{left} and {right} must share a vocabulary, but id {id} is {left_token} in one and {right_token} in the other"
    )]
    Vocabulary {
        /// One model's name.
        left: String,
        /// The other's.
        right: String,
        /// The lowest id on which they differ.
        id: u32,
        /// The token of that id in one, quoted, or "no token".
        left_token: String,
        /// And in the other.
        right_token: String,
    },
}

/// A model's tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    model: String,
    /// With added tokens: it decodes.
    full: Library,
    /// Without: it encodes what users write.
    plain: Library,
    /// Ids of added tokens.
    added: BTreeSet<u32>,
    /// (id, token), ascending.
    vocabulary: Vec<(u32, String)>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in the model folder `dir` of the model called `model`.
    ///
    /// # Errors
    /// [`TokenizerError`], when the file is missing, too long, or as in [`Self::from_bytes`].
    pub fn open(dir: &Path, model: &str) -> Result<Self, TokenizerError> {
        Self::from_bytes(model, &open_folder_file(dir, model, "tokenizer.json", MOST_BYTES)?)
    }

    /// Reads the `tokenizer.json` whose text is `json`, for the model called `model`.
    ///
    /// Truncation and padding that the file asks for are left out: a prompt is never cut in silence.
    ///
    /// # Errors
    /// [`TokenizerError`], when it is no tokenizer, encodes at random, or does not decode what it encodes.
    pub fn from_bytes(model: &str, json: &[u8]) -> Result<Self, TokenizerError> {
        if json.len() as u64 > MOST_BYTES {
            return Err(TokenizerError::TooLong { model: model.to_owned(), bytes: json.len() });
        }
        let declared = check_settings(model, json)?;
        let mut full = guarded(model, "a tokenizer", || Library::from_bytes(json))?;
        guarded(model, "a tokenizer without truncation", || full.with_truncation(None).map(drop))?;
        full.with_padding(None);
        // The library numbers an added token anew where its id leaves a gap.
        for Declared { id, content } in declared {
            let got = full.token_to_id(&content);
            if got != Some(id) {
                return Err(TokenizerError::Setting {
                    model: model.to_owned(),
                    field: "added_tokens",
                    expected: format!("numbered without a gap ({} as {id})", short(&content)),
                    got: got.map_or_else(|| "no id".to_owned(), |got| got.to_string()),
                });
            }
        }
        let mut plain = full.clone();
        plain.with_added_vocabulary(AddedVocabulary::new());
        let added = full.get_added_vocabulary().get_vocab().values().copied().collect();
        let mut vocabulary: Vec<_> =
            full.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        vocabulary.sort_unstable();
        // Which of the two an id decodes to would hang on the order of a hash map.
        let twice = vocabulary.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some([(id, a), (_, b)]) = twice {
            return Err(TokenizerError::Setting {
                model: model.to_owned(),
                field: "model.vocab",
                expected: format!("one token for id {id}"),
                got: short(&format!("{a:?} and {b:?}")),
            });
        }

        let tokenizer = Self { model: model.to_owned(), full, plain, added, vocabulary };
        let tokens = tokenizer.encode_plain(PROBE, false)?;
        let back = tokenizer.decode(&tokens)?;
        if back != PROBE {
            let same = PROBE.chars().zip(back.chars()).take_while(|(a, b)| a == b).count();
            let from = |text: &str| text.chars().skip(same).take(20).collect();
            let (expected, got) = (from(PROBE), from(&back));
            return Err(TokenizerError::RoundTrip { model: model.to_owned(), expected, got });
        }
        Ok(tokenizer)
    }

    /// The tokens of a prompt: those that the post-processor puts around every text, and `text` as ordinary ones.
    ///
    /// # Errors
    /// [`TokenizerError::Empty`] when there is no token at all; [`TokenizerError::Special`] when `text` cannot be
    /// spelled with ordinary tokens; [`TokenizerError::Library`] when the library fails.
    pub fn encode_user(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let tokens = self.encode_plain(text, true)?;
        if tokens.is_empty() {
            return Err(TokenizerError::Empty { model: self.model.clone() });
        }
        Ok(tokens)
    }

    /// As [`Self::encode_user`], without the tokens around the text: for text that continues another.
    ///
    /// # Errors
    /// As [`Self::encode_user`], but an empty text is no tokens.
    pub fn encode_more(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_plain(text, false)
    }

    fn encode_plain(&self, text: &str, around: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guarded(&self.model, "tokens of a text", || self.plain.encode_fast(text, around))?;
        // The mask marks what the post-processor put there; everything else is the user's.
        let users = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()).enumerate();
        for (index, (&id, &mask)) in users {
            if mask == 0 && self.added.contains(&id) {
                let token = self.full.id_to_token(id).unwrap_or_default();
                return Err(TokenizerError::Special { model: self.model.clone(), token, id, index });
            }
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of `token`, such as `<|endoftext|>`, spelled as the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.full.token_to_id(token)
    }

    /// How many tokens there are, added ones included. A model may have more rows than that, for padding.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Says whether every token has a row in a model of `vocab` rows.
    ///
    /// # Errors
    /// [`TokenizerError::PastVocabulary`], with the highest id.
    pub fn check_fits(&self, vocab: u32) -> Result<(), TokenizerError> {
        match self.vocabulary.last() {
            Some(&(got, _)) if got >= vocab => {
                Err(TokenizerError::PastVocabulary { model: self.model.clone(), vocab, got })
            }
            _ => Ok(()),
        }
    }

    /// The text of `tokens`. Special tokens, and ids that are no token, are left out; bytes that are no UTF-8
    /// become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] when the library fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        guarded(&self.model, "the text of tokens", || self.full.decode(tokens, true))
    }
}

/// The parts of a `tokenizer.json` that are looked at before the library reads it.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: ModelSettings,
    #[serde(default)]
    added_tokens: Vec<Declared>,
}

/// An added token and the id that the file gives it.
#[derive(Deserialize)]
struct Declared {
    id: u32,
    content: String,
}

#[derive(Default, Deserialize)]
struct ModelSettings {
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
}

/// Refuses settings that gamble, and those at which tokenizers 0.23 panics where it should fail. Gives the added
/// tokens.
fn check_settings(model: &str, json: &[u8]) -> Result<Vec<Declared>, TokenizerError> {
    let settings: Settings = serde_json::from_slice(json)
        .map_err(|source| TokenizerError::Json { model: model.to_owned(), source })?;
    let check = |field, expected: &str, value: &Value, fits: bool| {
        if fits {
            return Ok(());
        }
        let (expected, got) = (expected.to_owned(), short(&value.to_string()));
        Err(TokenizerError::Setting { model: model.to_owned(), field, expected, got })
    };
    let dropout = &settings.model.dropout;
    let none = dropout.is_null() || dropout.as_f64().is_some_and(|p| p <= 0.0);
    check("model.dropout", "0 or absent", dropout, none)?;
    // Its length is cut from tokens that may be shorter. Neither byte-level nor byte-fallback BPE has one.
    let prefix = &settings.model.continuing_subword_prefix;
    check("model.continuing_subword_prefix", "empty or absent", prefix, prefix.is_null() || prefix == "")?;
    let mut decoders = vec![&settings.decoder];
    while let Some(decoder) = decoders.pop() {
        let known = decoder.get("type").and_then(Value::as_str).is_some_and(|kind| DECODERS.contains(&kind));
        let expected = format!("null, or of type {}", DECODERS.join(", "));
        check("decoder", &expected, decoder, decoder.is_null() || known)?;
        decoders.extend(decoder.get("decoders").and_then(Value::as_array).into_iter().flatten());
    }
    Ok(settings.added_tokens)
}

/// Runs the library, which panics here and there on files and texts that it should refuse.
fn guarded<T>(
    model: &str,
    expected: &'static str,
    run: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    // Unwind safe: after a panic the half-made tokenizer is dropped; encoding and decoding change nothing but a
    // cache behind a lock.
    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".into()));
    outcome.map_err(|source| TokenizerError::Library { model: model.to_owned(), expected, source })
}

/// Says whether two tokenizers give every id the same token: then one model can verify the other's tokens.
///
/// # Errors
/// [`TokenizerError::Vocabulary`], naming the first id on which they differ.
pub fn same_vocabulary(left: &Tokenizer, right: &Tokenizer) -> Result<(), TokenizerError> {
    let (a, b) = (&left.vocabulary, &right.vocabulary);
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (x, y) = (a.get(same), b.get(same));
    let Some(id) = x.iter().chain(&y).map(|(id, _)| *id).min() else {
        return Ok(()); // Both ended.
    };
    let quoted = |entry: Option<&(u32, String)>| match entry {
        Some((other, token)) if *other == id => format!("{token:?}"),
        _ => "no token".to_owned(),
    };
    Err(TokenizerError::Vocabulary {
        left: left.model.clone(),
        right: right.model.clone(),
        id,
        left_token: quoted(x),
        right_token: quoted(y),
    })
}

/// Text that comes out token by token. A character whose bytes are not all there is held back.
///
/// What [`Self::push`] and [`Self::finish`] give, put together, is what [`Tokenizer::decode`] gives for all
/// tokens at once, unless 64 tokens and more in a row are no text: those are given up, as U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// Tokens already given, which decide how the next ones read (a leading space, say).
    context: Vec<u32>,
    /// Tokens not wholly given.
    held: Vec<u32>,
    /// Bytes of their text that were given.
    given: usize,
}

impl TextStream {
    /// A stream that continues `tokens`, the prompt.
    pub fn after(tokens: &[u32]) -> Self {
        let context = tokens[tokens.len().saturating_sub(CONTEXT)..].to_vec();
        Self { context, ..Self::default() }
    }

    /// Takes the next token and gives the text that is certain by now, often that of the token, at times nothing.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] when the library fails.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, TokenizerError> {
        self.held.push(token);
        let full = self.held.len() >= MOST_HELD;
        let Some(text) = self.held_text(tokenizer)? else {
            return if full { self.finish(tokenizer) } else { Ok(String::new()) };
        };
        let certain = text.trim_end_matches('\u{FFFD}').len();
        let new = text.get(self.given..certain).unwrap_or_default().to_owned();
        if certain < text.len() {
            self.given = self.given.max(certain);
            return if full { Ok(new + &self.finish(tokenizer)?) } else { Ok(new) };
        }
        self.settle(!text.is_empty());
        Ok(new)
    }

    /// Gives what was held back; the stream can go on after it.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] when the library fails.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = match self.held_text(tokenizer)? {
            Some(text) => text,
            None => tokenizer.decode(&self.held)?,
        };
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        self.settle(true);
        Ok(new)
    }

    /// The text of the held tokens after their context; none when they change how the context reads.
    fn held_text(&self, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        let before = tokenizer.decode(&self.context)?;
        let whole = tokenizer.decode(&[self.context.as_slice(), &self.held].concat())?;
        Ok(whole.strip_prefix(&before).map(str::to_owned))
    }

    /// Makes the held tokens the context; beside it, when they have no text of their own.
    fn settle(&mut self, alone: bool) {
        if alone {
            self.context.clear();
        }
        self.context.append(&mut self.held);
        let past = self.context.len().saturating_sub(CONTEXT.max(MOST_HELD));
        self.context.drain(..past);
        self.given = 0;
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
