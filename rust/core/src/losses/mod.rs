//! Losses and their gradients with respect to a network's output.
//!
//! A loss compares an output `y` (n, d, h, w, c), logits or probabilities, with a target, and gives unreduced values
//! `v` (one for each point, for each sample and class, or for each sample), their reduction
//! `L = sum of weight v / divisor`, and `d_y = dL / dy`. The divisor is the number of values that count (`mean` and
//! `sum_over_batch_size`, which are one in Keras), the sum of their weights (`mean_with_sample_weight`) or 1
//! (`sum`; `none`, whose gradient is that of the sum).
//!
//! Three families: `points` (cross-entropies, squared error), `region` (Dice and its relatives: functions of three sums
//! for each sample and class), `centerline` (clDice: region sums of skeletons). Sums run over fixed slabs that are combined
//! in their order, in float64: the same bits for any number of threads.

mod block;
mod centerline;
mod parse;
mod points;
mod region;
mod skeleton;
mod target;
#[cfg(test)]
mod tests;
mod weights;

use crate::buffer::zeros;
use crate::error::{Error, Result};
use crate::ops::Attributes;
use crate::pieces::{CHUNK, Place};
use crate::shape::Shape;
use crate::simd::Isa;

pub use target::Target;
use target::Truth;
use weights::Weights;

/// What to compute.
#[derive(Clone, Debug)]
pub struct Loss {
    kind: String,
    form: Form,
    family: Family,
    reduction: Reduction,
    /// Labels of points that do not count.
    ignored: Vec<i64>,
    class_weights: Option<Vec<f32>>,
    num_classes: Option<usize>,
}

/// What a target looks like, and how channels relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One label for each point; channels are exclusive.
    Sparse,
    /// One number for each channel; channels are exclusive.
    Categorical,
    /// One number for each channel; each channel is a question of its own.
    Binary,
}

#[derive(Clone, Debug)]
enum Family {
    Points(points::Term),
    Region(region::Region),
    /// `weight` times the region loss plus `term_weight` times the mean of the term.
    Both {
        region: region::Region,
        weight: f32,
        term: points::Term,
        term_weight: f32,
    },
    Centerline(centerline::Centerline),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    Mean,
    WeightedMean,
    Sum,
}

impl Reduction {
    /// What values and gradients are multiplied by, for `count` values that weigh `total` together.
    fn scale(self, count: usize, total: f64) -> f64 {
        let divisor = match self {
            Self::Mean => count as f64,
            Self::WeightedMean => total,
            Self::Sum => 1.0,
        };
        // Where nothing counts, nothing is lost.
        if divisor == 0.0 { 0.0 } else { 1.0 / divisor }
    }
}

/// A loss, what it is made of, and its gradient.
pub struct Evaluated {
    /// The reduced loss.
    pub loss: f64,
    /// The values before reduction, without sample weights.
    pub values: Vec<f32>,
    /// Their shape.
    pub shape: Vec<usize>,
    /// The gradient of the reduced loss, as `y`.
    pub d_y: Vec<f32>,
}

/// What a loss is computed on.
#[derive(Clone, Copy)]
struct Problem<'a> {
    shape: Shape,
    y: &'a [f32],
    truth: &'a Truth<'a>,
    /// By channel, or for negative and positive.
    class_weights: Option<&'a [f32]>,
    isa: Isa,
}

impl Loss {
    /// The loss of that name with its options; `parse` has the table.
    ///
    /// # Errors
    /// [`Error::Graph`] for a name or an option that is unknown or out of range.
    pub fn new(kind: &str, mut options: Attributes) -> Result<Self> {
        let fail = |message: String| Error::Graph { node: kind.into(), message };
        let loss = parse::loss(kind, &mut options).map_err(fail)?;
        options.finish().map_err(fail)?;
        Ok(loss)
    }

    /// The loss of `y` and its gradient. `weights`: one for each value, or one for each sample.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit together, [`Error::Graph`] for labels and classes that are not there,
    /// [`Error::Memory`].
    pub fn evaluate(
        &self,
        (shape, y): (Shape, &[f32]),
        target: (&[usize], Target<'_>),
        weights: Option<(&[usize], &[f32])>,
        place: Place<'_>,
    ) -> Result<Evaluated> {
        let wrong = |message: String| Error::Shape { node: self.kind.clone(), message };
        if y.is_empty() || y.len() != shape.len() {
            return Err(wrong(format!("expected at least one sample, point and channel, got shape {shape}")));
        }
        if let Some(classes) = self.num_classes.filter(|&classes| classes != shape.c) {
            return Err(wrong(format!("expected {classes} channels, as num_classes says, got {}", shape.c)));
        }
        let value_shape = self.value_shape(shape)?;
        let weights = Weights::new(&value_shape, weights).map_err(wrong)?;
        let Place { isa, pool } = place;
        let truth = Truth::new(self, shape, target, pool)?;
        let problem = Problem { shape, y, truth: &truth, class_weights: self.class_weights.as_deref(), isa };
        let mut d_y = self.zeros(y.len())?;
        let (values, loss) = match &self.family {
            Family::Points(term) => {
                let total = weights.total_where(|point| truth.counts(point));
                let scale = self.reduction.scale(truth.counted(), total);
                let mut values = self.zeros(weights.count())?;
                let sum = term.evaluate(problem, pool, &weights, scale, (&mut values, &mut d_y));
                (values, sum * scale)
            }
            Family::Region(region) => {
                self.reduce(&weights, |scale| Ok(region.evaluate(problem, pool, &weights, scale, &mut d_y)))?
            }
            Family::Centerline(centerline) => {
                self.reduce(&weights, |scale| centerline.evaluate(problem, place, &weights, scale, &mut d_y))?
            }
            Family::Both { region, weight, term, term_weight } => {
                let [weight, term_weight] = [weight, term_weight].map(|&weight| f64::from(weight));
                self.reduce(&weights, |scale| {
                    let mut values = region.evaluate(problem, pool, &weights, weight * scale, &mut d_y);
                    // The mean of the term is part of every value: it weighs as much as all of them together.
                    let each = Reduction::Mean.scale(truth.counted(), 0.0);
                    let gradient = term_weight * weights.total_where(|_| true) * scale * each;
                    let (mut unused, mut d_term) = (self.zeros(shape.n * shape.spatial())?, self.zeros(y.len())?);
                    let sum = term.evaluate(problem, pool, &Weights::default(), gradient, (&mut unused, &mut d_term));
                    pool.for_each_chunk(&mut d_y, CHUNK, |chunk, d_y| {
                        d_y.iter_mut().zip(&d_term[chunk * CHUNK..]).for_each(|(d, term)| *d += term);
                    });
                    values.iter_mut().for_each(|value| *value = weight * *value + term_weight * sum * each);
                    Ok(values)
                })?
            }
        };
        Ok(Evaluated { loss, values, shape: value_shape, d_y })
    }

    /// Reduces the values of a region loss, which `evaluate` gives for a scale of the gradient.
    fn reduce(&self, weights: &Weights<'_>, evaluate: impl FnOnce(f64) -> Result<Vec<f64>>) -> Result<(Vec<f32>, f64)> {
        let scale = self.reduction.scale(weights.count(), weights.total_where(|_| true));
        let values = evaluate(scale)?;
        let sum: f64 = values.iter().enumerate().map(|(i, value)| weights.at(i) * value).sum();
        Ok((values.into_iter().map(|value| value as f32).collect(), sum * scale))
    }

    /// The shape of the values; classes and class weights are checked on the way.
    fn value_shape(&self, shape: Shape) -> Result<Vec<usize>> {
        let Shape { n, d, h, w, c } = shape;
        let fail = |message: String| Error::Graph { node: self.kind.clone(), message };
        let expected = if matches!(&self.family, Family::Points(term) if term.binary()) { 2 } else { c };
        if let Some(weights) = self.class_weights.as_ref().filter(|weights| weights.len() != expected) {
            return Err(fail(format!("class_weights: expected {expected} numbers, got {}", weights.len())));
        }
        let classes = match &self.family {
            Family::Points(_) => return Ok(vec![n, d, h, w]),
            Family::Region(region) | Family::Both { region, .. } => region.classes(c),
            Family::Centerline(centerline) => centerline.classes(c),
        };
        if let Some(class) = classes.iter().find(|&&class| class >= c) {
            return Err(fail(format!("target_class_ids: expected classes below {c}, got {class}")));
        }
        let one = matches!(&self.family, Family::Region(region) if region.one_value());
        Ok(if one { vec![n] } else { vec![n, classes.len()] })
    }

    fn zeros(&self, length: usize) -> Result<Vec<f32>> {
        zeros(length)
            .map_err(|failed| Error::out_of_memory(&self.kind, "the values and gradients of a loss", failed.bytes))
    }
}
