use std::path::{Path as FilePath, PathBuf};

use proptest::prelude::*;
use specrouter_routing::ids::Slot;

use super::*;
use crate::level::{ForwardError, LevelModel, Packed, PackedRow};
use crate::load::{Checkpoint, nested, tiny_config};

fn fixture(name: &str) -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn options(path: Path) -> DecoderOptions {
    DecoderOptions { poison: true, path, ..DecoderOptions::new(4096) }
}

fn open(name: &str, path: Path) -> Decoder {
    let mut checkpoint = Checkpoint::open(&fixture(name), name).unwrap();
    let decoder = Decoder::load(checkpoint.config().clone(), &mut checkpoint, options(path)).unwrap();
    checkpoint.check_all_taken().unwrap();
    decoder
}

/// One row of a pass: a slot, how much of its cache is there, and the tokens that follow.
type Piece<'a> = (u32, u32, &'a [u32]);

/// Packs rows, all of whose tokens want logits.
fn packed(pieces: &[Piece<'_>]) -> Packed {
    let mut packed = Packed::default();
    for &(slot, context, tokens) in pieces {
        packed.rows.push(PackedRow { slot: Slot(slot), context, tokens: tokens.len() as u32 });
        packed.tokens.extend_from_slice(tokens);
    }
    packed.want = (0..packed.tokens.len() as u32).collect();
    packed
}

/// Logits of every token, by bits.
fn run(decoder: &mut Decoder, pieces: &[Piece<'_>]) -> Vec<Vec<u32>> {
    let mut logits = Vec::new();
    decoder.forward(&packed(pieces), &mut logits).unwrap();
    logits.chunks(decoder.vocabulary()).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}

fn golden(name: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let bytes = std::fs::read(fixture(name).join("golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = |key: String| file.tensor(&key).unwrap().data().to_vec();
    let words =
        |bytes: Vec<u8>| bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let floats =
        |bytes: Vec<u8>| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (0..2).map(|i| (words(data(format!("tokens.{i}"))), floats(data(format!("logits.{i}"))))).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ["llama", "qwen2", "qwen3", "mistral"] {
        for path in Path::available() {
            let mut decoder = open(name, path);
            let golden = golden(name);
            let pieces: Vec<Piece<'_>> =
                golden.iter().enumerate().map(|(i, (tokens, _))| (i as u32, 0, tokens.as_slice())).collect();
            let mut logits = Vec::new();
            decoder.forward(&packed(&pieces), &mut logits).unwrap();
            let expected = golden.iter().flat_map(|(_, logits)| logits);
            assert_eq!(expected.clone().count(), logits.len());
            let worst = expected.zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}, {path:?}: off by {worst}");
        }
    }
}

#[test]
fn every_vector_path_gives_the_same_bits() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 90).collect();
    for name in ["llama", "qwen2", "qwen3", "mistral"] {
        // The tile unit takes bf16 weights, which one of the four has, in an order of its own.
        let paths = Path::available().into_iter().filter(|p| *p != Path::Tiles || name != "qwen3");
        let all: Vec<_> = paths.map(|p| run(&mut open(name, p), &[(0, 0, &tokens)])).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
}

#[test]
fn the_tile_unit_gives_the_logits_of_the_vectors() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 90).collect();
    for name in ["llama", "qwen2", "qwen3", "mistral"] {
        let logits = |path| {
            let mut checkpoint = Checkpoint::open(&fixture(name), name).unwrap();
            let options = DecoderOptions { dtype: Dtype::Bf16, ..options(path) };
            let config = checkpoint.config().clone();
            let mut decoder = Decoder::load(config, &mut checkpoint, options).unwrap();
            let mut logits = Vec::new();
            decoder.forward(&packed(&[(0, 0, &tokens)]), &mut logits).unwrap();
            logits
        };
        let vectors = logits(Path::Portable);
        for path in Path::available() {
            let differences = logits(path).into_iter().zip(&vectors).map(|(a, b)| (a - b).abs());
            let worst = differences.fold(0.0, f32::max);
            assert!(worst < 1e-5, "{name}, {path:?}: off by {worst}");
        }
    }
}

fn small() -> Decoder {
    small_in(Dtype::Auto)
}

/// Weights in f32 run on vectors, in bf16 on tiles where the processor has them.
fn small_in(dtype: Dtype) -> Decoder {
    let [.., (config, mut source)] = nested(&tiny_config(), 3, 0.3, 0.2);
    let options = DecoderOptions { dtype, ..options(Path::best()) };
    Decoder::load(config, &mut source, options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Invariant 6: after any rollback the cache is that of a fresh prefill, bit for bit, whatever the
    /// chunks it was filled in and whoever ran beside it.
    #[test]
    fn invariant_6_a_cache_after_rollback_is_that_of_a_fresh_prefill(
        text in prop::collection::vec(0u32..200, 40..70),
        other in prop::collection::vec(0u32..200, 60..61),
        cuts in prop::collection::vec((1usize..20, 0usize..12, any::<bool>()), 2..8),
        narrow: bool,
    ) {
        let small = || small_in(if narrow { Dtype::Bf16 } else { Dtype::F32 });
        let mut decoder = small();
        let (mut at, mut beside) = (0usize, 0usize);
        for (forward, back, company) in cuts {
            let to = (at + forward).min(text.len() - 5);
            if to == at { break; }
            if company && beside < 50 {
                run(&mut decoder, &[(7, beside as u32, &other[beside..beside + 3]), (2, at as u32, &text[at..to])]);
                beside += 3;
            } else {
                run(&mut decoder, &[(2, at as u32, &text[at..to])]);
            }
            at = to.saturating_sub(back);
            decoder.truncate(Slot(2), at as u32);
            prop_assert_eq!(decoder.cached(Slot(2)) as usize, at);
        }
        let tail = &text[at..];
        let got = run(&mut decoder, &[(2, at as u32, tail)]);
        let mut fresh = small();
        let whole = run(&mut fresh, &[(0, 0, &text)]);
        prop_assert!(got == whole[at..], "logits behind position {at} differ");
        decoder.truncate(Slot(2), 0);
        prop_assert_eq!(decoder.used_pages() as usize, beside.div_ceil(PAGE), "pages of the neighbour are left");
    }
}

/// Invariant 10, at its root: the logits of a row do not depend on its neighbours.
#[test]
fn invariant_10_a_row_alone_equals_that_row_among_many() {
    let texts: Vec<Vec<u32>> =
        (0..17).map(|i| (0..5 + i).map(|j| (i * 31 + j * 17) % 250).collect()).collect();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut together = small_in(dtype);
        let pieces: Vec<Piece<'_>> =
            texts.iter().enumerate().map(|(i, t)| (i as u32, 0, t.as_slice())).collect();
        let rows = run(&mut together, &pieces);
        let mut first = 0;
        for text in &texts {
            let mut alone = small_in(dtype);
            // Token by token, as plain decoding would.
            for (at, token) in text.iter().enumerate() {
                let one = run(&mut alone, &[(0, at as u32, std::slice::from_ref(token))]);
                assert!(one[0] == rows[first + at], "{dtype:?}, position {at}");
            }
            first += text.len();
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let tokens: Vec<u32> = (0..300).map(|i| i * 13 % 250).collect();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| [Dtype::F32, Dtype::Bf16].map(|dtype| run(&mut small_in(dtype), &[(0, 0, &tokens)])))
    };
    let one = on(1);
    assert!(on(2) == one && on(3) == one);
}

#[test]
fn what_does_not_fit_is_named_and_changes_no_cache() {
    let mut decoder = small();
    let mut logits = Vec::new();
    let mut message =
        |pieces: &[Piece<'_>]| decoder.forward(&packed(pieces), &mut logits).unwrap_err().to_string();
    insta::assert_snapshot!(message(&[(0, 5, &[1])]), @"nested-target: packed pass: context of a row: expected 0, got 5");
    insta::assert_snapshot!(message(&[(0, 0, &[1, 9999])]), @"nested-target: token id must be below the vocabulary's 256, got 9999");
    assert_eq!(decoder.cached(Slot(0)), 0);
    let mut small = DecoderOptions::new(16);
    small.poison = true;
    let [.., (config, mut source)] = nested(&tiny_config(), 3, 0.3, 0.2);
    let mut tight = Decoder::load(config, &mut source, small).unwrap();
    let error = tight.forward(&packed(&[(0, 0, &[1; 17])]), &mut logits).unwrap_err();
    insta::assert_snapshot!(error, @"nested-target: KV memory holds 1 pages of 16 tokens, and all are in use");
}

#[test]
fn broken_weights_are_found_in_the_logits() {
    let [.., (config, mut source)] = nested(&tiny_config(), 3, 0.3, 0.2);
    struct Broken<'a>(&'a mut dyn WeightSource);
    impl WeightSource for Broken<'_> {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
            let values = self.0.tensor(name, shape)?;
            if name != "model.norm.weight" {
                return Ok(values);
            }
            let mut values = values.to_f32();
            values[0] = f32::NAN;
            Ok(Values::F32(values))
        }
    }
    let mut decoder = Decoder::load(config, &mut Broken(&mut source), options(Path::best())).unwrap();
    let mut logits = Vec::new();
    let error = decoder.forward(&packed(&[(4, 0, &[1]), (5, 0, &[2, 3])]), &mut logits).unwrap_err();
    assert!(matches!(error, ForwardError::NotFinite { row: 0, .. }), "{error}");
}
