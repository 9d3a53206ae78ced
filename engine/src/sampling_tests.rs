use proptest::prelude::*;

use super::*;

fn warped(logits: &[f32], sampling: &Sampling) -> Distribution {
    let mut p = Distribution::default();
    Warper::default().warp(logits, sampling, &mut p).unwrap();
    p
}

fn sampling(temperature: f64, top_k: Option<u32>, top_p: Option<f64>) -> Sampling {
    Sampling::new(temperature, top_k, top_p).unwrap()
}

fn support(p: &Distribution) -> Vec<u32> {
    p.iter().filter(|&(_, chance)| chance > 0.0).map(|(id, _)| id).collect()
}

/// Sorts everything, in f64: (id, probability) of what is kept.
fn reference(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let t = sampling.temperature.get();
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| (f64::from(l - highest) / t).exp();
    let mut order: Vec<(u32, f64)> = (0..).zip(logits).map(|(id, &l)| (id, weight(l))).collect();
    order.retain(|&(_, w)| w > 1e-38);
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if let Some(k) = sampling.top_k {
        order.truncate(k.get() as usize);
    }
    if let Some(p) = sampling.top_p {
        let total: f64 = order.iter().map(|o| o.1).sum();
        let mut before = 0.0;
        order.retain(|&(_, w)| {
            let kept = before < p.get() * total;
            before += w;
            kept
        });
    }
    let total: f64 = order.iter().map(|o| o.1).sum();
    order.sort_by_key(|o| o.0);
    order.iter().map(|&(id, w)| (id, w / total)).collect()
}

#[test]
fn parameters_are_read_with_their_limits() {
    let read = |text| serde_json::from_str::<Sampling>(text).map_err(|e| e.to_string());
    assert_eq!(read("{}"), Ok(Sampling::default()));
    assert_eq!(read(r#"{"temperature": 0.8, "top_p": 0.95}"#), Ok(sampling(0.8, None, Some(0.95))));
    assert!(read(r#"{"temperature": 0}"#).unwrap().is_greedy());
    insta::assert_snapshot!(read(r#"{"temperature": -1}"#).unwrap_err(), @"value must be a finite number, 0 or above, got -1 at line 1 column 19");
    insta::assert_snapshot!(read(r#"{"top_p": 0}"#).unwrap_err(), @"top_p must be above 0 and at most 1, got 0");
    insta::assert_snapshot!(read(r#"{"top_q": 1}"#).unwrap_err(), @"unknown field `top_q`, expected one of `temperature`, `top_k`, `top_p` at line 1 column 8");
    insta::assert_snapshot!(Sampling::new(1.0, Some(0), None).unwrap_err(), @"top_k must be at least 1 token, got 0");
    assert!(read(r#"{"top_k": 0}"#).is_err() && Sampling::new(f64::NAN, None, None).is_err());
    let written = serde_json::to_string(&sampling(0.5, Some(3), None)).unwrap();
    assert_eq!(written, r#"{"temperature":0.5,"top_k":3}"#);
    let schema = serde_json::to_value(schemars::schema_for!(Sampling)).unwrap();
    assert_eq!(schema["properties"].as_object().unwrap().len(), 3);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_tie_goes_to_the_lowest_id() {
    let mut logits = vec![0.0f32; 200];
    (logits[71], logits[133], logits[199]) = (2.0, 2.0, 2.0);
    assert_eq!(argmax(&logits), Ok(71));
    assert_eq!(support(&warped(&logits, &sampling(1.0, Some(2), None))), [71, 133]);
    assert_eq!(support(&warped(&logits, &sampling(1.0, Some(5), None))), [0, 1, 71, 133, 199]);
    // e² each of the three, 1 each of the others: 3.3 % a token of those three.
    assert_eq!(support(&warped(&logits, &sampling(1.0, None, Some(0.05)))), [71, 133]);
    assert_eq!(warped(&logits, &Sampling::greedy()), Distribution::point(71));
}

#[test]
fn minus_infinity_is_never_sampled_and_other_oddities_are_refused() {
    let none = f32::NEG_INFINITY;
    let logits = [none, 1.0, none, 1.0];
    for sampling in
        [sampling(1e-300, None, None), sampling(1.0, None, None), sampling(1e300, Some(3), Some(0.99))]
    {
        let p = warped(&logits, &sampling);
        assert_eq!(support(&p), [1, 3]);
        assert!((p.probability(3) - 0.5).abs() < 1e-12);
    }
    assert_eq!(argmax(&logits), Ok(1));
    let mut p = Distribution::default();
    for bad in [&[none, none][..], &[], &[0.0, f32::INFINITY], &[f32::NAN]] {
        for sampling in [Sampling::greedy(), Sampling::default(), sampling(1.0, Some(1), Some(0.5))] {
            assert_eq!(Warper::default().warp(bad, &sampling, &mut p), Err(NoToken), "{bad:?}");
        }
        assert_eq!(Warper::default().confidence(bad), Err(NoToken));
    }
}

#[test]
fn exp_is_within_two_units_of_the_last_place() {
    let mut x = 0.0f32;
    while x > -86.9 {
        let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 2.4e-7, "{x}: {got} {want}");
        x -= 0.000_37 + x.abs() * 1e-5;
    }
    assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-90.0), exp(f32::MIN)), (1.0, 0.0, 0.0, 0.0));
}

#[test]
fn confidence_is_of_the_softmax_before_warping() {
    let logits: Vec<f32> = [0.5f64, 0.25, 0.125, 0.125, 0.0].iter().map(|p| p.ln() as f32).collect();
    let mut warper = Warper::default();
    let got = warper.confidence(&logits).unwrap();
    assert!(
        (got.top - 0.5).abs() < 1e-6 && (f64::from(got.entropy) - 1.75 * 2f64.ln()).abs() < 1e-6,
        "{got:?}"
    );
    let stops = |warper: &mut Warper, rule| warper.stops(rule, &logits).unwrap();
    assert!(!stops(&mut warper, StopRule::Never));
    assert!(stops(&mut warper, StopRule::TopProbabilityBelow(0.51)));
    assert!(!stops(&mut warper, StopRule::TopProbabilityBelow(0.49)));
    assert!(
        stops(&mut warper, StopRule::EntropyAbove(1.21)) && !stops(&mut warper, StopRule::EntropyAbove(1.22))
    );
}

#[test]
fn the_likeliest_part_keeps_its_probabilities_and_names_its_tail() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 * 0.002).collect();
    let (mut part, mut warper) = (Distribution::default(), Warper::default());
    for sampling in [sampling(1.0, None, None), sampling(1.0, None, Some(0.7))] {
        let whole = warped(&logits, &sampling);
        let tail = warper.likeliest(&whole, 256, &mut part);
        assert_eq!(part.len(), 256);
        let least = part.iter().map(|(_, p)| p).fold(1.0, f64::min);
        assert!(part.iter().all(|(id, p)| (p - whole.probability(id)).abs() < 1e-15));
        assert!(whole.iter().filter(|&(_, p)| p > least).count() < 256);
        assert!((part.iter().map(|(_, p)| p).sum::<f64>() + tail - 1.0).abs() < 1e-12);
    }
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![8 => -12.0f32..12.0, 1 => Just(f32::NEG_INFINITY), 2 => Just(1.5f32)];
    prop::collection::vec(logit, 1..300)
}

fn cuts() -> impl Strategy<Value = Sampling> {
    (0.3f64..3.0, prop::option::of(1u32..40), prop::option::of(0.01f64..1.0))
        .prop_map(|(t, k, p)| sampling(t, k, p))
}

proptest! {
    #[test]
    fn warping_is_what_sorting_everything_gives(mut logits in rows(), sampling in cuts()) {
        logits.push(0.0);
        let p = warped(&logits, &sampling);
        prop_assert!((p.iter().map(|(_, chance)| chance).sum::<f64>() - 1.0).abs() < 1e-12);
        let want = reference(&logits, &sampling);
        let got: Vec<_> = p.iter().filter(|&(_, chance)| chance > 0.0).collect();
        // Where the sum falls on the border within rounding, one token may be in or out.
        prop_assert!(got.len().abs_diff(want.len()) <= 1);
        if got.len() == want.len() {
            for (g, w) in got.iter().zip(&want) {
                prop_assert_eq!(g.0, w.0);
                prop_assert!((g.1 - w.1).abs() < 1e-5 * w.1 + 1e-12, "{:?} {:?}", g, w);
            }
        }
    }

    #[test]
    fn warping_does_not_depend_on_what_came_before(a in rows(), mut b in rows(), sampling in cuts()) {
        b.push(0.0);
        let (mut warper, mut p) = (Warper::default(), Distribution::default());
        let _ = warper.warp(&a, &sampling, &mut p);
        warper.warp(&b, &sampling, &mut p).unwrap();
        prop_assert_eq!(p, warped(&b, &sampling));
    }

    #[test]
    fn overlap_and_excess_are_the_same_however_supports_are_kept(
        mut a in rows(), mut b in rows(), one in cuts(), other in cuts(),
    ) {
        let vocabulary = a.len().max(b.len()) + 1;
        a.resize(vocabulary, 0.0);
        b.resize(vocabulary, 0.0);
        let (p, q) = (warped(&a, &one), warped(&b, &other));
        let pairs: Vec<_> = (0..vocabulary as u32).map(|id| (p.probability(id), q.probability(id))).collect();
        let overlap: f64 = pairs.iter().map(|&(p, q)| f64::min(p, q)).sum();
        prop_assert!((p.overlap(&q) - overlap).abs() < 1e-12);
        prop_assert!((q.overlap(&p) - overlap).abs() < 1e-12);
        let mut excess = Vec::new();
        let total = p.excess_over(&q, &mut excess);
        prop_assert!((total - (1.0 - overlap)).abs() < 1e-12);
        prop_assert_eq!(excess.len(), p.len());
        for (at, &e) in excess.iter().enumerate() {
            let (p, q) = pairs[p.id(at) as usize];
            prop_assert_eq!(e.to_bits(), (p - q).max(0.0).to_bits());
        }
    }
}
