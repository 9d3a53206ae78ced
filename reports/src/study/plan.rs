//! What a study can tell, planned from a pilot before it is run.

use serde::Serialize;

use super::{Study, tests};
use crate::compare::power::{POWER, detectable, first_step, seeds_for, upper_spread};
use crate::compare::{LEVEL, Metric, Pairing};
use crate::table::aligned;

/// A plan: what the seeds of a run would tell, and how many would tell a difference of a given size.
///
/// Every line holds at Holm's first step over the whole family, and with the chance
/// [`POWER`] of finding what is there; seeds beyond the
/// pilot's own are not looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Tests in the family.
    pub tests: usize,
    /// Seeds of the pilot.
    pub pilot_seeds: usize,
    /// Seeds of the run that is planned.
    pub seeds: usize,
    /// The relative difference asked for.
    pub detect: f64,
    /// One for each comparison.
    pub lines: Vec<PlanLine>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// What the plan says of one comparison. Sizes are relative.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanLine {
    /// The policy.
    pub policy: String,
    /// What it is compared with.
    pub baseline: String,
    /// The load of both.
    pub load: Option<f64>,
    /// The class, or all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Of what.
    pub metric: Metric,
    /// Standard deviation of the pilot's differences of logarithms.
    pub spread: f64,
    /// The least difference that the planned seeds tell.
    pub detectable: Option<f64>,
    /// The same if the spread is as large as it may be: it is not larger with a chance of 80 %.
    pub detectable_safe: Option<f64>,
    /// Seeds that tell the difference asked for; `None` when that takes more than 100,000.
    pub needed: Option<u32>,
    /// The same with the larger spread.
    pub needed_safe: Option<u32>,
}

impl Plan {
    /// The plan of a run of `seeds` seeds, `pilot` being the same study on a few others.
    pub fn of(pilot: &Study, seeds: usize) -> Self {
        let tests = tests(pilot);
        let level = first_step(tests);
        let detect = pilot.terms.detect;
        let (mut lines, mut left) = (Vec::new(), 0);
        for (place, c) in pilot.contrasts() {
            let known = c.spread.filter(|_| c.relative && c.pairing != Pairing::Blocks);
            let own = c.replications[0].min(c.replications[1]);
            let Some((spread, safe)) = known.and_then(|s| Some((s, upper_spread(s, own)?))) else {
                left += 1;
                continue;
            };
            let least = |spread: f64| detectable(spread, seeds, level).map(f64::exp_m1);
            let needed = |spread: f64| seeds_for(detect.ln_1p(), spread, level);
            lines.push(PlanLine {
                policy: place.policy,
                baseline: place.baseline,
                load: place.load,
                class: place.class,
                metric: place.metric,
                spread,
                detectable: least(spread),
                detectable_safe: least(safe),
                needed: needed(spread),
                needed_safe: needed(safe),
            });
        }
        let mut notes = pilot.notes.clone();
        if left > 0 {
            notes.push(format!(
                "{left} comparisons are left out: no spread to plan with (one run, or values that are not above 0)"
            ));
        }
        let counted = pilot.arms.iter().map(|own| own.arm.seeds.len()).max().unwrap_or(0);
        Self { tests, pilot_seeds: counted, seeds, detect, lines, notes }
    }

    /// The plan as a table.
    pub fn text(&self) -> String {
        let percent = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{:.1} %", v * 100.0));
        let most = || "> 100,000".to_owned();
        let count = |v: Option<u32>| v.map_or_else(most, |v| v.to_string());
        let asked = format!("seeds for {} %", (self.detect * 1000.0).round() / 10.0);
        let loads = self.lines.iter().any(|line| line.load.is_some());
        let classes = self.lines.iter().any(|line| line.class.is_some());
        let mut head = vec!["policy".to_owned(), "against".into(), "metric".into()];
        head.extend(classes.then(|| "class".to_owned()));
        head.extend(loads.then(|| "load".to_owned()));
        let words: Vec<usize> = (0..head.len() - usize::from(loads)).collect();
        head.extend([format!("{} seeds tell", self.seeds), "at most".into(), asked, "at most".into()]);
        let mut rows = vec![head];
        for line in &self.lines {
            let mut row = vec![line.policy.clone(), line.baseline.clone(), line.metric.name().to_owned()];
            row.extend(classes.then(|| line.class.clone().unwrap_or_else(|| "all".into())));
            row.extend(loads.then(|| line.load.map_or_else(|| "-".into(), |load| load.to_string())));
            row.extend([
                percent(line.detectable),
                percent(line.detectable_safe),
                count(line.needed),
                count(line.needed_safe),
            ]);
            rows.push(row);
        }
        let mut out = format!(
            "from a pilot of {} seeds; {:.0} % power at {} after Holm's first step over {} tests\n{}\
             at most: with the largest spread that the pilot leaves room for, at 80 %\n",
            self.pilot_seeds,
            POWER * 100.0,
            (LEVEL * 100.0).round() / 100.0,
            self.tests,
            aligned(&rows, &words)
        );
        for note in &self.notes {
            out += &format!("note: {note}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{own, study};
    use super::*;

    #[test]
    fn a_plan_says_what_the_seeds_tell_and_how_many_tell_more() {
        let pilot = study(vec![
            own("a", "g", &[1.0, 1.0, 1.0, 1.0, 1.0]),
            own("b", "g", &[0.90, 0.92, 0.91, 0.93, 0.89]),
        ]);
        let plan = Plan::of(&pilot, 10);
        assert_eq!((plan.pilot_seeds, plan.tests), (5, 5)); // Cost repeats the throughput.
        insta::assert_snapshot!(plan.text(), @r"
        from a pilot of 5 seeds; 80 % power at 0.05 after Holm's first step over 5 tests
        policy  against  metric      10 seeds tell  at most  seeds for 2 %  at most
        b       a        TTFT mean           2.3 %    3.7 %             13       26
        b       a        TTFT p99            2.3 %    3.7 %             13       26
        b       a        TPOT mean           2.3 %    3.7 %             13       26
        b       a        TPOT p99            2.3 %    3.7 %             13       26
        b       a        throughput          0.0 %    0.0 %              2        2
        b       a        cost                0.0 %    0.0 %              2        2
        at most: with the largest spread that the pilot leaves room for, at 80 %
        ");
        let line = plan.lines.iter().find(|line| line.metric == Metric::TpotMean).unwrap();
        assert!(line.detectable_safe > line.detectable && line.needed_safe > line.needed);
    }
}
