//! All fits of what was gathered, and the profile they make.

use serde::Serialize;
use specrouter_routing::profile::{LinearTerms, TableRow};
use specrouter_routing::record::{Decoding, pairs};
use specrouter_sim::acceptance::AcceptanceConfig;
use specrouter_sim::acceptance::fitted::{FittedClass, FittedVariation, project};
use specrouter_traces::calibrate::Fitted;
use specrouter_traces::calibrate::acceptance::{self, Depth, PairFit, Stretch};
use specrouter_traces::calibrate::cost::{self, ModelCosts};
use specrouter_traces::calibrate::goodness::{self, Agreement, Test};
use specrouter_traces::calibrate::signals::{self, LevelCorrelation, Mapping, SignalQuality};
use specrouter_traces::calibrate::variation::{self, Spread, Variation};

use super::gather::Gathered;
use crate::pass_times;
use crate::scenario::CostsRef;
use crate::scenario::profile::{CostErrors, FitErrors, Measured, Profile};

/// The class that stands for all.
const ALL: &str = "all";

/// The matrix of one class.
#[derive(Serialize)]
pub struct ClassFit {
    /// Its name; `all` for every class together.
    pub class: String,
    /// Every pair, in the order of the pool.
    pub pairs: Vec<PairFit>,
    /// Across its requests; none for all classes together, which differ.
    pub spreads: Option<Fitted<Vec<Spread>>>,
}

/// One pair over all classes.
#[derive(Serialize)]
pub struct PairCourse {
    /// Who proposes.
    pub drafter: usize,
    /// Who judges.
    pub verifier: usize,
    /// Along the output.
    pub by_position: Vec<Stretch>,
    /// Along the block.
    pub by_depth: Vec<Depth>,
    /// Bins of the drafter's top probability against the overlap.
    pub signal_curve: Vec<(f64, f64)>,
    /// Accepted lengths against independent coins, at the commonest draft length.
    pub one_coin: Fitted<(u32, Test)>,
    /// Rounds against scores.
    pub rounds_against_scores: Fitted<Agreement>,
}

/// Everything that was fitted.
#[derive(Serialize)]
pub struct Fits {
    /// Models by name.
    pub pool: Vec<String>,
    /// Pass times, by model.
    pub costs: Vec<(String, Fitted<ModelCosts>)>,
    /// The profile takes the table.
    pub table_is_better: bool,
    /// Classes, then all together.
    pub classes: Vec<ClassFit>,
    /// Pairs over all classes.
    pub courses: Vec<PairCourse>,
    /// Between requests and along texts.
    pub variation: Fitted<Variation>,
    /// Signal quality.
    pub signals: Fitted<Vec<SignalQuality>>,
    /// How levels go together.
    pub levels: Fitted<Vec<LevelCorrelation>>,
    /// From what is measured to acceptance.
    pub mapping: Fitted<Vec<Mapping>>,
}

impl Fits {
    /// Fits everything.
    pub fn of(gathered: &Gathered) -> Self {
        let evidence = &gathered.evidence;
        let fit = if gathered.measured_table { cost::fit_table } else { cost::fit };
        let costs: Vec<(String, Fitted<ModelCosts>)> = gathered
            .pool
            .iter()
            .zip(&gathered.samples)
            .map(|(name, samples)| (name.clone(), fit(name, samples)))
            .collect();
        let mut classes: Vec<ClassFit> = Vec::new();
        if evidence.classes.len() > 1 || evidence.classes.iter().any(|class| class != ALL) {
            classes.extend(evidence.classes.iter().enumerate().filter(|(_, name)| *name != ALL).map(
                |(index, name)| ClassFit {
                    class: name.clone(),
                    pairs: acceptance::matrix(evidence, Some(index)),
                    spreads: Some(variation::spreads(evidence, index)),
                },
            ));
        }
        let only = (evidence.classes.len() == 1).then(|| variation::spreads(evidence, 0));
        let spreads = only.filter(|_| classes.is_empty());
        classes.push(ClassFit { class: ALL.into(), pairs: acceptance::matrix(evidence, None), spreads });
        let courses = pairs(evidence.pool.len())
            .enumerate()
            .map(|(pair, (drafter, verifier))| PairCourse {
                drafter,
                verifier,
                by_position: acceptance::by_position(evidence, pair),
                by_depth: acceptance::by_depth(evidence, drafter, verifier),
                signal_curve: signals::curve(evidence, drafter, verifier),
                one_coin: goodness::one_coin(evidence, drafter, verifier),
                rounds_against_scores: goodness::rounds_against_scores(evidence, pair),
            })
            .collect();
        Self {
            pool: gathered.pool.clone(),
            table_is_better: cost::table_is_better(costs.iter().filter_map(|(_, costs)| costs.as_ref().ok())),
            costs,
            classes,
            courses,
            variation: variation::of_drafts(evidence),
            signals: signals::quality(evidence),
            levels: signals::levels(evidence),
            mapping: signals::mapping(evidence, gathered.decoding.unwrap_or(Decoding::Speculative)),
        }
    }

    /// `drafter > verifier`.
    pub fn pair(&self, drafter: usize, verifier: usize) -> String {
        format!("{} > {}", self.pool[drafter], self.pool[verifier])
    }

    /// The rows of every model's table, whichever fit the profile takes.
    pub fn table(&self) -> Vec<&TableRow> {
        self.costs
            .iter()
            .filter_map(|(_, costs)| costs.as_ref().ok())
            .flat_map(|costs| &costs.table)
            .collect()
    }

    /// The profile, with its table in the file `table`, and notes on what had to give.
    pub fn profile(&self, gathered: &Gathered, table: &str) -> (Profile, Vec<String>) {
        let mut notes = Vec::new();
        let whole: Option<Vec<&ModelCosts>> = self.costs.iter().map(|(_, c)| c.as_ref().ok()).collect();
        let costs = match whole {
            Some(_) if self.table_is_better => Some(CostsRef::Table { table: table.to_owned() }),
            Some(all) => {
                let linear: Vec<LinearTerms> = all.iter().map(|costs| written(&costs.linear)).collect();
                Some(CostsRef::Linear { linear })
            }
            None if gathered.samples.iter().all(Vec::is_empty) => None,
            None => {
                for (name, costs) in &self.costs {
                    if let Err(shortage) = costs {
                        notes.push(format!("no costs in the profile: {name}: {shortage}"));
                    }
                }
                None
            }
        };
        let (acceptance, moved) = self.acceptance(gathered, &mut notes);
        let errors = |costs: &ModelCosts| CostErrors {
            passes: costs.passes,
            linear_median: short(costs.linear_error.median),
            linear_p95: short(costs.linear_error.p95),
            table_median: costs.table_error.map(|e| short(e.median)),
            table_p95: costs.table_error.map(|e| short(e.p95)),
        };
        let mut clusters: Vec<_> =
            gathered.evidence.blocks.iter().filter_map(|block| block.cluster).collect();
        clusters.extend(gathered.evidence.texts.iter().map(|text| text.cluster));
        clusters.sort_unstable();
        clusters.dedup();
        let interfering = |costs: &&ModelCosts| costs.after_other_s > 0.0 || costs.after_idle_s > 0.0;
        let interference = self
            .costs
            .iter()
            .filter_map(|(_, costs)| costs.as_ref().ok())
            .filter(interfering)
            .map(|costs| (costs.model.clone(), pass_times::interference(costs)))
            .collect();
        let profile = Profile {
            measured: Measured {
                tool_version: env!("CARGO_PKG_VERSION").into(),
                device: gathered.device.clone(),
                decoding: gathered.decoding,
                traces: gathered.sources.clone(),
                table: None,
                rounds: None,
                passes: gathered.samples.iter().map(Vec::len).sum(),
                requests: clusters.len(),
            },
            pool: self.pool.clone(),
            kv_tokens: gathered.kv_tokens,
            costs,
            interference,
            acceptance,
            fit: FitErrors {
                costs: self
                    .costs
                    .iter()
                    .filter_map(|(name, costs)| Some((name.clone(), errors(costs.as_ref().ok()?))))
                    .collect(),
                matrix_moved: moved.into_iter().map(|(class, by)| (class, short(by))).collect(),
            },
        };
        (profile, notes)
    }

    /// The matrices that are whole, made possible; and by how much each had to change.
    fn acceptance(
        &self,
        gathered: &Gathered,
        notes: &mut Vec<String>,
    ) -> (Option<AcceptanceConfig>, Vec<(String, f64)>) {
        if self.pool.len() < 2 {
            return (None, Vec::new());
        }
        let positions = |class: &str| -> f64 {
            let evidence = &gathered.evidence;
            let own = evidence.texts.iter().filter(|text| evidence.classes[text.class] == class);
            own.map(|text| text.len() as f64).sum()
        };
        let mut classes: Vec<FittedClass> = Vec::new();
        for fit in &self.classes {
            let rates: Option<Vec<f64>> = fit.pairs.iter().map(|pair| pair.acceptance).collect();
            let Some(rates) = rates else {
                let missing = fit.pairs.iter().find(|pair| pair.acceptance.is_none());
                let why = missing.map_or_else(String::new, |pair| {
                    let shortage =
                        pair.scores.as_ref().err().filter(|s| s.got > 0).or(pair.rounds.as_ref().err());
                    let shortage = shortage.map_or_else(String::new, ToString::to_string);
                    format!("{}: {shortage}", self.pair(pair.drafter, pair.verifier))
                });
                let instead = if fit.class == ALL { "" } else { "; `all` stands for it" };
                notes.push(format!("no acceptance of class {} in the profile{instead}: {why}", fit.class));
                continue;
            };
            let weights = fit.pairs.iter().map(PairFit::weight).collect();
            let share = if fit.class == ALL && self.classes.len() > 1 { 0.0 } else { positions(&fit.class) };
            classes.push(FittedClass { name: fit.class.clone(), rates, weights, share });
        }
        if classes.is_empty() {
            return (None, Vec::new());
        }
        match project(&self.pool, &classes, &self.fitted_variation()) {
            Ok(projected) => {
                if let Some(asked) = projected.spread_cut {
                    let left = projected.config.request_spread.get();
                    notes.push(format!("the spread between requests, {asked:.3}, is cut to {left:.3}: the matrix has no room for more"));
                }
                for (class, by) in projected.distances.iter().filter(|(_, by)| *by > 0.0) {
                    notes.push(format!(
                        "class {class}: no models have the matrix as measured; the nearest that some have is {by:.4} away"
                    ));
                }
                (Some(AcceptanceConfig::Heterogeneous(projected.config)), projected.distances)
            }
            Err(error) => {
                notes.push(format!("no acceptance in the profile: {error}"));
                (None, Vec::new())
            }
        }
    }

    fn fitted_variation(&self) -> FittedVariation {
        let target = self.pool.len() - 1;
        // What a policy reads is a draft's confidence before the target.
        let correlations: Vec<f64> = self
            .signals
            .iter()
            .flatten()
            .filter(|quality| quality.verifier == target)
            .map(|quality| quality.top_probability)
            .collect();
        let mean = correlations.iter().sum::<f64>() / correlations.len().max(1) as f64;
        let signal_correlation = (!correlations.is_empty()).then_some(mean);
        match &self.variation {
            Ok(variation) => FittedVariation {
                request_spread: variation.request_spread.value,
                regime: variation.regime.map(|regime| (regime.spread.value, regime.stay_tokens.value)),
                signal_correlation,
            },
            Err(_) => FittedVariation { signal_correlation, ..FittedVariation::default() },
        }
    }
}

/// Four significant digits, for files that people read.
fn short(value: f64) -> f64 {
    digits(value, 4)
}

fn digits(value: f64, count: usize) -> f64 {
    // Through the text, so that the file shows no more than these.
    format!("{value:.*e}", count - 1).parse().unwrap_or(value)
}

/// Terms as files show them: to six digits, far below the error of any fit.
fn written(terms: &LinearTerms) -> LinearTerms {
    let LinearTerms { pass_s, row_s, token_s, context_token_s, pair_s, tile } = *terms;
    let [row, token, context, pair] =
        [row_s, token_s, context_token_s, pair_s].map(|term| digits(term.get(), 6));
    let short = LinearTerms::new(digits(pass_s.get(), 6), row, token, context, pair);
    let short = short.and_then(|short| match tile {
        Some(tile) => short.with_tiles(tile.tokens, digits(tile.tile_s.get(), 6)),
        None => Ok(short),
    });
    short.unwrap_or(*terms)
}
