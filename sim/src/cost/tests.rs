//! Laws of the prices. How well they meet a table of real devices is tested over the catalog, in
//! `tests/costs.rs` of the root.

use proptest::prelude::*;
use specrouter_routing::profile::{DataSheet, LinearTerms, ModelKind, Precision, TableRow};
use specrouter_routing::units::Positive;

use super::*;

pub(crate) fn llama_8b() -> ModelSpec {
    ModelSpec {
        name: "llama-3.1-8b".into(),
        source: "meta-llama/Llama-3.1-8B".into(),
        kind: ModelKind::Model,
        family: "llama-3".into(),
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 14_336,
        vocab: 128_256,
        tied_embeddings: false,
        context: 131_072,
        precision: Precision::Bf16,
        kv_bytes: 2,
    }
}

pub(crate) fn llama_70b() -> ModelSpec {
    ModelSpec {
        name: "llama-3.1-70b".into(),
        layers: 80,
        hidden: 8192,
        heads: 64,
        intermediate: 28_672,
        ..llama_8b()
    }
}

fn ngram() -> ModelSpec {
    ModelSpec {
        name: "ngram".into(),
        kind: ModelKind::Ngram,
        layers: 0,
        hidden: 0,
        heads: 0,
        kv_heads: 0,
        ..llama_8b()
    }
}

fn h100() -> HardwareSpec {
    let p = |v| Positive::new(v).unwrap();
    let n = |v| NonNegative::new(v).unwrap();
    let e = |v| Efficiency::new(v).unwrap();
    HardwareSpec {
        name: "h100-sxm".into(),
        source: "test".into(),
        sheet: DeviceSheet {
            memory_gb: p(80.0),
            bandwidth_tb_s: p(3.35),
            bf16_tflops: p(989.0),
            fp8_tflops: Some(p(1978.0)),
            link_gb_s: p(450.0),
            watts: n(700.0),
            dollars_per_hour: n(2.95),
        },
        achieved: Achieved {
            weights: WeightReads { plateau: e(0.92), half_mb: n(44.0) },
            compute: e(0.77),
            elementwise: e(0.52),
            attention: Attention { floor_us: n(9.0), bandwidth: e(0.9), compute: e(0.65) },
            layer_us: n(19.0),
            pass_us: n(126.0),
            row_us: n(0.5),
            all_reduce: AllReduce { latency_us: n(4.0), link: e(0.8) },
            logit_passes: n(4.0),
            noise: n(0.0),
        },
    }
}

pub(crate) fn cost(models: &[ModelSpec], tensor_parallel: u32) -> CostModel {
    CostModel::roofline(models, &h100(), tensor_parallel, Luck::new(1)).unwrap()
}

#[test]
fn a_pass_of_one_token_is_the_sum_of_its_terms() {
    let price = cost(&[llama_8b()], 1).price(
        ModelId(0),
        &PassShape { attention_pairs: 0, ..PassShape::uniform(1, 1, 1000) },
        After::Same,
        (0, 0),
    );
    let streamed = 3.35e12 * 0.92;
    let layers = 32.0 * (218_103_808.0 * 2.0 + 44e6) / streamed; // Its compute is 1 % of that: 0.01 % of the hypotenuse.
    let head = (4096.0 * 128_256.0 * 2.0 + 44e6) / streamed;
    let kv = 1000.0 * 131_072.0 / (3.35e12 * 0.9);
    let overheads = 32.0 * (9e-6 + 19e-6) + 126e-6 + 0.5e-6;
    let small =
        (32.0 * 2.0 * (8.0 * 4096.0 + 2.0 * 5120.0 + 3.0 * 14_336.0) + 128_256.0 * 16.0) / (3.35e12 * 0.52);
    let expected = layers + head + kv + overheads + small;
    assert!((price.seconds() / expected - 1.0).abs() < 2e-4, "{price} {expected}");
}

#[test]
fn mixed_rows_share_one_gemm() {
    let cost = cost(&[llama_8b()], 1);
    let (decode, prefill) =
        (PassShape::uniform(32, 1, 2048), PassShape { logit_rows: 1, ..PassShape::uniform(1, 512, 0) });
    let seconds = |shape: &PassShape| cost.seconds(ModelId(0), shape);
    let mixed = seconds(&decode.plus(prefill));
    assert!(mixed < 0.75 * (seconds(&decode) + seconds(&prefill)), "{mixed}");
    assert!(mixed > seconds(&decode).max(seconds(&prefill)));
}

#[test]
fn four_devices_are_faster_than_one_but_less_than_four_times() {
    let shape = PassShape::uniform(8, 4, 2048);
    let [one, four] = [1, 4].map(|n| cost(&[llama_70b()], n).seconds(ModelId(0), &shape));
    assert!(one / four > 2.0 && one / four < 4.0, "{}", one / four);
}

#[test]
fn memory_left_by_the_weights_is_shared_in_tokens() {
    let fraction = Probability::new(0.9).unwrap();
    let alone = CostModel::kv_tokens(&[llama_8b()], &h100(), 1, fraction).unwrap();
    // 72 GB, less 16.06 GB of weights, over 131,072 bytes a token.
    assert_eq!(alone, 426_788);
    let draft = ModelSpec { layers: 16, ..llama_8b() };
    let both = CostModel::kv_tokens(&[ngram(), draft.clone(), llama_8b()], &h100(), 1, fraction).unwrap();
    let bytes = (draft.resident_bytes() + llama_8b().resident_bytes()) as f64;
    assert_eq!(both, ((72e9 - bytes) / (131_072.0 * 1.5)) as u64);
}

#[test]
fn what_cannot_be_priced_is_named() {
    let fraction = Probability::new(0.9).unwrap();
    insta::assert_snapshot!(CostModel::kv_tokens(&[llama_8b(), llama_70b()], &h100(), 1, fraction).unwrap_err(), @"model llama-3.1-70b is too large for h100-sxm: the weights of the pool need 157.2 GB on each device at tensor_parallel 1, there are 72.0 GB (90 % of its memory); use more tensor_parallel, smaller models or larger devices");
    insta::assert_snapshot!(CostModel::kv_tokens(&[ngram()], &h100(), 1, fraction).unwrap_err(), @"the pool needs a model with weights as its target, got only look-ups");
    insta::assert_snapshot!(CostModel::roofline(&[llama_8b()], &h100(), 3, Luck::new(1)).unwrap_err(), @"tensor_parallel must be at least 1 and divide the 32 attention heads of model llama-3.1-8b, got 3");
    insta::assert_snapshot!(CostModel::roofline(&[llama_8b()], &h100(), 0, Luck::new(1)).unwrap_err(), @"tensor_parallel must be at least 1 and divide the 32 attention heads of model llama-3.1-8b, got 0");
    let flat = ModelSpec { layers: 0, ..llama_8b() };
    insta::assert_snapshot!(CostModel::roofline(&[flat], &h100(), 1, Luck::new(1)).unwrap_err(), @"model llama-3.1-8b: layers must be between 1 and 256, got 0");
    insta::assert_snapshot!(Efficiency::new(1.01).unwrap_err(), @"efficiency must be above 0 and at most 1, got 1.01");
    assert!(Efficiency::new(f64::NAN).is_err() && Efficiency::new(0.0).is_err());
}

#[test]
fn tables_and_linear_prices_are_charged_as_given() {
    let linear = CostModel::linear(Linear::new(vec![LinearTerms::new(1e-3, 1e-4, 1e-5, 0.0, 0.0).unwrap()]));
    assert_eq!(
        linear.price(ModelId(0), &PassShape::uniform(2, 3, 100), After::Same, (0, 0)),
        Span::from_nanos(1_260_000)
    );
    let row = |new_tokens, seconds| TableRow {
        model: "llama-3.1-8b".into(),
        rows: 1,
        new_tokens,
        context_tokens: 0.0,
        seconds,
    };
    let table = CostModel::table(Table::new(&[llama_8b()], &[row(1, 0.01), row(3, 0.02)]).unwrap());
    assert_eq!(
        table.price(ModelId(0), &PassShape::uniform(1, 2, 0), After::Same, (0, 0)),
        Span::from_nanos(15_000_000)
    );
    assert_eq!((table.extrapolations(), linear.extrapolations()), (0, 0));
    table.price(ModelId(0), &PassShape::uniform(1, 4, 0), After::Same, (0, 0));
    assert_eq!(table.extrapolations(), 1);
}

#[test]
fn noise_moves_a_pass_and_only_by_its_key() {
    let noisy = cost(&[llama_8b()], 1).with_noise(NonNegative::new(0.1).unwrap(), Luck::new(3));
    let shape = PassShape::uniform(4, 1, 100);
    assert_eq!(
        noisy.price(ModelId(0), &shape, After::Same, (1, 2)),
        noisy.price(ModelId(0), &shape, After::Same, (1, 2))
    );
    assert_ne!(
        noisy.price(ModelId(0), &shape, After::Same, (1, 2)),
        noisy.price(ModelId(0), &shape, After::Same, (1, 3))
    );
}

prop_compose! {
    fn shapes()(rows in 1u32..300, new in 1u32..600, context in 0u64..40_000, logits in 0u32..600) -> PassShape {
        PassShape { logit_rows: rows * logits.min(new), ..PassShape::uniform(rows, new, context) }
    }
}

proptest! {
    /// More work is never cheaper, whichever kind of work is added.
    #[test]
    fn more_rows_tokens_logits_or_context_never_cost_less(shape in shapes(), more in shapes(), tp in 0u32..4) {
        let cost = cost(&[llama_8b()], 1 << tp);
        let base = cost.price(ModelId(0), &shape, After::Same, (0, 0));
        prop_assert!(base > Span::ZERO);
        for larger in [
            PassShape { rows: shape.rows + more.rows, ..shape },
            PassShape { new_tokens: shape.new_tokens + more.new_tokens, ..shape },
            PassShape { logit_rows: shape.logit_rows + more.logit_rows, ..shape },
            PassShape { context_tokens: shape.context_tokens + more.context_tokens, ..shape },
            PassShape { attention_pairs: shape.attention_pairs + more.attention_pairs, ..shape },
            shape.plus(more),
        ] {
            prop_assert!(cost.price(ModelId(0), &larger, After::Same, (0, 0)) >= base);
        }
    }

    /// What a deployer reads off the data sheet is a lower limit.
    #[test]
    fn the_data_sheet_promises_more_than_any_device_keeps(shape in shapes(), tp in 0u32..4) {
        let models = [ngram(), llama_8b()];
        let pool = if tp == 0 { &models[..] } else { &models[1..] };
        let (cost, sheet) = (cost(pool, 1 << tp), DataSheet::new(pool, &h100().sheet, 1 << tp));
        for model in (0..pool.len()).map(|m| ModelId(m as u8)) {
            prop_assert!(sheet.seconds(model, &shape) <= cost.seconds(model, &shape));
        }
    }

    /// Two passes packed into one are never dearer than one after the other.
    #[test]
    fn packing_never_costs_more_than_two_passes(one in shapes(), other in shapes()) {
        let cost = cost(&[llama_8b()], 1);
        let seconds = |shape: &PassShape| cost.seconds(ModelId(0), shape);
        prop_assert!(seconds(&one.plus(other)) <= seconds(&one) + seconds(&other));
    }
}
