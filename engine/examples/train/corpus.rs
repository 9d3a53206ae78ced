//! Text in, tokens out: documents, the tokenizer, token streams, batches and held-out windows.

use std::path::Path;

use specrouter_routing::luck::{Luck, Stream};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::error::{Result, TrainError, read, write};
use crate::recipe::Recipe;

/// Ends every document, of id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Words with the space before them, digits one by one, runs of signs, line ends and indentation
/// apart: the pattern of Qwen 2.
const PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A part of a domain's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To train on.
    Train,
    /// Held out.
    Valid,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// The documents of one domain, without their end marks.
///
/// # Errors
/// [`TrainError::File`]; [`TrainError::Work`] when the file is not UTF-8.
pub fn documents(recipe: &Recipe, domain: &str, part: Part) -> Result<Vec<String>> {
    let path = recipe.corpora.join(format!("{domain}.{}.txt", part.name()));
    let text = String::from_utf8(read(&path)?).map_err(|error| TrainError::Work {
        path,
        problem: format!("expected UTF-8, got other bytes at {}", error.utf8_error().valid_up_to()),
    })?;
    let mark = format!("\n{END_OF_TEXT}\n");
    Ok(text.split(&mark).filter(|document| !document.trim().is_empty()).map(str::to_owned).collect())
}

/// Trains the tokenizer on as many bytes of every domain as the smallest one has.
///
/// # Errors
/// Those of [`documents`] and of the tokenizer library; [`TrainError::Check`] when the vocabulary
/// comes out smaller than asked for.
pub fn train_tokenizer(recipe: &Recipe) -> Result<Tokenizer> {
    let mut domains = Vec::new();
    for domain in &recipe.domains {
        domains.push(documents(recipe, domain, Part::Train)?);
    }
    let bytes = |documents: &[String]| documents.iter().map(String::len).sum::<usize>();
    let share = domains.iter().map(|d| bytes(d)).min().unwrap_or(0);
    let mut mix: Vec<&str> = Vec::new();
    for domain in &domains {
        // Every n-th document, so that no one book stands for its domain; the last one is cut to size.
        let whole = bytes(domain);
        let (mut taken, mut passed) = (0, 0);
        for document in domain {
            passed += document.len();
            if taken as f64 <= passed as f64 / whole as f64 * share as f64 && taken < share {
                let piece = head(document, share - taken);
                taken += piece.len();
                mix.push(piece);
            }
        }
    }
    let mut tokenizer = Tokenizer::new(BPE::default());
    let split = Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let parts = vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    tokenizer.with_decoder(Some(bytes));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(recipe.vocabulary)
        .min_frequency(2)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build()
        .into();
    tokenizer.train(&mut trainer, mix.into_iter())?;
    let (got, first) = (tokenizer.get_vocab_size(true), tokenizer.token_to_id(END_OF_TEXT));
    if got != recipe.vocabulary || first != Some(0) {
        let problem =
            format!("vocabulary {got}, {END_OF_TEXT} is {first:?}; expected {} and 0", recipe.vocabulary);
        return Err(TrainError::Check(problem));
    }
    Ok(tokenizer)
}

/// The first `limit` bytes of `text`, or a few less so that no character is cut.
fn head(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads the tokenizer of the work folder.
///
/// # Errors
/// [`TrainError::Work`] when it is missing, the library's when it is broken.
pub fn tokenizer(work: &Path) -> Result<Tokenizer> {
    let path = work.join("tokenizer.json");
    if !path.exists() {
        return Err(TrainError::Work { path, problem: "missing; run `tokenizer` first".into() });
    }
    Ok(Tokenizer::from_file(path)?)
}

/// Tokens of one part of a domain, every document followed by the end of text.
///
/// # Errors
/// Those of the tokenizer; [`TrainError::Check`] when a document does not come back as it was.
pub fn tokenise(tokenizer: &Tokenizer, documents: &[String]) -> Result<Vec<u16>> {
    let mut tokens = Vec::new();
    for (index, encoding) in tokenizer.encode_batch(documents.to_vec(), false)?.iter().enumerate() {
        let back = tokenizer.decode(encoding.get_ids(), false)?;
        if back != documents[index] {
            return Err(TrainError::Check(format!("document {index} is not the same after a round trip")));
        }
        for &id in encoding.get_ids() {
            let narrow = u16::try_from(id);
            tokens.push(narrow.map_err(|_| TrainError::Check(format!("token {id} does not fit 16 bits")))?);
        }
        tokens.push(0);
    }
    Ok(tokens)
}

/// Writes the token files of every domain; a table of what they hold.
///
/// # Errors
/// Those of [`documents`], [`tokenise`] and of writing.
pub fn prepare(recipe: &Recipe, work: &Path) -> Result<String> {
    let tokenizer = tokenizer(work)?;
    let mut table = String::from("domain       part   documents     tokens  bytes/token\n");
    for domain in &recipe.domains {
        for part in [Part::Train, Part::Valid] {
            let documents = documents(recipe, domain, part)?;
            let tokens = tokenise(&tokenizer, &documents)?;
            let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            write(&work.join(format!("{domain}.{}.bin", part.name())), &bytes)?;
            let text: usize = documents.iter().map(String::len).sum();
            table += &format!(
                "{domain:<12} {:<6} {:>9}  {:>9}  {:>11.3}\n",
                part.name(),
                documents.len(),
                tokens.len(),
                text as f64 / tokens.len() as f64
            );
        }
    }
    Ok(table)
}

/// Token streams of every domain, from the files that [`prepare`] wrote.
pub struct Data {
    /// Domain names, in the recipe's order.
    pub domains: Vec<String>,
    /// Which domain the n-th sequence of the run comes from, over and over.
    mix: Vec<usize>,
    train: Vec<Vec<u16>>,
    valid: Vec<Vec<u16>>,
    sequence: usize,
    seed: u64,
}

impl Data {
    /// Reads the token files.
    ///
    /// # Errors
    /// [`TrainError::Work`] when one is missing, shorter than a sequence or names a token past the
    /// vocabulary.
    pub fn read(recipe: &Recipe, work: &Path) -> Result<Self> {
        let stream = |domain: &String, part: Part| -> Result<Vec<u16>> {
            let path = work.join(format!("{domain}.{}.bin", part.name()));
            if !path.exists() {
                return Err(TrainError::Work { path, problem: "missing; run `data` first".into() });
            }
            let bytes = read(&path)?;
            let tokens: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            let past = tokens.iter().find(|&&t| usize::from(t) >= recipe.vocabulary);
            if let Some(token) = past {
                let problem = format!("token {token} is past the vocabulary of {}", recipe.vocabulary);
                return Err(TrainError::Work { path, problem });
            }
            if tokens.len() < recipe.sequence + 2 {
                let problem = format!("expected more than {} tokens, got {}", recipe.sequence, tokens.len());
                return Err(TrainError::Work { path, problem });
            }
            Ok(tokens)
        };
        let place = |name: &String| recipe.domains.iter().position(|d| d == name);
        Ok(Self {
            domains: recipe.domains.clone(),
            mix: recipe.mix.iter().filter_map(place).collect(),
            train: recipe.domains.iter().map(|d| stream(d, Part::Train)).collect::<Result<_>>()?,
            valid: recipe.domains.iter().map(|d| stream(d, Part::Valid)).collect::<Result<_>>()?,
            sequence: recipe.sequence,
            seed: recipe.seed,
        })
    }

    /// The `batch` sequences of one step, `sequence + 1` tokens each: a pure function of seed and step.
    pub fn batch(&self, step: usize, batch: usize) -> Vec<Vec<u32>> {
        // Nothing else of this seed's luck is drawn from this stream.
        let draws = Luck::new(self.seed).stream(Stream::Request);
        let draw = |row: usize| {
            let domain = self.mix[(step * batch + row) % self.mix.len()];
            let stream = &self.train[domain];
            let starts = stream.len() - self.sequence;
            let start = (draws.uniform(step as u64, row as u64) * starts as f64) as usize;
            widen(&stream[start..=start + self.sequence])
        };
        (0..batch).map(draw).collect()
    }

    /// `count` windows of a domain's held-out text, `sequence + 1` tokens each, spread evenly.
    pub fn held_out(&self, domain: usize, count: usize) -> Vec<Vec<u32>> {
        let stream = &self.valid[domain];
        let starts = stream.len() - self.sequence;
        let window = |index: usize| {
            let start = index * (starts - 1) / count.max(1);
            widen(&stream[start..=start + self.sequence])
        };
        (0..count).map(window).collect()
    }
}

fn widen(tokens: &[u16]) -> Vec<u32> {
    tokens.iter().map(|&t| u32::from(t)).collect()
}
