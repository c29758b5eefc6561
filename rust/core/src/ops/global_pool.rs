//! Global pooling: the mean or the maximum over all points, one vector of channels for each sample.

use super::fold::{Max, Slabs, Sum};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
use crate::shape::Shape;

/// The mean or the maximum over all points.
#[derive(Clone, Copy, Debug)]
pub enum GlobalPool {
    /// The mean.
    Avg,
    /// The maximum; NaN where there is one.
    Max,
}

impl GlobalPool {
    pub(super) fn parse_avg(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Avg))
    }

    pub(super) fn parse_max(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Max))
    }
}

impl Op for GlobalPool {
    fn kind(&self) -> &'static str {
        match self {
            Self::Avg => "global_avg_pool",
            Self::Max => "global_max_pool",
        }
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Slabs::infer(inputs[0])?;
        Ok(Shape::vector(inputs[0].n, inputs[0].c))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let shape = context.inputs[0];
        Box::new(GlobalPoolStep { pool: *self, shape, slabs: Slabs::new(context.isa, shape) })
    }
}

struct GlobalPoolStep {
    pool: GlobalPool,
    shape: Shape,
    slabs: Slabs,
}

impl Step for GlobalPoolStep {
    fn scratch(&self) -> usize {
        self.slabs.scratch()
    }

    fn forward(&self, io: Io<'_>) {
        let x = io.inputs[0];
        match self.pool {
            GlobalPool::Avg => {
                self.slabs.fold::<Sum>(x, io.output, io.scratch, io.pool, 1.0 / self.shape.spatial() as f32);
            }
            GlobalPool::Max => self.slabs.fold::<Max>(x, io.output, io.scratch, io.pool, 1.0),
        }
    }

    fn algorithm(&self) -> String {
        "slabs".into()
    }

    fn flops(&self) -> u64 {
        self.shape.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op};
    use super::*;

    fn naive(trial: &Trial, fold: impl Fn(f64, f64) -> f64, start: f64) -> Vec<f64> {
        let shape = trial.shapes[0];
        let mut y = vec![start; shape.n * shape.c];
        for (i, x) in trial.input(0).into_iter().enumerate() {
            let y = &mut y[i / shape.sample() * shape.c + i % shape.c];
            *y = fold(*y, x);
        }
        y
    }

    #[test]
    fn means_and_maxima() {
        for c in CHANNELS {
            for dims in [[1, 1, 1], [1, 7, 7], [3, 40, 41]] {
                let shape = Shape::new(3, dims, c);
                let trial = Trial::new(op("global_avg_pool", &[]), &[shape]);
                let sum = naive(&trial, |a, b| a + b, 0.0);
                trial.check(&sum.iter().map(|sum| sum / shape.spatial() as f64).collect::<Vec<_>>());
                let trial = Trial::new(op("global_max_pool", &[]), &[shape]);
                trial.check(&naive(&trial, f64::max, f64::NEG_INFINITY));
            }
        }
    }

    #[test]
    fn a_large_map_with_an_offset_stays_exact() {
        let shape = Shape::new(1, [1, 700, 701], 5);
        let mut trial = Trial::new(op("global_avg_pool", &[]), &[shape]);
        trial.inputs[0].iter_mut().for_each(|x| *x += 10.0);
        let sum = naive(&trial, |a, b| a + b, 0.0);
        trial.check(&sum.iter().map(|sum| sum / shape.spatial() as f64).collect::<Vec<_>>());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(op("global_avg_pool", &[]).infer(&[Shape::new(1 << 58, [1, 1, 1], 1)]).is_err());
    }

    #[test]
    fn nan_is_seen() {
        let mut trial = Trial::new(op("global_max_pool", &[]), &[Shape::new(1, [1, 30, 30], 64)]);
        trial.inputs[0][64 * 450 + 3] = f32::NAN;
        for isa in crate::simd::Isa::available() {
            let y = trial.run(isa, 2);
            assert!(y.iter().enumerate().all(|(c, y)| y.is_nan() == (c == 3)));
        }
    }
}
