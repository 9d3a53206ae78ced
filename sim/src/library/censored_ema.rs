//! `censored_ema` learns from drafts kept whole although they say only "at least as many".

use specrouter_routing::ids::ModelId;
use specrouter_routing::policy::{Ask, Needs, PassReport, Plan};

use super::*;

/// What it is not: a moving average of accepted tokens, by which a draft kept whole counts as its length.
#[derive(Default)]
struct PlainAverage(BTreeMap<RequestId, f64>);

impl PlainAverage {
    const FIRST: f64 = 2.0;
}

impl Policy for PlainAverage {
    fn name(&self) -> &str {
        "plain average"
    }
    fn needs(&self) -> Needs {
        Needs { rows: true, costs: false }
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let kept = self.0.get(&ask.request(slot).id()).copied().unwrap_or(Self::FIRST);
            let window = (kept.round() as u32).clamp(1, 16);
            plan.push(ChainPlan::new(&[ModelId(0), ModelId(2)], &[window]).unwrap());
        }
    }
    fn learn(&mut self, report: &PassReport<'_>) {
        for row in report.rows.iter().filter(|row| row.drafted > 0) {
            let kept = self.0.entry(row.request).or_insert(Self::FIRST);
            *kept += 0.25 * (f64::from(row.accepted) - *kept);
        }
    }
}

/// Mean window of a class.
fn mean_window(outcome: &Outcome, class: u64) -> f64 {
    let own = outcome.decisions.iter().filter(|d| d.1.0 % 2 == class);
    let windows: Vec<f64> = own.map(|d| f64::from(d.2.block())).collect();
    windows.iter().sum::<f64>() / windows.len() as f64
}

#[test]
fn censored_ema_probes_past_drafts_kept_whole_where_a_plain_average_sticks() {
    // Requests that are easy to draft and requests that are hard, in turn, side by side.
    let world = World {
        alphas: vec![[0.95, 0.95, 0.97], [0.5, 0.4, 0.7]],
        signal: 0.0,
        users: Some(4),
        ..World::default()
    };
    let censored = world.run(&policy(r#"{"censored_ema": {"draft": "small"}}"#));
    let plain = world.run_policy(Box::new(PlainAverage::default()));
    let [(easy, hard), (stuck, _)] = [&censored, &plain].map(|o| (mean_window(o, 0), mean_window(o, 1)));
    assert!(easy > 6.0 && hard < 2.0, "mean windows of {easy} and {hard}: each request has its own");
    assert!(stuck < 1.5, "a plain average drafts {stuck}: what is not drafted is not kept");
    let (fast, slow) = (censored.tpot_ms(0), plain.tpot_ms(0));
    assert!(fast < 0.5 * slow, "{fast} against {slow} ms a token");
}
