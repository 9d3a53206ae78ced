//! The catalog's prices against published ones, and against what must hold of any device.

#![allow(clippy::unwrap_used)] // A helper of tests fails like a test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use specrouter_routing::backend::After;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::Luck;
use specrouter_routing::profile::{DataSheet, ModelKind, ModelSpec, PassCosts, PassShape};
use specrouter_routing::units::Probability;
use specrouter_sim::cost::{CostModel, HardwareSpec};

/// Every file of a catalog folder, by name.
fn catalog<T: DeserializeOwned>(kind: &str) -> BTreeMap<String, T> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios/catalog").join(kind);
    std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let value = serde_yaml::with::singleton_map_recursive::deserialize(
                serde_yaml::Deserializer::from_str(&text),
            )
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), value)
        })
        .collect()
}

fn hardware(name: &str) -> HardwareSpec {
    catalog("hardware").remove(name).unwrap()
}

fn model(name: &str) -> ModelSpec {
    catalog("models").remove(name).unwrap()
}

/// Milliseconds of passes of one model on one device.
fn prices(model_name: &str, device: &str, tensor_parallel: u32) -> impl Fn(&PassShape) -> f64 {
    let cost =
        CostModel::roofline(&[model(model_name)], &hardware(device), tensor_parallel, Luck::new(1)).unwrap();
    move |shape| cost.price(ModelId(0), shape, After::Same, (0, 0)).seconds() * 1e3
}

/// A whole prompt in one pass, logits for its last token.
fn prefill(tokens: u32) -> PassShape {
    PassShape { logit_rows: 1, ..PassShape::uniform(1, tokens, 0) }
}

/// Model, device, tensor parallel; decode at batch 1, 8, 32, 64, 128 with 2,048 tokens of context;
/// prefill of 512, 2,048, 8,192 tokens. Milliseconds, bf16.
type Published = (&'static str, &'static str, u32, [f64; 5], [f64; 3]);

/// Source: AIConfigurator's kernel tables for vLLM, summed over a pass (a prediction of kernels,
/// not a measurement of a server).
const PUBLISHED: [Published; 8] = [
    ("llama-3.1-8b", "h200", 1, [4.91, 5.51, 7.28, 9.47, 13.9], [11.5, 43.4, 199.0]),
    ("llama-3.1-8b", "h100-sxm", 1, [6.24, 7.27, 9.63, 12.6, 18.1], [12.0, 43.5, 200.0]),
    ("llama-3.1-8b", "a100-80g", 1, [12.0, 13.4, 19.1, 23.1, 34.5], [36.0, 125.0, 557.0]),
    ("llama-3.1-8b", "l40s", 1, [22.0, 24.8, 38.1, 51.3, 74.8], [38.0, 145.0, 700.0]),
    ("qwen3-0.6b", "h200", 1, [1.59, 1.88, 3.19, 4.97, 8.35], [3.2, 6.2, 27.5]),
    ("qwen3-8b", "h200", 1, [5.12, 5.80, 7.64, 10.2, 15.1], [12.6, 42.3, 202.0]),
    ("qwen3-32b", "h200", 1, [18.4, 20.2, 24.3, 29.1, 36.9], [48.0, 184.0, 864.0]),
    ("llama-3.1-70b", "h200", 4, [12.4, 12.9, 14.5, 16.4, 20.6], [36.0, 128.0, 543.0]),
];

/// Relative errors of the decode and of the prefill columns, each named.
fn errors() -> [Vec<(String, f64)>; 2] {
    let [mut decodes, mut prefills] = [Vec::new(), Vec::new()];
    for (name, device, tp, decode, prompt) in PUBLISHED {
        let price = prices(name, device, tp);
        for (batch, ms) in [1, 8, 32, 64, 128].into_iter().zip(decode) {
            decodes.push((
                format!("{name} on {device}, batch {batch}"),
                price(&PassShape::uniform(batch, 1, 2048)) / ms - 1.0,
            ));
        }
        for (tokens, ms) in [512, 2048, 8192].into_iter().zip(prompt) {
            prefills
                .push((format!("{name} on {device}, prefill {tokens}"), price(&prefill(tokens)) / ms - 1.0));
        }
    }
    [decodes, prefills]
}

#[test]
fn published_decode_passes_are_met_within_12_percent_and_4_in_the_median() {
    let [decodes, _] = errors();
    for (cell, error) in &decodes {
        assert!(error.abs() < 0.12, "{cell}: {:+.1} %", error * 100.0);
    }
    let mut sizes: Vec<f64> = decodes.iter().map(|(_, error)| error.abs()).collect();
    sizes.sort_unstable_by(f64::total_cmp);
    assert!(sizes[sizes.len() / 2] < 0.04, "median {:.1} %", sizes[sizes.len() / 2] * 100.0);
}

/// Short prompts of a small model are worst (3.2 ms published for 512 tokens of the 0.6B, twice a
/// decode pass of one token): its prefill kernels run at sizes the fitted curves do not resolve.
#[test]
fn published_prefills_are_met_within_15_percent_but_for_short_ones_of_the_smallest_model() {
    let [_, prefills] = errors();
    for (cell, error) in &prefills {
        let most = if cell == "qwen3-0.6b on h200, prefill 512" { 0.37 } else { 0.15 };
        assert!(error.abs() < most, "{cell}: {:+.1} %", error * 100.0);
    }
}

/// How many times a pass of one token a pass of `tokens` takes, for 8B without context.
fn growth(device: &str, tokens: u32) -> f64 {
    let price = prices("llama-3.1-8b", device, 1);
    price(&PassShape::uniform(1, tokens, 0)) / price(&PassShape::uniform(1, 1, 0))
}

#[test]
fn verification_is_nearly_free_until_the_knee() {
    // Vidur's GEMM profiles: knee at 128 to 256 tokens on A100, 256 to 512 on H100.
    assert!(growth("h100-sxm", 128) < 1.35, "{}", growth("h100-sxm", 128));
    assert!(growth("h100-sxm", 256) < 1.5 && growth("h100-sxm", 512) > 1.5);
    assert!(growth("a100-80g", 64) < 1.25, "{}", growth("a100-80g", 64));
    assert!(growth("a100-80g", 128) < 1.5 && growth("a100-80g", 256) > 1.5);
}

#[test]
fn a_small_draft_costs_its_floors_not_its_share_of_the_parameters() {
    let one = PassShape::uniform(1, 1, 2048);
    let [draft, small, large] =
        ["qwen3-0.6b", "qwen3-8b", "qwen3-32b"].map(|name| prices(name, "h200", 1)(&one));
    // .31 and .09 by AIConfigurator; by parameters .075 and .019.
    assert!((draft / small - 0.31).abs() < 0.03, "{}", draft / small);
    assert!((draft / large - 0.09).abs() < 0.01, "{}", draft / large);
}

#[test]
fn no_device_keeps_more_than_its_data_sheet_promises() {
    let (devices, models) = (catalog::<HardwareSpec>("hardware"), catalog::<ModelSpec>("models"));
    assert!(devices.len() >= 8 && models.len() >= 22);
    let pool: Vec<ModelSpec> = models.into_values().collect();
    for (file, device) in &devices {
        assert_eq!(file, &device.name);
        for tp in [1, 2] {
            let cost = CostModel::roofline(&pool, device, tp, Luck::new(1)).unwrap();
            let sheet = DataSheet::new(&pool, &device.sheet, tp);
            for (index, model) in pool.iter().enumerate() {
                let id = ModelId(index as u8);
                for shape in [
                    PassShape::uniform(1, 1, 0),
                    PassShape::uniform(64, 5, 4096),
                    PassShape::uniform(256, 9, 500),
                    prefill(8192),
                ] {
                    let (real, promised) = (cost.seconds(id, &shape), sheet.seconds(id, &shape));
                    let look_up = model.kind == ModelKind::Ngram;
                    assert!(
                        promised > 0.0 && (promised < real || look_up && promised <= real),
                        "{file}, {}: {promised} {real}",
                        model.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_head_of_one_layer_is_far_cheaper_than_its_target() {
    let shape = PassShape::uniform(8, 1, 2048);
    let ratio =
        prices("eagle-llama-3.1-8b", "h100-sxm", 1)(&shape) / prices("llama-3.1-8b", "h100-sxm", 1)(&shape);
    assert!(ratio > 0.05 && ratio < 0.15, "{ratio}");
}

#[test]
fn weights_that_do_not_fit_are_refused_and_what_fits_leaves_room() {
    let fraction = Probability::new(0.9).unwrap();
    let room =
        |name: &str, device: &str, tp| CostModel::kv_tokens(&[model(name)], &hardware(device), tp, fraction);
    assert!(room("llama-3.1-8b", "h100-sxm", 1).unwrap() > 400_000);
    assert!(room("llama-3.1-70b", "a100-80g", 4).unwrap() > 400_000);
    insta::assert_snapshot!(room("llama-3.1-70b", "h100-sxm", 1).unwrap_err(), @"model llama-3.1-70b is too large for h100-sxm: the weights of the pool need 141.1 GB on each device at tensor_parallel 1, there are 72.0 GB (90 % of its memory); use more tensor_parallel, smaller models or larger devices");
}
