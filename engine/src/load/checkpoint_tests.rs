//! Folders that open, and every way in which one may be wrong.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::tensor::{Dtype as Stored, TensorView, serialize};
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn fixture(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder)
}

/// A folder with the configuration of the fixture `qwen2`, which is tied, and nothing else.
fn empty() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("qwen2").join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

fn put(folder: &TempDir, file: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder.path().join(file), bytes).unwrap();
}

fn open(folder: &TempDir) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(folder.path(), "tiny")
}

fn fault(folder: &TempDir) -> LoadError {
    open(folder).unwrap_err()
}

/// A safetensors file of tensors (name, type, shape, bytes).
fn file(tensors: &[(&str, Stored, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// One f32 tensor of two numbers.
fn small(name: &str) -> Vec<u8> {
    file(&[(name, Stored::F32, &[2], f32s(&[1.5, -2.0]))])
}

fn index(weight_map: Value) -> String {
    json!({"metadata": {"total_size": 8}, "weight_map": weight_map}).to_string()
}

#[test]
fn the_four_fixtures_open_and_give_their_tensors() {
    for (folder, stop, wide) in [
        ("llama", vec![2, 3], true),
        ("qwen2", vec![2, 7], true),
        ("qwen3", vec![2], false),
        ("mistral", vec![2], true),
    ] {
        let mut checkpoint = Checkpoint::open(&fixture(folder), folder).unwrap();
        assert_eq!(checkpoint.stop_tokens(), stop, "{folder}");
        let names: Vec<_> =
            checkpoint.tensors.iter().map(|(n, (_, p))| (n.clone(), p.shape.clone())).collect();
        for (name, shape) in &names {
            let values = checkpoint.tensor(name, shape).unwrap();
            assert_eq!(values.len(), shape.iter().product::<usize>());
            assert_eq!(matches!(values, Values::F32(_)), wide, "{name}");
        }
        checkpoint.check_all_taken().unwrap();
        let spec = &checkpoint.config().spec;
        let (vocab, hidden) = (spec.vocab as usize, spec.hidden as usize);
        assert!(names.contains(&("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])));
        assert_eq!(names.iter().any(|(name, _)| name == "lm_head.weight"), !spec.tied_embeddings);
    }
}

#[test]
fn numbers_are_what_the_file_says_in_all_three_types() {
    let numbers = [1.0f32, -0.5, 0.0, 3.0e-3];
    let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
    let folder = empty();
    put(
        &folder,
        "model.safetensors",
        file(&[
            ("a", Stored::F32, &[2, 2], f32s(&numbers)),
            ("b", Stored::F16, &[4], halves.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("c", Stored::BF16, &[1, 4], brains.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ]),
    );
    let mut checkpoint = open(&folder).unwrap();
    assert_eq!(checkpoint.tensor("a", &[2, 2]).unwrap(), Values::F32(numbers.to_vec()));
    let widened = halves.iter().map(|x| x.to_f32()).collect();
    assert_eq!(checkpoint.tensor("b", &[4]).unwrap(), Values::F32(widened));
    assert_eq!(checkpoint.tensor("c", &[1, 4]).unwrap(), Values::Bf16(brains));
}

#[test]
fn a_tensor_longer_than_a_read_comes_whole() {
    let numbers: Vec<f32> = (0..CHUNK / 4 + 1000).map(|i| i as f32).collect();
    let folder = empty();
    put(&folder, "model.safetensors", file(&[("a", Stored::F32, &[numbers.len()], f32s(&numbers))]));
    let mut checkpoint = open(&folder).unwrap();
    assert_eq!(checkpoint.tensor("a", &[numbers.len()]).unwrap(), Values::F32(numbers));
}

#[test]
fn missing_files_are_named() {
    let nowhere = Checkpoint::open(&fixture("no-such-folder"), "tiny").unwrap_err();
    insta::assert_snapshot!(nowhere, @"tiny: cannot be read: No such file or directory (os error 2)");
    let bare = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(fault(&bare), @"tiny/config.json: cannot be read: No such file or directory (os error 2)");
    insta::assert_snapshot!(fault(&empty()), @"tiny/model.safetensors: cannot be read: No such file or directory (os error 2)");
    let folder = empty();
    put(&folder, "model.safetensors.index.json", index(json!({"a": "model-1.safetensors"})));
    insta::assert_snapshot!(fault(&folder), @"tiny/model-1.safetensors: cannot be read: No such file or directory (os error 2)");
    fs::create_dir(folder.path().join("model-1.safetensors")).unwrap();
    insta::assert_snapshot!(fault(&folder), @"tiny/model-1.safetensors: must be a regular file, got a folder, pipe or device");
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_is_cut() {
    let whole = small("a");
    let folder = empty();
    for length in 0..whole.len() {
        put(&folder, "model.safetensors", &whole[..length]);
        assert!(matches!(fault(&folder), LoadError::Length { .. }), "{length}");
    }
    put(&folder, "model.safetensors", &whole[..whole.len() - 1]);
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be 72 bytes by its header, got 71: it is cut short, or not a safetensors file");
    put(&folder, "model.safetensors", &whole[..20]);
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be 64 bytes by its header, got 20: it is cut short, or not a safetensors file");
    put(&folder, "model.safetensors", [whole.as_slice(), b"x"].concat());
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be 72 bytes by its header, got 73: it is cut short, or not a safetensors file");
}

#[test]
fn a_file_cut_short_after_it_was_opened_is_an_error_and_no_signal() {
    let folder = empty();
    put(&folder, "model.safetensors", small("a"));
    let mut checkpoint = open(&folder).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("model.safetensors"))
        .unwrap()
        .set_len(10)
        .unwrap();
    let error = checkpoint.tensor("a", &[2]).unwrap_err();
    insta::assert_snapshot!(error, @"tiny/model.safetensors: tensor a: cannot be read: failed to fill whole buffer");
}

#[test]
fn sizes_over_the_limits_are_refused_before_anything_is_read() {
    let folder = empty();
    let big = |file: &str, bytes: u64| {
        let opened = fs::OpenOptions::new().create(true).append(true).open(folder.path().join(file)).unwrap();
        opened.set_len(bytes).unwrap(); // Sparse.
    };
    // A header that says it is 2^63 bytes long, and one over the limit in a file that has it.
    put(&folder, "model.safetensors", [[0, 0, 0, 0, 0, 0, 0, 0x80].as_slice(), b"{}"].concat());
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be at most 16777216 bytes of header, got 9223372036854775808");
    put(&folder, "model.safetensors", (super::super::MOST_HEADER_BYTES + 1).to_le_bytes());
    big("model.safetensors", 20 << 20);
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be at most 16777216 bytes of header, got 16777217");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    big("model.safetensors.index.json", MOST_INDEX_BYTES + 1);
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors.index.json: must be at most 16777216 bytes, got 16777217");
    big("generation_config.json", MOST_CONFIG_BYTES + 1);
    insta::assert_snapshot!(fault(&folder), @"tiny/generation_config.json: must be at most 1048576 bytes, got 1048577");
    big("config.json", MOST_CONFIG_BYTES + 1);
    insta::assert_snapshot!(fault(&folder), @"tiny/config.json: must be at most 1048576 bytes, got 1048577");
}

#[test]
fn a_header_of_too_many_tensors_is_refused() {
    let one = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let entries: Vec<_> = (0..=super::super::MOST_TENSORS).map(one).collect();
    let json = format!("{{{}}}", entries.join(","));
    let folder = empty();
    put(&folder, "model.safetensors", [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat());
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: must be at most 100000 tensors, got 100001");
}

#[test]
fn headers_that_lie_are_refused() {
    let header = |json: Value, data: usize| {
        let json = json.to_string();
        let folder = empty();
        let bytes = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![0; data]].concat();
        put(&folder, "model.safetensors", bytes);
        fault(&folder)
    };
    let f32 = |shape: Value, from: u64, to: u64| json!({"dtype": "F32", "shape": shape, "data_offsets": [from, to]});
    let overlap = header(json!({"a": f32(json!([2]), 0, 8), "b": f32(json!([2]), 4, 12)}), 12);
    insta::assert_snapshot!(overlap, @"tiny/model.safetensors: expected a safetensors header, got something else: invalid offset for tensor `b`");
    let gap = header(json!({"a": f32(json!([2]), 0, 8), "b": f32(json!([2]), 12, 20)}), 20);
    insta::assert_snapshot!(gap, @"tiny/model.safetensors: expected a safetensors header, got something else: invalid offset for tensor `b`");
    let short = header(json!({"a": f32(json!([3]), 0, 8)}), 8);
    insta::assert_snapshot!(short, @"tiny/model.safetensors: expected a safetensors header, got something else: invalid shape, data type, or offset for tensor");
    let huge = header(json!({"a": f32(json!([1u64 << 40, 1u64 << 40]), 0, 8)}), 8);
    insta::assert_snapshot!(huge, @"tiny/model.safetensors: expected a safetensors header, got something else: overflow computing buffer size from shape and/or element type");
    let kind = header(json!({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}), 8);
    insta::assert_snapshot!(kind.to_string().split(", expected one of").next().unwrap(), @"tiny/model.safetensors: expected a safetensors header, got something else: unknown variant `F33`");
    let object = header(json!([1, 2]), 0);
    insta::assert_snapshot!(object, @"tiny/model.safetensors: expected a safetensors header, got something else: invalid type: sequence, expected struct HashMetadata at line 1 column 0");
}

#[test]
fn numbers_of_another_type_are_refused_by_name() {
    let folder = empty();
    put(&folder, "model.safetensors", file(&[("model.norm.weight", Stored::I8, &[2], vec![1, 2])]));
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors: tensor model.norm.weight must be F32, F16 or BF16, got I8");
    // A known extra may be of any.
    put(&folder, "model.safetensors", file(&[("x.rotary_emb.inv_freq", Stored::F64, &[1], vec![0; 8])]));
    let mut checkpoint = open(&folder).unwrap();
    checkpoint.check_all_taken().unwrap();
    let error = checkpoint.tensor("x.rotary_emb.inv_freq", &[1]).unwrap_err();
    insta::assert_snapshot!(error, @"tiny/model.safetensors: tensor x.rotary_emb.inv_freq must be F32, F16 or BF16, got F64");
}

#[test]
fn shapes_and_names_are_the_decoders() {
    let mut checkpoint = Checkpoint::open(&fixture("llama"), "tiny").unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    // Transposed, flattened, one off: the number of elements alone does not make a shape.
    insta::assert_snapshot!(checkpoint.tensor(name, &[80, 48]).unwrap_err(), @"tiny/model-00002-of-00002.safetensors: tensor model.layers.1.mlp.down_proj.weight must be of shape [80, 48], got [48, 80]");
    assert!(checkpoint.tensor(name, &[80 * 48]).is_err() && checkpoint.tensor(name, &[48, 81]).is_err());
    assert!(checkpoint.tensor(name, &[48, 80]).is_ok());
    insta::assert_snapshot!(checkpoint.tensor("model.layers.2.mlp.down_proj.weight", &[48, 80]).unwrap_err(), @"tiny/model.safetensors.index.json: tensor model.layers.2.mlp.down_proj.weight of shape [48, 80] expected, got no tensor of that name");
}

#[test]
fn tensors_that_nobody_asked_for_are_refused_but_for_known_extras() {
    let folder = empty();
    let two = || f32s(&[1.0, 2.0]);
    let tensors = [
        ("a", Stored::F32, [2].as_slice(), two()),
        ("lm_head.weight", Stored::F32, &[2], two()),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", Stored::F32, &[2], two()),
        ("score.bias", Stored::F32, &[2], two()),
        ("score.weight", Stored::F32, &[2], two()),
    ];
    put(&folder, "model.safetensors", file(&tensors));
    let mut checkpoint = open(&folder).unwrap();
    checkpoint.tensor("a", &[2]).unwrap();
    insta::assert_snapshot!(checkpoint.check_all_taken().unwrap_err(), @"tiny/model.safetensors: expected only tensors that the decoder uses, got 2 more, first score.bias");
    checkpoint.tensor("score.bias", &[2]).unwrap();
    checkpoint.tensor("score.weight", &[2]).unwrap();
    checkpoint.check_all_taken().unwrap();

    // The head of an untied model is no extra.
    let mut untied = Checkpoint::open(&fixture("mistral"), "tiny").unwrap();
    let rest: Vec<_> = untied.tensors.iter().map(|(n, (_, p))| (n.clone(), p.shape.clone())).collect();
    for (name, shape) in rest.iter().filter(|(name, _)| name != "lm_head.weight") {
        untied.tensor(name, shape).unwrap();
    }
    insta::assert_snapshot!(untied.check_all_taken().unwrap_err(), @"tiny/model.safetensors: expected only tensors that the decoder uses, got 1 more, first lm_head.weight");
}

#[test]
fn weights_that_are_no_numbers_are_refused_unless_allowed() {
    let folder = empty();
    let wide = file(&[("model.norm.weight", Stored::F32, &[3], f32s(&[1.0, f32::NAN, f32::INFINITY]))]);
    put(&folder, "model.safetensors", &wide);
    let error = open(&folder).unwrap().tensor("model.norm.weight", &[3]).unwrap_err();
    insta::assert_snapshot!(error, @"tiny/model.safetensors: tensor model.norm.weight must be finite, got NaN at index 1");
    let values = open(&folder).unwrap().check_finite(false).tensor("model.norm.weight", &[3]).unwrap();
    assert!(values.to_f32()[1].is_nan());

    let narrow = |dtype, bits: u16| {
        let bytes = [0u16, bits].iter().flat_map(|x| x.to_le_bytes()).collect();
        put(&folder, "model.safetensors", file(&[("b", dtype, &[2], bytes)]));
        open(&folder).unwrap().tensor("b", &[2]).unwrap_err()
    };
    insta::assert_snapshot!(narrow(Stored::BF16, bf16::NEG_INFINITY.to_bits()), @"tiny/model.safetensors: tensor b must be finite, got -inf at index 1");
    insta::assert_snapshot!(narrow(Stored::F16, f16::NAN.to_bits()), @"tiny/model.safetensors: tensor b must be finite, got NaN at index 1");
    // Late in a long tensor, too.
    let mut long = vec![0f32; CHUNK];
    long[CHUNK - 7] = f32::INFINITY;
    put(&folder, "model.safetensors", file(&[("c", Stored::F32, &[CHUNK], f32s(&long))]));
    insta::assert_snapshot!(open(&folder).unwrap().tensor("c", &[CHUNK]).unwrap_err(), @"tiny/model.safetensors: tensor c must be finite, got inf at index 1048569");
}

#[test]
fn index_and_shards_must_agree() {
    let folder = empty();
    put(&folder, "one.safetensors", small("a"));
    put(&folder, "two.safetensors", small("b"));
    let with = |weight_map: Value| {
        put(&folder, "model.safetensors.index.json", index(weight_map));
        open(&folder)
    };
    with(json!({"a": "one.safetensors", "b": "two.safetensors"})).unwrap();
    // In no shard; in another shard; not in the index; in a shard that is not there.
    let nowhere = with(json!({"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}));
    insta::assert_snapshot!(nowhere.unwrap_err(), @"tiny/model.safetensors.index.json: tensor c must be in one.safetensors, got no such tensor there");
    let swapped = with(json!({"a": "two.safetensors", "b": "one.safetensors"}));
    insta::assert_snapshot!(swapped.unwrap_err(), @"tiny/one.safetensors: tensor a must be in two.safetensors, got one.safetensors");
    put(
        &folder,
        "two.safetensors",
        file(&[("b", Stored::F32, &[1], f32s(&[1.0])), ("extra", Stored::F32, &[1], f32s(&[1.0]))]),
    );
    let unnamed = with(json!({"a": "one.safetensors", "b": "two.safetensors"}));
    insta::assert_snapshot!(unnamed.unwrap_err(), @"tiny/two.safetensors: tensor extra must be in model.safetensors.index.json, which names every tensor, got two.safetensors alone");
    put(
        &folder,
        "two.safetensors",
        file(&[("a", Stored::F32, &[1], f32s(&[1.0])), ("b", Stored::F32, &[1], f32s(&[1.0]))]),
    );
    let twice = with(json!({"a": "one.safetensors", "b": "two.safetensors"}));
    insta::assert_snapshot!(twice.unwrap_err(), @"tiny/two.safetensors: tensor a must be in one shard, got tiny/one.safetensors as well");
    insta::assert_snapshot!(with(json!({})).unwrap_err(), @"tiny/model.safetensors.index.json: weight_map must be a shard name for each of at least one tensor, got {}");
    insta::assert_snapshot!(with(json!({"a": 1})).unwrap_err(), @"tiny/model.safetensors.index.json: expected an object with weight_map, shard names by tensor names, got something else: invalid type: integer `1`, expected a string at line 1 column 48");
    let double = r#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#;
    put(&folder, "model.safetensors.index.json", double);
    insta::assert_snapshot!(fault(&folder), @"tiny/model.safetensors.index.json: expected an object with weight_map, shard names by tensor names, got something else: tensor a named twice at line 1 column 63");
    let many: serde_json::Map<_, _> =
        (0..300).map(|i| (format!("t{i}"), json!(format!("{i}.safetensors")))).collect();
    insta::assert_snapshot!(with(many.into()).unwrap_err(), @"tiny/model.safetensors.index.json: must be at most 256 shards, got 300");
}

#[test]
fn shard_names_cannot_leave_the_folder() {
    let folder = empty();
    put(&folder, "one.safetensors", small("a"));
    fs::create_dir(folder.path().join("sub")).unwrap();
    put(&folder, "sub/one.safetensors", small("a"));
    let with = |shard: &str| {
        put(&folder, "model.safetensors.index.json", index(json!({"a": shard})));
        open(&folder)
    };
    insta::assert_snapshot!(with("../x/one.safetensors").unwrap_err(), @"tiny/model.safetensors.index.json: weight_map.a must be a file name without a folder, ending in .safetensors, got ../x/one.safetensors");
    insta::assert_snapshot!(with("/etc/one.safetensors").unwrap_err(), @"tiny/model.safetensors.index.json: weight_map.a must be a file name without a folder, ending in .safetensors, got /etc/one.safetensors");
    insta::assert_snapshot!(with("one\n.bin").unwrap_err(), @r#"tiny/model.safetensors.index.json: weight_map.a must be a file name without a folder, ending in .safetensors, got one\n.bin"#);
    for shard in [
        "..",
        ".",
        "",
        "./one.safetensors",
        "sub/one.safetensors",
        "sub/../one.safetensors",
        "one.safetensors/",
        "sub\\one.safetensors",
        "C:one.safetensors",
        "one.safetensors\0",
        "..\\one.safetensors",
    ] {
        assert!(matches!(with(shard), Err(LoadError::Field { .. })), "{shard:?}");
    }
    with("one.safetensors").unwrap();
}

#[cfg(unix)]
#[test]
fn links_cannot_leave_the_folder_but_for_the_blobs_of_their_cache() {
    use std::os::unix::fs::symlink;

    // Outside: a repository of the same cache, and a blobs folder elsewhere.
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--us--tiny");
    let snapshot = repository.join("snapshots").join("0123abcd");
    let blobs = repository.join("blobs");
    let stranger = cache.path().join("models--them--other").join("blobs");
    for dir in [&snapshot, &blobs, &stranger] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::copy(fixture("qwen2").join("config.json"), blobs.join("c0")).unwrap();
    fs::write(blobs.join("w0"), small("a")).unwrap();
    fs::write(stranger.join("w1"), small("a")).unwrap();
    symlink("../../blobs/c0", snapshot.join("config.json")).unwrap();
    let weights = snapshot.join("model.safetensors");
    symlink("../../blobs/w0", &weights).unwrap();
    Checkpoint::open(&snapshot, "tiny").unwrap();
    // The folder itself may be reached through a link.
    symlink(&snapshot, cache.path().join("link")).unwrap();
    Checkpoint::open(&cache.path().join("link"), "tiny").unwrap();

    let relink = |to: &str| {
        fs::remove_file(&weights).unwrap();
        symlink(to, &weights).unwrap();
        Checkpoint::open(&snapshot, "tiny").unwrap_err()
    };
    insta::assert_snapshot!(relink("../../../models--them--other/blobs/w1"), @"tiny/model.safetensors: must be inside the model's folder (or the blobs of its Hugging Face cache), got a link that leads out of it");
    assert!(matches!(relink("/etc/passwd"), LoadError::Path { .. }));
    insta::assert_snapshot!(relink("../../blobs/missing"), @"tiny/model.safetensors: cannot be read: No such file or directory (os error 2)");
    assert!(matches!(relink("/dev/zero"), LoadError::Path { .. }));
    insta::assert_snapshot!(relink("."), @"tiny/model.safetensors: must be a regular file, got a folder, pipe or device");

    // Outside a cache, a link within the folder is fine, and one to a neighbouring blobs folder is not.
    let plain = empty();
    put(&plain, "w0", small("a"));
    symlink("w0", plain.path().join("model.safetensors")).unwrap();
    open(&plain).unwrap();
    fs::remove_file(plain.path().join("model.safetensors")).unwrap();
    symlink(blobs.join("w0"), plain.path().join("model.safetensors")).unwrap();
    insta::assert_snapshot!(fault(&plain), @"tiny/model.safetensors: must be inside the model's folder (or the blobs of its Hugging Face cache), got a link that leads out of it");
}

#[test]
fn stop_tokens_are_ids_of_the_vocabulary() {
    let folder = empty();
    put(&folder, "model.safetensors", small("a"));
    assert_eq!(open(&folder).unwrap().stop_tokens(), [2]);
    let with = |json: Value| {
        put(&folder, "generation_config.json", json.to_string());
        open(&folder).map(|checkpoint| checkpoint.stop_tokens().to_vec())
    };
    assert_eq!(with(json!({"eos_token_id": [7, 3, 7]})).unwrap(), [3, 7]);
    assert_eq!(with(json!({"eos_token_id": null})).unwrap(), [2]);
    assert_eq!(with(json!({"temperature": 0.6})).unwrap(), [2]);
    insta::assert_snapshot!(with(json!({"eos_token_id": 112})).unwrap_err(), @"tiny/generation_config.json: eos_token_id must be an id below vocab_size, or a list of them, got 112");
    insta::assert_snapshot!(with(json!({"eos_token_id": [2, "</s>"]})).unwrap_err(), @r#"tiny/generation_config.json: eos_token_id must be an id below vocab_size, or a list of them, got [2,"</s>"]"#);
    put(&folder, "generation_config.json", "{");
    insta::assert_snapshot!(fault(&folder), @"tiny/generation_config.json: expected an object, got something else: EOF while parsing an object at line 1 column 1");
    put(&folder, "generation_config.json", b"\xff");
    insta::assert_snapshot!(fault(&folder), @"tiny/generation_config.json: the text must be UTF-8, got invalid utf-8 sequence of 1 bytes from index 0");
}

/// Bytes with some of them changed, and perhaps an end cut off.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    (changes, prop::option::of(any::<prop::sample::Index>())).prop_map(move |(changes, cut)| {
        let mut bytes = bytes.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

fn fixture_bytes(folder: &str, file: &str) -> Vec<u8> {
    fs::read(fixture(folder).join(file)).unwrap()
}

proptest! {
    #[test]
    fn a_damaged_config_is_an_error_or_a_config(bytes in damaged(fixture_bytes("llama", "config.json"))) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(config) = decoder_config("tiny", &text) {
            prop_assert!(config.spec.check().is_ok());
        }
    }

    #[test]
    fn a_damaged_index_is_an_error_or_stays_in_its_folder(
        bytes in damaged(fixture_bytes("llama", "model.safetensors.index.json")),
    ) {
        if let Ok(map) = read_index("index", &bytes) {
            prop_assert!(map.iter().all(|(_, shard)| !shard.contains(['/', '\\']) && shard != ".."));
        }
    }

    #[test]
    fn a_damaged_header_is_an_error_or_covers_its_file(
        bytes in damaged(fixture_bytes("qwen3", "model.safetensors")[..4000].to_vec()), length in 0u64..100_000,
    ) {
        // Both as long as it is, and as long as it claims to be.
        for length in [bytes.len() as u64, length] {
            if let Ok(header) = read_header("file", length, bytes.as_slice()) {
                prop_assert!(header.tensors.values().all(|place| place.bytes.end <= length));
            }
        }
    }

    #[test]
    fn a_damaged_shard_is_an_error_or_gives_whole_tensors(bytes in damaged(small("a"))) {
        let folder = empty();
        put(&folder, "model.safetensors", bytes);
        if let Ok(mut checkpoint) = open(&folder) {
            let places: Vec<_> =
                checkpoint.tensors.iter().map(|(name, (_, place))| (name.clone(), place.shape.clone())).collect();
            for (name, shape) in places {
                if let Ok(values) = checkpoint.tensor(&name, &shape) {
                    prop_assert_eq!(values.len(), shape.iter().product::<usize>());
                }
            }
        }
    }
}
