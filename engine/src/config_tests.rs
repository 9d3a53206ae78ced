//! Configurations as the hubs have them, in both dialects, and what is wrong with others.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// meta-llama/Llama-3.1-8B, transformers 4.
const LLAMA_31_8B: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 14336,
  "max_position_embeddings": 131072,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3"
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.43.0.dev0",
  "use_cache": true,
  "vocab_size": 128256
}"#;

/// Qwen/Qwen2.5-7B, transformers 4: a window beside a switch that is off.
const QWEN_25_7B: &str = r#"{
  "architectures": ["Qwen2ForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151643,
  "hidden_act": "silu",
  "hidden_size": 3584,
  "initializer_range": 0.02,
  "intermediate_size": 18944,
  "max_position_embeddings": 131072,
  "max_window_layers": 28,
  "model_type": "qwen2",
  "num_attention_heads": 28,
  "num_hidden_layers": 28,
  "num_key_value_heads": 4,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 131072,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.40.1",
  "use_cache": true,
  "use_mrope": false,
  "use_sliding_window": false,
  "vocab_size": 152064
}"#;

/// Qwen/Qwen3-8B, transformers 4.
const QWEN_3_8B: &str = r#"{
  "architectures": ["Qwen3ForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 12288,
  "max_position_embeddings": 40960,
  "max_window_layers": 36,
  "model_type": "qwen3",
  "num_attention_heads": 32,
  "num_hidden_layers": 36,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-06,
  "rope_scaling": null,
  "rope_theta": 1000000,
  "sliding_window": null,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.51.0",
  "use_cache": true,
  "use_sliding_window": false,
  "vocab_size": 151936
}"#;

/// mistralai/Mistral-7B-v0.3, transformers 4.
const MISTRAL_7B: &str = r#"{
  "architectures": ["MistralForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 14336,
  "max_position_embeddings": 32768,
  "model_type": "mistral",
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05,
  "rope_theta": 1000000.0,
  "sliding_window": null,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.42.0.dev0",
  "use_cache": true,
  "vocab_size": 32768
}"#;

const ALL: [&str; 4] = [LLAMA_31_8B, QWEN_25_7B, QWEN_3_8B, MISTRAL_7B];

/// The same configuration as transformers 5 saves it.
fn five(four: &str) -> String {
    let mut json: Value = serde_json::from_str(four).unwrap();
    let map = json.as_object_mut().unwrap();
    let mut rope = match map.remove("rope_scaling") {
        Some(Value::Object(rope)) => rope,
        _ => Map::from_iter([("rope_type".to_owned(), json!("default"))]),
    };
    rope.insert("rope_theta".to_owned(), map.remove("rope_theta").unwrap());
    map.insert("rope_parameters".to_owned(), Value::Object(rope));
    let dtype = map.remove("torch_dtype").unwrap();
    map.insert("dtype".to_owned(), dtype);
    if map["model_type"].as_str().unwrap().starts_with("qwen") {
        let layers = map["num_hidden_layers"].as_u64().unwrap() as usize;
        map.insert("layer_types".to_owned(), json!(vec!["full_attention"; layers]));
    }
    map.insert("transformers_version".to_owned(), json!("5.0.0"));
    json.to_string()
}

/// The error of a configuration with `field` (a dot reaches inside) set to `value`, or removed.
fn with(text: &str, field: &str, value: Option<Value>) -> Result<DecoderConfig, ConfigError> {
    let mut json: Value = serde_json::from_str(text).unwrap();
    let (object, key) = match field.split_once('.') {
        Some((outer, inner)) => (json.get_mut(outer).unwrap(), inner),
        None => (&mut json, field),
    };
    let map = object.as_object_mut().unwrap();
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
    decoder_config("m", &json.to_string())
}

fn error(text: &str, field: &str, value: impl Into<Option<Value>>) -> String {
    with(text, field, value.into()).unwrap_err().to_string()
}

#[test]
fn llama_is_read_with_its_stretched_positions() {
    let config = decoder_config("llama-3.1-8b", LLAMA_31_8B).unwrap();
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_frequency: 1.0, high_frequency: 4.0, original_context: 8192 };
    assert_eq!(config.rope, Rope { theta: 500_000.0, scaling });
    assert_eq!(
        (config.architecture, config.norm_epsilon.to_string()),
        (Architecture::Llama, "0.00001".to_owned())
    );
    let spec = model_spec("llama-3.1-8b", LLAMA_31_8B).unwrap();
    assert_eq!(spec, config.spec);
    assert_eq!((spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim), (32, 4096, 32, 8, 128));
    assert_eq!(
        (spec.family.as_str(), spec.context, spec.precision),
        ("llama-128256", 131_072, Precision::Bf16)
    );
    // 8,030,261,248 weights, less the 65 norms of 4,096; 128 KiB of KV a token.
    assert_eq!(spec.resident_bytes() / 2, 8_030_261_248 - 65 * 4096);
    assert_eq!(spec.kv_bytes_per_token(), 131_072);
}

#[test]
fn every_family_is_read() {
    let sizes = ALL.map(|text| {
        let config = decoder_config("m", text).unwrap();
        let s = config.spec;
        (config.architecture, s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.intermediate, s.vocab)
    });
    assert_eq!(
        sizes,
        [
            (Architecture::Llama, 32, 4096, 32, 8, 128, 14336, 128_256),
            (Architecture::Qwen2, 28, 3584, 28, 4, 128, 18944, 152_064),
            (Architecture::Qwen3, 36, 4096, 32, 8, 128, 12288, 151_936),
            (Architecture::Mistral, 32, 4096, 32, 8, 128, 14336, 32_768),
        ]
    );
}

#[test]
fn both_dialects_say_the_same() {
    for text in ALL {
        let (four, five) = (decoder_config("m", text).unwrap(), decoder_config("m", &five(text)).unwrap());
        assert_eq!(four, five);
    }
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let cut = QWEN_25_7B.replace("\"sliding_window\": 131072", "\"sliding_window\": 4096");
    assert!(decoder_config("m", &cut).is_ok(), "the switch is off");
    insta::assert_snapshot!(error(LLAMA_31_8B, "architectures", json!(["GemmaForCausalLM"])), @r#"m: config.json: architectures must be one of ["LlamaForCausalLM"], ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"], got ["GemmaForCausalLM"]"#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "architectures", None), @r#"m: config.json: architectures must be one of ["LlamaForCausalLM"], ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"], got nothing"#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "model_type", json!("mllama")), @r#"m: config.json: model_type must be "llama", got "mllama""#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "rope_scaling.rope_type", json!("yarn")), @r#"m: config.json: rope_scaling.rope_type must be "default" or "linear" or "llama3", got "yarn""#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "rope_scaling.rope_type", None), @r#"m: config.json: rope_scaling.rope_type must be "default" or "linear" or "llama3", got nothing"#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "quantization_config", json!({"quant_method": "fp8"})), @r#"m: config.json: quantization_config must be absent: neither code nor quantized weights are loaded, got {"quant_method":"fp8"}"#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "auto_map", json!({"AutoModel": "code.Model"})), @r#"m: config.json: auto_map must be absent: neither code nor quantized weights are loaded, got {"AutoModel":"code.Model"}"#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "hidden_act", json!("gelu")), @r#"m: config.json: hidden_act must be "silu", got "gelu""#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "attention_bias", json!(true)), @"m: config.json: attention_bias must be false, got true");
    insta::assert_snapshot!(error(LLAMA_31_8B, "torch_dtype", json!("int8")), @r#"m: config.json: torch_dtype must be "bfloat16" or "float16" or "float32", got "int8""#);
    insta::assert_snapshot!(error(MISTRAL_7B, "sliding_window", json!(4096)), @"m: config.json: sliding_window must be null, or at least max_position_embeddings, got 4096");
    insta::assert_snapshot!(error(&cut, "use_sliding_window", json!(true)),
        @"m: config.json: sliding_window must be null, or at least max_position_embeddings, got 4096");
    insta::assert_snapshot!(error(&five(QWEN_3_8B), "layer_types", json!(["full_attention", "sliding_attention"])), @r#"m: config.json: layer_types must be full_attention in every layer, got ["full_attention","sliding_attention"]"#);
    insta::assert_snapshot!(error(&five(QWEN_3_8B), "rope_parameters.partial_rotary_factor", json!(0.5)), @"m: config.json: rope_parameters.partial_rotary_factor must be 1, got 0.5");
}

#[test]
fn nothing_falls_back_in_silence() {
    insta::assert_snapshot!(error(MISTRAL_7B, "rope_theta", None), @"m: config.json: rope_theta must be a finite number above 0, written out: no default is assumed, got nothing");
    insta::assert_snapshot!(error(&five(MISTRAL_7B), "rope_parameters.rope_theta", None), @"m: config.json: rope_parameters.rope_theta must be a finite number above 0, written out: no default is assumed, got nothing");
    insta::assert_snapshot!(error(&five(MISTRAL_7B), "rope_theta", json!(10000.0)), @"m: config.json: rope_theta must be 1000000, as in rope_parameters, got 10000.0");
    insta::assert_snapshot!(error(&five(MISTRAL_7B), "rope_scaling", json!({"rope_type": "default"})), @r#"m: config.json: rope_scaling must be absent beside rope_parameters, got {"rope_type":"default"}"#);
    insta::assert_snapshot!(error(MISTRAL_7B, "torch_dtype", None), @"m: config.json: dtype (or torch_dtype) must be bfloat16 or float16 or float32, got nothing");
    insta::assert_snapshot!(error(&five(MISTRAL_7B), "torch_dtype", json!("float16")), @r#"m: config.json: torch_dtype must be "bfloat16", as in dtype, got "float16""#);
    insta::assert_snapshot!(error(MISTRAL_7B, "num_key_value_heads", None), @"m: config.json: num_key_value_heads must be a whole number from 1 to 1024, got nothing");
    insta::assert_snapshot!(error(QWEN_3_8B, "head_dim", None), @"m: config.json: head_dim must be a whole number from 1 to 1024, got nothing");
    insta::assert_snapshot!(error(QWEN_3_8B, "rms_norm_eps", None), @"m: config.json: rms_norm_eps must be a number above 0 and below 1, got nothing");
}

#[test]
fn limits_hold_before_anything_is_allocated() {
    insta::assert_snapshot!(error(LLAMA_31_8B, "num_hidden_layers", json!(0)), @"m: config.json: num_hidden_layers must be a whole number from 1 to 256, got 0");
    insta::assert_snapshot!(error(LLAMA_31_8B, "num_hidden_layers", json!(257)), @"m: config.json: num_hidden_layers must be a whole number from 1 to 256, got 257");
    insta::assert_snapshot!(error(LLAMA_31_8B, "hidden_size", json!(-4096)), @"m: config.json: hidden_size must be a whole number from 1 to 65536, got -4096");
    insta::assert_snapshot!(error(LLAMA_31_8B, "hidden_size", json!(4096.5)), @"m: config.json: hidden_size must be a whole number from 1 to 65536, got 4096.5");
    insta::assert_snapshot!(error(LLAMA_31_8B, "hidden_size", json!(4095)), @"m: config.json: hidden_size must be a multiple of num_attention_heads (32) where head_dim is absent, got 4095");
    insta::assert_snapshot!(error(LLAMA_31_8B, "vocab_size", json!(u64::MAX)), @"m: config.json: vocab_size must be a whole number from 1 to 2000000, got 18446744073709551615");
    insta::assert_snapshot!(error(LLAMA_31_8B, "vocab_size", json!("128256")), @r#"m: config.json: vocab_size must be a whole number from 1 to 2000000, got "128256""#);
    insta::assert_snapshot!(error(LLAMA_31_8B, "num_key_value_heads", json!(5)), @"m: config.json: num_key_value_heads must be a divisor of num_attention_heads (32), got 5");
    insta::assert_snapshot!(error(LLAMA_31_8B, "head_dim", json!(127)), @"m: config.json: head_dim must be an even number of at most 1024: rotary embedding pairs dimensions, got 127");
    insta::assert_snapshot!(error(LLAMA_31_8B, "max_position_embeddings", json!(1 << 21)), @"m: config.json: max_position_embeddings must be a whole number from 1 to 1048576, got 2097152");
    insta::assert_snapshot!(error(LLAMA_31_8B, "rms_norm_eps", json!(0)), @"m: config.json: rms_norm_eps must be a number above 0 and below 1, got 0");
    insta::assert_snapshot!(error(LLAMA_31_8B, "rope_theta", json!(-1.0)), @"m: config.json: rope_theta must be a finite number above 0, written out: no default is assumed, got -1.0");
    insta::assert_snapshot!(error(LLAMA_31_8B, "rope_scaling.high_freq_factor", json!(1.0)), @"m: config.json: rope_scaling.high_freq_factor must be a finite number above low_freq_factor, got 1.0");
    insta::assert_snapshot!(error(LLAMA_31_8B, "rope_scaling", json!("linear")), @r#"m: config.json: rope_scaling must be an object, got "linear""#);

    let long = format!("{}{}", LLAMA_31_8B, " ".repeat(MOST_BYTES));
    insta::assert_snapshot!(model_spec("m", &long).unwrap_err().to_string().replace(&long.len().to_string(), "N"), @"m: config.json must be at most 1048576 bytes, got N");
}

#[test]
fn what_is_no_configuration_is_named() {
    let error = |text: &str| model_spec("m", text).unwrap_err().to_string();
    insta::assert_snapshot!(error(""), @"m: config.json is not JSON: EOF while parsing a value at line 1 column 0");
    insta::assert_snapshot!(error("{\"hidden_size\": NaN}"), @"m: config.json is not JSON: expected value at line 1 column 17");
    insta::assert_snapshot!(error("[1, 2]"), @"m: config.json: the file must be a JSON object, got [1,2]");
    insta::assert_snapshot!(error(&"[".repeat(1000)), @"m: config.json is not JSON: recursion limit exceeded at line 1 column 128");
    insta::assert_snapshot!(error("{}"), @r#"m: config.json: architectures must be one of ["LlamaForCausalLM"], ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"], got nothing"#);
}

#[test]
fn what_is_known_and_harmless_is_taken() {
    // A window that never cuts, a switch that is off, the old name of the rope type, Llama 1 heads.
    assert!(with(MISTRAL_7B, "sliding_window", Some(json!(32768))).is_ok());
    let old = with(MISTRAL_7B, "rope_scaling", Some(json!({"type": "linear", "factor": 4.0}))).unwrap();
    assert_eq!(old.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(with(LLAMA_31_8B, "num_key_value_heads", None).unwrap().spec.kv_heads, 32);
    let wide = with(LLAMA_31_8B, "torch_dtype", Some(json!("float32"))).unwrap().spec;
    assert_eq!((wide.precision, wide.kv_bytes), (Precision::F32, 4));
    assert!(with(QWEN_3_8B, "tie_word_embeddings", Some(json!(true))).unwrap().spec.tied_embeddings);
    assert!(with(QWEN_3_8B, "tie_word_embeddings", Some(json!("yes"))).is_err());
}

/// Any JSON value, small.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,12}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,300}") {
        prop_assert!(model_spec("m", &text).is_err());
    }

    #[test]
    fn no_field_makes_it_panic_and_what_is_read_is_a_model(
        which in 0usize..8, field in any::<prop::sample::Index>(), inner in any::<bool>(), value in any_value(),
    ) {
        let text = if which < 4 { ALL[which].to_owned() } else { five(ALL[which - 4]) };
        let mut json: Value = serde_json::from_str(&text).unwrap();
        let rope = if which < 4 { "rope_scaling" } else { "rope_parameters" };
        let map = match json.get_mut(rope) {
            Some(Value::Object(_)) if inner => json[rope].as_object_mut().unwrap(),
            _ => json.as_object_mut().unwrap(),
        };
        let key = map.keys().nth(field.index(map.len())).unwrap().clone();
        map.insert(key, value);
        if let Ok(config) = decoder_config("m", &json.to_string()) {
            prop_assert!(config.spec.check().is_ok());
            prop_assert!(config.spec.resident_bytes() > 0);
            prop_assert!(config.rope.theta.is_finite() && config.rope.theta > 0.0);
        }
    }
}
