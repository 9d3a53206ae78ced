use std::path::{Path as FilePath, PathBuf};

use proptest::prelude::*;
use specrouter_routing::ids::Slot;

use super::*;
use crate::decoder::{Decoder, DecoderOptions};
use crate::level::{ForwardError, LevelModel, Packed, PackedRow};
use crate::load::{Checkpoint, Nested, nested, tiny_config};

const FIXTURES: [&str; 4] = ["llama", "qwen2", "qwen3", "mistral"];

fn fixture(name: &str) -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn options(dtype: Dtype) -> TensorOptions {
    TensorOptions { dtype, poison: true, ..TensorOptions::new(4096) }
}

/// A fixture's decoder and its twin on the processor, f32.
fn open(name: &str) -> (TensorDecoder, Decoder) {
    let mut checkpoint = Checkpoint::open(&fixture(name), name).unwrap();
    let config = checkpoint.config().clone();
    let tensors =
        TensorDecoder::load(config.clone(), &mut checkpoint, options(Dtype::F32), &Device::Cpu).unwrap();
    checkpoint.check_all_taken().unwrap();
    let twin = DecoderOptions { dtype: Dtype::F32, poison: true, ..DecoderOptions::new(4096) };
    (tensors, Decoder::load(config, &mut checkpoint, twin).unwrap())
}

fn target() -> (DecoderConfig, Nested) {
    let [.., target] = nested(&tiny_config(), 3, 0.3, 0.2);
    target
}

fn small(dtype: Dtype, kv_tokens: u64) -> TensorDecoder {
    let (config, mut source) = target();
    TensorDecoder::load(config, &mut source, TensorOptions { kv_tokens, ..options(dtype) }, &Device::Cpu)
        .unwrap()
}

fn small_twin() -> Decoder {
    let (config, mut source) = target();
    Decoder::load(config, &mut source, DecoderOptions { poison: true, ..DecoderOptions::new(4096) }).unwrap()
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

fn run(model: &mut impl LevelModel, packed: &Packed) -> Vec<f32> {
    let mut logits = vec![f32::NAN; 3];
    model.forward(packed, &mut logits).unwrap();
    assert_eq!(logits.len(), packed.want.len() * model.vocabulary());
    logits
}

/// The largest difference; NaN anywhere is infinite.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gap = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(gap).fold(0.0, f32::max)
}

fn golden(name: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let file =
        candle_core::safetensors::load(fixture(name).join("golden.safetensors"), &Device::Cpu).unwrap();
    let tokens = |i| file[&format!("tokens.{i}")].to_dtype(DType::U32).unwrap().to_vec1().unwrap();
    let logits = |i| file[&format!("logits.{i}")].flatten_all().unwrap().to_vec1().unwrap();
    (0..2).map(|i| (tokens(i), logits(i))).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in FIXTURES {
        let golden = golden(name);
        let pieces: Vec<Piece<'_>> =
            (0..).zip(&golden).map(|(i, (tokens, _))| (i, 0, tokens.as_slice())).collect();
        let expected: Vec<f32> = golden.iter().flat_map(|(_, logits)| logits.clone()).collect();
        for rectangle in [0, u64::MAX / 4] {
            let (mut decoder, _) = open(name);
            decoder.tuning.rectangle = rectangle;
            let worst = apart(&run(&mut decoder, &packed(&pieces)), &expected);
            assert!(worst < 1e-4, "{name}: off by {worst}");
        }
    }
}

/// What a random pass does with one slot.
#[derive(Clone, Debug)]
struct Step {
    slot: u32,
    /// Tokens to forget first.
    back: u32,
    tokens: Vec<u32>,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 1usize..5, 1 => 5usize..50];
    let tokens = length.prop_flat_map(|length| prop::collection::vec(0u32..90, length));
    (0u32..5, prop_oneof![3 => 0u32..4, 1 => 0u32..200], tokens).prop_map(|(slot, back, tokens)| Step {
        slot,
        back,
        tokens,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Forgotten places and fresh memory are NaN in both, so neither may ever read them.
    #[test]
    fn random_ragged_passes_agree_with_the_processors_decoder(
        name in prop::sample::select(FIXTURES.to_vec()),
        passes in prop::collection::vec(prop::collection::vec(step(), 1..6), 2..9),
        rectangle in prop::sample::select(vec![0u64, 1 << 12, 1 << 25]),
        piece in prop::sample::select(vec![6u32, 1024]),
        skip in 1usize..4,
    ) {
        let (mut tensors, mut twin) = open(name);
        tensors.tuning = Tuning { rectangle, piece, ..Tuning::default() };
        for mut steps in passes {
            steps.sort_by_key(|step| step.slot);
            steps.dedup_by_key(|step| step.slot);
            let mut pieces = Vec::new();
            for step in &steps {
                let keep = twin.cached(Slot(step.slot)).saturating_sub(step.back);
                twin.truncate(Slot(step.slot), keep);
                tensors.truncate(Slot(step.slot), keep);
                pieces.push((step.slot, keep, step.tokens.as_slice()));
            }
            // Rows in no order of their slots.
            let half = pieces.len() / 2;
            pieces.rotate_left(half);
            let mut packed = packed(&pieces);
            packed.want = packed.want.into_iter().step_by(skip).collect();
            let worst = apart(&run(&mut tensors, &packed), &run(&mut twin, &packed));
            prop_assert!(worst < 1e-4, "{name}: off by {worst}");
            prop_assert_eq!(tensors.used_pages(), twin.used_pages());
            for slot in (0..5).map(Slot) {
                prop_assert_eq!(tensors.cached(slot), twin.cached(slot));
            }
        }
    }
}

#[test]
fn forgotten_places_are_poisoned_and_others_are_not() {
    let mut decoder = small(Dtype::F32, 64);
    run(&mut decoder, &packed(&[(0, 0, &[1; 20]), (1, 0, &[2; 5])]));
    decoder.truncate(Slot(0), 7);
    run(&mut decoder, &packed(&[(1, 5, &[3])]));
    for layer in &decoder.layers {
        let cache: Vec<Vec<f32>> = layer.cache.to_vec2().unwrap();
        let poisoned: Vec<usize> = (0..64).filter(|&place| cache[place].iter().all(|x| x.is_nan())).collect();
        let clean: Vec<usize> = (0..64).filter(|&place| cache[place].iter().all(|x| x.is_finite())).collect();
        // Slot 0 had pages 0 and 1, slot 1 has page 2.
        assert_eq!(clean, (0..7).chain(32..38).collect::<Vec<_>>());
        assert_eq!(poisoned.len() + clean.len(), 64);
    }
}

#[test]
fn prefill_alone_returns_no_logits_and_is_cached() {
    let text: Vec<u32> = (0..40).map(|i| i * 7 % 250).collect();
    let mut decoder = small(Dtype::F32, 4096);
    let mut prefill = packed(&[(3, 0, &text[..39])]);
    prefill.want.clear();
    assert!(run(&mut decoder, &prefill).is_empty());
    assert_eq!(decoder.cached(Slot(3)), 39);
    let last = run(&mut decoder, &packed(&[(3, 39, &text[39..])]));
    let whole = run(&mut small_twin(), &packed(&[(0, 0, &text)]));
    assert!(apart(&last, &whole[39 * 256..]) < 1e-4);
    assert!(run(&mut decoder, &Packed::default()).is_empty());
    decoder.synchronize().unwrap();
}

#[test]
fn positions_past_the_first_angles_are_turned_as_the_processor_turns_them() {
    let text: Vec<u32> = (0..700).map(|i| i * 13 % 250).collect();
    let mut decoder = small(Dtype::F32, 4096);
    let first = run(&mut decoder, &packed(&[(0, 0, &text[..200])]));
    let rest = run(&mut decoder, &packed(&[(0, 200, &text[200..])]));
    let whole = run(&mut small_twin(), &packed(&[(0, 0, &text)]));
    assert!(apart(&[first, rest].concat(), &whole) < 1e-4);
}

#[test]
fn bfloat16_agrees_to_its_precision() {
    let text: Vec<u32> = (0..60).map(|i| i * 7 % 250).collect();
    let exact = run(&mut small_twin(), &packed(&[(0, 0, &text)]));
    let mut decoder = small(Dtype::Bf16, 4096);
    assert_eq!(decoder.dtype(), DType::BF16);
    assert_eq!(decoder.weight_bytes() * 2, small(Dtype::Auto, 16).weight_bytes());
    let narrow = run(&mut decoder, &packed(&[(0, 0, &text)]));
    let spread = (exact.iter().map(|x| x * x).sum::<f32>() / exact.len() as f32).sqrt();
    let error = exact.iter().zip(&narrow).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / exact.len() as f32;
    let error = error.sqrt() / spread;
    // A number is rounded by 2⁻⁹ on average, some dozens of times on its way.
    assert!((1e-4..0.05).contains(&error), "off by {error} of the logits' spread");
}

#[test]
fn what_does_not_fit_is_named_as_by_the_processors_decoder() {
    let (mut decoder, mut twin) = (small(Dtype::F32, 4096), small_twin());
    let mut logits = Vec::new();
    let mut beyond = packed(&[(0, 0, &[1, 2])]);
    beyond.want = vec![0, 2];
    let mut short = packed(&[(0, 0, &[1, 2])]);
    short.rows[0].tokens = 3;
    for wrong in [packed(&[(0, 5, &[1])]), packed(&[(0, 0, &[1, 9999])]), beyond, short] {
        let own = decoder.forward(&wrong, &mut logits).unwrap_err().to_string();
        assert_eq!(own, twin.forward(&wrong, &mut logits).unwrap_err().to_string());
    }
    let mut message = |wrong: &Packed| decoder.forward(wrong, &mut logits).unwrap_err().to_string();
    let twice = packed(&[(0, 0, &[1]), (0, 0, &[2])]);
    insta::assert_snapshot!(message(&twice), @"nested-target: packed pass: rows of one slot, at most: expected 1, got 2");
    let nothing = packed(&[(0, 0, &[1]), (1, 0, &[])]);
    insta::assert_snapshot!(message(&nothing), @"nested-target: packed pass: tokens of a row, at least: expected 1, got 0");
    let nobody = Packed { want: vec![0], ..Packed::default() };
    insta::assert_snapshot!(message(&nobody), @"nested-target: packed pass: last token with logits, at most: expected 0, got 0");
    assert_eq!((decoder.cached(Slot(0)), decoder.used_pages()), (0, 0));
    let error = small(Dtype::F32, 16).forward(&packed(&[(0, 0, &[1; 17])]), &mut logits).unwrap_err();
    insta::assert_snapshot!(error, @"nested-target: KV memory holds 1 pages of 16 tokens, and all are in use");
}

#[test]
fn what_a_devices_kernels_cannot_count_is_refused_before_memory_is_taken() {
    let load = |config, kv_tokens| {
        let (_, mut source) = target();
        TensorDecoder::load(config, &mut source, TensorOptions::new(kv_tokens), &Device::Cpu).err().unwrap()
    };
    let (config, _) = target();
    insta::assert_snapshot!(load(config.clone(), u64::MAX), @"nested-target: tokens of KV memory on a device must be at most 67108848, got 18446744073709551615");
    let mut wide = config;
    (wide.spec.vocab, wide.spec.hidden) = (2_000_000, 65_536);
    insta::assert_snapshot!(load(wide, 64), @"nested-target: numbers of the embedding on a device must be at most 4294967295, got 131072000000");
    let mut decoder = small(Dtype::F32, 64);
    decoder.config.spec.intermediate = 1 << 29;
    let error = decoder.forward(&packed(&[(0, 0, &[1, 2])]), &mut Vec::new()).unwrap_err();
    insta::assert_snapshot!(error, @"nested-target: packed pass: tokens of a pass on a device, at most: expected 1, got 2");
    assert_eq!(decoder.cached(Slot(0)), 0);
}

#[test]
fn broken_weights_are_found_in_the_logits() {
    struct Broken(Nested);
    impl WeightSource for Broken {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
            let mut values = self.0.tensor(name, shape)?.to_f32();
            if name == "model.embed_tokens.weight" {
                values[2 * 64] = f32::NAN; // Token 2.
            }
            Ok(Values::F32(values))
        }
    }
    let (config, source) = target();
    let mut decoder =
        TensorDecoder::load(config, &mut Broken(source), options(Dtype::F32), &Device::Cpu).unwrap();
    let mut logits = Vec::new();
    let error = decoder.forward(&packed(&[(4, 0, &[1]), (5, 0, &[3, 2])]), &mut logits).unwrap_err();
    assert!(matches!(error, ForwardError::NotFinite { row: 1, .. }), "{error}");
    // Its pages hold NaN now; whoever has them next does not notice.
    decoder.truncate(Slot(5), 0);
    decoder.forward(&packed(&[(4, 1, &[1]), (6, 0, &[3, 1, 4])]), &mut logits).unwrap();
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    let (mut config, _) = target();
    config.spec.intermediate += 2;
    let mut checkpoint = Checkpoint::open(&fixture("llama"), "llama").unwrap();
    let error =
        TensorDecoder::load(config, &mut checkpoint, options(Dtype::Auto), &Device::Cpu).err().unwrap();
    assert!(matches!(error, TensorError::Load(LoadError::Shape { .. })), "{error}");
}
