//! The trainer's forward and the engine's are one model: what was trained is what is served.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[allow(dead_code, reason = "the trainer's, of which a part is used here")]
#[path = "../examples/train/plain.rs"]
mod plain;
#[allow(dead_code, reason = "the trainer's, of which a part is used here")]
#[path = "../examples/train/shape.rs"]
mod shape;

use std::cell::RefCell;

use candle_core::{Device, Tensor};
use specrouter_engine::config::DecoderConfig;
use specrouter_engine::decoder::{Decoder, DecoderOptions};
use specrouter_engine::level::{LevelModel, Packed, PackedRow};
use specrouter_engine::load::{Checkpoint, Dummy, tiny_config};
use specrouter_engine::weights::WeightSource;
use specrouter_routing::ids::Slot;

/// The largest difference of any logit over `tokens`.
fn difference(config: &DecoderConfig, source: &mut dyn WeightSource, tokens: &[u32]) -> f32 {
    let spec = &config.spec;
    let shape = shape::Shape {
        hidden: spec.hidden as usize,
        layers: spec.layers as usize,
        heads: spec.heads as usize,
        kv_heads: spec.kv_heads as usize,
        head_dim: spec.head_dim as usize,
        intermediate: spec.intermediate as usize,
        context: spec.context as usize,
        rope_theta: config.rope.theta,
        rms_norm_eps: config.norm_epsilon,
    };
    let mut decoder = Decoder::load(config.clone(), source, DecoderOptions::new(1024)).unwrap();
    let packed = Packed {
        tokens: tokens.to_vec(),
        rows: vec![PackedRow { slot: Slot(0), context: 0, tokens: tokens.len() as u32 }],
        want: (0..tokens.len() as u32).collect(),
    };
    let mut ours = Vec::new();
    decoder.forward(&packed, &mut ours).unwrap();

    let source = RefCell::new(source);
    let (hidden, inner, vocab) = (shape.hidden, shape.intermediate, spec.vocab as usize);
    let find = |name: &str| {
        let sizes: Vec<usize> = match name.rsplit('.').nth(1).unwrap() {
            "embed_tokens" => vec![vocab, hidden],
            "q_proj" => vec![shape.query_width(), hidden],
            "k_proj" | "v_proj" => vec![shape.kv_width(), hidden],
            "o_proj" => vec![hidden, shape.query_width()],
            "gate_proj" | "up_proj" => vec![inner, hidden],
            "down_proj" => vec![hidden, inner],
            _ => vec![hidden],
        };
        let values = source.borrow_mut().tensor(name, &sizes).unwrap().to_f32();
        Tensor::from_vec(values, sizes, &Device::Cpu)
    };
    let matrices = plain::Matrices::find(&shape, find).unwrap();
    let input = Tensor::from_vec(tokens.to_vec(), (1, tokens.len()), &Device::Cpu).unwrap();
    let theirs = plain::logits(&shape, &matrices, &input).unwrap();
    let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(theirs.len(), ours.len());
    theirs.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn on_random_weights_they_agree() {
    let tokens: Vec<u32> = (0..90).map(|i| i * 37 % 250).collect();
    let mut config = tiny_config();
    config.spec.tied_embeddings = true; // The trainer ties them.
    let worst = difference(&config, &mut Dummy::new(5), &tokens);
    assert!(worst < 1e-4, "off by {worst}");
}

#[test]
fn on_each_shipped_model_they_agree() {
    let tokens: Vec<u32> = (0..200).map(|i| i * 37 % 2000).collect();
    for name in ["tiny", "small", "medium", "large"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
        let mut checkpoint = Checkpoint::open(&folder, name).unwrap();
        let worst = difference(&checkpoint.config().clone(), &mut checkpoint, &tokens);
        assert!(worst < 1e-4, "{name}: off by {worst}");
    }
}
