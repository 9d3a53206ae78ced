use super::*;

fn key(seed: u64, position: u32, model: u8, purpose: Purpose, times: u16) -> Key {
    Key { seed, position, model: ModelId(model), purpose, times }
}

const PURPOSES: [Purpose; 3] = [Purpose::Proposal, Purpose::Acceptance, Purpose::Residual];

#[test]
fn every_part_of_a_key_makes_another_coin() {
    let coins = Keyed::new(Luck::new(5));
    let mut seen = std::collections::BTreeSet::new();
    let mut draws = 0;
    for seed in 0..3 {
        for position in [0, 1, 2, 1 << 20] {
            for model in 0..3 {
                for purpose in PURPOSES {
                    for times in [0, 1, 2, 300] {
                        seen.insert(coins.uniform(key(seed, position, model, purpose, times)).to_bits());
                        draws += 1;
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), draws);
    let first = key(1, 2, 0, Purpose::Proposal, 0);
    let again = |seed| Keyed::new(Luck::new(seed)).uniform(first).to_bits();
    assert_eq!(coins.uniform(first).to_bits(), again(5), "a pure function");
    assert_ne!(coins.uniform(first).to_bits(), again(6), "of the run's seed too");
}

#[test]
fn categories_come_as_often_as_they_weigh() {
    let mut coins = Keyed::new(Luck::new(5));
    let weights = [0.0, 3.0, 0.0, 1.0, 4.0, 0.0];
    let mut counts = [0u32; 6];
    for position in 0..80_000 {
        let key = key(9, position, 0, Purpose::Proposal, 0);
        counts[coins.categorical(key, weights.iter().copied(), 8.0)] += 1;
    }
    assert_eq!((counts[0], counts[2], counts[5]), (0, 0, 0));
    assert!([1, 3, 4].iter().all(|&i| (f64::from(counts[i]) - 1e4 * weights[i]).abs() < 600.0), "{counts:?}");
    let last = coins.categorical(key(0, 0, 0, Purpose::Residual, 0), weights.iter().copied(), 1e9);
    assert_eq!(last, 4, "past the end by rounding: the last that has any weight");
    let accepted = (0..80_000).filter(|&i| coins.accept(key(1, i, 1, Purpose::Acceptance, 0), 0.3)).count();
    assert!((accepted as f64 - 24_000.0).abs() < 600.0);
}

#[test]
fn a_draw_is_counted_until_its_position_is_committed() {
    let mut drawn = Drawn::default();
    let mut count = |position, model, purpose| drawn.count(position, ModelId(model), purpose);
    assert_eq!([count(3, 0, PURPOSES[0]), count(3, 0, PURPOSES[0]), count(3, 0, PURPOSES[0])], [0, 1, 2]);
    assert_eq!([count(4, 0, PURPOSES[0]), count(3, 1, PURPOSES[0]), count(3, 0, PURPOSES[1])], [0; 3]);
    drawn.settle(3);
    assert_eq!(drawn.count(3 + AHEAD as u32, ModelId(0), PURPOSES[0]), 0, "its place is used again");
    assert_eq!(drawn.count(4, ModelId(0), PURPOSES[0]), 1);
}

#[test]
fn coupled_choices_are_argmax_of_log_p_plus_gumbel_and_distributed_as_p() {
    let noise = Noise::new(Luck::new(2));
    let p = Distribution::dense(&[0.5, 0.0, 0.3, 0.2]);
    let mut counts = [0u32; 4];
    for position in 0..60_000 {
        let choice = noise.choose(8, position, &p);
        counts[choice as usize] += 1;
        if position < 500 {
            let gumbel = |id: u32| {
                let bits = noise.draws.bits(8, u64::from(position) << 32 | u64::from(id));
                let u = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                p.probability(id).ln() - (-u.ln()).ln()
            };
            let best = (0..4).max_by(|&a, &b| gumbel(a).total_cmp(&gumbel(b))).unwrap();
            assert_eq!(choice, best);
        }
    }
    assert!(
        [(0, 0.5), (1, 0.0), (2, 0.3), (3, 0.2)]
            .iter()
            .all(|&(i, p)| (f64::from(counts[i]) - 6e4 * p).abs() < 500.0)
    );
    // Neither the rest of the support nor the way it is kept changes a token's noise.
    let list = Distribution::point(3);
    assert_eq!(noise.choose(8, 0, &list), 3);
}
