//! Times that do not fall where work grows, without being pushed up by the luckless.
//!
//! A cost table takes running maxima, so one slow cell would price every larger one. Here cells that contradict each
//! other meet at their weighted mean instead: pool-adjacent-violators along each axis in turn, until little is left.

/// A cell of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Its place on the axes.
    pub at: [u32; 3],
    /// Passes behind it.
    pub weight: f64,
    /// What they take.
    pub seconds: f64,
}

/// Turns over all axes. What is left after them the table's maxima take.
const ROUNDS: usize = 20;

/// Brings `cells` to times that do not fall along any axis.
pub(crate) fn monotone(cells: &mut [Cell]) {
    for _ in 0..ROUNDS {
        for axis in 0..3 {
            // Lines along the axis: cells alike in the other two, in its order.
            let others = |cell: &Cell| {
                let mut at = cell.at;
                at[axis] = 0;
                at
            };
            cells.sort_by_key(|cell| (others(cell), cell.at[axis]));
            for line in cells.chunk_by_mut(|a, b| others(a) == others(b)) {
                pool(line);
            }
        }
    }
    cells.sort_by_key(|cell| cell.at);
}

/// Pool adjacent violators: the nearest times, by weighted squares, that do not fall.
fn pool(line: &mut [Cell]) {
    // Blocks of equal times: (seconds, weight, cells).
    let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(line.len());
    for cell in line.iter() {
        blocks.push((cell.seconds, cell.weight, 1));
        while let [.., below, last] = blocks.as_slice()
            && below.0 > last.0
        {
            let weight = below.1 + last.1;
            let joined = ((below.0 * below.1 + last.0 * last.1) / weight, weight, below.2 + last.2);
            blocks.truncate(blocks.len() - 2);
            blocks.push(joined);
        }
    }
    let mut at = 0;
    for (seconds, _, count) in blocks {
        line[at..at + count].iter_mut().for_each(|cell| cell.seconds = seconds);
        at += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(at: [u32; 3], weight: f64, seconds: f64) -> Cell {
        Cell { at, weight, seconds }
    }

    #[test]
    fn cells_that_contradict_each_other_meet_at_their_weighted_mean() {
        let mut line = [(1, 10.0, 1.0), (2, 1.0, 9.0), (3, 9.0, 2.0), (4, 5.0, 3.0)]
            .map(|(at, weight, seconds)| cell([at, 1, 0], weight, seconds));
        monotone(&mut line);
        let seconds = line.map(|cell| cell.seconds);
        assert!((seconds[0] - 1.0).abs() < 1e-12 && (seconds[3] - 3.0).abs() < 1e-12);
        assert!((seconds[1] - 2.7).abs() < 1e-12 && (seconds[2] - 2.7).abs() < 1e-12, "{seconds:?}");
    }

    #[test]
    fn nothing_falls_along_any_axis_and_what_is_right_stays() {
        let truth = |[a, b, c]: [u32; 3]| f64::from(a) + 2.0 * f64::from(b) + 0.1 * f64::from(c);
        let mut cells = Vec::new();
        for a in 1..5 {
            for b in 1..5 {
                for c in 0..3 {
                    cells.push(cell([a, b, c], 4.0, truth([a, b, c])));
                }
            }
        }
        let before = cells.clone();
        monotone(&mut cells);
        assert_eq!(cells, before);
        cells[17].seconds = 40.0;
        monotone(&mut cells);
        let at = |at: [u32; 3]| cells.iter().find(|cell| cell.at == at).map(|cell| cell.seconds);
        for cell in &cells {
            for axis in 0..3 {
                let mut next = cell.at;
                next[axis] += 1;
                if let Some(next) = at(next) {
                    assert!(next >= cell.seconds - 0.05, "{cell:?}: {next}");
                }
            }
        }
    }
}
