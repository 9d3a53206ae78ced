//! A cell of the league: one pool in one regime, as written or shifted.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_routing::units::{NonNegative, Positive, Probability};
use specrouter_sim::acceptance::{AcceptanceConfig, Pairs};

use super::{Entrant, League, Variant};
use crate::references::static_plans;
use crate::scenario::{Arm, Decides, RawScenario, Scenario, resolve_document};
use crate::simulate;

/// One pool in one regime and variant.
pub struct Cell {
    /// Index of the pool.
    pub pool: usize,
    /// Index of the regime.
    pub regime: usize,
    /// Index of the variant.
    pub variant: usize,
    /// All that is simulated; its arms are every entrant's candidates.
    pub scenario: Scenario,
}

impl League {
    /// Who takes part. Candidates are counted through the file, static plans after all of them.
    pub fn entrants(&self, statics: usize) -> Vec<Entrant> {
        let written = self.written_arms();
        let mut next = 0;
        let entrant = |raw: &super::RawEntrant| {
            let own = next..next + raw.tune.len();
            next = own.end;
            let all = if raw.statics { written..written + statics } else { 0..0 };
            let signals = raw.signals.iter().map(|rate| rate.get()).collect();
            Entrant { name: raw.name.clone(), candidates: own.chain(all).collect(), signals }
        };
        self.raw.policies.iter().map(entrant).collect()
    }

    /// The scenario of a cell, with its arrivals at `rate` if one is given.
    pub(super) fn scenario(
        &self,
        pool: usize,
        regime: usize,
        variant: &Variant,
        rate: Option<Positive>,
    ) -> anyhow::Result<Scenario> {
        let part = |path: &str| self.document.part(path);
        let mut document = part("scenario").context("a league has a scenario")?;
        for changes in [format!("pools[{pool}].set"), format!("regimes[{regime}].set")] {
            if let Some(changes) = part(&changes) {
                document.put_all(&changes)?;
            }
        }
        let lists: Vec<String> =
            (0..self.raw.policies.len()).map(|i| format!("policies[{i}].tune")).collect();
        document.put("policies", &self.document.concatenated(lists.iter().map(String::as_str)))?;
        document.rename(&self.raw.pools[pool].models);
        let name = format!("{}, {}", self.raw.pools[pool].name, self.raw.regimes[regime].name);
        let mut scenario = resolve_document(&name, &document, self.folder.as_deref(), |raw| {
            shift(raw, variant);
            if let (Some(arrivals), Some(rate)) = (&mut raw.workload.arrivals, rate) {
                arrivals.set_rate(rate);
            }
        })
        .with_context(|| format!("{}: {name}", self.name))?;
        let members: Vec<usize> = (0..scenario.pool.len()).collect();
        let statics = static_plans(&scenario).into_iter().map(|config| Arm {
            name: config.label(),
            decides: Decides::Policy(config),
            members: members.clone(),
            other_output: false,
            label: "",
        });
        let statics: Vec<Arm> = statics.collect();
        scenario.arms.extend(statics);
        Ok(scenario)
    }

    /// The cells of a pool and a regime, one for each variant, at the regime's share of what the target alone can
    /// serve there; `None` when `stop` was raised.
    ///
    /// # Errors
    /// A scenario that cannot be resolved, or a target that serves nobody.
    pub fn cells(&self, pool: usize, regime: usize, stop: &AtomicBool) -> anyhow::Result<Option<Vec<Cell>>> {
        let written = Variant {
            name: String::new(),
            rate: super::one(),
            first_class: super::one(),
            acceptance: super::certain(),
        };
        let plain = self.scenario(pool, regime, &written, None)?;
        let capacity = simulate::capacity(&plain, &mut |_| !stop.load(Ordering::Relaxed));
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let rate = capacity? * self.raw.regimes[regime].load.get();
        let cell = |(index, variant): (usize, &Variant)| {
            let rate = Positive::new(rate * variant.rate.get())?;
            let scenario = self.scenario(pool, regime, variant, Some(rate))?;
            Ok(Cell { pool, regime, variant: index, scenario })
        };
        Ok(Some(self.raw.variants.iter().enumerate().map(cell).collect::<anyhow::Result<_>>()?))
    }
}

impl Cell {
    /// The same with confidence signals of another rank correlation.
    ///
    /// # Errors
    /// Acceptance that cannot be resolved again.
    pub fn with_signals(&self, correlation: f64) -> anyhow::Result<Scenario> {
        let mut scenario = self.scenario.clone();
        let Some(AcceptanceConfig::Heterogeneous(config)) = &mut scenario.raw.acceptance else {
            anyhow::bail!("acceptance has no signals to set");
        };
        config.signal_correlation = Probability::new(correlation)?;
        let classes: Vec<String> =
            self.scenario.workload.classes().iter().map(|class| class.name.clone()).collect();
        let written = scenario.raw.acceptance.as_ref().context("written above")?;
        scenario.acceptance = std::sync::Arc::new(specrouter_sim::acceptance::Source::resolve(
            written,
            &scenario.pool,
            &classes,
        )?);
        Ok(scenario)
    }
}

/// What a variant changes in what was written; its rate is not among it.
fn shift(raw: &mut RawScenario, variant: &Variant) {
    if let Some(first) = raw.workload.classes.first_mut()
        && let written = first.weight.map_or(1.0, NonNegative::get)
        && let Ok(weight) = NonNegative::new(written * variant.first_class.get())
    {
        first.weight = Some(weight);
    }
    if let Some(AcceptanceConfig::Heterogeneous(config)) = &mut raw.acceptance {
        let drifted = config.drift.iter_mut().flat_map(|drift| drift.matrix.values_mut());
        config
            .matrix
            .values_mut()
            .chain(drifted)
            .for_each(|pairs| accept_less(pairs, variant.acceptance.get()));
    }
}

/// Every α times `factor`.
fn accept_less(pairs: &mut Pairs<Probability>, factor: f64) {
    for rate in pairs.values_mut().flat_map(|verifiers| verifiers.values_mut()) {
        *rate = Probability::new(factor * rate.get()).unwrap_or(*rate);
    }
}
