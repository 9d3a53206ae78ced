//! What every column of every table means. A change here is a new [`SCHEMA_VERSION`].

/// Version of the tables and the manifest. A reader takes its own version and no other.
pub const SCHEMA_VERSION: u32 = 2;

/// What a column holds. The narrowest types that every parquet reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// IEEE single.
    F32,
    /// True or false.
    Bool,
    /// UTF-8 text.
    Text,
    /// A list of unsigned numbers of 32 bits; its elements may be null where the column's meaning says so.
    U32s,
    /// A list of IEEE singles; likewise.
    F32s,
}

impl Kind {
    /// The type as messages name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::U32s => "list of u32",
            Self::F32s => "list of f32",
        }
    }
}

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, with its unit where it has one.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// May a cell be null.
    pub nullable: bool,
    /// Its unit; empty for names and words.
    pub unit: &'static str,
    /// What it means, and what null means.
    pub meaning: &'static str,
}

/// A table of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// A request, at its end or at the run's.
    Requests,
    /// A pass: one forward of one model over packed rows.
    Passes,
    /// A verification: a cycle at a middle level, or the target's at the end of a round.
    Verifications,
    /// A sequence's round.
    Rounds,
    /// A plan for one sequence.
    Decisions,
    /// A finished text: prompt and output as token ids.
    Texts,
    /// An output position: what every model of the pool says of its token.
    Tokens,
}

impl Table {
    /// Every table, in the order of their description.
    pub const ALL: [Self; 7] = [
        Self::Requests,
        Self::Passes,
        Self::Verifications,
        Self::Rounds,
        Self::Decisions,
        Self::Texts,
        Self::Tokens,
    ];

    /// Its name: the key in the manifest and the stem of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Passes => "passes",
            Self::Verifications => "verifications",
            Self::Rounds => "rounds",
            Self::Decisions => "decisions",
            Self::Texts => "texts",
            Self::Tokens => "tokens",
        }
    }

    /// File name of its `part`-th part, counted from 0: `requests.parquet`, `requests.1.parquet`.
    pub fn file_name(self, part: usize) -> String {
        match part {
            0 => format!("{}.parquet", self.name()),
            _ => format!("{}.{part}.parquet", self.name()),
        }
    }

    /// What one row is.
    pub const fn row(self) -> &'static str {
        match self {
            Self::Requests => "a request, at its end or at the run's",
            Self::Passes => "a pass",
            Self::Verifications => "a cycle, or a round's last verification",
            Self::Rounds => "a sequence's round",
            Self::Decisions => "a plan for one sequence",
            Self::Texts => "a finished text; a simulation has none",
            Self::Tokens => "an output position of a finished request",
        }
    }

    /// Its columns, in file order.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Requests => REQUESTS,
            Self::Passes => PASSES,
            Self::Verifications => VERIFICATIONS,
            Self::Rounds => ROUNDS,
            Self::Decisions => DECISIONS,
            Self::Texts => TEXTS,
            Self::Tokens => TOKENS,
        }
    }
}

/// The whole schema as a Markdown page, `traces/SCHEMA.md`.
pub fn describe() -> String {
    let mut page = format!("# Trace tables, schema version {SCHEMA_VERSION}\n\n{PREAMBLE}");
    for table in Table::ALL {
        page += &format!(
            "\n## {}: a row is {}\n\n| column | type | unit | meaning |\n|---|---|---|---|\n",
            table.name(),
            table.row()
        );
        for c in table.columns() {
            let null = if c.nullable { ", null" } else { "" };
            page += &format!("| {} | {}{null} | {} | {} |\n", c.name, c.kind.as_str(), c.unit, c.meaning);
        }
    }
    page
}

const PREAMBLE: &str = "\
A trace is a folder of one policy under one seed: `manifest.json` and a parquet file for each table (`requests.parquet`,
then `requests.1.parquet` and so on where a long recording was made safe as it went). `specrouter trace check DIR`
verifies one. This page is written by the code (`traces/src/schema.rs`) and checked by a test.

    pandas.read_parquet(\"DIR/requests.parquet\")
    polars.read_parquet(\"DIR/tokens*.parquet\")

The manifest holds `schema_version`, `complete` (the run ended and every table is here), `run` (tool version, resolved
scenario, seed, policy, the models with their sizes and the digest of their weights, classes, device, decoding, mode,
KV tokens of each model, users of a closed loop) and `tables`: for each, its files with rows, bytes and FNV-1a digest.
A list has an element for each model of the pool, cheapest first; `overlaps` for each pair i < j and `coins` for each
triple i < j < k, in lexicographic order.
";

const fn column(name: &'static str, kind: Kind, unit: &'static str, meaning: &'static str) -> Column {
    Column { name, kind, nullable: false, unit, meaning }
}

const fn nullable(name: &'static str, kind: Kind, unit: &'static str, meaning: &'static str) -> Column {
    Column { name, kind, nullable: true, unit, meaning }
}

use Kind::{Bool, F32, F32s, Text, U32, U32s, U64};

const REPLICA: Column = column("replica", U32, "index", "where it ran");
const REQUEST: Column = column("request", U64, "index", "whose sequence; requests.id");

const REQUESTS: &[Column] = &[
    REPLICA,
    column("id", U64, "index", "place in the order of arrival"),
    column("class", U32, "index", "class in the scenario"),
    column("class_name", Text, "", "name of the class"),
    column("arrival_ns", U64, "ns since the run began", "arrival"),
    nullable("first_token_ns", U64, "ns since the run began", "delivery of the first token; null before it"),
    nullable(
        "last_token_ns",
        U64,
        "ns since the run began",
        "delivery of the last token, or of the last so far; null before the first",
    ),
    column("prompt_tokens", U32, "tokens", "prompt length"),
    column("output_tokens", U32, "tokens", "output delivered"),
    column("limit_tokens", U32, "tokens", "max_tokens"),
    column("priority", U32, "", "order of admission; higher went first"),
    nullable("slo_ttft_ns", U64, "ns", "target on the time to first token; null without"),
    nullable("slo_tpot_ns", U64, "ns", "target on the time per output token; null without"),
    column("rounds", U32, "rounds", "rounds it took"),
    column("preemptions", U32, "times", "times it was preempted"),
    nullable("slo_met", Bool, "", "met every target of its SLO; null without targets"),
    column("status", Text, "", "finished, running, waiting, too_long"),
];

const PASSES: &[Column] = &[
    REPLICA,
    column("tick", U64, "index", "place in the replica's order of passes"),
    column("model", U32, "index", "the model that ran; index in the manifest's pool"),
    column("start_ns", U64, "ns since the run began", "when it began"),
    column("duration_ns", U64, "ns", "how long it took"),
    column("after", Text, "", "what the device did just before: same (model), other, idle"),
    column("rows", U32, "sequences", "sequences in the pass"),
    column("new_tokens", U32, "tokens", "tokens run through the model, catch-up included"),
    column("catch_up_tokens", U32, "tokens", "of those, catch-up or prefill"),
    column("context_tokens", U64, "tokens", "sum over rows of tokens already in this model's KV cache"),
    column("attention_pairs", U64, "pairs", "sum over rows of query-key pairs"),
    column("logit_rows", U32, "positions", "positions whose logits are computed"),
    column("queued", U32, "requests", "requests waiting at its end"),
    column("running", U32, "requests", "requests running at its end"),
    column("kv_blocks_used", U64, "blocks", "KV blocks in use at its end, summed over models"),
];

const VERIFICATIONS: &[Column] = &[
    REPLICA,
    REQUEST,
    column("round", U32, "index", "the sequence's round"),
    column("level", U32, "index", "the verifying level of the chain, 0 the lowest"),
    column("cycle", U32, "index", "verifications at this level before this one, in this round"),
    column("tick", U64, "index", "the pass; passes.tick"),
    column("drafter", U32, "index", "the model of the level below"),
    column("verifier", U32, "index", "the verifying model"),
    column("drafted_tokens", U32, "tokens", "tokens verified"),
    column("accepted_tokens", U32, "tokens", "tokens kept; a lower bound where all were (censored)"),
    column("outcome", Text, "", "reject, bonus, end"),
    nullable(
        "similarity",
        F32,
        "",
        "mean similarity over the examined positions; null where none was examined",
    ),
];

const ROUNDS: &[Column] = &[
    REPLICA,
    REQUEST,
    column("round", U32, "index", "the sequence's round"),
    column("position", U32, "tokens", "output tokens committed before it"),
    column("start_tick", U64, "index", "the tick it was planned at"),
    column("end_tick", U64, "index", "the tick of its commit"),
    column("chain", Text, "", "models by pool index, lowest first, as 0>2>3"),
    column("windows", Text, "tokens", "one per level above the lowest, as 3,5; empty for a chain of one"),
    column("stop", Text, "", "stop rule of the lowest level: never, top_probability<x, entropy>x"),
    column("drafted_tokens", U32, "tokens", "tokens put before the target"),
    column("accepted_tokens", U32, "tokens", "of those, kept"),
    column("emitted_tokens", U32, "tokens", "tokens committed"),
];

const DECISIONS: &[Column] = &[
    REPLICA,
    column("tick", U64, "index", "the tick it was made at"),
    column("time_ns", U64, "ns since the run began", "when"),
    REQUEST,
    column("policy", Text, "", "who decided"),
    column("planned_chain", Text, "", "what the policy asked for"),
    column("planned_windows", Text, "tokens", "its windows"),
    column("planned_stop", Text, "", "its stop rule"),
    column("executed_chain", Text, "", "what ran: clamped to the limit, shortened where KV memory was short"),
    column("executed_windows", Text, "tokens", "its windows"),
    column("executed_stop", Text, "", "its stop rule"),
    nullable("predicted_round_s", F32, "s", "expected time of one round; null where the policy says nothing"),
    nullable("predicted_tokens", F32, "tokens", "expected tokens per sequence and round; null likewise"),
    nullable("propensity", F32, "", "chance with which this plan was chosen; null likewise"),
];

const TEXTS: &[Column] = &[
    REPLICA,
    REQUEST,
    column("seed", U64, "", "the request's own seed"),
    column("temperature", F32, "", "0 is greedy"),
    nullable("top_k", U32, "tokens", "likeliest tokens kept; null is all"),
    nullable("top_p", F32, "", "mass of the likeliest tokens kept; null is all"),
    nullable("prompt", U32s, "", "token ids of the prompt; null where they were not to be kept"),
    column("output", U32s, "", "token ids of the output"),
    column("stopped", Bool, "", "ended with a stop token, not at its limit"),
];

const TOKENS: &[Column] = &[
    REPLICA,
    REQUEST,
    column("position", U32, "index", "place in the output, 0 the first"),
    nullable("token", U32, "", "the committed token; null in a simulation"),
    column(
        "log_probabilities",
        F32s,
        "nats",
        "each model's ln of the token's probability after temperature, top-k and top-p; null where that is 0, and in a simulation",
    ),
    column(
        "choices",
        U32s,
        "",
        "each model's own token: the likeliest, or with coupled noise the one it chooses; null in a simulation",
    ),
    column("top_probabilities", F32s, "", "each model's probability of its likeliest token, before warping"),
    column("entropies", F32s, "nats", "each model's entropy, before warping"),
    column(
        "overlaps",
        F32s,
        "",
        "for each pair, the chance that a token of i is kept by j: sum of min(p_i, p_j); where choices must agree, whether they do",
    ),
    column(
        "coins",
        F32s,
        "",
        "for each triple, the chance that a token of j is kept by k and i's below it by j: sum of min(p_i, p_j) min(p_j, p_k) / p_j; empty in a simulation",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_replica_and_no_column_twice() {
        for table in Table::ALL {
            let names: Vec<_> = table.columns().iter().map(|c| c.name).collect();
            assert_eq!(names[0], "replica", "{}", table.name());
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{}: {names:?}", table.name());
        }
    }

    #[test]
    fn a_column_in_a_unit_of_time_says_so_in_its_name() {
        for c in Table::ALL.into_iter().flat_map(Table::columns) {
            assert_eq!(c.unit.starts_with("ns"), c.name.ends_with("_ns"), "{}", c.name);
            assert_eq!(c.unit == "s", c.name.ends_with("_s"), "{}", c.name);
        }
    }

    // A difference here is a new SCHEMA_VERSION: traces of the old one are out there. SPECROUTER_BLESS=1 writes the page.
    #[test]
    fn the_page_is_the_schema() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SCHEMA.md");
        if std::env::var_os("SPECROUTER_BLESS").is_some() {
            std::fs::write(path, describe()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == describe(),
            "traces/SCHEMA.md is not what the code says: run with SPECROUTER_BLESS=1"
        );
    }
}
