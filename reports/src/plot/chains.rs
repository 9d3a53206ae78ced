//! Which chains ran, over time.

use specrouter_routing::tally::Series;

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{Dash, Key, Paint, draw, legend, legend_height};
use super::{Figure, Shown, View, name};
use crate::{ArmResult, ReportError};

/// Policies shown at most; a static one has nothing to show.
const MOST: usize = 8;

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let changing: Vec<(&Shown<'_>, Vec<(u8, u64)>)> = view
        .arms
        .iter()
        .filter_map(|shown| Some((shown, totals(&shown.arm.seeds.first()?.tally.series))))
        .filter(|(_, chains)| chains.len() > 1)
        .collect();
    let left_out = changing.len().saturating_sub(MOST);
    let changing = &changing[..changing.len().min(MOST)];
    if changing.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<String> = Vec::new();
    for (shown, chains) in changing {
        for &(mask, _) in chains {
            let name = chain(shown.arm, mask);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    // Plain decoding first, deeper chains after.
    names.sort_by_key(|name| (name.matches(" > ").count(), name.clone()));
    let key = |(index, name): (usize, &String)| Key {
        paint: Paint::Model(index),
        fill: Some(0.9),
        dash: Dash::Solid,
        text: name.clone(),
    };
    let keys: Vec<Key> = names.iter().enumerate().map(key).collect();
    let (frames, height) = grid(changing.len(), 2, legend_height(&keys), 220.0);
    let svg = draw("chains", height, |canvas| {
        legend(canvas, &keys)?;
        for ((shown, _), frame) in changing.iter().zip(frames) {
            let Some(seed) = shown.arm.seeds.first() else { continue };
            let (xs, shares) = stacked(&seed.tally.series, shown.arm, &names);
            let x = Axis::from_zero(xs.iter().copied().map(|x| x / 1.06), Unit::Seconds, "time");
            let y = Axis::between(0.0, 1.0, Unit::Share, "share of rounds begun");
            let panel = Panel::new(canvas, frame, &name(shown.arm), x, y)?;
            for (index, pair) in shares.windows(2).enumerate() {
                panel.band(&xs, &pair[0], &pair[1], Paint::Model(index))?;
            }
        }
        Ok(())
    })?;
    let mut caption = format!(
        "Share of rounds begun with each chain: a policy that follows the load changes its colours with it.{}{}",
        view.at_load(),
        view.of_first_seed()
    );
    if left_out > 0 {
        caption += &format!(" {left_out} more policies are not drawn.");
    }
    Ok(Some(Figure { stem: "chains", title: "Chains over time", caption, svg }))
}

/// Rounds by chain over the whole run.
fn totals(series: &Series) -> Vec<(u8, u64)> {
    let mut totals = std::collections::BTreeMap::new();
    for (&mask, &rounds) in series.stretches().iter().flat_map(|s| &s.chains) {
        *totals.entry(mask).or_insert(0) += rounds;
    }
    totals.into_iter().collect()
}

fn chain(arm: &ArmResult, mask: u8) -> String {
    let model = |i: usize| arm.pool.get(i).cloned().unwrap_or_else(|| i.to_string());
    (0..8).filter(|i| mask >> i & 1 == 1).map(model).collect::<Vec<_>>().join(" > ")
}

/// Edges of stretches in seconds, and for `0..=names` the share of rounds by the first so many
/// chains. Stretches without rounds keep the shares before.
fn stacked(series: &Series, arm: &ArmResult, names: &[String]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let width = series.width().seconds();
    let (mut xs, mut shares) = (Vec::new(), vec![Vec::new(); names.len() + 1]);
    let mut last = vec![0.0; names.len()];
    for (index, stretch) in series.stretches().iter().enumerate() {
        let all: u64 = stretch.chains.values().sum();
        if all > 0 {
            last.fill(0.0);
            for (&mask, &rounds) in &stretch.chains {
                if let Some(at) = names.iter().position(|n| *n == chain(arm, mask)) {
                    last[at] += rounds as f64 / all as f64;
                }
            }
        }
        for edge in [index, index + 1] {
            xs.push(edge as f64 * width);
            let mut sum = 0.0;
            shares[0].push(0.0);
            for (row, share) in shares[1..].iter_mut().zip(&last) {
                sum += share;
                row.push(sum);
            }
        }
    }
    (xs, shares)
}

#[cfg(test)]
mod tests {
    use specrouter_routing::units::Time;

    use super::*;
    use crate::table::tests::arm;

    #[test]
    fn shares_of_a_stretch_add_up_to_one() {
        let mut series = Series::default();
        let width = series.width().nanos();
        series.at(Time::ZERO).chains.extend([(1, 30), (3, 10)]);
        series.at(Time::from_nanos(2 * width)).chains.insert(3, 5);
        let arm = ArmResult { pool: vec!["a".into(), "b".into()], ..arm("x", &[1.0]) };
        let names = ["a".to_owned(), "a > b".to_owned()];
        let (xs, shares) = stacked(&series, &arm, &names);
        assert_eq!((xs.len(), totals(&series)), (6, vec![(1, 30), (3, 15)]));
        assert_eq!(shares[1], [0.75, 0.75, 0.75, 0.75, 0.0, 0.0]);
        assert_eq!(shares[2], [1.0; 6]);
    }
}
