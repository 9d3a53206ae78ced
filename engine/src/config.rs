//! Reads a model's Hugging Face `config.json`.
//!
//! Llama, Qwen2, Qwen3 and Mistral, as transformers 4 writes them (`rope_theta`, `rope_scaling`,
//! `torch_dtype`) and as transformers 5 does (`rope_parameters`, `dtype`). Whatever would change
//! the computation and is not known here is refused by name; nothing falls back in silence.

use serde_json::{Map, Value};
use specrouter_routing::profile::{ModelKind, ModelSpec, Precision, SpecError};

/// Most bytes of a `config.json`.
pub const MOST_BYTES: usize = 1 << 20;

/// Most positions: `max_position_embeddings`.
const MOST_CONTEXT: u64 = 1 << 20;

/// Why a `config.json` is refused. The file is at fault, or asks for what the engine does not have.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Larger than any configuration.
    #[error("{model}: config.json must be at most {MOST_BYTES} bytes, got {bytes}")]
    TooLong {
        /// The model's name.
        model: String,
        /// Length of the text.
        bytes: usize,
    },
    /// Not JSON.
    #[error("{model}: config.json is not JSON: {source}")]
    Json {
        /// The model's name.
        model: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field that is missing, of another type, out of range, or of a meaning the engine does not know.
    #[error("{model}: config.json: {field} must be {expected}, got {got}")]
    Field {
        /// The model's name.
        model: String,
        /// The field.
        field: String,
        /// What it must be.
        expected: String,
        /// What came, as JSON, cut to a line.
        got: String,
    },
    /// The numbers together are no model.
    #[error("{model}: config.json: {source}")]
    Spec {
        /// The model's name.
        model: String,
        /// What does not fit.
        source: SpecError,
    },
}

/// The decoders that the engine will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `LlamaForCausalLM`.
    Llama,
    /// `Qwen2ForCausalLM`: biases on q, k and v.
    Qwen2,
    /// `Qwen3ForCausalLM`: q and k are normalised per head.
    Qwen3,
    /// `MistralForCausalLM`.
    Mistral,
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies are stretched past the length of pre-training.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor, at least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// The factor, at least 1.
        factor: f64,
        /// Below `original_context / low` wavelengths are not kept whole.
        low_frequency: f64,
        /// Wavelengths below `original_context / high` are kept.
        high_frequency: f64,
        /// Positions of pre-training.
        original_context: u32,
    },
}

/// A decoder as its `config.json` describes it: its size, and what its passes compute.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Its size, as costs and the scenario know it.
    pub spec: ModelSpec,
    /// Which decoder.
    pub architecture: Architecture,
    /// Positions.
    pub rope: Rope,
    /// `rms_norm_eps`.
    pub norm_epsilon: f64,
}

/// The size of the model that `config_json` describes, under the name `name`.
///
/// `family` is `model_type` and vocabulary size, which tells pools of different vocabularies apart
/// but proves none equal: that needs the tokenizers. float16 counts as bf16, 2 bytes a weight.
///
/// # Errors
/// [`ConfigError`], naming the field, what was expected and what came.
pub fn model_spec(name: &str, config_json: &str) -> Result<ModelSpec, ConfigError> {
    Ok(decoder_config(name, config_json)?.spec)
}

/// The decoder that `config_json` describes, under the name `name`.
///
/// # Errors
/// [`ConfigError`], naming the field, what was expected and what came.
pub fn decoder_config(name: &str, config_json: &str) -> Result<DecoderConfig, ConfigError> {
    if config_json.len() > MOST_BYTES {
        return Err(ConfigError::TooLong { model: name.to_owned(), bytes: config_json.len() });
    }
    let json: Value = serde_json::from_str(config_json)
        .map_err(|source| ConfigError::Json { model: name.to_owned(), source })?;
    let Value::Object(fields) = &json else {
        let fields = Fields { model: name, prefix: "", map: &Map::new() };
        return Err(fields.bad("the file", "a JSON object", Some(&json)));
    };
    read(&Fields { model: name, prefix: "", map: fields })
}

fn read(config: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let (architecture, model_type) = architecture(config)?;
    for foreign in ["auto_map", "quantization_config"] {
        if let Some(value) = config.get(foreign) {
            return Err(config.bad(
                foreign,
                "absent: neither code nor quantized weights are loaded",
                Some(value),
            ));
        }
    }
    config.word("hidden_act", &["silu"])?;
    for bias in ["attention_bias", "mlp_bias"] {
        if config.flag(bias)? == Some(true) {
            return Err(config.bad(bias, "false", config.get(bias)));
        }
    }

    let layers = config.dimension("num_hidden_layers", 256)?;
    let hidden = config.dimension("hidden_size", 65_536)?;
    let heads = config.dimension("num_attention_heads", 1_024)?;
    let kv_heads = match config.get("num_key_value_heads") {
        // Only Llama's default is "as many as query heads"; those of the others are numbers that
        // changed between releases.
        None if architecture == Architecture::Llama => heads,
        _ => config.dimension("num_key_value_heads", 1_024)?,
    };
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(config.bad("num_key_value_heads", &expected, config.get("num_key_value_heads")));
    }
    let head_dim = match config.get("head_dim") {
        None if architecture != Architecture::Qwen3 => {
            if !hidden.is_multiple_of(heads) {
                let expected =
                    format!("a multiple of num_attention_heads ({heads}) where head_dim is absent");
                return Err(config.bad("hidden_size", &expected, config.get("hidden_size")));
            }
            hidden / heads
        }
        _ => config.dimension("head_dim", 1_024)?,
    };
    if head_dim > 1_024 || !head_dim.is_multiple_of(2) {
        let got = Value::from(head_dim);
        return Err(config.bad(
            "head_dim",
            "an even number of at most 1024: rotary embedding pairs dimensions",
            Some(&got),
        ));
    }
    let context = config.dimension("max_position_embeddings", MOST_CONTEXT)?;
    let vocab = config.dimension("vocab_size", 2_000_000)?;
    full_attention(config, architecture, context)?;
    let rope = rope(config)?;
    let norm_epsilon =
        config.number("rms_norm_eps", "a number above 0 and below 1", |x| x > 0.0 && x < 1.0)?;
    let precision = precision(config)?;

    let spec = ModelSpec {
        name: config.model.to_owned(),
        source: "config.json".to_owned(),
        kind: ModelKind::Model,
        family: format!("{model_type}-{vocab}"),
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        intermediate: config.dimension("intermediate_size", 1 << 20)?,
        vocab,
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
        context,
        precision,
        kv_bytes: precision.bytes(),
    };
    spec.check().map_err(|source| ConfigError::Spec { model: config.model.to_owned(), source })?;
    Ok(DecoderConfig { spec, architecture, rope, norm_epsilon })
}

fn architecture(config: &Fields<'_>) -> Result<(Architecture, &'static str), ConfigError> {
    const KNOWN: [(&str, Architecture, &str); 4] = [
        ("LlamaForCausalLM", Architecture::Llama, "llama"),
        ("Qwen2ForCausalLM", Architecture::Qwen2, "qwen2"),
        ("Qwen3ForCausalLM", Architecture::Qwen3, "qwen3"),
        ("MistralForCausalLM", Architecture::Mistral, "mistral"),
    ];
    let value = config.get("architectures");
    let only = match value.and_then(Value::as_array).map(Vec::as_slice) {
        Some([one]) => one.as_str(),
        _ => None,
    };
    let Some(&(_, architecture, model_type)) = KNOWN.iter().find(|(name, ..)| only == Some(*name)) else {
        let expected = format!("one of {}", KNOWN.map(|(name, ..)| format!("[\"{name}\"]")).join(", "));
        return Err(config.bad("architectures", &expected, value));
    };
    config.word("model_type", &[model_type])?;
    Ok((architecture, model_type))
}

/// Refuses attention that does not see the whole context.
fn full_attention(config: &Fields<'_>, architecture: Architecture, context: u32) -> Result<(), ConfigError> {
    if let Some(value) = config.get("layer_types") {
        let full = |layers: &Vec<Value>| layers.iter().all(|layer| layer == "full_attention");
        if !value.as_array().is_some_and(full) {
            return Err(config.bad("layer_types", "full_attention in every layer", Some(value)));
        }
    }
    let window = config.get("sliding_window");
    let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
    let used = match config.flag("use_sliding_window")? {
        Some(used) => used,
        None => !qwen, // Qwen writes a window beside a switch that is off by default.
    };
    match window {
        Some(value) if used && value.as_u64().is_none_or(|window| window < u64::from(context)) => {
            Err(config.bad("sliding_window", "null, or at least max_position_embeddings", Some(value)))
        }
        _ => Ok(()),
    }
}

fn rope(config: &Fields<'_>) -> Result<Rope, ConfigError> {
    // transformers 5 has all of it in one object; 4 has theta beside an optional scaling.
    let (five, four) = (config.object("rope_parameters")?, config.object("rope_scaling")?);
    if let (Some(_), Some(_)) = (&five, &four) {
        return Err(config.bad("rope_scaling", "absent beside rope_parameters", config.get("rope_scaling")));
    }
    let positive = "a finite number above 0, written out: no default is assumed";
    let theta = match &five {
        Some(five) => {
            let theta = five.number("rope_theta", positive, |x| x > 0.0)?;
            let outer = config.get("rope_theta");
            if outer.is_some_and(|outer| outer.as_f64() != Some(theta)) {
                return Err(config.bad("rope_theta", &format!("{theta}, as in rope_parameters"), outer));
            }
            theta
        }
        None => config.number("rope_theta", positive, |x| x > 0.0)?,
    };
    let scaling = match five.or(four) {
        Some(parameters) => rope_scaling(&parameters)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta, scaling })
}

fn rope_scaling(rope: &Fields<'_>) -> Result<RopeScaling, ConfigError> {
    if let Some(part) = rope.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
        return Err(rope.bad("partial_rotary_factor", "1", Some(part)));
    }
    // `type` is the name that transformers had before 4.43.
    let key =
        if rope.get("type").is_some() && rope.get("rope_type").is_none() { "type" } else { "rope_type" };
    let kind = rope.word(key, &["default", "linear", "llama3"])?;
    let factor = || rope.number("factor", "a finite number, 1 or above", |x| x >= 1.0);
    Ok(match kind {
        "linear" => RopeScaling::Linear { factor: factor()? },
        "llama3" => {
            let low_frequency = rope.number("low_freq_factor", "a finite number above 0", |x| x > 0.0)?;
            RopeScaling::Llama3 {
                factor: factor()?,
                low_frequency,
                high_frequency: rope.number(
                    "high_freq_factor",
                    "a finite number above low_freq_factor",
                    |x| x > low_frequency,
                )?,
                original_context: rope.dimension("original_max_position_embeddings", MOST_CONTEXT)?,
            }
        }
        _ => RopeScaling::None,
    })
}

fn precision(config: &Fields<'_>) -> Result<Precision, ConfigError> {
    const KNOWN: [&str; 3] = ["bfloat16", "float16", "float32"];
    let word = match (config.get("dtype"), config.get("torch_dtype")) {
        (Some(new), Some(old)) if new != old => {
            return Err(config.bad("torch_dtype", &format!("{new}, as in dtype"), Some(old)));
        }
        (None, None) => return Err(config.bad("dtype (or torch_dtype)", &KNOWN.join(" or "), None)),
        (None, Some(_)) => config.word("torch_dtype", &KNOWN)?,
        _ => config.word("dtype", &KNOWN)?,
    };
    Ok(if word == "float32" { Precision::F32 } else { Precision::Bf16 })
}

/// An object of the file, and where it stands, for messages. A null counts as absent.
struct Fields<'a> {
    model: &'a str,
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn object(&self, field: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { model: self.model, prefix: field, map })),
            other => Err(self.bad(field, "an object", other)),
        }
    }

    /// A whole number from 1 to `most`.
    fn dimension(&self, field: &str, most: u64) -> Result<u32, ConfigError> {
        let value = self.get(field);
        let number = value.and_then(Value::as_u64).filter(|n| (1..=most).contains(n));
        let number = number.and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| self.bad(field, &format!("a whole number from 1 to {most}"), value))
    }

    /// A finite number that `fits`.
    fn number(&self, field: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<f64, ConfigError> {
        let value = self.get(field);
        let number = value.and_then(Value::as_f64).filter(|&x| x.is_finite() && fits(x));
        number.ok_or_else(|| self.bad(field, expected, value))
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            other => Err(self.bad(field, "true or false", other)),
        }
    }

    /// One of the words `known`.
    fn word(&self, field: &str, known: &[&'static str]) -> Result<&'static str, ConfigError> {
        let value = self.get(field);
        let word = known.iter().copied().find(|&word| value.and_then(Value::as_str) == Some(word));
        word.ok_or_else(|| {
            let quoted: Vec<_> = known.iter().map(|word| format!("{word:?}")).collect();
            self.bad(field, &quoted.join(" or "), value)
        })
    }

    fn bad(&self, field: &str, expected: &str, got: Option<&Value>) -> ConfigError {
        let got = got.map_or_else(|| "nothing".to_owned(), Value::to_string);
        let short: String = got.chars().take(60).collect();
        let dot = if self.prefix.is_empty() { "" } else { "." };
        ConfigError::Field {
            model: self.model.to_owned(),
            field: format!("{}{dot}{field}", self.prefix),
            expected: expected.to_owned(),
            got: if short.len() < got.len() { short + "..." } else { short },
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
