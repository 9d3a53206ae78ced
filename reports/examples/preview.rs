//! Writes a synthetic report, to look at. `preview PATH [sweep]`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use specrouter_reports::*;
use specrouter_routing::ids::*;
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::profile::PassShape;
use specrouter_routing::record::*;
use specrouter_routing::slo::Slo;
use specrouter_routing::tally::Tally;
use specrouter_routing::units::{Span, Time};

fn seed(policy: usize, seed: u64, load: f64) -> SeedResult {
    let luck = Luck::new(seed).stream(Stream::Test);
    let noise = Luck::new(seed * 100 + policy as u64).stream(Stream::Test);
    let speed = [1.0, 0.72, 0.78, 0.66, 0.58][policy] * if load > 0.8 && policy != 0 && policy != 4 { 1.4 } else { 1.0 };
    let mut columns = Columns::default();
    let mut tally = Tally::new(3);
    let n = 4000u64;
    let rate = 40.0 * load;
    let mut now = 0.0;
    let mut end: f64 = 0.0;
    for i in 0..n {
        now += -(1.0 - luck.uniform(i, 0)).ln() / rate;
        let tokens = (5.0 + 0.8 * luck.normal(i, 1)).exp().ceil().max(1.0) as u32;
        let q = if load > 1.0 { now * (load - 1.0) * speed } else { 0.02 / (1.05 - load) };
        let first = now + 0.05 + q * luck.uniform(i, 2) + 0.03 * (0.5 * noise.normal(i, 3)).exp();
        let tpot = 0.02 * speed * (1.0 + load * load) * (0.25 * noise.normal(i, 4)).exp();
        let last = first + tpot * f64::from(tokens - 1);
        end = end.max(last);
        let t = |s: f64| Time::from_seconds(s).unwrap();
        columns.add(&RequestRecord {
            id: RequestId(i), replica: ReplicaId(0), class: ClassId((i % 3 == 0) as u16), arrival: t(now), first_token: Some(t(first)),
            last_token: Some(t(last)), prompt_tokens: 500, output_tokens: tokens, limit: 4096, rounds: tokens / 3 + 1, preemptions: 0,
            slo_met: Some(first - now < 0.3 && tpot < 0.03), status: Status::Finished,
        });
        for k in 0..tokens.min(50) { tally.gaps.add(Span::from_seconds(tpot * 2.5 * (0.3 * noise.normal(i, 100 + u64::from(k))).exp()).unwrap()); }
        tally.rounds += u64::from(tokens) / 3 + 1;
        tally.emitted_tokens += u64::from(tokens);
    }
    for step in 0..(end * 20.0) as u64 {
        let s = step as f64 / 20.0;
        let running = (60.0 * load * speed * (1.0 + 0.6 * (s / 14.0).sin()) * (1.0 - (-s / 3.0).exp())).max(0.5);
        let queued = if load > 1.0 { s * (load - 1.0) * 30.0 } else { (running - 55.0).max(0.0) };
        let width = 0.05e9;
        let busy = width * 0.9 * 4.0;
        let stretch = tally.series.at(Time::from_seconds(s).unwrap());
        stretch.busy_nanos += busy;
        stretch.running += running * busy;
        stretch.queued += queued * busy;
        stretch.kv_blocks += running * 40.0 * busy;
        let gain = if policy == 0 { 1.0 } else { 2.3 / (1.0 + running / 70.0) + 0.1 * policy as f64 };
        stretch.tokens += (running / (0.02 * (1.0 + running / 90.0)) * busy * 1e-9 * gain) as u64;
        let r = 1000.0;
        let hot = ((running - 25.0) / 40.0).clamp(0.0, 1.0);
        match policy {
            0 => { stretch.chains.insert(4, 1000); }
            1 => { stretch.chains.insert(5, 1000); }
            2 => { stretch.chains.insert(7, 1000); }
            3 => { *stretch.chains.entry(5).or_default() += (r * (1.0 - hot)) as u64; *stretch.chains.entry(4).or_default() += (r * hot) as u64; }
            _ => for (mask, share) in [(4u8, hot * hot), (5, hot * (1.0 - hot) * 2.0), (7, (1.0 - hot).powi(2) * 0.8), (6, (1.0 - hot).powi(2) * 0.2)] {
                *stretch.chains.entry(mask).or_default() += (r * share) as u64;
            },
        }
    }
    let total = end * 4.0 * 1e9;
    let shares: [[f64; 3]; 5] = [[0.0, 0.0, 0.82], [0.16, 0.0, 0.6], [0.1, 0.14, 0.5], [0.12, 0.0, 0.6], [0.07, 0.1, 0.52]];
    for m in 0..3 {
        let busy = total * shares[policy][m];
        if busy == 0.0 { continue; }
        let mut shape = PassShape::uniform(24, 1 + m as u32, 500);
        shape.catch_up_tokens = 5 + 2 * m as u32;
        for _ in 0..100 { tally.pass(ModelId(m as u8), &shape, Span::from_nanos((busy / 100.0) as u64)); }
        tally.models[m].proposed_tokens = 1000;
        tally.models[m].kept_tokens = [550, 720, 1000][m];
    }
    let pairs: &[(u8, u8, f64)] = [&[][..], &[(0, 2, 0.62)], &[(0, 1, 0.75), (1, 2, 0.84)], &[(0, 2, 0.62)], &[(0, 1, 0.75), (0, 2, 0.62), (1, 2, 0.84)]][policy];
    for &(a, b, alpha) in pairs {
        let pair = tally.pairs.entry((ModelId(a), ModelId(b))).or_default();
        for i in 0..3000u64 {
            let drafted = 2 + (policy as u8) % 3 + (i % 3) as u8;
            let accepted = (0..drafted).take_while(|&k| noise.uniform(i + 1_000_000 * u64::from(a + b), u64::from(k)) < alpha - 0.01 * f64::from(k)).count() as u8;
            pair.add(drafted, accepted, drafted, alpha as f32 * f32::from(drafted));
        }
    }
    if policy > 2 { tally.predicted_seconds = 0.93 + 0.02 * policy as f64 + 0.01 * seed as f64; tally.observed_seconds = 1.0; }
    tally.shortened_plans = if policy == 2 { 17 } else { 0 };
    SeedResult { seed, columns, tally, end: Time::from_seconds(end).unwrap(), replicas: 4, devices_per_replica: 1, dollars_per_device_hour: Some(2.95), watts_per_device: Some(700.0), kv_blocks_total: 4 * 6000 }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let sweep = args.len() > 2;
    let pool: Vec<String> = ["llama-68m", "llama-3.2-1b", "llama-3.1-8b"].map(String::from).into();
    let classes: Vec<String> = ["chat", "code"].map(String::from).into();
    let facts = Facts { pool: pool.clone(), classes: classes.clone() };
    let names = ["target_only", "static-68m-g4", "static-three-levels", "goodput", "specrouter"];
    let loads: Vec<Option<f64>> = if sweep { [0.2, 0.4, 0.6, 0.8, 0.95, 1.2].map(Some).into() } else { vec![Some(0.8)] };
    let mut arms = Vec::new();
    for load in &loads {
        for (i, n) in names.iter().enumerate() {
            arms.push(ArmResult {
                policy: (*n).into(), label: ["plain decoding", "llama-68m > llama-3.1-8b (4)", "llama-68m > llama-3.2-1b > llama-3.1-8b (3, 5)", "TurboSpec", "scope per_batch"][i].into(), other_output: false,
                load: if sweep { *load } else { None }, pool: pool.clone(), seeds: (1..=5).map(|s| seed(i, s, load.unwrap()).reduce(&facts)).collect(),
            });
        }
    }
    if !sweep { arms.push(ArmResult { policy: "fixed_model".into(), label: "llama-3.2-1b alone".into(), other_output: true, load: None, pool: vec!["llama-3.2-1b".into()], seeds: vec![seed(0, 1, 0.3).reduce(&Facts { pool: vec!["llama-3.2-1b".into()], ..facts.clone() })] }); }
    let report = Report {
        title: "Chat and code on four H100s".into(), scenario_name: "scenarios/quickstart.yaml".into(),
        description: "Shows three levels against two under a chat and a code class.\n  llama-68m > llama-3.2-1b > llama-3.1-8b".into(),
        facts: [("hardware", "h100-sxm, 4 replicas, TP 1"), ("workload", "4,000 requests, Poisson 32 /s"), ("acceptance", "heterogeneous, spread 0.1"), ("seeds", "5")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        pool, classes, slo: Slo { ttft: Some(Span::from_seconds(0.3).unwrap()), tpot: Some(Span::from_seconds(0.03).unwrap()) },
        arms, baseline: 0, loads: sweep.then(|| loads.iter().map(|l| l.unwrap()).collect()), load_unit: if sweep { "of target-only capacity".into() } else { String::new() },
        notes: vec!["3 passes were priced beyond the measured grid (extrapolated).".into()], command: "specrouter run scenarios/quickstart.yaml --seeds 5".into(),
    };
    std::fs::write(&args[1], report.html().unwrap()).unwrap();
    println!("{}", report.text_table());
}
