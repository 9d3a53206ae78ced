//! What a deployer knows before measuring anything: the roofline of the data sheet.

use super::{DeviceSheet, ModelKind, ModelSpec, PassCosts, PassShape};
use crate::ids::ModelId;

/// The roofline of a data sheet, without efficiencies, floors or overheads: a lower limit on any
/// pass, and what a policy starts from when nothing has been measured.
///
/// `max(weight bytes / bandwidth, GEMM FLOPs / rate) + KV bytes / bandwidth + attention FLOPs /
/// rate`, every term divided over the tensor-parallel devices. The output head belongs to the
/// GEMM term: its weights are read when any logits are asked for, its FLOPs are per logit row.
#[derive(Clone, Debug)]
pub struct DataSheet {
    models: Vec<Seconds>,
}

/// One model's coefficients, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    fixed: f64,
    weights: f64,
    head_weights: f64,
    token: f64,
    logit_row: f64,
    context_token: f64,
    pair: f64,
}

impl DataSheet {
    /// Seconds of a look-up in the text so far: what an n-gram drafter's pass costs. It runs on
    /// the host, so no device makes it faster. (vLLM's n-gram proposer is of this order.)
    pub const NGRAM_SECONDS: f64 = 1e-6;

    /// The roofline of `models`, in pool order, each spread over `tensor_parallel` devices like
    /// `device` (0 is read as 1).
    pub fn new(models: &[ModelSpec], device: &DeviceSheet, tensor_parallel: u32) -> Self {
        let devices = f64::from(tensor_parallel.max(1));
        let bandwidth = device.bandwidth_tb_s.get() * 1e12;
        let of = |model: &ModelSpec| {
            if model.kind == ModelKind::Ngram {
                return Seconds { fixed: Self::NGRAM_SECONDS, ..Seconds::default() };
            }
            let bytes = f64::from(model.precision.bytes());
            let flops = device.flops(model.precision) * devices;
            let layers = f64::from(model.layers);
            let weights = layers * model.layer_weights() as f64;
            let head = model.head_weights() as f64;
            // KV heads that are fewer than the devices are copied, not cut.
            let kv_devices = f64::from(tensor_parallel.clamp(1, model.kv_heads.max(1)));
            Seconds {
                fixed: 0.0,
                weights: weights * bytes / (bandwidth * devices),
                head_weights: head * bytes / (bandwidth * devices),
                token: 2.0 * weights / flops,
                logit_row: 2.0 * head / flops,
                context_token: model.kv_bytes_per_token() as f64 / (bandwidth * kv_devices),
                pair: 4.0 * layers * f64::from(model.heads * model.head_dim) / flops,
            }
        };
        Self { models: models.iter().map(of).collect() }
    }
}

impl PassCosts for DataSheet {
    #[inline]
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        let s = &self.models[model.index()];
        let logit_rows = f64::from(shape.logit_rows);
        let read = s.weights + s.head_weights * logit_rows.min(1.0);
        let compute = s.token * f64::from(shape.new_tokens) + s.logit_row * logit_rows;
        s.fixed
            + read.max(compute)
            + s.context_token * shape.context_tokens as f64
            + s.pair * shape.attention_pairs as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Precision;
    use crate::units::{NonNegative, Positive};

    fn llama_8b() -> ModelSpec {
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

    fn h200() -> DeviceSheet {
        let p = |v| Positive::new(v).unwrap();
        DeviceSheet {
            memory_gb: p(141.0),
            bandwidth_tb_s: p(4.8),
            bf16_tflops: p(989.0),
            fp8_tflops: Some(p(1978.0)),
            link_gb_s: p(450.0),
            watts: NonNegative::new(700.0).unwrap(),
            dollars_per_hour: NonNegative::new(3.5).unwrap(),
        }
    }

    #[test]
    fn one_token_of_8b_reads_15_gb_of_weights() {
        let sheet = DataSheet::new(&[llama_8b()], &h200(), 1);
        let seconds = sheet.seconds(ModelId(0), &PassShape::uniform(1, 1, 0));
        // (32 * 218,103,808 + 4096 * 128,256) weights * 2 bytes / 4.8 TB/s, and one pair.
        assert!((seconds - 15.009_3e9 / 4.8e12).abs() < 1e-7, "{seconds}");
    }

    #[test]
    fn many_tokens_are_bound_by_compute_and_contexts_add_their_kv() {
        let sheet = DataSheet::new(&[llama_8b()], &h200(), 1);
        let prefill = PassShape { logit_rows: 0, ..PassShape::uniform(1, 2048, 0) };
        let gemm = 2.0 * 32.0 * 218_103_808.0 * 2048.0 / 989e12;
        let attention = 4.0 * 32.0 * 4096.0 * prefill.attention_pairs as f64 / 989e12;
        assert!((sheet.seconds(ModelId(0), &prefill) - gemm - attention).abs() < 1e-9);
        let kv = sheet.seconds(ModelId(0), &PassShape::uniform(64, 1, 2048))
            - sheet.seconds(ModelId(0), &PassShape::uniform(64, 1, 0));
        let pairs = 4.0 * 32.0 * 4096.0 * 64.0 * 2048.0 / 989e12;
        assert!((kv - pairs - 64.0 * 2048.0 * 131_072.0 / 4.8e12).abs() < 1e-9, "{kv}");
    }

    #[test]
    fn two_devices_halve_a_pass_and_few_kv_heads_are_copied() {
        let shape = PassShape::uniform(8, 5, 1000);
        let [one, two] =
            [1, 2].map(|tp| DataSheet::new(&[llama_8b()], &h200(), tp).seconds(ModelId(0), &shape));
        assert!((one / two - 2.0).abs() < 1e-9);
        let few = ModelSpec { kv_heads: 1, ..llama_8b() };
        let long = PassShape { context_tokens: 10_000_000, ..PassShape::default() };
        let [one, two] = [1, 2]
            .map(|tp| DataSheet::new(std::slice::from_ref(&few), &h200(), tp).seconds(ModelId(0), &long));
        assert!(one / two < 1.1, "{one} {two}");
    }

    #[test]
    fn a_look_up_costs_a_microsecond_whatever_its_shape() {
        let ngram = ModelSpec { kind: ModelKind::Ngram, layers: 0, ..llama_8b() };
        let sheet = DataSheet::new(&[ngram], &h200(), 1);
        assert!(
            (sheet.seconds(ModelId(0), &PassShape::uniform(64, 8, 4096)) - DataSheet::NGRAM_SECONDS).abs()
                < 1e-18
        );
    }
}
