//! Plain decoding at batch 1: how near the processor's decoder comes to reading its weights as fast as
//! memory can be read.
//!
//! `cargo bench -p specrouter-engine --bench decode`: random bfloat16 weights of some 110 M parameters,
//! and the shipped models where they are.

#![allow(clippy::disallowed_types, clippy::print_stdout, reason = "a bench reads the clock and prints")]

mod bandwidth;

use std::path::Path;
use std::time::Instant;

use bandwidth::{bandwidth, median};
use specrouter_engine::level::{LevelModel, Packed, PackedRow};
use specrouter_engine::load::{Checkpoint, tiny_config};
use specrouter_engine::{decoder, load};
use specrouter_routing::ids::Slot;

fn main() {
    rayon::scope(|_| table());
}

fn table() {
    let before = bandwidth();
    println!(
        "{:>10} {:>8} {:>9} {:>10} {:>8} {:>22}",
        "model", "MB", "us/token", "tokens/s", "GB/s", "of the read bandwidth"
    );
    let mut config = tiny_config();
    let spec = &mut config.spec;
    (spec.name, spec.hidden, spec.layers, spec.heads, spec.kv_heads) = ("110M".to_owned(), 768, 12, 12, 12);
    (spec.head_dim, spec.intermediate, spec.vocab, spec.tied_embeddings) = (64, 2048, 32_000, true);
    let options = decoder::DecoderOptions::new(2048);
    let mut weights = load::Dummy::new(1).bf16();
    let dummy = decoder::Decoder::load(config, &mut weights, options).expect("dummy weights have any shape");
    let mut models = vec![dummy];
    for name in ["tiny", "small", "medium", "large"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
        if folder.join("model.safetensors").exists() {
            let mut checkpoint = Checkpoint::open(&folder, name).expect("the shipped models open");
            let config = checkpoint.config().clone();
            models.push(decoder::Decoder::load(config, &mut checkpoint, options).expect("they load"));
        }
    }
    let mut times = vec![Vec::new(); models.len()];
    for _ in 0..15 {
        for (model, times) in models.iter_mut().zip(&mut times) {
            times.push(decode(model, 64));
        }
    }
    let read = before.max(bandwidth());
    println!("read bandwidth {:.1} GB/s, {} threads", read / 1e9, rayon::current_num_threads());
    for (model, times) in models.iter().zip(times) {
        let (bytes, seconds) = (model.weight_bytes() as f64, median(times));
        let rate = bytes / seconds;
        println!(
            "{:>10} {:>8.1} {:>9.1} {:>10.0} {:>8.1} {:>21.0} %",
            model.name(),
            bytes / 1e6,
            seconds * 1e6,
            1.0 / seconds,
            rate / 1e9,
            100.0 * rate / read
        );
    }
}

/// Seconds of one token, over `tokens` of them behind a prompt of 64.
fn decode(model: &mut decoder::Decoder, tokens: u32) -> f64 {
    let mut logits = Vec::new();
    model.truncate(Slot(0), 0);
    let mut pass = |context: u32, tokens: Vec<u32>| {
        let row = PackedRow { slot: Slot(0), context, tokens: tokens.len() as u32 };
        let want = vec![tokens.len() as u32 - 1];
        model.forward(&Packed { tokens, rows: vec![row], want }, &mut logits).expect("a pass fits");
    };
    pass(0, (0..64).collect());
    let begin = Instant::now();
    (0..tokens).for_each(|i| pass(64 + i, vec![i % 250]));
    begin.elapsed().as_secs_f64() / f64::from(tokens)
}
