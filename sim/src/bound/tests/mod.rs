//! Invariant 9: no policy beats the bound, and on small cases the bound is attained.

mod brute;
mod shares;
pub(crate) mod toys;

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::ModelId;
use specrouter_routing::policies::StaticChain;
use specrouter_routing::policy::Policy;

use self::toys::{Dice, Seen, Switching, Toy};
use super::*;
use crate::clairvoyant::tests::of as clairvoyant;

#[track_caller]
fn check(toy: &Toy, bound: &Bound, seen: &Seen, what: &str) {
    assert_eq!(seen.requests.len(), toy.requests.len(), "{what}");
    for (bound, record) in bound.requests.iter().zip(&seen.requests) {
        assert_eq!(bound.request, record.id, "{what}");
        assert_eq!(bound.tokens, record.output_tokens, "{what}: {record:?}");
        let (Some(first), Some(last)) = (record.first_token, record.last_token) else { continue };
        assert!(first - record.arrival >= bound.ttft, "{what}: ttft {bound:?} {record:?}");
        assert!(last - first >= bound.decode, "{what}: tpot {bound:?} {record:?}");
        assert!(last - record.arrival >= bound.e2e(), "{what}: e2e {bound:?} {record:?}");
        assert!(record.slo_met != Some(true) || bound.meets_slo() == Some(true), "{what}: {record:?}");
    }
    let met = seen.requests.iter().filter(|r| r.slo_met == Some(true)).count() as u64;
    assert!(met <= bound.most_meeting_slo(), "{what}");
    // Prices were rounded to the nanosecond.
    let busy = seen.busy.seconds() + 0.5e-9 * seen.passes as f64;
    assert!(bound.device_seconds() <= busy, "{what}: capacity {} > {busy}", bound.device_seconds());
}

#[test]
fn invariant_9_no_policy_beats_the_bound() {
    let (mut tightest, mut capacity) = (f64::INFINITY, f64::INFINITY);
    for seed in 0..2_500 {
        let toy = Toy::random(seed);
        let bound = toy.bound();
        let dice = &mut Dice::new(seed + 1_000_000);
        let target = ChainPlan::target_only(ModelId(toy.models as u8 - 1));
        let fixed = dice.plan(toy.models, toy.limits.max_block);
        let mut next = 0;
        let mut switching = || -> Box<dyn Policy> {
            next += 1;
            Box::new(Switching { dice: Dice::new(seed + next * 1_000_003), models: toy.models })
        };
        let runs = [
            ("target_only", toy.run(|| Box::new(StaticChain::new(target)))),
            ("static", toy.run(|| Box::new(StaticChain::new(fixed)))),
            ("switching", toy.run(&mut switching)),
            ("clairvoyant", toy.run(|| clairvoyant(&toy))),
        ];
        for (name, seen) in &runs {
            check(&toy, &bound, seen, &format!("seed {seed}, {name}"));
            capacity = capacity.min(seen.busy.seconds() / bound.device_seconds());
            for (bound, record) in bound.requests.iter().zip(&seen.requests) {
                if let Some(last) = record.last_token {
                    let e2e = (last - record.arrival).seconds();
                    tightest = tightest.min(e2e / bound.e2e().seconds());
                }
            }
        }
    }
    println!("nearest to a bound: e2e {tightest:.4}, device time {capacity:.4}");
    assert!(tightest < 1.000_001 && capacity < 1.5, "{tightest} {capacity}: bounds that nobody comes near");
}
