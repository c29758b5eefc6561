//! Every point's channels scaled to a vector of length 1: `y[c] = x[c] / max(sqrt(Σ x²), 1e-12)`, as Keras's
//! `UnitNormalization` has it. No parameters. Backward: `d_x = (d_y - y * Σ(d_y * y)) / length`.

use super::activation::Activation;
use super::point_norm::{PointNorm, Rule};
use super::{Attributes, Compile, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;

/// Scaling to unit length, with the activation that follows it.
#[derive(Clone, Copy, Debug)]
pub struct UnitNorm {
    activation: Activation,
}

impl UnitNorm {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { activation: Activation::Linear }))
    }
}

impl Op for UnitNorm {
    fn kind(&self) -> &'static str {
        "unit_norm"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn absorb(&self, next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        let activation = self.activation.followed_by(next)?;
        Some(Box::new(Self { activation }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.norm(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        self.norm(context).training(context)
    }
}

impl UnitNorm {
    fn norm(&self, context: &Compile<'_>) -> PointNorm {
        let c = context.output.c;
        let (weight, bias) = (vec![1.0; c], vec![0.0; c]);
        PointNorm { isa: context.isa, rule: Rule::Length, weight, bias, activation: self.activation }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op};
    use crate::shape::Shape;
    use crate::simd::Isa;

    #[test]
    fn rows_have_length_one() {
        for c in CHANNELS {
            let trial = Trial::new(op("unit_norm", &[]), &[Shape::new(2, [2, 3, 5], c)]);
            let x = trial.input(0);
            let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let want: Vec<f64> = x.chunks(c).flat_map(|row| row.iter().map(|x| x / length(row))).collect();
            trial.check(&want);
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut trial = Trial::new(op("unit_norm", &[]), &[Shape::vector(1, 5)]);
        trial.inputs[0].fill(0.0);
        assert_eq!(trial.run(Isa::best(), 1), [0.0; 5]);
    }

    #[test]
    fn gradients() {
        // One channel has no gradient: its length is itself.
        for c in [2, 5, 16, 17, 70] {
            for dims in [[1, 5, 7], [3, 4, 5]] {
                let mut trial = Trial::new(op("unit_norm", &[]), &[Shape::new(2, dims, c)]);
                // Away from zero, where the direction is not smooth.
                trial.inputs[0].iter_mut().for_each(|x| *x += x.signum());
                trial.check_gradients(1e-2, 2e-3);
            }
        }
    }
}
