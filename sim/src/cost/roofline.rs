//! The achieved roofline: what a pass takes on a real device, from its data sheet and a few
//! measured efficiencies.
//!
//! | term | seconds |
//! |---|---|
//! | layers | `layers × hypot(weight bytes / (bandwidth × efficiency), 2 × weights × T / (FLOP/s × efficiency))` |
//! | output head | the same over its own matrix, at the logit rows |
//! | attention | `layers × floor + KV bytes of Σ contexts / (bandwidth × efficiency) + 4 × pairs × heads × head_dim × layers / (FLOP/s × efficiency)` |
//! | elementwise | bytes that norms, rotary embedding, residuals and gates move per new token |
//! | sampling | `logit rows × vocabulary × 4 bytes × passes over the logits` |
//! | all-reduce | two per layer: latency, and `2 (n − 1) / n` of the activations over the link |
//! | overheads | launches per layer, host per pass and per row |
//!
//! `T` is all new tokens of the pass: decode, verification and prefill rows share one GEMM (summing
//! their times instead over-predicts mixed passes 1.5 to 3 times, aiconfigurator#1150).
//! The `hypot` rounds the roofline's corner as measured GEMMs do (A100, Llama-3-8B, 128 tokens:
//! 276 µs of weights and 249 µs of compute take 377 µs; the hypotenuse is 372).
//! Each context is read once however many tokens its row verifies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use specrouter_routing::profile::{DataSheet, DeviceSheet, ModelKind, ModelSpec, PassShape};
use specrouter_routing::units::{NonNegative, OutOfRange};

/// A share of the data sheet's rate that is reached: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(with = "f64", description = "share of the data sheet's rate, above 0 and at most 1")]
pub struct Efficiency(f64);

impl Efficiency {
    /// Accepts `(0, 1]`.
    ///
    /// # Errors
    /// [`OutOfRange`] otherwise.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if value > 0.0 && value <= 1.0 {
            Ok(Self(value))
        } else {
            Err(OutOfRange { what: "efficiency", expected: "above 0 and at most 1", value })
        }
    }

    /// The bare number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Efficiency {
    type Error = OutOfRange;
    fn try_from(value: f64) -> Result<Self, OutOfRange> {
        Self::new(value)
    }
}

impl From<Efficiency> for f64 {
    fn from(value: Efficiency) -> Self {
        value.0
    }
}

/// Share of the memory bandwidth that reading weights reaches, by the size of what is read:
/// `plateau × bytes / (bytes + half)`. Every matrix pays for filling the memory pipeline, which
/// shows in small models and in slices of large ones (A100, Llama-3-8B: .78 whole, .61 cut in 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightReads {
    /// Of large matrices.
    pub plateau: Efficiency,
    /// Bytes of one layer on one device, in MB (10⁶), at which half the plateau is reached.
    pub half_mb: NonNegative,
}

/// What attention kernels reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Least time of one layer's attention, µs.
    pub floor_us: NonNegative,
    /// Share of the bandwidth that reading KV reaches.
    pub bandwidth: Efficiency,
    /// Share of the FLOP rate, for long chunks.
    pub compute: Efficiency,
}

/// What an all-reduce takes between tensor-parallel devices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllReduce {
    /// Of each, µs.
    pub latency_us: NonNegative,
    /// Share of the link's rate.
    pub link: Efficiency,
}

/// What a real device makes of its data sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Achieved {
    /// Reading weights.
    pub weights: WeightReads,
    /// Share of the FLOP rate that large GEMMs reach. (Smaller ones reach less through the
    /// corner of the roofline; the plateau itself does not fall for slices of a matrix.)
    pub compute: Efficiency,
    /// Share of the bandwidth that elementwise kernels and sampling reach.
    pub elementwise: Efficiency,
    /// Attention.
    pub attention: Attention,
    /// Launches and small kernels of one layer, µs.
    pub layer_us: NonNegative,
    /// Host work that no kernel hides, µs a pass.
    pub pass_us: NonNegative,
    /// Host work that no kernel hides, µs a row.
    pub row_us: NonNegative,
    /// Between tensor-parallel devices.
    pub all_reduce: AllReduce,
    /// How often sampling reads or writes the logits.
    pub logit_passes: NonNegative,
    /// Standard deviation of the logarithm of a pass time; its mean is kept. 0: no noise.
    pub noise: NonNegative,
}

/// One model's price on one kind of device, as seven products and two square roots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Coefficients {
    pass: f64,
    row: f64,
    token: f64,
    logit_row: f64,
    context_token: f64,
    pair: f64,
    /// Squares of the layers' and the head's seconds: weights, and compute per token.
    layers: [f64; 2],
    head: [f64; 2],
}

impl Coefficients {
    /// Prices `model` cut over `devices` like these. The caller has checked its dimensions.
    pub(super) fn new(model: &ModelSpec, sheet: &DeviceSheet, achieved: &Achieved, devices: u32) -> Self {
        if model.kind == ModelKind::Ngram {
            return Self { pass: DataSheet::NGRAM_SECONDS, ..Self::default() };
        }
        let cut = f64::from(devices);
        let layers = f64::from(model.layers);
        let (hidden, intermediate) = (f64::from(model.hidden), f64::from(model.intermediate));
        let (query, kv) =
            (f64::from(model.heads * model.head_dim), f64::from(model.kv_heads * model.head_dim));
        let bandwidth = sheet.bandwidth_tb_s.get() * 1e12;
        let flops = sheet.flops(model.precision);
        let micro = |value: NonNegative| value.get() * 1e-6;

        // Seconds of one matrix group: (its weights, its FLOPs per token), each squared.
        let gemm = |weights: f64, times: f64| {
            let bytes = weights * f64::from(model.precision.bytes()) / cut;
            let read =
                (bytes + achieved.weights.half_mb.get() * 1e6) / (bandwidth * achieved.weights.plateau.get());
            let compute = 2.0 * weights / cut / (flops * achieved.compute.get());
            [read, compute].map(|seconds| (times * seconds) * (times * seconds))
        };
        // Two bytes an activation. Norms and residuals (8 hidden vectors moved) are computed on
        // every device; rotary embedding, KV writes and the gated product are cut.
        let elementwise = 2.0 * (8.0 * hidden + (2.0 * (query + kv) + 3.0 * intermediate) / cut);
        let streamed = bandwidth * achieved.elementwise.get();
        let reduces = if devices > 1 { 2.0 * layers } else { 0.0 };
        let link = sheet.link_gb_s.get() * 1e9 * achieved.all_reduce.link.get();
        let reduced = reduces * 2.0 * (cut - 1.0) / cut * hidden * 2.0 / link;
        // KV heads that are fewer than the devices are copied, not cut.
        let kv_cut = f64::from(devices.min(model.kv_heads));
        Self {
            pass: micro(achieved.pass_us)
                + layers * (micro(achieved.layer_us) + micro(achieved.attention.floor_us))
                + reduces * micro(achieved.all_reduce.latency_us),
            row: micro(achieved.row_us),
            token: layers * elementwise / streamed + reduced,
            logit_row: f64::from(model.vocab) * 4.0 * achieved.logit_passes.get() / streamed,
            context_token: model.kv_bytes_per_token() as f64
                / kv_cut
                / (bandwidth * achieved.attention.bandwidth.get()),
            pair: 4.0 * layers * query / cut / (flops * achieved.attention.compute.get()),
            layers: gemm(model.layer_weights() as f64, layers),
            head: gemm(model.head_weights() as f64, 1.0),
        }
    }

    /// Seconds of a pass.
    #[inline]
    pub(super) fn seconds(&self, shape: &PassShape) -> f64 {
        let (rows, tokens, logit_rows) =
            (f64::from(shape.rows), f64::from(shape.new_tokens), f64::from(shape.logit_rows));
        // Sums of a run stay far below 2⁶³, and signed integers convert in one instruction.
        let (context, pairs) = (shape.context_tokens as i64 as f64, shape.attention_pairs as i64 as f64);
        let layers = libm::sqrt(self.layers[0] + self.layers[1] * (tokens * tokens));
        let head = libm::sqrt(self.head[0] * logit_rows.min(1.0) + self.head[1] * (logit_rows * logit_rows));
        // Paired, so that the additions do not wait for one another.
        let linear = (self.pass + self.row * rows) + (self.token * tokens + self.logit_row * logit_rows);
        (linear + (self.context_token * context + self.pair * pairs)) + (layers + head)
    }
}
