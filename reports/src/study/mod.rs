//! Arms from several sources, compared: simulations, replays and recordings.

mod page;
mod plan;
mod text;

use serde::Serialize;
use specrouter_routing::record::RequestRecord;

pub use plan::{Plan, PlanLine};

use crate::bound::{BoundReport, share};
use crate::compare::{
    self, Across, Blocks, Comparison, Contrast, Interval, Metric, Pairing, Place, Terms, by_seed, family,
    shared,
};
use crate::summary::SeedSummary;
use crate::{ArmResult, ReportError};

/// Metrics of which there are references and bounds.
const GAINS: [Metric; 4] = [Metric::TtftMean, Metric::TpotMean, Metric::Goodput, Metric::OutputTokens];

/// Where an arm's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A simulation: every seed draws requests and luck.
    Simulated,
    /// A replay of a recorded trace whose luck is drawn again.
    Replayed,
    /// A replay of a trace without luck: greedy or coupled.
    Fact,
    /// What ran for real, or was simulated and kept, read back from its tables.
    Recorded,
}

impl Kind {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Replayed => "replayed",
            Self::Fact => "replayed, no luck",
            Self::Recorded => "recorded",
        }
    }
}

/// One arm, at one load where loads are swept.
#[derive(Clone, Debug)]
pub struct StudyArm {
    /// Its results; its policy's name is the arm's own.
    pub arm: ArmResult,
    /// Where they come from, as the user gave it.
    pub source: String,
    /// How they came about.
    pub kind: Kind,
    /// Arms of one group met the same requests and luck under the same seed: they are paired.
    pub group: String,
    /// A reference: regrets are counted to it, and it is compared with nothing.
    pub reference: bool,
    /// The requests of its one run, where it is one: blocks of them may stand for replications.
    pub requests: Vec<RequestRecord>,
    /// What no policy can beat under its seeds, where it was computed.
    pub bound: Option<BoundReport>,
}

/// A comparison of arms.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// The headline.
    pub title: String,
    /// What was compared: `(what, value)`.
    pub facts: Vec<(String, String)>,
    /// All arms, in the order given.
    pub arms: Vec<StudyArm>,
    /// The arm that others are compared with.
    pub baseline: String,
    /// Every arm is compared with every arm before it too.
    pub all_pairs: bool,
    /// Each class by itself too, where there are several.
    pub by_class: bool,
    /// On which terms verdicts are given.
    pub terms: Terms,
    /// What a load is a number of.
    pub load_unit: String,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The command that makes this again.
    pub command: String,
}

/// How far an arm lies behind the better of two references.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Regret {
    /// The policy.
    pub policy: String,
    /// The reference that is better in the mean.
    pub reference: String,
    /// The load of both.
    pub load: Option<f64>,
    /// Of what.
    pub metric: Metric,
    /// Policy against reference.
    pub effect: f64,
    /// t interval over seeds; it does not know that the better reference was chosen on the same seeds.
    pub interval: Option<Interval>,
}

/// What share of the bound's gain over the baseline an arm has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The policy.
    pub policy: String,
    /// The load.
    pub load: Option<f64>,
    /// Of what.
    pub metric: Metric,
    /// The bound, in the metric's unit.
    pub bound: f64,
    /// (policy − baseline) / (bound − baseline); `None` where there is nothing to gain.
    pub share: Option<f64>,
}

impl Study {
    /// Every comparison, corrected over all of them.
    pub fn comparisons(&self) -> Vec<Comparison> {
        family(self.contrasts(), &self.terms)
    }

    /// Half the width of the widest interval of this metric over all requests, in the way the effect is
    /// shown, among pairs of which an arm can be given more seeds; `None` where such a pair has no
    /// interval, or there is none.
    pub fn half_width(&self, metric: Metric) -> Option<f64> {
        let grows = |own: &StudyArm| matches!(own.kind, Kind::Simulated | Kind::Replayed);
        let own = self.pairs().into_iter().filter(|(a, b)| grows(a) || grows(b));
        let half = |(a, b): (&StudyArm, &StudyArm)| {
            let c = Together::new(a, b).contrast(metric, None)?;
            c.interval.filter(|_| c.relative).map(|i| (i.high - i.low) / 2.0)
        };
        own.map(half).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
    }

    /// The content of `compare.json`, fields in a fixed order.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(&text::Document::new(self));
        text.expect("keys are strings and numbers are numbers") + "\n"
    }

    /// Tables and sentences for stdout.
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// The self-contained page.
    ///
    /// # Errors
    /// [`ReportError`] without results, or when a plot cannot be drawn.
    pub fn html(&self) -> Result<String, ReportError> {
        if self.arms.iter().all(|own| own.arm.seeds.is_empty()) {
            return Err(ReportError::Empty(self.arms.len()));
        }
        page::page(self)
    }

    /// Pairs that are compared: (arm, what it is compared with), at the same load.
    fn pairs(&self) -> Vec<(&StudyArm, &StudyArm)> {
        let fits = |own: &&StudyArm| !own.reference && !own.arm.other_output && !own.arm.seeds.is_empty();
        let mut pairs = Vec::new();
        for (index, own) in self.arms.iter().enumerate().filter(|(_, own)| fits(own)) {
            let same_load = |other: &&StudyArm| other.arm.load == own.arm.load;
            if self.all_pairs {
                pairs.extend(self.arms[..index].iter().filter(fits).filter(same_load).map(|b| (own, b)));
            } else if own.arm.policy != self.baseline {
                let base = self.arms.iter().filter(fits).filter(same_load);
                let mut base = base.filter(|other| other.arm.policy == self.baseline);
                pairs.extend(base.next().map(|base| (own, base)));
            }
        }
        pairs
    }

    /// Classes that both arms have, where they have several.
    fn classes(&self, a: &StudyArm, b: &StudyArm) -> Vec<String> {
        let of = |own: &StudyArm| -> Vec<String> {
            let first = own.arm.seeds.first().map(|seed| &seed.summary.classes);
            first.into_iter().flatten().map(|class| class.class.clone()).collect()
        };
        let theirs = of(b);
        let both: Vec<String> = of(a).into_iter().filter(|class| theirs.contains(class)).collect();
        if self.by_class && both.len() > 1 { both } else { Vec::new() }
    }

    fn contrasts(&self) -> Vec<(Place, Contrast)> {
        let mut all = Vec::new();
        for (arm, base) in self.pairs() {
            let together = Together::new(arm, base);
            // One run by itself is told in one line.
            let classes = if together.alone() { Vec::new() } else { self.classes(arm, base) };
            for class in [None].into_iter().chain(classes.into_iter().map(Some)) {
                for metric in Metric::TOGETHER {
                    let Some(contrast) = together.contrast(metric, class.as_deref()) else { continue };
                    let place = Place {
                        policy: arm.arm.policy.clone(),
                        baseline: base.arm.policy.clone(),
                        load: arm.arm.load,
                        class: class.clone(),
                        metric,
                    };
                    all.push((place, contrast));
                }
            }
        }
        all
    }

    /// Every policy against the better of the references of its group.
    pub fn regrets(&self) -> Vec<Regret> {
        let mut all = Vec::new();
        for own in self.arms.iter().filter(|own| !own.reference && !own.arm.other_output) {
            let of_its =
                |other: &&StudyArm| other.reference && beside(other, own) && other.arm.load == own.arm.load;
            let references: Vec<&StudyArm> = self.arms.iter().filter(of_its).collect();
            for metric in GAINS {
                let sign = if metric.less_is_better() { 1.0 } else { -1.0 };
                let mean = |arm: &StudyArm| Some(sign * Across::of(metric, &arm.arm)?.mean);
                let known = references.iter().filter_map(|r| Some((mean(r)?, *r)));
                let Some((_, best)) = known.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
                let pairs = shared(&own.arm, &best.arm);
                let Some(c) = by_seed(&pairs, |s| metric.shown(&s.summary)).filter(|c| c.relative) else {
                    continue;
                };
                all.push(Regret {
                    policy: own.arm.policy.clone(),
                    reference: best.arm.policy.clone(),
                    load: own.arm.load,
                    metric,
                    effect: c.effect,
                    interval: c.interval,
                });
            }
        }
        all
    }

    /// What share of the bound's gain over the baseline every arm has that met the baseline's requests.
    pub fn shares(&self) -> Vec<Share> {
        let mut all = Vec::new();
        for own in self.arms.iter().filter(|own| !own.arm.other_output && own.arm.policy != self.baseline) {
            let base = |other: &&StudyArm| {
                other.arm.policy == self.baseline && beside(other, own) && other.arm.load == own.arm.load
            };
            let (Some(bound), Some(base)) = (&own.bound, self.arms.iter().find(base)) else { continue };
            for &(metric, value) in &bound.lines {
                all.push(Share {
                    policy: own.arm.policy.clone(),
                    load: own.arm.load,
                    metric,
                    bound: value,
                    share: share(metric, value, &base.arm, &own.arm),
                });
            }
        }
        all
    }

    /// Loads in order of first appearance; one `None` where none is swept.
    fn loads(&self) -> Vec<Option<f64>> {
        let mut loads = Vec::new();
        for own in &self.arms {
            if !loads.contains(&own.arm.load) {
                loads.push(own.arm.load);
            }
        }
        loads
    }
}

/// Two arms, and how their replications belong together.
struct Together<'a> {
    arm: &'a StudyArm,
    base: &'a StudyArm,
    pairs: Vec<(&'a SeedSummary, &'a SeedSummary)>,
    blocks: Option<Blocks>,
}

impl<'a> Together<'a> {
    fn new(arm: &'a StudyArm, base: &'a StudyArm) -> Self {
        let same = arm.group == base.group;
        let pairs = if same { shared(&arm.arm, &base.arm) } else { Vec::new() };
        // One run of each, of the same requests.
        let one = pairs.len() == 1 && arm.arm.seeds.len() == 1 && base.arm.seeds.len() == 1;
        let known = one && !arm.requests.is_empty() && !base.requests.is_empty();
        let blocks = if known { Blocks::of(&arm.requests, &base.requests) } else { None };
        Self { arm, base, pairs, blocks }
    }

    /// Can there be no interval.
    fn alone(&self) -> bool {
        let fewest = if self.pairs.is_empty() {
            self.arm.arm.seeds.len().min(self.base.arm.seeds.len())
        } else {
            self.pairs.len()
        };
        fewest < 2 && self.blocks.is_none()
    }

    fn contrast(&self, metric: Metric, class: Option<&str>) -> Option<Contrast> {
        let value = |seed: &SeedSummary| match class {
            None => metric.shown(&seed.summary),
            Some(class) => metric.of_class(&seed.summary, class),
        };
        if self.pairs.is_empty() {
            let of = |own: &StudyArm| own.arm.seeds.iter().filter_map(value).collect::<Vec<f64>>();
            return Contrast::unpaired(&of(self.arm), &of(self.base));
        }
        let blocks = || {
            let of = |own: &StudyArm| {
                let classes = &own.arm.seeds.first()?.summary.classes;
                let index = classes.iter().position(|c| Some(c.class.as_str()) == class)?;
                u16::try_from(index).ok()
            };
            let number = match class {
                Some(_) => Some(of(self.arm)?),
                None => None,
            };
            self.blocks.as_ref()?.contrast(metric, number, &self.arm.requests, &self.base.requests)
        };
        blocks().or_else(|| by_seed(&self.pairs, value))
    }
}

/// Do two arms come from one source: the same requests on the same device, which references and bounds are of.
fn beside(a: &StudyArm, b: &StudyArm) -> bool {
    a.source == b.source && a.group == b.group
}

/// How the comparisons of one pair came about, in words.
fn how(c: &Comparison) -> String {
    match (c.pairing, c.seeds, c.baseline_seeds) {
        (Pairing::Seeds, 1, _) => "one run of the same requests".into(),
        (Pairing::Seeds, n, _) => format!("paired by seed, {n} seeds"),
        (Pairing::Unpaired, a, b) if a < 2 || b < 2 => format!("not paired, {a} and {b} runs"),
        (Pairing::Unpaired, a, b) => format!("not paired, Welch's t on {a} and {b} seeds"),
        (Pairing::Blocks, n, _) => format!("one run of the same requests, means over {n} blocks"),
    }
}

/// The comparisons of each pair, load and class together.
fn grouped(all: &[Comparison]) -> Vec<Vec<&Comparison>> {
    let same = |a: &Comparison, b: &Comparison| {
        a.policy == b.policy && a.baseline == b.baseline && a.load == b.load && a.class == b.class
    };
    all.chunk_by(same).map(|group| group.iter().collect()).collect()
}

/// The size of the family that comparisons stand in.
fn tests(study: &Study) -> usize {
    compare::tests(&study.contrasts())
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::table::tests::arm;

    /// An arm whose seed `i` has latencies of 100 ms times `scale[i]`.
    pub(crate) fn own(name: &str, group: &str, scale: &[f64]) -> StudyArm {
        StudyArm {
            arm: arm(name, scale),
            source: group.into(),
            kind: Kind::Simulated,
            group: group.into(),
            reference: false,
            requests: Vec::new(),
            bound: None,
        }
    }

    pub(crate) fn study(arms: Vec<StudyArm>) -> Study {
        Study {
            title: "a study".into(),
            baseline: arms[0].arm.policy.clone(),
            arms,
            command: "specrouter compare a b".into(),
            by_class: true,
            ..Study::default()
        }
    }

    #[test]
    fn arms_of_one_group_are_paired_and_others_are_not() {
        let scale = [1.0, 2.0, 4.0, 8.0];
        let better: Vec<f64> = scale.iter().map(|s| s * 0.9).collect();
        let paired = study(vec![own("a", "g", &scale), own("b", "g", &better)]).comparisons();
        let alone = study(vec![own("a", "g", &scale), own("b", "h", &better)]).comparisons();
        let tpot = |all: &[Comparison]| all.iter().find(|c| c.metric == Metric::TpotMean).cloned().unwrap();
        let (paired, alone) = (tpot(&paired), tpot(&alone));
        assert_eq!((paired.pairing, alone.pairing), (Pairing::Seeds, Pairing::Unpaired));
        assert!((paired.effect + 0.1).abs() < 1e-6 && (alone.effect + 0.1).abs() < 1e-6);
        let width = |c: &Comparison| c.interval.map(|i| i.high - i.low).unwrap();
        assert!(width(&paired) < 1e-3 && width(&alone) > 1.0);
        assert_eq!(how(&paired), "paired by seed, 4 seeds");
        assert_eq!(how(&alone), "not paired, Welch's t on 4 and 4 seeds");
    }

    #[test]
    fn all_pairs_are_compared_where_that_is_asked() {
        let arms =
            || vec![own("a", "g", &[1.0, 1.1]), own("b", "g", &[0.9, 0.8]), own("c", "g", &[0.7, 0.9])];
        let named = |study: Study| {
            let all = study.comparisons();
            let tpot = all.into_iter().filter(|c| c.metric == Metric::TpotMean);
            tpot.map(|c| format!("{}/{}", c.policy, c.baseline)).collect::<Vec<_>>()
        };
        assert_eq!(named(study(arms())), ["b/a", "c/a"]);
        assert_eq!(named(Study { all_pairs: true, ..study(arms()) }), ["b/a", "c/a", "c/b"]);
        assert_eq!(named(Study { baseline: "b".into(), ..study(arms()) }), ["a/b", "c/b"]);
    }

    #[test]
    fn a_regret_is_to_the_better_reference_and_a_share_is_of_the_bounds_gain() {
        let reference = |name: &str, scale: &[f64]| StudyArm { reference: true, ..own(name, "g", scale) };
        let bound = Some(BoundReport { lines: vec![(Metric::TpotMean, 20.0)] });
        let mut arms = vec![
            own("a", "g", &[1.0, 1.0]),
            own("b", "g", &[0.6, 0.6]),
            reference("clairvoyant", &[0.7, 0.7]),
            reference("hindsight", &[0.5, 0.5]),
        ];
        arms.iter_mut().for_each(|own| own.bound = bound.clone());
        let study = study(arms);
        let regret = study.regrets().into_iter().find(|r| r.policy == "b" && r.metric == Metric::TpotMean);
        let regret = regret.unwrap();
        assert_eq!(regret.reference, "hindsight");
        assert!((regret.effect - 0.2).abs() < 1e-6);
        let shares = study.shares();
        assert!((shares[0].share.unwrap() - 0.5).abs() < 1e-6 && shares[0].policy == "b");
        // References are no arms to compare.
        assert!(study.comparisons().iter().all(|c| c.policy == "b"));
    }

    #[test]
    fn the_widest_interval_counts() {
        let arms = vec![
            own("a", "g", &[1.0, 1.0, 1.0]),
            own("b", "g", &[0.9, 0.91, 0.92]),
            own("c", "g", &[0.5, 0.9, 0.7]),
        ];
        let all = study(arms).comparisons();
        let widest = all.iter().find(|c| c.metric == Metric::TpotMean && c.policy == "c").unwrap();
        let half = widest.interval.map(|i| (i.high - i.low) / 2.0);
        let arms = vec![
            own("a", "g", &[1.0, 1.0, 1.0]),
            own("b", "g", &[0.9, 0.91, 0.92]),
            own("c", "g", &[0.5, 0.9, 0.7]),
        ];
        assert_eq!(study(arms).half_width(Metric::TpotMean), half);
        assert_eq!(
            study(vec![own("a", "g", &[1.0]), own("b", "g", &[1.0])]).half_width(Metric::TpotMean),
            None
        );
    }
}
