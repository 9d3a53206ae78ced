//! The known name that a mistyped one was meant to be.

/// The candidate that begins with `word`; else the nearest by edits (insert, delete, replace, swap of
/// neighbours), when it is near enough to be what was meant: at most a third of the word's length away, and at
/// least 1.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let mut longer =
        candidates.clone().into_iter().filter(|candidate| word.len() > 1 && candidate.starts_with(word));
    if let (Some(only), None) = (longer.next(), longer.next()) {
        return Some(only);
    }
    let word: Vec<char> = word.to_lowercase().chars().take(64).collect();
    candidates
        .into_iter()
        .map(|candidate| {
            (distance(&word, &candidate.to_lowercase().chars().take(64).collect::<Vec<_>>()), candidate)
        })
        .filter(|(edits, candidate)| *edits <= (word.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean `x`?` where a candidate is near, else the list of all that is known.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(word, candidates.clone()) {
        return format!("; did you mean `{near}`?");
    }
    let all: Vec<&str> = candidates.into_iter().collect();
    if all.is_empty() { String::new() } else { format!("; known: {}", all.join(", ")) }
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_word() {
        let known = ["policies", "pool", "profile", "seed", "seeds"];
        assert_eq!(nearest("polcies", known), Some("policies"));
        assert_eq!(nearest("sede", known), Some("seed"));
        assert_eq!(nearest("Pool", known), Some("pool"));
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(nearest("h100", ["h100-sxm", "h200"]), Some("h100-sxm"));
        assert_eq!(hint("zzz", ["a", "b"]), "; known: a, b");
    }

    #[test]
    fn distance_counts_edits() {
        let d = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!((d("", "abc"), d("abc", "abc"), d("abc", "acb"), d("kitten", "sitting")), (3, 0, 1, 3));
    }
}
