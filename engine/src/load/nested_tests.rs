//! Nested models share their weights, and differ where they must.

use super::*;

const WRITE: &str = "mlp.down_proj.weight";

fn weights(source: &mut Nested, name: &str) -> Vec<f32> {
    source.tensor(name, &[64, 128]).unwrap().to_f32()
}

fn spread(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, x| x.abs().max(most))
}

#[test]
fn the_three_share_every_tensor_and_differ_in_layers() {
    let mut models = nested(&tiny_config(), 5, 0.3, 0.2);
    assert_eq!(models.clone().map(|(config, _)| config.spec.layers), [1, 3, 8]);
    let names = models.clone().map(|(config, _)| config.spec.name);
    assert_eq!(names, ["nested-draft", "nested-mid", "nested-target"]);
    for name in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.weight"] {
        let [draft, mid, target] = models.each_mut().map(|(_, source)| weights(source, name));
        assert!(draft == mid && mid == target, "{name}");
    }
    for (config, _) in &models {
        config.spec.check().unwrap();
    }
}

#[test]
fn later_layers_write_less() {
    let [_, _, (_, mut target)] = nested(&tiny_config(), 5, 0.3, 0.2);
    let first = spread(&weights(&mut target, &format!("model.layers.0.{WRITE}")));
    for (layer, scale) in [(1, 0.3), (2, 0.3), (3, 0.2), (7, 0.2)] {
        let here = spread(&weights(&mut target, &format!("model.layers.{layer}.{WRITE}")));
        assert!((here / first / scale - 1.0).abs() < 0.01, "layer {layer}: {here} of {first}");
    }
    // Reads are scaled nowhere.
    let read = spread(&weights(&mut target, "model.layers.7.mlp.gate_proj.weight"));
    assert!((read / first - 1.0).abs() < 0.01, "{read} {first}");
}

#[test]
fn without_later_writes_the_three_are_one_function() {
    let [_, _, (_, mut target)] = nested(&tiny_config(), 5, 0.0, 0.0);
    for layer in 1..8 {
        let write = weights(&mut target, &format!("model.layers.{layer}.{WRITE}"));
        assert!(write.iter().all(|x| x.to_bits() << 1 == 0), "zero of either sign in layer {layer}");
    }
}
