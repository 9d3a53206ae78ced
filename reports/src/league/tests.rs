//! The league's numbers, by hand.

use proptest::prelude::*;

use super::*;

/// A run whose latency per token is `latency` seconds.
fn score(latency: f64) -> Score {
    Score {
        latency_s: latency,
        ttft_s: 2.0 * latency,
        ttft_p99_s: 4.0 * latency,
        tpot_s: latency,
        tpot_p99_s: 3.0 * latency,
        tokens_per_s: 1.0 / latency,
        goodput_per_s: 0.5 / latency,
        goodput_share: 0.5 / latency,
        dollars: f64::NAN,
    }
}

fn row(name: &str, role: Role, latencies: &[f64]) -> Row {
    Row { name: name.into(), role, seeds: latencies.iter().map(|&l| score(l)).collect() }
}

/// A league of two regimes, two pools and one variant; `latencies[policy][cell][seed]`, cells by regime and then pool.
/// Both references take 1 second in every cell and seed, `clairvoyant` 2 in the last.
fn league(policies: &[(&str, [Vec<f64>; 4])]) -> LeagueReport {
    let seeds = policies.first().map_or(0, |p| p.1[0].len());
    let cell = |index: usize| {
        let mut rows: Vec<Row> =
            policies.iter().map(|(name, cells)| row(name, Role::Policy, &cells[index])).collect();
        rows.push(row("hindsight", Role::Reference, &vec![1.0; seeds]));
        let knows = if index == 3 { 2.0 } else { 1.0 };
        rows.push(row("clairvoyant", Role::Reference, &vec![knows; seeds]));
        CellReport {
            pool: index % 2,
            regime: index / 2,
            variant: 0,
            hindsight: "static a>b (2)".into(),
            rows,
        }
    };
    LeagueReport {
        title: "a league".into(),
        regimes: vec![("idle hours".into(), "few".into()), ("rush".into(), "many".into())],
        pools: vec!["one".into(), "two".into()],
        variants: vec!["as written".into()],
        written: Some(0),
        report_seeds: (101..101 + seeds as u64).collect(),
        cells: (0..4).map(cell).collect(),
        command: "specrouter run league".into(),
        ..LeagueReport::default()
    }
}

fn flat(latencies: [f64; 4], seeds: usize) -> [Vec<f64>; 4] {
    latencies.map(|latency| vec![latency; seeds])
}

#[track_caller]
fn close(value: f64, wanted: f64) {
    assert!((value - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{value}, not {wanted}");
}

#[test]
fn regret_is_a_geometric_mean_to_the_better_reference() {
    // The last cell's reference is hindsight's 1 s, not clairvoyant's 2 s.
    let league = league(&[("a", flat([1.1, 1.0, 1.0, 4.0], 3)), ("b", flat([1.2, 1.2, 1.2, 1.2], 3))]);
    let standings = league.standings();
    let names: Vec<&str> = standings.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "hindsight", "clairvoyant"]);
    close(standings[0].mean, 0.2);
    close(standings[1].mean, (1.1f64 * 4.0).powf(0.25) - 1.0);
    close(standings[1].worst, 3.0);
    assert_eq!(league.cell_name(standings[1].worst_cell), "rush, two, as written");
    close(standings[1].regimes[0], 1.1f64.sqrt() - 1.0);
    close(standings[1].pools[0], 1.1f64.sqrt() - 1.0);
    close(standings[1].variants[0], standings[1].mean);
    // a comes first in three cells of four.
    assert_eq!((standings[0].mean_rank, standings[1].mean_rank), (Some(1.75), Some(1.25)));
    close(standings[3].mean, 2f64.powf(0.25) - 1.0);
}

#[test]
fn a_regret_is_of_the_mean_of_logarithms_over_seeds() {
    let league = league(&[("a", [vec![1.0, 4.0], vec![1.0; 2], vec![1.0; 2], vec![1.0; 2]])]);
    close(league.standings()[0].regimes[0], 2f64.sqrt() - 1.0); // √4 = 2 in one of two cells.
}

#[test]
fn equals_share_their_rank_and_a_run_that_serves_nobody_is_last() {
    let league =
        league(&[("a", flat([1.5; 4], 2)), ("none", flat([f64::INFINITY; 4], 2)), ("b", flat([1.5; 4], 2))]);
    let standings = league.standings();
    assert_eq!(
        standings.iter().take(3).map(|s| s.mean_rank).collect::<Vec<_>>(),
        [Some(1.5), Some(1.5), Some(3.0)]
    );
    assert_eq!(standings[2].name, "none");
}

/// By hand: differences by seed 1 % and 3 % in logs, mean 2 %, standard error 1 %; t with 1 degree of freedom at
/// 1 − 0.05 / 2 is 12.7062.
#[test]
fn limits_are_students_by_seed_and_bonferronis_by_regime() {
    let own = vec![(0.01f64).exp(), (0.03f64).exp()];
    let league = league(&[
        ("own", [own.clone(), own.clone(), vec![1.0; 2], vec![1.0; 2]]),
        ("best", flat([1.0, 1.0, 1.5, 1.5], 2)),
    ]);
    let against = league.against_best("own");
    assert_eq!((against[0].best.as_str(), against[1].best.as_str()), ("best", "own"));
    close(against[0].more, 0.02f64.exp_m1());
    assert!((against[0].limit.unwrap() - (0.02f64 + 12.706_204_736 * 0.01).exp_m1()).abs() < 1e-6);
    assert_eq!((against[0].rival.as_str(), against[0].verdict), ("best", Verdict::Beyond));
    // In the other regime no other is ahead in any seed, and there is no spread.
    assert_eq!((against[1].limit, against[1].verdict), (Some(0.0), Verdict::Near));
    // With 1 degree of freedom p = ½ + atan(t) / π. Holm: the smaller of two, the other regime's 0, is doubled, this not.
    let t = (0.02 - 1.02f64.ln()) / 0.01;
    assert!((against[0].p_holm.unwrap() - (0.5 + t.atan() / std::f64::consts::PI)).abs() < 1e-6);
}

#[test]
fn a_policy_that_came_first_by_luck_has_a_limit_all_the_same() {
    let noise = |sign: f64| vec![1.0 + 0.1 * sign, 1.0 - 0.1 * sign, 1.0 + 0.05 * sign];
    let league = league(&[
        ("first", [noise(-1.0), noise(-1.0), vec![1.0; 3], vec![1.0; 3]]),
        ("second", [noise(1.0), noise(1.0), vec![1.0; 3], vec![1.0; 3]]),
    ]);
    let against = &league.against_best("first")[0];
    assert_eq!((against.best.as_str(), against.more, against.rival.as_str()), ("first", 0.0, "second"));
    assert!(against.limit.unwrap() > 0.1 && against.verdict == Verdict::NotShown, "{against:?}");
}

#[test]
fn one_seed_has_no_limits() {
    let league = league(&[("a", flat([1.0; 4], 1)), ("b", flat([1.1; 4], 1))]);
    let against = &league.against_best("a")[0];
    assert_eq!((against.limit, against.p_holm, against.verdict), (None, None, Verdict::NotShown));
    assert!(league.text().contains("One seed cannot tell"), "{}", league.text());
}

#[test]
fn cells_come_with_the_worst_first() {
    let league = league(&[("a", flat([1.1, 1.0, 1.3, 1.2], 2)), ("b", flat([1.0; 4], 2))]);
    let cells = league.by_cell("a");
    assert_eq!(cells.iter().map(|c| c.cell).collect::<Vec<_>>(), [2, 3, 0, 1]);
    close(cells[0].regret, 0.3);
    close(cells[0].more, 0.3);
    assert_eq!(cells[0].best, "b");
}

/// A league whose rows under other signals are slower where signals are worse.
fn with_signals() -> LeagueReport {
    let mut league = league(&[("target_only", flat([2.0; 4], 2)), ("sure", flat([1.1; 4], 2))]);
    league.signals = Some(0.5);
    for cell in &mut league.cells {
        for (correlation, latency) in [(0.8, 1.0), (0.2, 1.3)] {
            let role = Role::Signals { of: "sure".into(), correlation };
            cell.rows.push(row(&format!("sure, signals at {correlation}"), role, &[latency; 2]));
        }
    }
    league
}

#[test]
fn other_signals_are_shown_in_order_and_not_ranked() {
    let league = with_signals();
    let shown: Vec<(f64, f64)> =
        league.under_signals().iter().map(|one| (one.correlation, (1e6 * one.regret).round())).collect();
    assert_eq!(shown, [(0.2, 3e5), (0.5, 1e5), (0.8, 0.0)]);
    assert_eq!(league.standings()[0].name, "sure");
    assert_eq!(league.against_best("sure")[0].best, "sure");
}

#[test]
fn the_text_fits_a_terminal() {
    let mut league = with_signals();
    league.notes = vec!["a note of more words than a line of a terminal holds ".repeat(3).trim().to_owned()];
    assert!(league.text().lines().all(|line| line.chars().count() <= 100), "{}", league.text());
    insta::assert_snapshot!(with_signals().text(), @r"
    a league: latency per token beyond the reference, 4 cells, seeds 101 to 102

    rank  policy         regret  mean rank     worst  where
       1  sure          +10.0 %        1.0   +10.0 %  idle hours, one, as written
       2  target_only  +100.0 %        2.0  +100.0 %  idle hours, one, as written
          hindsight       0.0 %                0.0 %  idle hours, one, as written
          clairvoyant   +18.9 %             +100.0 %  rush, two, as written

    regret by regime, %
                   idle
    policy        hours    rush
    sure          +10.0   +10.0
    target_only  +100.0  +100.0
    hindsight       0.0     0.0
    clairvoyant     0.0   +41.4

    sure against the best of each regime; upper limits hold together at 95 %
    regime      best policy   more  limit  to    within
    idle hours  sure         0.0 %  0.0 %  sure  yes
    rush        sure         0.0 %  0.0 %  sure  yes
    Within 2 % of the best in every regime? Yes, in all 2: sure is (95 %, Holm).

    all cells, change to target_only in %; goodput: % of requests within their SLO
                   latency   TTFT   TTFT   TPOT   TPOT
    policy       per token   mean    p99   mean    p99  goodput  throughput  price
    sure             -45.0  -45.0  -45.0  -45.0  -45.0     45.5       +81.8      -
    target_only        0.0    0.0    0.0    0.0    0.0     25.0         0.0      -
    hindsight        -50.0  -50.0  -50.0  -50.0  -50.0     50.0      +100.0      -
    clairvoyant      -40.5  -40.5  -40.5  -40.5  -40.5     43.8       +68.2      -

    regimes as written, by rank correlation of the confidence signals
    policy  signals   regret    worst
    sure        0.2  +30.0 %  +30.0 %
    sure        0.5  +10.0 %  +10.0 %
    sure        0.8    0.0 %    0.0 %
    ");
}

#[test]
fn the_document_holds_tables_of_five_digits_and_a_sample() {
    let mut league = with_signals();
    league.cells[0].rows[1].seeds[0].latency_s = 1.234_567_89;
    let json: serde_json::Value = serde_json::from_str(&league.to_json()).unwrap();
    assert_eq!(json["rows"][1]["name"], "sure");
    assert_eq!(json["means"]["latency_ms_per_token"][0][1], 1167.3); // (1.2346 + 1.1) / 2 s.
    assert_eq!(json["means"]["dollars_per_million"][0][1], serde_json::Value::Null);
    // Regime 0 with pool 0, regime 1 with pool 1.
    assert_eq!((&json["sample"]["seeds"], &json["sample"]["cells"]), (&2.into(), &serde_json::json!([0, 3])));
    assert_eq!(json["sample"]["means"]["ttft_ms_mean"][1][0], 4000.0);
    assert_eq!(json["against_best"]["policy"], "sure");
}

#[test]
fn the_page_is_self_contained_and_closes_what_it_opens() {
    let mut league = with_signals();
    league.regimes[0].0 = "<b>idle</b>".into();
    league.notes = vec!["fewer & fewer".into()];
    league.chosen = vec![Chosen {
        pool: "one".into(),
        entrant: "sure".into(),
        policy: "sure (<2>)".into(),
        index: 0,
        candidates: 3,
    }];
    let page = league.html().unwrap();
    for outside in ["src=", "href=", "url(", "@import", "<script", "<link", "<img", "http", "<b>idle"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for tag in [
        "section", "table", "thead", "tbody", "tr", "td", "th", "p", "ul", "li", "dl", "div", "details",
        "summary", "span", "strong", "b", "h3", "code", "pre", "small",
    ] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(page.contains("<td class=\"h3\">+10.0</td>") && page.contains("class=\"answer yes\""), "{page}");
    assert_eq!(page, league.html().unwrap());
    assert!(LeagueReport::default().html().is_err());
}

proptest! {
    /// Seeds have no order, and regret is relative.
    #[test]
    fn seeds_may_be_shuffled_together_and_a_factor_is_a_factor(
        latencies in prop::collection::vec(0.5f64..2.0, 4 * 4 * 3), turn in 0usize..4, factor in 0.8f64..1.3,
    ) {
        let cells = |policy: usize, turn: usize, factor: f64| -> [Vec<f64>; 4] {
            std::array::from_fn(|cell| {
                let mut seeds: Vec<f64> =
                    latencies[(policy * 4 + cell) * 4..][..4].iter().map(|l| l * factor).collect();
                seeds.rotate_left(turn);
                seeds
            })
        };
        let make = |turn: usize, factor: f64| {
            league(&[("a", cells(0, turn, factor)), ("b", cells(1, turn, 1.0)), ("c", cells(2, turn, 1.0))])
        };
        let (plain, turned, slower) = (make(0, 1.0), make(turn, 1.0), make(0, factor));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let of = |league: &LeagueReport, name: &str| {
            league.standings().into_iter().find(|s| s.name == name).unwrap()
        };
        for name in ["a", "b", "c"] {
            let (one, other) = (of(&plain, name), of(&turned, name));
            prop_assert!(near(one.mean, other.mean) && near(one.worst, other.worst));
            prop_assert_eq!(one.mean_rank, other.mean_rank);
            for (one, other) in plain.against_best(name).iter().zip(turned.against_best(name)) {
                prop_assert!(near(one.more, other.more) && near(one.limit.unwrap(), other.limit.unwrap()));
            }
        }
        prop_assert!(near((1.0 + of(&slower, "a").mean) / (1.0 + of(&plain, "a").mean), factor));
        prop_assert!(near(of(&slower, "b").mean, of(&plain, "b").mean));
    }

    /// The limit covers what is shown, and no one is ahead of the best.
    #[test]
    fn a_limit_is_never_below_the_mean(latencies in prop::collection::vec(0.5f64..2.0, 2 * 4 * 3)) {
        let cells = |policy: usize| -> [Vec<f64>; 4] {
            std::array::from_fn(|cell| latencies[(policy * 4 + cell) * 3..][..3].to_vec())
        };
        let league = league(&[("a", cells(0)), ("b", cells(1))]);
        for name in ["a", "b"] {
            for against in league.against_best(name) {
                prop_assert!(against.more >= 0.0 && against.limit.unwrap() >= against.more);
            }
        }
    }
}
