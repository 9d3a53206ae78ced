//! Throws damaged files at the readers of model folders and prompts, and reports whatever panics.
//!
//! ```text
//! cargo run --release -p specrouter-engine --example fuzz_readers -- [EXECUTIONS] [SEED] [READER...]
//! ```
//!
//! EXECUTIONS is per reader, 1 000 000 when left out; SEED is 1; READER is config, index, header, tokenizer or
//! prompts.
//! Seeds come from `engine/fixtures/fuzz/READER/`. Execution `i` of a seed is the same on every machine. The first
//! input of each place that panics, or of each broken promise, is written to `target/fuzz/`. Panics inside a library
//! that the reader turned into an error are listed too, but only others make it exit with 1.

#![allow(clippy::print_stdout, clippy::exit, reason = "a command, not a library")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use rayon::prelude::*;
use specrouter_engine::config::decoder_config;
use specrouter_engine::load::{read_header, read_index};
use specrouter_engine::prompts::parse_prompts;
use specrouter_engine::tokenizer::{TextStream, Tokenizer};
use specrouter_routing::luck::{Draws, Luck, Stream};

/// Reads the bytes; true when they are taken. Panics when the reader does, or when what it took breaks a promise.
type Reader = fn(&[u8]) -> bool;

const READERS: [(&str, Reader); 5] = [
    ("config", config),
    ("index", index),
    ("header", header),
    ("tokenizer", tokenizer),
    ("prompts", prompts),
];

/// Bytes that matter in JSON and UTF-8.
const BYTES: &[u8] = b"{}[]\",:\\0123456789.-+eEtfn/ \0\x7f\x80\xc0\xff";

/// What a JSON value may be replaced with.
const VALUES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "-0.0",
    "0.5",
    "1e999",
    "1e-999",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "false",
    "\"\"",
    "\"../x\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[]",
    "{}",
];

thread_local! {
    /// Where this thread panicked last, whether or not the panic went further.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let mut executions = 1_000_000u64;
    let mut seed = 1;
    let mut wanted = Vec::new();
    let mut numbers = 0;
    for argument in std::env::args().skip(1) {
        match (argument.parse::<u64>(), numbers) {
            (Ok(number), 0) => executions = number,
            (Ok(number), 1) => seed = number,
            _ if READERS.iter().any(|(name, _)| *name == argument) => {
                wanted.push(argument);
                continue;
            }
            _ => {
                println!(
                    "expected [EXECUTIONS] [SEED] [config|index|header|tokenizer|prompts...], got {argument}"
                );
                return ExitCode::from(2);
            }
        }
        numbers += 1;
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| {
            let parts: Vec<_> = place.file().split('/').collect();
            format!("{}:{}", parts[parts.len().saturating_sub(4)..].join("/"), place.line())
        });
        LAST.set(place.unwrap_or_default());
    }));
    let mut clean = true;
    for (name, reader) in READERS {
        if wanted.is_empty() || wanted.iter().any(|want| want == name) {
            clean &= fuzz(name, reader, executions, seed);
        }
    }
    ExitCode::from(u8::from(!clean))
}

/// Runs one reader and prints a line; false when anything panicked.
fn fuzz(name: &str, reader: Reader, executions: u64, seed: u64) -> bool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("the seed corpus is there")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect();
    for (path, seed) in paths.iter().zip(&seeds) {
        if catch_unwind(AssertUnwindSafe(|| reader(seed))).is_err() {
            println!("{name}: panicked on the seed {}: {}", path.display(), LAST.take());
            return false;
        }
    }

    let draws = Luck::new(seed).stream(Stream::Test);
    // Small enough to print as it goes, large enough for all cores.
    const BLOCK: u64 = 10_000;
    let mut taken = 0;
    // (how many, the first input) by (caught by the reader, place).
    let mut panics = BTreeMap::<(bool, String), (u64, Vec<u8>)>::new();
    for from in (0..executions).step_by(BLOCK as usize) {
        let outcomes: Vec<_> = (from..executions.min(from + BLOCK))
            .into_par_iter()
            .map(|i| {
                LAST.take();
                let input = mutate(&mut Coins { draws, execution: i, next: 0 }, &seeds, name == "header");
                let outcome = catch_unwind(AssertUnwindSafe(|| reader(&input)));
                let place = LAST.take();
                let panic = (!place.is_empty()).then_some(((outcome.is_ok(), place), input));
                (outcome.unwrap_or(false), panic)
            })
            .collect();
        for (took, panic) in outcomes {
            taken += u64::from(took);
            if let Some((place, input)) = panic {
                panics.entry(place).or_insert((0, input)).0 += 1;
            }
        }
    }
    let count =
        |caught| panics.iter().filter(|((c, _), _)| *c == caught).map(|(_, (count, _))| count).sum::<u64>();
    println!(
        "{name}: {executions} executions from {} seeds, {taken} taken, {} panics, {} caught inside",
        seeds.len(),
        count(false),
        count(true),
    );
    for (n, ((caught, place), (count, input))) in panics.iter().enumerate() {
        let file = format!("target/fuzz/{name}-{n}");
        fs::create_dir_all("target/fuzz").expect("target/fuzz can be made");
        fs::write(&file, input).expect("an input can be saved");
        let caught = if *caught { ", caught" } else { "" };
        println!("  {count} at {place}{caught}; the first input is {file}");
    }
    count(false) == 0
}

fn prompts(bytes: &[u8]) -> bool {
    let Ok(prompts) = parse_prompts(Path::new("prompts.jsonl"), bytes) else { return false };
    assert!(!prompts.is_empty() && prompts.iter().all(|prompt| !prompt.turns[0].is_empty()));
    true
}

fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    decoder_config("fuzz", text).is_ok_and(|config| {
        config.spec.check().expect("a config that is taken is a model");
        assert!(config.norm_epsilon.is_finite() && config.rope.theta.is_finite() && config.rope.theta > 0.0);
        true
    })
}

fn index(bytes: &[u8]) -> bool {
    read_index("fuzz", bytes).is_ok_and(|map| {
        assert!(map.iter().all(|(_, shard)| !shard.contains(['/', '\\', '\0']) && shard.len() > 12));
        true
    })
}

fn header(bytes: &[u8]) -> bool {
    let length = bytes.len() as u64;
    read_header("fuzz", length, bytes).is_ok_and(|header| {
        assert!(header.tensors.values().all(|p| p.bytes.start <= p.bytes.end && p.bytes.end <= length));
        true
    })
}

fn tokenizer(bytes: &[u8]) -> bool {
    Tokenizer::from_bytes("fuzz", bytes).is_ok_and(|tokenizer| {
        let text = "a <|endoftext|> b: 12 東京";
        if let Ok(tokens) = tokenizer.encode_user(text) {
            let mut stream = TextStream::after(&tokens[..1]);
            for &token in &tokens[1..] {
                drop(stream.push(&tokenizer, token));
            }
            drop(stream.finish(&tokenizer));
        }
        true
    })
}

/// The random choices of one execution.
struct Coins {
    draws: Draws,
    execution: u64,
    next: u64,
}

impl Coins {
    fn bits(&mut self) -> u64 {
        self.next += 1;
        self.draws.bits(self.execution, self.next)
    }

    /// A number below `n`; 0 when `n` is 0.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A short range of `0..length`.
    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        let most = 1 << self.below(8);
        start..(start + self.below(most) + 1).min(length)
    }
}

/// One of the seeds with one to six changes. `framed` inputs begin with the length of their JSON in eight bytes,
/// which is put right again three times in four.
fn mutate(coins: &mut Coins, seeds: &[Vec<u8>], framed: bool) -> Vec<u8> {
    let seed = coins.pick(seeds);
    let split = |seed: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let length = seed.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word) as usize);
        let end = length.saturating_add(8).min(seed.len());
        (seed[8.min(end)..end].to_vec(), seed[end..].to_vec())
    };
    let (mut json, data) = if framed { split(seed) } else { (seed.clone(), Vec::new()) };
    // Half of all inputs stay JSON, to get past the parser.
    let kinds = if coins.below(2) == 0 { 0..12 } else { 8..12 };
    for _ in 0..=coins.below(6) {
        change(coins, &mut json, seeds, kinds.clone());
    }
    if !framed {
        return json;
    }
    let mut length = json.len() as u64;
    match coins.below(8) {
        0 => length ^= 1 << coins.below(64),
        1 => length = coins.bits() >> coins.below(64),
        _ => {}
    }
    let mut bytes = [length.to_le_bytes().as_slice(), &json, &data].concat();
    if coins.below(8) == 0 {
        bytes.truncate(coins.below(bytes.len() + 1));
    }
    bytes
}

/// One change, of one of `kinds`.
fn change(coins: &mut Coins, bytes: &mut Vec<u8>, seeds: &[Vec<u8>], kinds: Range<usize>) {
    let at = coins.below(bytes.len());
    match kinds.start + coins.below(kinds.len()) {
        0 if at < bytes.len() => bytes[at] ^= 1 << coins.below(8),
        1 if at < bytes.len() => bytes[at] = *coins.pick(BYTES),
        2 if at < bytes.len() => bytes[at] = coins.bits() as u8,
        3 => bytes.insert(at, *coins.pick(BYTES)),
        4 => drop(bytes.drain(coins.range(bytes.len()))),
        5 => {
            let copy = bytes[coins.range(bytes.len())].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let other = coins.pick(seeds);
            let copy = other[coins.range(other.len())].to_vec();
            bytes.splice(coins.range(bytes.len()), copy);
        }
        7 if coins.below(4) == 0 => bytes.truncate(at),
        8 => {
            // Two pieces of JSON change places.
            let pieces = pieces(bytes);
            if pieces.len() > 1 {
                let (a, b) = (coins.pick(&pieces).clone(), coins.pick(&pieces).clone());
                let (a, b) = if a.start < b.start { (a, b) } else { (b, a) };
                if a.end <= b.start {
                    let (first, second) = (bytes[a.clone()].to_vec(), bytes[b.clone()].to_vec());
                    bytes.splice(b, first);
                    bytes.splice(a, second);
                }
            }
        }
        9 => {
            // One stands for another as well.
            let pieces = pieces(bytes);
            if !pieces.is_empty() {
                let (to, from) = (coins.pick(&pieces).clone(), coins.pick(&pieces).clone());
                let copy = bytes[from].to_vec();
                bytes.splice(to, copy);
            }
        }
        _ => {
            let pieces = pieces(bytes);
            if !pieces.is_empty() {
                let to = coins.pick(&pieces).clone();
                bytes.splice(to, coins.pick(&VALUES).bytes());
            }
        }
    }
}

/// Where strings, numbers and words of JSON stand.
fn pieces(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        at += 1;
        if bytes[start] == b'"' {
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at = (at + 1).min(bytes.len());
        } else if bytes[start].is_ascii_alphanumeric() || bytes[start] == b'-' {
            while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || b"+-.".contains(&bytes[at])) {
                at += 1;
            }
        } else {
            continue;
        }
        pieces.push(start..at);
    }
    pieces
}
