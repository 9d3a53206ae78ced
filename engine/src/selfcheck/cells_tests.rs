//! The cells hold what they promise.

use super::*;

fn factors() -> Factors {
    Factors::new(vec!["a".to_owned(), "b".to_owned()], 3, (0.2, 3.0))
}

#[test]
fn every_pair_of_values_occurs_in_few_cells() {
    for factors in [factors(), Factors::new(vec!["one".to_owned()], 4, (0.2, 3.0))] {
        let (cells, sizes) = (factors.pairwise(), factors.sizes());
        for a in 0..FACTORS {
            for b in 0..FACTORS {
                for (i, j) in (0..sizes[a]).flat_map(|i| (0..sizes[b]).map(move |j| (i, j))) {
                    let met = cells.iter().any(|cell| cell.0[a] == i && cell.0[b] == j);
                    assert!(met || a == b && i != j, "{} {i} with {} {j}", NAMES[a], NAMES[b]);
                }
            }
        }
        // No fewer than the two largest factors have pairs; not many more.
        let mut most = sizes;
        most.sort_unstable();
        let least = most[FACTORS - 1] * most[FACTORS - 2];
        assert!((least..=least + 12).contains(&cells.len()), "{} cells, at least {least}", cells.len());
    }
}

#[test]
fn the_full_grid_has_every_cell_once_and_the_plain_ones_once_only() {
    let factors = factors();
    let cells = factors.all();
    let sizes = factors.sizes();
    let product: usize = sizes.iter().product();
    // Of the target alone under a fixed plan: windows and stop rules are no difference.
    let plain = product / sizes[1] / sizes[5];
    assert_eq!(cells.len(), product - plain + plain / sizes[2] / sizes[7]);
    assert!(cells.is_sorted_by(|a, b| a < b), "none twice");
}

#[test]
fn plans_have_the_cells_chain_windows_and_stop_rule() {
    let factors = factors();
    let cell = Cell([0, 3, 1, 2, 1, 0, 3, 1]);
    assert_eq!(factors.plan(&cell).to_string(), "0>1>2 (7, 2)");
    assert_eq!(factors.plan(&cell).stop, StopRule::TopProbabilityBelow(0.2));
    assert_eq!(factors.plans(&cell).len(), 4);
    assert_eq!(
        factors.describe(&cell),
        "pool a; chain 0>1>2; windows 7, 2, 1; batch 8; memory tight; policy fixed; \
         decoding coupled temperature 1.3, top_k 40, top_p 0.9; stop rule top probability < 0.2"
    );
}
