//! Every reader on its real files, on broken ones, and on arbitrary bytes.

use std::path::PathBuf;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use specrouter_routing::luck::Luck;
use specrouter_routing::request::Request;
use specrouter_routing::slo::Slo;
use specrouter_routing::workload::{Size, Surroundings, Workload};
use std::io::{Cursor, Write};

use super::*;

const AROUND: Surroundings = Surroundings { context_tokens: 1 << 20, slo: Slo { ttft: None, tpot: None } };

/// The shared real file; `None`, said once, where the folder is not there.
fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/workloads");
    if folder.is_dir() {
        Some(folder.join(name))
    } else {
        let _ = writeln!(std::io::stderr(), "not checked, {} is not there: {name}", folder.display());
        None
    }
}

/// A `workload:` block in JSON, which reads as YAML does.
#[track_caller]
fn config(json: serde_json::Value) -> WorkloadConfig {
    serde_json::from_value(json).unwrap()
}

/// The workload of a real file with the defaults.
fn real(name: &str) -> Option<(FileWorkload, Workload)> {
    let file = shared(name)?;
    let config = config(serde_json::json!({ "file": file }));
    let read = read(&config).unwrap().unwrap();
    let workload = config.resolve(&AROUND, Some(&read)).unwrap();
    Some((read, workload))
}

/// Requests, prompt tokens, output tokens and seconds to the last arrival of a whole stream.
fn totals(workload: &Workload) -> (u64, u64, u64, f64) {
    let mut totals = (0, 0, 0, 0.0);
    let mut last = Time::ZERO;
    for request in workload.stream(Luck::new(1)) {
        assert!(request.arrival >= last);
        assert_eq!(request.id.0, totals.0);
        last = request.arrival;
        totals.0 += 1;
        totals.1 += u64::from(request.prompt_tokens);
        totals.2 += u64::from(request.truth.output_tokens());
    }
    totals.3 = last.seconds();
    totals
}

#[test]
fn azure_conv_conserves_every_request_and_token() {
    let Some((file, workload)) = real("azure_llm_2023_conv.csv") else { return };
    assert_eq!(file.format, Format::AzureCsv);
    let (requests, prompts, outputs, seconds) = totals(&workload);
    assert_eq!((requests, prompts, outputs), (19_366, 22_361_870, 4_088_665));
    assert!((seconds - 3_501.721_937).abs() < 1e-6, "{seconds}");
    assert!(file.notes.is_empty(), "{:?}", file.notes);
    let size = workload.size();
    assert_eq!(size.requests, 19_366);
    assert!((size.prompt_tokens * 19_366.0 - 22_361_870.0).abs() < 1e-3);
}

#[test]
fn azure_code_conserves_every_request_and_token() {
    let Some((_, workload)) = real("azure_llm_2023_code.csv") else { return };
    let (requests, prompts, outputs, _) = totals(&workload);
    assert_eq!((requests, prompts, outputs), (8_819, 18_059_974, 245_896));
}

#[test]
fn mooncake_conserves_every_request_and_token_and_says_what_it_leaves_out() {
    let Some((file, workload)) = real("mooncake_synthetic_trace.jsonl") else { return };
    let (requests, prompts, outputs, seconds) = totals(&workload);
    assert_eq!((requests, prompts, outputs), (3_993, 61_194_628, 595_432));
    assert!((seconds - 1022.025).abs() < 1e-6, "{seconds}");
    insta::assert_snapshot!(file.notes.join("\n"), @"prefix sharing (hash_ids) is not modelled: every prompt is prefilled whole");
}

#[test]
fn sharegpt_gives_every_pair_and_asks_for_arrivals() {
    let Some(path) = shared("sharegpt_lengths.csv") else { return };
    let alone = config(serde_json::json!({ "file": path }));
    let file = read(&alone).unwrap().unwrap();
    let FileSource::Lengths(pairs) = &file.source else { panic!("{:?}", file.format) };
    let sum = pairs.iter().fold((0u64, 0u64), |s, p| (s.0 + u64::from(p.0), s.1 + u64::from(p.1)));
    assert_eq!((pairs.len(), sum), (58_787, (17_565_463, 19_030_929)));
    let error = alone.resolve(&AROUND, Some(&file)).unwrap_err();
    insta::assert_snapshot!(error, @"workload.arrivals is missing: the file holds lengths only");
    let timed = config(serde_json::json!({
        "file": path, "requests": 40_000, "arrivals": {"poisson": {"rate_per_s": 8}}, "max_prompt_tokens": 8192,
    }));
    let workload = timed.resolve(&Surroundings { context_tokens: 4096, ..AROUND }, Some(&file)).unwrap();
    insta::assert_snapshot!(workload.notes().join("\n"), @"
56 of 58787 prompts are cut to 8192 tokens (max_prompt_tokens)
306 of 58787 prompts do not fit the context of 4096 tokens; max_prompt_tokens would cut them
");
    let (requests, _, outputs, _) = totals(&workload);
    // The deviation of an output length is 340 tokens.
    let mean = outputs as f64 / requests as f64;
    assert!((mean - 19_030_929.0 / 58_787.0).abs() < 4.0 * 340.0 / 200.0, "{mean}");
}

/// A pair of ServeGen files holds `all` requests over a day.
fn check_servegen(name: &str, all: u64) -> Option<FileWorkload> {
    let (file, workload) = real(name)?;
    let FileSource::Clients(load) = &file.source else { panic!("{:?}", file.format) };
    assert_eq!(load.requests(), all);
    assert_eq!(load.span().nanos(), 86_400_000_000_000);
    let Size { requests, prompt_tokens, output_tokens, .. } = workload.size();
    assert_eq!(requests, all);
    assert!(prompt_tokens > 1.0 && output_tokens > 1.0);
    Some(file)
}

#[test]
fn servegen_m_small_has_the_requests_of_its_rates() {
    let Some(file) = check_servegen("servegen_m_small_day3_rates.csv", 46_023_336) else { return };
    // The folder's name is the machine's; the rest of the notes is the reader's.
    let notes: Vec<&str> = file.notes.iter().map(|note| note.rsplit('/').next().unwrap()).collect();
    insta::assert_snapshot!(notes.join("\n"), @"
servegen_m_small_day3_lengths.jsonl.gz
servegen_m_small_day3_lengths.jsonl.gz: 1 histograms have outputs of 0 tokens, at most a share of 5.23e-5; these are left out
");
}

#[test]
fn servegen_deepseek_streams_a_whole_day_window_by_window() {
    let name = "servegen_deepseek_r1_even_rates.csv";
    let Some(_) = check_servegen(name, 524_931) else { return };
    let Some((_, workload)) = real(name) else { return };
    let size = workload.size();
    let (requests, prompts, outputs, seconds) = totals(&workload);
    assert_eq!(requests, 524_931);
    assert!(seconds < 86_400.0 && seconds > 86_300.0, "{seconds}");
    // Lengths are heavy-tailed; their deviations are under 6,000 and 4,000 tokens.
    let n = requests as f64;
    assert!((prompts as f64 / n - size.prompt_tokens).abs() < 4.0 * 6000.0 / n.sqrt(), "{prompts} {size:?}");
    assert!((outputs as f64 / n - size.output_tokens).abs() < 4.0 * 4000.0 / n.sqrt(), "{outputs} {size:?}");
    // The rates of the file, window by window.
    let text = std::fs::read_to_string(shared(name).unwrap()).unwrap();
    let mut expected = vec![0u64; 144];
    for row in text.lines().skip(1) {
        let fields: Vec<&str> = row.split(',').collect();
        let window = fields[1].parse::<usize>().unwrap() / 600;
        expected[window] += (fields[2].parse::<f64>().unwrap() * 600.0).round() as u64;
    }
    let mut found = vec![0u64; 144];
    for request in workload.stream(Luck::new(2)) {
        found[(request.arrival.nanos() / 600_000_000_000) as usize] += 1;
    }
    assert_eq!(found, expected);
}

#[test]
fn every_shipped_file_is_recognised_by_its_first_line() {
    for (name, format) in [
        ("azure_llm_2023_code.csv", Format::AzureCsv),
        ("mooncake_synthetic_trace.jsonl", Format::MooncakeJsonl),
        ("sharegpt_lengths.csv", Format::LengthsCsv),
        ("servegen_m_small_day3_rates.csv", Format::Servegen),
    ] {
        let Some(path) = shared(name) else { return };
        assert_eq!(open(&path, None, None, &[]).unwrap().format, format);
    }
}

const RATES: &str = "client,window_start_s,rate_rps,cv,dist,shape,scale_s\n3,0,0.5,1.0,gamma,1.1,2\n3,600,0.25,2.0,weibull,0.5,1\n9,0,0.1,1.5,,,\n";
const LENGTHS: &str = "{\"client\":3,\"window_start_s\":0,\"input_tokens\":[[4,0.5],[9,0.5]],\"output_tokens\":[[0,0.1],[7,1.0]]}\n{\"client\":9,\"window_start_s\":0,\"input_tokens\":[[1,1.0]],\"output_tokens\":[[2,1.0]]}\n";
const PLAIN: &str = "arrival_s,prompt_tokens,output_tokens,class\n1.5,10,20,chat\n2.25,11,21,code\n";
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109";
const MOONCAKE: &str = "{\"timestamp\": 0, \"input_length\": 13, \"output_length\": 6, \"hash_ids\": [0, 1]}\n{\"timestamp\": 27.5, \"input_length\": 5, \"output_length\": 4}\n";
const PAIRS: &str = "input_tokens,output_tokens\n42,285\n19,82\n";

/// Reads `bytes` as the file `trace`, with `lengths` as the companion of ServeGen rates.
fn read_bytes(
    bytes: &[u8],
    format: Option<Format>,
    lengths: &[u8],
    classes: &[String],
) -> Result<FileWorkload, FileError> {
    let input = |bytes: &[u8]| {
        table::decompressed(Cursor::new(bytes.to_vec())).map_err(|source| FileError::Read {
            path: "trace".into(),
            line: 0,
            source,
        })
    };
    let companion = |_: &Path| Ok(Lines::new(Path::new("trace_lengths"), input(lengths)?));
    read_lines(Lines::new(Path::new("trace"), input(bytes)?), format, companion, classes, 1000)
}

fn read_text(text: &str) -> Result<FileWorkload, FileError> {
    read_bytes(text.as_bytes(), None, LENGTHS.as_bytes(), &[])
}

/// The message that a file with this content earns.
#[track_caller]
fn refused(text: &str) -> String {
    read_text(text).unwrap_err().to_string()
}

#[track_caller]
fn rows(text: &str) -> Vec<(u64, u32, u32)> {
    let FileSource::Recorded(rows) = read_text(text).unwrap().source else { panic!("no rows") };
    rows.iter().map(|row| (row.arrival.nanos(), row.prompt_tokens, row.output_tokens)).collect()
}

#[test]
fn bom_crlf_blank_lines_and_gzip_change_nothing() {
    let plain = rows(PLAIN);
    assert_eq!(plain, [(0, 10, 20), (750_000_000, 11, 21)]);
    assert_eq!(rows(&format!("\u{feff}{PLAIN}")), plain);
    assert_eq!(rows(&PLAIN.replace('\n', "\r\n")), plain);
    assert_eq!(rows(&format!("\r\n{PLAIN}\n  \r\n\n")), plain);
    assert_eq!(rows(PLAIN.trim_end()), plain);
    assert_eq!(rows(&PLAIN.replace(',', " , ")), plain);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(PLAIN.as_bytes()).unwrap();
    let file = read_bytes(&gzip.finish().unwrap(), None, b"", &[]).unwrap();
    assert_eq!(file.format, Format::Csv);
    assert_eq!(rows(AZURE), [(0, 374, 44), (4_314_579_000, 396, 109)]);
    assert_eq!(rows(MOONCAKE), [(0, 13, 6), (27_500_000, 5, 4)]);
}

#[test]
fn rows_out_of_order_are_sorted_stably_and_counted() {
    let text = "arrival_s,prompt_tokens,output_tokens\n5,1,1\n3,2,1\n5,3,1\n4,4,1\n3,5,1\n6,6,1\n";
    let file = read_text(text).unwrap();
    insta::assert_snapshot!(file.notes.join("\n"), @"trace: 3 of 6 rows were out of order and are put in order of arrival");
    let order: Vec<(u64, u32)> = rows(text).iter().map(|row| (row.0 / 1_000_000_000, row.1)).collect();
    assert_eq!(order, [(0, 2), (0, 5), (1, 4), (2, 1), (2, 3), (3, 6)]);
}

#[test]
fn classes_are_the_scenario_s_or_the_file_s_own() {
    let file = read_text(PLAIN).unwrap();
    assert_eq!(file.class_names, ["chat", "code"]);
    let known = ["code".to_owned(), "chat".to_owned()];
    let file = read_bytes(PLAIN.as_bytes(), None, b"", &known).unwrap();
    let FileSource::Recorded(rows) = &file.source else { panic!("no rows") };
    assert_eq!(rows[0].class.unwrap().0, 1);
    let error = read_bytes(PLAIN.as_bytes(), None, b"", &["chat".to_owned()]).unwrap_err();
    insta::assert_snapshot!(error, @"workload file trace, line 3, column class: expected a class of the scenario (chat), got `code`");
    insta::assert_snapshot!(refused(&PLAIN.replace("code", "")), @"workload file trace, line 3, column class: expected a class name, at most 1024 in all, got ``");
}

#[test]
fn files_that_are_no_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str| {
        let message = open(&folder.path().join(name), None, None, &[]).unwrap_err().to_string();
        message.replace(&folder.path().display().to_string(), "FOLDER")
    };
    insta::assert_snapshot!(refused("missing.csv"), @"workload file FOLDER/missing.csv: expected a readable file, got: No such file or directory (os error 2)");
    insta::assert_snapshot!(refused(""), @"workload file FOLDER/: expected a file, got a folder");
    std::fs::write(folder.path().join("x_rates.csv"), RATES).unwrap();
    insta::assert_snapshot!(refused("x_rates.csv"), @"workload file FOLDER/x_rates.csv: expected `lengths_file` with the length histograms of these clients, got none; FOLDER/x_lengths.jsonl.gz does not exist");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(LENGTHS.as_bytes()).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let companion = folder.path().join("x_lengths.jsonl.gz");
    std::fs::write(&companion, &gzip).unwrap();
    assert!(open(&folder.path().join("x_rates.csv"), None, None, &[]).is_ok());
    gzip.truncate(gzip.len() / 2);
    std::fs::write(&companion, &gzip).unwrap();
    insta::assert_snapshot!(refused("x_rates.csv"), @"workload file FOLDER/x_lengths.jsonl.gz: expected to read on after line 0, got: incomplete deflate stream");
}

#[test]
fn contents_that_are_no_workload_are_named() {
    insta::assert_snapshot!(refused(""), @"workload file trace: expected the first line of a known format: TIMESTAMP,ContextTokens,GeneratedTokens (azure_csv); client,window_start_s,rate_rps,cv,dist,shape,scale_s (servegen); input_tokens,output_tokens (lengths_csv); arrival_s,prompt_tokens,output_tokens (csv); or a JSON object (mooncake_jsonl), got an empty file");
    insta::assert_snapshot!(refused("\n \r\n"), @"workload file trace: expected the first line of a known format: TIMESTAMP,ContextTokens,GeneratedTokens (azure_csv); client,window_start_s,rate_rps,cv,dist,shape,scale_s (servegen); input_tokens,output_tokens (lengths_csv); arrival_s,prompt_tokens,output_tokens (csv); or a JSON object (mooncake_jsonl), got an empty file");
    insta::assert_snapshot!(refused("arrival_s,prompt_tokens,output_tokens\r\n"), @"workload file trace: expected at least one row after the header, got none");
    insta::assert_snapshot!(refused("TIMESTAMP;ContextTokens;GeneratedTokens\n"), @"workload file trace, line 1: expected the first line of a known format: TIMESTAMP,ContextTokens,GeneratedTokens (azure_csv); client,window_start_s,rate_rps,cv,dist,shape,scale_s (servegen); input_tokens,output_tokens (lengths_csv); arrival_s,prompt_tokens,output_tokens (csv); or a JSON object (mooncake_jsonl), got `TIMESTAMP;ContextTokens;GeneratedTokens`");
    insta::assert_snapshot!(refused("arrival_s,prompt_tokens,output_tokens\n1,2\0,3\n"), @"workload file trace, line 2: expected text, got a byte of value 0");
    let format = Some(Format::Csv);
    let bytes = |bytes: &[u8]| read_bytes(bytes, format, b"", &[]).unwrap_err().to_string();
    insta::assert_snapshot!(bytes(b"arrival_s,prompt_tokens,output_tokens\n1,2,\xff\n"), @"workload file trace, line 2: expected text, got bytes that are not UTF-8");
    insta::assert_snapshot!(bytes(AZURE.as_bytes()), @"workload file trace, line 1: expected the columns arrival_s,prompt_tokens,output_tokens and optionally class, got `TIMESTAMP,ContextTokens,GeneratedTokens`");
    insta::assert_snapshot!(bytes(b"\x1f\x8b\x08\x00damaged"), @"workload file trace: expected to read on after line 0, got: incomplete deflate stream");
    let many = format!("{PLAIN}{}", "3,1,1,chat\n".repeat(1000));
    insta::assert_snapshot!(refused(&many), @"workload file trace, line 1002: expected at most 1000 rows, got more");
    insta::assert_snapshot!(refused(&MOONCAKE.repeat(501)), @"workload file trace, line 1001: expected at most 1000 rows, got more");
}

#[test]
fn rows_that_cannot_be_read_are_named_by_line_and_column() {
    let plain = |row: &str| refused(&format!("arrival_s,prompt_tokens,output_tokens\n0.5,3,4\n{row}\n"));
    insta::assert_snapshot!(plain("1.5,10"), @"workload file trace, line 3: expected 3 fields (arrival_s,prompt_tokens,output_tokens), got 2 in `1.5,10`");
    insta::assert_snapshot!(plain("1.5,10,20,30"), @"workload file trace, line 3: expected 3 fields (arrival_s,prompt_tokens,output_tokens), got 4 in `1.5,10,20,30`");
    insta::assert_snapshot!(plain("NaN,10,20"), @"workload file trace, line 3, column arrival_s: expected a finite number of seconds, 0 or more and under 584 years, got `NaN`");
    insta::assert_snapshot!(plain("-1,10,20"), @"workload file trace, line 3, column arrival_s: expected a finite number of seconds, 0 or more and under 584 years, got `-1`");
    insta::assert_snapshot!(plain("1e300,10,20"), @"workload file trace, line 3, column arrival_s: expected a finite number of seconds, 0 or more and under 584 years, got `1e300`");
    insta::assert_snapshot!(plain("1.5,10.5,20"), @"workload file trace, line 3, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got `10.5`");
    insta::assert_snapshot!(plain("1.5,0,20"), @"workload file trace, line 3, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(plain("1.5,10,0"), @"workload file trace, line 3, column output_tokens: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(plain("1.5,99999999999,20"), @"workload file trace, line 3, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got `99999999999`");
    insta::assert_snapshot!(plain("1.5,,20"), @"workload file trace, line 3, column prompt_tokens: expected a whole number of tokens, 1 to 16777216, got ``");
    insta::assert_snapshot!(refused(&AZURE.replace("18:15:50.9951690", "18:75:50")), @"workload file trace, line 3, column TIMESTAMP: expected a time like 2023-11-16 18:17:03.9799600, got `2023-11-16 18:75:50`");
    insta::assert_snapshot!(refused(&AZURE.replace("18:15:50.9951690,396,109", "18:15:50.99")), @"workload file trace, line 3: expected 3 fields (TIMESTAMP,ContextTokens,GeneratedTokens), got 1 in `2023-11-16 18:15:50.99`");
    insta::assert_snapshot!(refused(&AZURE.replace("2023-11-16 18:15:50", "9999-11-16 18:15:50")), @"workload file trace, line 3, column TIMESTAMP: expected a time within 100 years before or 480 after the first row, got `9999-11-16 18:15:50.9951690`");
    insta::assert_snapshot!(refused(&AZURE.replace(",109", ",0")), @"workload file trace, line 3, column GeneratedTokens: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(refused(&MOONCAKE.replace("27.5", "-27.5")), @"workload file trace, line 2, column timestamp: expected milliseconds since the beginning, 0 or more and under 584 years, got `-27.5`");
    insta::assert_snapshot!(refused(&MOONCAKE.replace("\"output_length\": 4", "\"output_length\": 0")), @"workload file trace, line 2, column output_length: expected a whole number of tokens, 1 to 16777216, got `0`");
    insta::assert_snapshot!(refused(&MOONCAKE.replace("5, \"output_length\": 4", "5")), @"workload file trace, line 2, character 38: expected a JSON object with timestamp, input_length and output_length, got: missing field `output_length`");
    insta::assert_snapshot!(refused(&MOONCAKE.replace("4}", "4")), @"workload file trace, line 2, character 57: expected a JSON object with timestamp, input_length and output_length, got: EOF while parsing an object");
    insta::assert_snapshot!(refused(&PAIRS.replace("19", "-19")), @"workload file trace, line 3, column input_tokens: expected a whole number of tokens, 1 to 16777216, got `-19`");
}

#[test]
fn servegen_clients_that_cannot_be_drawn_from_are_named() {
    let rates = |from: &str, to: &str| refused(&RATES.replace(from, to));
    insta::assert_snapshot!(rates("weibull", "pareto"), @"workload file trace, line 3, column dist: expected gamma, weibull or nothing, got `pareto`");
    insta::assert_snapshot!(rates("3,600", "3,601"), @"workload file trace, line 3, column window_start_s: expected a multiple of 600 seconds, got `601`");
    insta::assert_snapshot!(rates("3,600", "3,0"), @"workload file trace, line 3: expected client 3 from 0 s once, got it again");
    insta::assert_snapshot!(rates("3,600", "5,21600"), @"workload file trace_lengths: expected length histograms for client 5 from 21600 s, got none (needed by trace, line 3)");
    insta::assert_snapshot!(rates("weibull,0.5", "weibull,0.0001"), @"workload file trace, line 3, column shape: expected a shape of 0.01 to 1000, got `0.0001`");
    insta::assert_snapshot!(rates("0.25", "inf"), @"workload file trace, line 3, column rate_rps: expected a number, 0 to 1e5, got `inf`");
    insta::assert_snapshot!(rates("1.5,,,", "nan,,,"), @"workload file trace, line 4, column cv: expected a number, 0 to 1e1, got `nan`");
    insta::assert_snapshot!(refused("client,window_start_s,rate_rps,cv,dist,shape,scale_s\n3,0,0,1.0,gamma,1.1,2\n"), @"workload file trace: expected at least one client and window with requests, got none");
    let lengths = |from: &str, to: &str| {
        let lengths = LENGTHS.replace(from, to);
        read_bytes(RATES.as_bytes(), None, lengths.as_bytes(), &[]).unwrap_err().to_string()
    };
    insta::assert_snapshot!(lengths("[4,0.5]", "[0,0.5]"), @"workload file trace_lengths, line 1: expected bins of 1 to 16777216 tokens with finite shares, 0 or more, got [0, 0.5]");
    insta::assert_snapshot!(lengths("[4,0.5]", "[4,-0.5]"), @"workload file trace_lengths, line 1: expected bins of 1 to 16777216 tokens with finite shares, 0 or more, got [4, -0.5]");
    insta::assert_snapshot!(lengths("[4,0.5]", "[4]"), @"workload file trace_lengths, line 1, character 50: expected a JSON object with client, window_start_s, input_tokens and output_tokens, got: invalid length 1, expected a tuple of size 2");
    insta::assert_snapshot!(lengths("\"client\":9", "\"client\":3"), @"workload file trace_lengths, line 2: expected client 3 from 0 s once, got it again");
    insta::assert_snapshot!(lengths("\"window_start_s\":0", "\"window_start_s\":600"), @"workload file trace_lengths, line 1, column window_start_s: expected a multiple of 21600 seconds, at most 31622400, got `600`");
    insta::assert_snapshot!(read_bytes(RATES.as_bytes(), None, b"", &[]).unwrap_err(), @"workload file trace_lengths: expected a JSON object a line with client, window_start_s, input_tokens and output_tokens, got an empty file");
}

#[test]
fn a_servegen_pair_becomes_clients_with_their_lengths() {
    let file = read_text(RATES).unwrap();
    let config = config(serde_json::json!({ "file": "trace" }));
    let workload = config.resolve(&AROUND, Some(&file)).unwrap();
    let requests: Vec<Request> = workload.stream(Luck::new(3)).collect();
    assert_eq!(requests.len(), 300 + 150 + 60);
    let nine = requests.iter().filter(|r| r.prompt_tokens == 1).count();
    assert_eq!(nine, 60);
    assert!(requests.iter().all(|r| (r.prompt_tokens == 1) == (r.truth.output_tokens() == 2)));
    insta::assert_snapshot!(file.notes.join("\n"), @"
lengths are drawn from trace_lengths
trace_lengths: 1 histograms have outputs of 0 tokens, at most a share of 1.00e-1; these are left out
");
}

#[test]
fn the_workload_block_reads_as_documented() {
    let classes = serde_json::json!([
        {"name": "chat", "weight": 0.6, "max_tokens": 512, "priority": 2, "slo": {"ttft_ms": 500, "tpot_ms": 30},
         "prompt_tokens": {"lognormal": {"median": 400, "sigma": 0.9}},
         "output_tokens": {"lognormal": {"mu": 5.0, "sigma": 0.8, "min": 1, "max": 4096}}},
        {"name": "code", "prompt_tokens": {"quantiles": [[0, 3], [0.5, 200], [0.9, 900], [1, 5000]]}, "output_tokens": {"constant": 100}},
    ]);
    for arrivals in [
        serde_json::json!({"poisson": {"rate_per_s": 12}}),
        serde_json::json!({"gamma": {"rate_per_s": 12, "cv": 1.5}}),
        serde_json::json!({"piecewise": [{"until_s": 60, "rate_per_s": 5, "cv": 1}, {"until_s": 120, "rate_per_s": 20}]}),
        serde_json::json!({"closed_loop": {"users": 64}}),
        serde_json::json!({"constant": {"rate_per_s": 5}}),
    ] {
        let block = serde_json::json!({"requests": 50, "horizon_s": 600, "arrivals": arrivals, "classes": classes, "max_tokens": 4096});
        let config = config(block);
        let written = serde_json::to_value(&config).unwrap();
        let again: WorkloadConfig = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), written);
        let requests = config.resolve(&AROUND, None).unwrap().stream(Luck::new(1)).count();
        assert_eq!(requests, 50);
    }
    let refused =
        |block: serde_json::Value| serde_json::from_value::<WorkloadConfig>(block).unwrap_err().to_string();
    insta::assert_snapshot!(refused(serde_json::json!({"request": 5})), @"unknown field `request`, expected one of `requests`, `horizon_s`, `arrivals`, `file`, `format`, `lengths_file`, `speed`, `classes`, `max_tokens`, `max_prompt_tokens`");
    insta::assert_snapshot!(refused(serde_json::json!({"arrivals": {"gamma": {"rate_per_s": 5, "cv": 0}}})), @"value must be a finite number above 0, got 0");
    insta::assert_snapshot!(refused(serde_json::json!({"arrivals": {"poisson": {"rate_per_s": -5}}})), @"value must be a finite number above 0, got -5");
    insta::assert_snapshot!(refused(serde_json::json!({"arrivals": {"poisson": {"rate": 5}}})), @"unknown field `rate`, expected `rate_per_s`");
    insta::assert_snapshot!(refused(serde_json::json!({"requests": -5})), @"invalid value: integer `-5`, expected u64");
}

/// Whatever came, the reader answers, and what it gives can be run.
fn check_any(bytes: &[u8], format: Option<Format>, lengths: &[u8]) {
    if let Ok(file) = read_bytes(bytes, format, lengths, &[]) {
        let text =
            serde_json::json!({"file": "trace", "requests": 50, "arrivals": {"poisson": {"rate_per_s": 1}}});
        // An empty set of lengths cannot come out of a reader, so every file resolves.
        let workload = config(text).resolve(&AROUND, Some(&file)).unwrap();
        let mut last = Time::ZERO;
        for request in workload.stream(Luck::new(1)) {
            assert!(
                request.arrival >= last && request.prompt_tokens > 0 && request.truth.output_tokens() > 0
            );
            last = request.arrival;
        }
    }
}

const FORMATS: [Option<Format>; 6] = [
    None,
    Some(Format::AzureCsv),
    Some(Format::MooncakeJsonl),
    Some(Format::Servegen),
    Some(Format::LengthsCsv),
    Some(Format::Csv),
];

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in FORMATS {
            check_any(&bytes, format, LENGTHS.as_bytes());
        }
        check_any(RATES.as_bytes(), Some(Format::Servegen), &bytes);
    }

    #[test]
    fn no_damage_to_a_sound_file_makes_a_reader_panic(
        which in 0usize..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[0-9eE.,:+\\-\"\\[\\]{}\n\r naif\u{0}\u{fe}]{0,4}", 0usize..6), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let text = [RATES, LENGTHS, PLAIN, AZURE, MOONCAKE, PAIRS][which];
        let mut bytes = text.as_bytes().to_vec();
        for (place, insert, remove) in edits {
            let from = place.index(bytes.len() + 1);
            let to = (from + remove).min(bytes.len());
            bytes.splice(from..to, insert.into_bytes());
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if which == 1 {
            check_any(RATES.as_bytes(), Some(Format::Servegen), &bytes);
        } else {
            let format = [Format::Servegen, Format::Servegen, Format::Csv, Format::AzureCsv, Format::MooncakeJsonl, Format::LengthsCsv][which];
            check_any(&bytes, Some(format), LENGTHS.as_bytes());
            check_any(&bytes, None, LENGTHS.as_bytes());
        }
    }
}
