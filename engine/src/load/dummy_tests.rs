//! Random weights have the spread that is promised, and depend on nothing but seed, name and position.

use super::*;

fn f32s(dummy: &mut Dummy, name: &str, shape: &[usize]) -> Vec<f32> {
    dummy.tensor(name, shape).unwrap().to_f32()
}

fn deviation(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

#[test]
fn each_kind_of_tensor_has_its_spread() {
    let mut dummy = Dummy::new(3);
    for (name, shape, expected) in [
        ("model.embed_tokens.weight", [512, 128], 1.0),
        ("model.layers.0.self_attn.q_proj.weight", [512, 128], 1.0 / 128f64.sqrt()),
        ("model.layers.0.mlp.down_proj.weight", [128, 512], 0.25 / 512f64.sqrt()),
        ("model.layers.0.self_attn.o_proj.weight", [128, 512], 0.25 / 512f64.sqrt()),
        ("lm_head.weight", [512, 128], 1.0 / 128f64.sqrt()),
        ("model.layers.0.self_attn.q_proj.bias", [256, 256], 0.02),
    ] {
        let (mean, sd) = deviation(&f32s(&mut dummy, name, &shape));
        // 65 536 numbers: four standard errors are 1.6 % of the deviation, less for its own estimate.
        assert!(mean.abs() < 0.016 * expected && (sd / expected - 1.0).abs() < 0.016, "{name} {mean} {sd}");
    }
    for name in ["model.norm.weight", "model.layers.3.self_attn.k_norm.weight"] {
        assert_eq!(f32s(&mut dummy, name, &[5]), [1.0; 5]);
    }
}

#[test]
fn equal_keys_give_equal_numbers_and_others_give_others() {
    let shape = [300, 1000];
    let one = f32s(&mut Dummy::new(1), "a.weight", &shape);
    assert_eq!(one, f32s(&mut Dummy::new(1), "a.weight", &shape));
    for (seed, name) in [(2, "a.weight"), (1, "b.weight")] {
        let other = f32s(&mut Dummy::new(seed), name, &shape);
        let correlation: f64 =
            one.iter().zip(&other).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() * 1000.0
                / 300_000.0;
        assert!(correlation.abs() < 4.0 / 300_000f64.sqrt(), "{seed} {name} {correlation}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let weights = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Dummy::new(9).tensor("x.weight", &[70_001, 5]).unwrap())
    };
    let one = weights(1);
    assert_eq!(one, weights(2));
    assert_eq!(one, weights(7));
}

#[test]
fn narrow_weights_are_the_wide_ones_rounded() {
    let wide = f32s(&mut Dummy::new(4), "x.weight", &[33, 65]);
    let rounded: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
    assert_eq!(Dummy::new(4).bf16().tensor("x.weight", &[33, 65]).unwrap(), Values::Bf16(rounded));
}

#[test]
fn a_tensor_past_the_memory_is_an_error() {
    let error = Dummy::new(0).tensor("x.weight", &[usize::MAX, 2]).unwrap_err();
    insta::assert_snapshot!(error, @"dummy: tensor x.weight needs 18446744073709551615 bytes of memory, got none");
    let error = Dummy::new(0).bf16().tensor("x.weight", &[1 << 61]).unwrap_err();
    insta::assert_snapshot!(error, @"dummy: tensor x.weight needs 4611686018427387904 bytes of memory, got none");
}
