//! Sample weights: one for each value of a loss, or one for all values of a sample.

/// The weights of the values of a loss.
#[derive(Default)]
pub(super) struct Weights<'a> {
    weights: Option<&'a [f32]>,
    /// Values that share a weight.
    share: usize,
    count: usize,
}

impl<'a> Weights<'a> {
    /// For values of that shape.
    pub(super) fn new(shape: &[usize], weights: Option<(&[usize], &'a [f32])>) -> Result<Self, String> {
        let count = shape.iter().product::<usize>();
        let Some((given, weights)) = weights else { return Ok(Self { weights: None, share: 1, count }) };
        if given != shape && given != &shape[..1] {
            return Err(format!("weights: expected shape {shape:?} or {:?}, got {given:?}", &shape[..1]));
        }
        Ok(Self { weights: Some(weights), share: count / weights.len().max(1), count })
    }

    /// How many values there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The weight of value `i`.
    pub(super) fn at(&self, i: usize) -> f64 {
        self.weights.map_or(1.0, |weights| f64::from(weights[i / self.share]))
    }

    /// The sum of the weights of the values that `counts` picks.
    pub(super) fn total_where(&self, counts: impl Fn(usize) -> bool) -> f64 {
        (0..self.count).filter(|&i| counts(i)).map(|i| self.at(i)).sum()
    }
}
