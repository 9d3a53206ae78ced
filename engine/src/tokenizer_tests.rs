//! The fixture tokenizer: byte-level BPE of 361 tokens, `<|endoftext|>` (special, 0) and `<tool>` (added, 360).

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn fixture(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixture("tokenizer"), "tiny").unwrap()
}

fn json_text() -> String {
    std::fs::read_to_string(fixture("tokenizer").join("tokenizer.json")).unwrap()
}

/// The fixture with a change, read.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut json: Value = serde_json::from_str(&json_text()).unwrap();
    change(&mut json);
    Tokenizer::from_bytes("tiny", json.to_string().as_bytes())
}

#[test]
fn text_comes_back_from_its_tokens() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocabulary_size(), 361);
    for text in ["A draft that is kept whole", "  two  spaces\n\n", "東京 שלום 🙂", PROBE] {
        let tokens = tokenizer.encode_user(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }
    // Merges are used: fewer tokens than bytes.
    assert!(tokenizer.encode_user("The small model drafts").unwrap().len() < 12);
}

#[test]
fn added_tokens_in_user_text_are_ordinary_text() {
    let (plain, bos) = (tokenizer(), Tokenizer::open(&fixture("tokenizer-bos"), "tiny").unwrap());
    let (end, tool) = (plain.token_id("<|endoftext|>").unwrap(), plain.token_id("<tool>").unwrap());
    assert_eq!((end, tool), (0, 360));
    // The library by itself does take them for what they spell: the danger is real.
    assert_eq!(plain.full.encode("<|endoftext|><tool>", false).unwrap().get_ids(), [end, tool]);
    for text in ["<|endoftext|>", "a <|endoftext|> b <tool> c", "<tool>", "<|endoftext|><|endoftext|>"] {
        let tokens = plain.encode_user(text).unwrap();
        assert!(!tokens.contains(&end) && !tokens.contains(&tool), "{text}: {tokens:?}");
        assert_eq!(plain.decode(&tokens).unwrap(), text);
        // The post-processor's own start token stays, and is the only one.
        let started = bos.encode_user(text).unwrap();
        assert_eq!(started, [&[end], tokens.as_slice()].concat());
        assert_eq!(bos.encode_more(text).unwrap(), tokens);
    }
}

#[test]
fn a_vocabulary_that_spells_text_with_a_special_token_is_refused_there() {
    // A merge that builds a token which is declared special besides.
    let odd = changed(|json| {
        let id = json["model"]["vocab"]["he"].clone();
        assert!(id.is_u64(), "the fixture has the merge");
        let mut added = json["added_tokens"][0].clone();
        (added["id"], added["content"]) = (id, json!("he"));
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    // Already the probe has none, so it loads; the text does not.
    let odd = odd.unwrap();
    insta::assert_snapshot!(odd.encode_user("is he").unwrap_err(), @"tiny: text must encode to ordinary tokens, got special token he (258) at token 3");
    assert!(odd.encode_user("is it").is_ok());
}

#[test]
fn an_empty_prompt_is_named_unless_a_start_token_stands_for_it() {
    insta::assert_snapshot!(tokenizer().encode_user("").unwrap_err(), @"tiny: the prompt must hold at least one token, got an empty text");
    assert!(tokenizer().encode_more("").unwrap().is_empty());
    let bos = Tokenizer::open(&fixture("tokenizer-bos"), "tiny").unwrap();
    assert_eq!(bos.encode_user("").unwrap(), [0]);
}

#[test]
fn special_tokens_and_ids_without_a_token_have_no_text() {
    let tokenizer = tokenizer();
    let mut tokens = tokenizer.encode_user("ab").unwrap();
    tokens.extend([0, 5_000_000]);
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "ab");
    // Added, but not special: a model may write it.
    assert_eq!(tokenizer.decode(&[360]).unwrap(), "<tool>");
}

#[test]
fn a_prompt_is_never_cut_or_padded() {
    let text = "A router asks, before every round.";
    let expected = tokenizer().encode_user(text).unwrap();
    let cutting = changed(|json| {
        json["truncation"] = json!({
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
        });
        json["padding"] = json!({
            "strategy": {"Fixed": 4096}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"
        });
    });
    assert_eq!(cutting.unwrap().encode_user(text).unwrap(), expected);
}

#[test]
fn tokenizers_that_lose_or_gamble_are_refused() {
    let lossy = changed(|json| json["normalizer"] = json!({"type": "Lowercase"})).unwrap_err();
    insta::assert_snapshot!(lossy, @r#"tiny/tokenizer.json: must decode what it encodes, expected "Route 66: the café's", got "route 66: the café's""#);
    let lacking = changed(|json| {
        json["added_tokens"].as_array_mut().unwrap().pop(); // Its id would leave a gap.
        // The first byte of most emoji, from vocabulary and merges.
        json["model"]["vocab"].as_object_mut().unwrap().remove("ð");
        let without = |merge: &Value| !merge.to_string().contains('ð');
        json["model"]["merges"].as_array_mut().unwrap().retain(without);
        let without = |(token, _): &(String, Value)| !token.contains('ð');
        let vocab = json["model"]["vocab"].as_object().unwrap().clone().into_iter();
        json["model"]["vocab"] = Value::Object(vocab.filter(without).collect());
    });
    insta::assert_snapshot!(lacking.unwrap_err(), @r#"tiny/tokenizer.json: must decode what it encodes, expected "🙂!\n\tlet x = a[0] != ", got "���!\n\tlet x = a[0] !""#);
    let random = changed(|json| json["model"]["dropout"] = json!(0.1)).unwrap_err();
    insta::assert_snapshot!(random, @"tiny/tokenizer.json: model.dropout must be 0 or absent, got 0.1");
    assert!(changed(|json| json["model"]["dropout"] = json!(0.0)).is_ok());
    let broken = Tokenizer::from_bytes("tiny", b"{\"version\": \"1.0\"").unwrap_err();
    insta::assert_snapshot!(broken, @"tiny/tokenizer.json: expected a tokenizer, got something else: EOF while parsing an object at line 1 column 17");
    let twice = changed(|json| json["model"]["vocab"]["he"] = json["model"]["vocab"]["Ġt"].clone());
    insta::assert_snapshot!(twice.unwrap_err(), @r#"tiny/tokenizer.json: model.vocab must be one token for id 257, got "he" and "Ġt""#);
    let gap = changed(|json| json["added_tokens"][1]["id"] = json!(400)).unwrap_err();
    insta::assert_snapshot!(gap, @"tiny/tokenizer.json: added_tokens must be numbered without a gap (<tool> as 400), got 360");
    // Settings at which the library would panic.
    let prefix = changed(|json| json["model"]["continuing_subword_prefix"] = json!("@@")).unwrap_err();
    insta::assert_snapshot!(prefix, @r#"tiny/tokenizer.json: model.continuing_subword_prefix must be empty or absent, got "@@""#);
    let decoder = changed(|json| {
        json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Melt"}]});
    });
    insta::assert_snapshot!(decoder.unwrap_err(), @r#"tiny/tokenizer.json: decoder must be null, or of type BPEDecoder, ByteFallback, ByteLevel, CTC, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece, got {"type":"Melt"}"#);
    let missing = Tokenizer::open(&fixture("llama"), "tiny").unwrap_err();
    insta::assert_snapshot!(missing, @"tiny/tokenizer.json: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn files_over_the_limit_are_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(MOST_BYTES + 1).unwrap();
    insta::assert_snapshot!(Tokenizer::open(folder.path(), "tiny").unwrap_err(), @"tiny/tokenizer.json: must be at most 67108864 bytes, got 67108865");
}

#[test]
fn tokens_past_the_models_rows_are_refused() {
    assert!(tokenizer().check_fits(361).is_ok());
    insta::assert_snapshot!(tokenizer().check_fits(360).unwrap_err(), @"tiny/tokenizer.json: token ids must be below vocab_size 360, got 360");
}

#[test]
fn vocabularies_are_compared_token_by_token() {
    let left = tokenizer();
    let bos = Tokenizer::open(&fixture("tokenizer-bos"), "other").unwrap();
    assert!(same_vocabulary(&left, &left.clone()).is_ok() && same_vocabulary(&left, &bos).is_ok());

    let renamed = |from: &str, to: &str| {
        let mut json: Value = serde_json::from_str(&json_text()).unwrap();
        json["added_tokens"][1]["content"] = json!(to);
        assert_ne!(from, to);
        Tokenizer::from_bytes("other", json.to_string().as_bytes()).unwrap()
    };
    let error = same_vocabulary(&left, &renamed("<tool>", "<call>")).unwrap_err();
    insta::assert_snapshot!(error, @r#"tiny and other must share a vocabulary, but id 360 is "<tool>" in one and "<call>" in the other"#);
    let shorter = changed(|json| drop(json["added_tokens"].as_array_mut().unwrap().pop())).unwrap();
    insta::assert_snapshot!(same_vocabulary(&left, &shorter).unwrap_err(), @r#"tiny and tiny must share a vocabulary, but id 360 is "<tool>" in one and no token in the other"#);
    insta::assert_snapshot!(same_vocabulary(&shorter, &left).unwrap_err(), @r#"tiny and tiny must share a vocabulary, but id 360 is no token in one and "<tool>" in the other"#);
}

#[test]
fn a_character_is_held_back_until_its_last_byte() {
    let tokenizer = tokenizer();
    // Not in the training lines, so each byte is a token.
    let tokens = tokenizer.encode_user("x🦀y").unwrap();
    assert_eq!(tokens.len(), 6);
    let mut stream = TextStream::default();
    let texts: Vec<_> = tokens.iter().map(|&token| stream.push(&tokenizer, token).unwrap()).collect();
    assert_eq!(texts, ["x", "", "", "", "🦀", "y"]);
    assert_eq!(stream.finish(&tokenizer).unwrap(), "");
    // Cut off, what was held comes out as it decodes.
    let mut stream = TextStream::default();
    let texts: Vec<_> = tokens[..3].iter().map(|&token| stream.push(&tokenizer, token).unwrap()).collect();
    assert_eq!(texts, ["x", "", ""]);
    assert_eq!(stream.finish(&tokenizer).unwrap(), "\u{FFFD}");
}

#[test]
fn a_stream_that_never_becomes_text_does_not_grow() {
    let tokenizer = tokenizer();
    let broken = tokenizer.encode_user("🦀").unwrap()[1];
    let mut stream = TextStream::default();
    let mut text = String::new();
    for _ in 0..10_000 {
        text += &stream.push(&tokenizer, broken).unwrap();
        assert!(stream.held.len() <= MOST_HELD && stream.context.len() <= MOST_HELD);
    }
    text += &stream.finish(&tokenizer).unwrap();
    assert_eq!(text, "\u{FFFD}".repeat(10_000));
}

#[test]
fn a_leading_space_that_a_decoder_strips_is_kept_inside_a_stream() {
    // As Llama 2 decodes: the space before the first token is no text, those inside are.
    let tokenizer = changed(|json| {
        json["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]});
    })
    .unwrap();
    let tokens = tokenizer.encode_user("a b").unwrap();
    assert_eq!(tokenizer.decode(&tokens[1..]).unwrap(), "b");
    let mut stream = TextStream::after(&tokens[..1]);
    let text: String = tokens[1..].iter().map(|&token| stream.push(&tokenizer, token).unwrap()).collect();
    assert_eq!(text, " b");
    // A special token in between does not make the next one the first.
    let mut stream = TextStream::after(&tokens[..1]);
    assert_eq!(stream.push(&tokenizer, 0).unwrap(), "");
    let text: String = tokens[1..].iter().map(|&token| stream.push(&tokenizer, token).unwrap()).collect();
    assert_eq!(text, " b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode_more(&text).unwrap();
        prop_assert!(tokens.iter().all(|&token| token != 0 && token < 360));
        prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }

    #[test]
    fn a_stream_gives_what_decoding_at_once_gives(tokens in prop::collection::vec(0u32..365, 0..60)) {
        let tokenizer = tokenizer();
        let mut stream = TextStream::default();
        let mut text: String = tokens.iter().map(|&token| stream.push(&tokenizer, token).unwrap()).collect();
        text += &stream.finish(&tokenizer).unwrap();
        prop_assert_eq!(text, tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn a_damaged_file_is_an_error_or_a_tokenizer_and_never_a_panic(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut json = json_text().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Some(cut) = cut {
            json.truncate(cut.index(json.len()));
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes("tiny", &json) {
            // It may refuse the text, but must not gamble with it.
            let (once, twice) = (tokenizer.encode_user(PROBE), tokenizer.encode_user(PROBE));
            prop_assert_eq!(once.ok(), twice.ok());
        }
    }
}
