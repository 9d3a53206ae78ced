//! Means over positions, with errors that know that positions of one request belong together.

/// What one cluster (a request) adds: a sum, and what it is a sum over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Σ of the values: overlaps of its positions, tokens accepted.
    pub sum: f64,
    /// Σ of their weights: positions, tokens judged.
    pub weight: f64,
}

impl Share {
    /// Adds `value`, which counts `weight` times.
    #[inline]
    pub fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }
}

/// A mean over positions of clustered data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusteredMean {
    /// Σ sums / Σ weights: every position counts once.
    pub mean: f64,
    /// Its standard error across clusters; `None` below two of them. With Student's t at
    /// `clusters − 1` degrees of freedom it gives the interval.
    pub standard_error: Option<f64>,
    /// Clusters with weight.
    pub clusters: usize,
    /// Σ weights.
    pub weight: f64,
}

impl ClusteredMean {
    /// The mean over all positions of the clusters; `None` without any weight.
    ///
    /// The ratio estimator, with the jackknife over clusters as its error: it leaves each out in turn, which
    /// covers better than linearization where a few long requests carry the mean. An interval from the
    /// binomial law over positions would cover 22 to 51 %, not 95.
    ///
    /// Source: `algorithms.md` 2.6; Cochran, Sampling Techniques, 6.17.
    pub fn of(shares: &[Share]) -> Option<Self> {
        let counted = || shares.iter().filter(|share| share.weight > 0.0);
        let (mut total, mut clusters) = (Share::default(), 0usize);
        for share in counted() {
            total.sum += share.sum;
            total.weight += share.weight;
            clusters += 1;
        }
        if clusters == 0 {
            return None;
        }
        let mean = total.sum / total.weight;
        let standard_error = (clusters > 1).then(|| {
            let without = |share: &Share| (total.sum - share.sum) / (total.weight - share.weight);
            let count = clusters as f64;
            let middle = counted().map(without).sum::<f64>() / count;
            let squares: f64 = counted().map(without).map(|one| (one - middle) * (one - middle)).sum();
            libm::sqrt(squares * (count - 1.0) / count)
        });
        Some(Self { mean, standard_error, clusters, weight: total.weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_clusters_give_the_textbook_error_of_a_mean() {
        let values = [0.2, 0.5, 0.9, 0.4];
        let mean = ClusteredMean::of(&values.map(|sum| Share { sum: sum * 10.0, weight: 10.0 })).unwrap();
        let variance = values.iter().map(|v| (v - 0.5f64).powi(2)).sum::<f64>() / 3.0;
        assert!((mean.mean - 0.5).abs() < 1e-12 && mean.clusters == 4);
        assert!((mean.standard_error.unwrap() - (variance / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_cluster_without_positions_is_none_and_one_alone_has_no_error() {
        assert_eq!(ClusteredMean::of(&[Share::default()]), None);
        let one = ClusteredMean::of(&[Share { sum: 3.0, weight: 4.0 }, Share::default()]).unwrap();
        assert_eq!((one.mean, one.standard_error, one.clusters), (0.75, None, 1));
    }
}
