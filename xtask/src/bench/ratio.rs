//! A ratio, measured in several rounds.

use serde::{Deserialize, Serialize};

/// Median and range over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Ratio {
    /// `values` over `base`, round by round: what was measured right after one
    /// another is comparable, the rest is not. `None` without a round.
    pub fn of_rounds(values: &[f64], base: &[f64]) -> Option<Self> {
        Self::of(values.iter().zip(base).map(|(value, base)| value / base).collect())
    }

    /// Of these values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_themselves() {
        // The machine became half as fast in the second round.
        let ratio = Ratio::of_rounds(&[8.0, 4.0, 9.0], &[10.0, 5.0, 10.0]).unwrap();
        assert_eq!(ratio, Ratio { median: 0.8, min: 0.8, max: 0.9 });
        assert_eq!(Ratio::of_rounds(&[], &[]), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let ratio = Ratio::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(ratio, Ratio { median: 2.5, min: 1.0, max: 4.0 });
    }
}
