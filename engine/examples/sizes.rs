//! Chooses the sizes of the shipped family before anything is trained.
//!
//! `cargo run --release -p specrouter-engine --example sizes [-- HIDDENxLAYERS[xINNER] ...]`
//!
//! Measures cost(1 .. 16) of random-weight candidates in their own shapes, cheapest first, the last
//! the target; then searches all chains of them for a few plausible acceptances, at batch 1, 4 and 16.

#![allow(clippy::disallowed_types, clippy::print_stdout, reason = "a measurement that prints a table")]

use std::time::Instant;

use specrouter_engine::config::decoder_config;
use specrouter_engine::decoder::{Decoder, DecoderOptions};
use specrouter_engine::level::{LevelModel, Packed, PackedRow};
use specrouter_engine::load::Dummy;
use specrouter_routing::ids::{ModelId, Slot};
use specrouter_routing::policy::price::{AlphaMatrix, Batch, Candidates, Pricing};
use specrouter_routing::policy::search::{Limits, Search};
use specrouter_routing::profile::PassShape;

const ROWS: [u32; 9] = [1, 2, 3, 4, 5, 6, 8, 12, 16];
/// Tokens in the cache when a pass is timed.
const CONTEXT: u32 = 128;

fn decoder(name: &str, hidden: u32, layers: u32, inner: u32) -> Decoder {
    let heads = (hidden / 64).max(2);
    let json = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": {hidden},
        "num_hidden_layers": {layers}, "num_attention_heads": {heads}, "num_key_value_heads": {}, "head_dim": {},
        "intermediate_size": {inner}, "vocab_size": 2048, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16"}}"#,
        (heads / 2).max(1),
        hidden / heads,
    );
    let config = decoder_config(name, &json).expect("the candidate is a Llama");
    Decoder::load(config, &mut Dummy::new(1).bf16(), DecoderOptions::new(1 << 16))
        .expect("dummy weights have any shape")
}

/// Seconds of one pass of `rows` tokens of one sequence behind [`CONTEXT`] tokens.
fn pass(model: &mut Decoder, rows: u32) -> f64 {
    let row = |context, tokens| Packed {
        tokens: vec![7; tokens as usize],
        rows: vec![PackedRow { slot: Slot(0), context, tokens }],
        want: (0..tokens).collect(),
    };
    let mut logits = Vec::new();
    model.truncate(Slot(0), CONTEXT);
    if model.cached(Slot(0)) < CONTEXT {
        model.forward(&row(0, CONTEXT), &mut logits).expect("a prompt fits");
    }
    let packed = row(CONTEXT, rows);
    let begin = Instant::now();
    model.forward(&packed, &mut logits).expect("a pass fits");
    begin.elapsed().as_secs_f64()
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let default = ["64x1", "128x2", "256x4", "384x6"].map(str::to_owned).to_vec();
    let names = if asked.is_empty() { default } else { asked };
    let mut models: Vec<Decoder> = names
        .iter()
        .map(|name| {
            let mut parts = name.split('x').map(|n| n.parse::<u32>().expect("HIDDENxLAYERS[xINNER]"));
            let (hidden, layers) = (parts.next().expect("HIDDEN"), parts.next().expect("LAYERS"));
            decoder(name, hidden, layers, parts.next().unwrap_or(hidden * 8 / 3 / 32 * 32))
        })
        .collect();
    let costs = measure(&mut models);
    for (model, costs) in models.iter().zip(&costs) {
        let cells: Vec<String> = costs.iter().map(|c| format!("{:6.0}", c * 1e6)).collect();
        let weights = model.weight_bytes() as f64 / 2e6;
        println!("{:>14} {weights:5.2} M | {}", model.name(), cells.join(" "));
    }
    search(&names, &costs);
}

fn measure(models: &mut [Decoder]) -> Vec<Vec<f64>> {
    let mut times = vec![vec![Vec::new(); ROWS.len()]; models.len()];
    for round in 0..60 {
        for (model, times) in models.iter_mut().zip(&mut times) {
            for (times, rows) in times.iter_mut().zip(ROWS) {
                // A generation runs a model a few times in a row: the first pass warms the cache.
                pass(model, rows);
                let seconds = pass(model, rows);
                if round >= 10 {
                    times.push(seconds);
                }
            }
        }
    }
    let median = |mut t: Vec<f64>| {
        t.sort_unstable_by(f64::total_cmp);
        t[t.len() / 2]
    };
    times.into_iter().map(|model| model.into_iter().map(median).collect()).collect()
}

fn search(names: &[String], costs: &[Vec<f64>]) {
    let seconds = |model: ModelId, shape: &PassShape| {
        let (costs, n) = (&costs[model.index()], f64::from(shape.new_tokens));
        let last = ROWS.len() - 1;
        let at = ROWS.iter().position(|&r| f64::from(r) >= n).unwrap_or(last).max(1);
        let (x0, x1) = (f64::from(ROWS[at - 1]), f64::from(ROWS[at]));
        costs[at - 1] + (costs[at] - costs[at - 1]) * (n - x0) / (x1 - x0)
    };
    // Of neighbours in the pool; a pair further apart has the product, raised a little as measured
    // families have it.
    for neighbour in [0.55, 0.65, 0.75, 0.85] {
        let mut alpha = AlphaMatrix::uniform(0.0);
        for low in 0..names.len() {
            for high in low + 1..names.len() {
                let value = f64::powf(neighbour, ((high - low) as f64).powf(0.7));
                alpha.set(ModelId(low as u8), ModelId(high as u8), value);
            }
        }
        for rows in [1, 4, 16] {
            let batch = Batch::of(rows, f64::from(CONTEXT));
            let candidates = Candidates::all(names.len());
            let mut search = Search::new();
            let ranked =
                search.run(&candidates, &alpha, &batch, &seconds, &Limits::default(), Pricing::default());
            let plain =
                ranked.iter().find(|r| r.plan.depth() == 1).map_or(f64::NAN, |r| r.priced.seconds_per_token);
            let best = |levels: usize| {
                let found = ranked.iter().find(|r| r.plan.depth() == levels);
                found.map_or("-".to_owned(), |r| {
                    format!("{} {:.2}x", r.plan, plain / r.priced.seconds_per_token)
                })
            };
            println!(
                "alpha {neighbour:.2} batch {rows:>2}: two {:<20} three {:<24} four {}",
                best(2),
                best(3),
                best(4)
            );
        }
    }
}
