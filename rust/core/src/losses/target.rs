//! What an output is compared with: labels or one number for each channel, and which points count.

use super::block::{Block, POINTS};
use super::{Form, Loss};
use crate::error::{Error, Result};
use crate::parallel::Pool;
use crate::pieces::{self, CHUNK};
use crate::shape::Shape;

/// A target as it comes from outside.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The class of every point.
    Labels(&'a [i32]),
    /// A number for every channel of every point.
    Dense(&'a [f32]),
}

/// A target that fits an output.
pub(super) struct Truth<'a> {
    target: Target<'a>,
    c: usize,
    /// Whether a number is the share of a class, not an answer for its channel alone.
    one_hot: bool,
    ignored: &'a [i64],
    counted: usize,
}

impl<'a> Truth<'a> {
    pub(super) fn new(
        loss: &'a Loss,
        shape: Shape,
        (target_shape, target): (&[usize], Target<'a>),
        pool: &Pool,
    ) -> Result<Self> {
        let wrong = |message: String| Error::Shape { node: loss.kind.clone(), message };
        let Shape { n, d, h, w, c } = shape;
        let points = [n, d, h, w];
        let fits = match target {
            Target::Labels(labels) => {
                (target_shape == points || target_shape == [n, d, h, w, 1]) && labels.len() == n * d * h * w
            }
            Target::Dense(values) => target_shape == [n, d, h, w, c] && values.len() == shape.len(),
        };
        match (loss.form, target) {
            (Form::Sparse, Target::Dense(_)) => return Err(wrong("target: expected class labels, got numbers".into())),
            (Form::Categorical | Form::Binary, Target::Labels(_)) => {
                return Err(wrong("target: expected a number for each channel, got class labels".into()));
            }
            _ if fits => {}
            (Form::Sparse, _) => {
                return Err(wrong(format!("target: expected shape {points:?}, got {target_shape:?}")));
            }
            _ => {
                let message = format!("target: expected shape {:?}, got {target_shape:?}", [n, d, h, w, c]);
                return Err(wrong(message));
            }
        }
        let one_hot = loss.form == Form::Categorical;
        let mut truth = Self { target, c, one_hot, ignored: &loss.ignored, counted: n * d * h * w };
        truth.count(n * d * h * w, pool).map_err(|message| Error::Graph { node: loss.kind.clone(), message })?;
        Ok(truth)
    }

    /// Counts the points that count; fails for a label that is no class.
    fn count(&mut self, points: usize, pool: &Pool) -> std::result::Result<(), String> {
        if self.ignored.is_empty() && matches!(self.target, Target::Dense(_)) {
            return Ok(());
        }
        let checked = pieces::map(pool, points.div_ceil(CHUNK), |task| {
            let mut counted = 0;
            for point in task * CHUNK..points.min((task + 1) * CHUNK) {
                counted += usize::from(self.counts(point));
                if let Target::Labels(labels) = self.target
                    && !(0..self.c as i64).contains(&i64::from(labels[point]))
                    && self.counts(point)
                {
                    return Err(format!("target: expected labels 0 to {}, got {}", self.c - 1, labels[point]));
                }
            }
            Ok(counted)
        });
        self.counted = checked.into_iter().sum::<std::result::Result<usize, String>>()?;
        Ok(())
    }

    /// How many points count.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    /// Whether a point counts.
    #[inline(always)]
    pub(super) fn counts(&self, point: usize) -> bool {
        if self.ignored.is_empty() {
            return true;
        }
        match self.target {
            Target::Labels(labels) => !self.ignored.contains(&i64::from(labels[point])),
            Target::Dense(values) => {
                let values = &values[point * self.c..][..self.c];
                let class = |label: i64| usize::try_from(label).ok().filter(|&label| self.one_hot && label < self.c);
                !self.ignored.iter().any(|&label| match class(label) {
                    Some(class) => values[class] == 1.0,
                    None => values.contains(&(label as f32)),
                })
            }
        }
    }

    /// Puts `count` points from `first` into `block` as one number for each channel. Returns 1 for each point that
    /// counts, 0 for the others, whose numbers are 0.
    #[inline(always)]
    pub(super) fn read(&self, first: usize, count: usize, block: &mut Block) -> [f32; POINTS] {
        let mut mask = [0.0; POINTS];
        match self.target {
            Target::Dense(values) => block.read(&values[first * self.c..][..count * self.c]),
            Target::Labels(labels) => {
                block.clear();
                for (point, &label) in labels[first..first + count].iter().enumerate() {
                    // A label that is no class is ignored, or would have been refused.
                    if let Some(column) = usize::try_from(label).ok().and_then(|k| block.columns_mut().get_mut(k)) {
                        column[point] = 1.0;
                    }
                }
            }
        }
        for point in 0..count {
            mask[point] = f32::from(u8::from(self.counts(first + point)));
        }
        if !self.ignored.is_empty() {
            for column in block.columns_mut() {
                for (value, &mask) in column.iter_mut().zip(&mask) {
                    // A product would keep a NaN.
                    *value = if mask == 0.0 { 0.0 } else { *value };
                }
            }
        }
        mask
    }
}
