//! One affine map of all values: `y = x * scale + offset`.

use super::activation::Activation;
use super::affine::{AffineStep, repeats};
use super::affine_backward::BackwardPass;
use super::{Attributes, Backward, Compile, Forward, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::simd::Isa;

/// `x * scale + offset`
#[derive(Clone, Copy, Debug)]
pub struct Rescale {
    scale: f32,
    offset: f32,
}

impl Rescale {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { scale: attributes.number("scale")?, offset: attributes.number("offset")? }))
    }
}

impl Op for Rescale {
    fn kind(&self) -> &'static str {
        "rescale"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(AffineStep::new(context.isa, &[self.scale], &[self.offset], false, Activation::Linear))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(RescaleTraining { op: *self, isa: context.isa })
    }
}

/// `d_x = d_y * scale`
struct RescaleTraining {
    op: Rescale,
    isa: Isa,
}

impl TrainStep for RescaleTraining {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        let Rescale { scale, offset } = self.op;
        AffineStep::new(self.isa, &[scale], &[offset], false, Activation::Linear).forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let factor = vec![self.op.scale; repeats(1)];
        let (isa, d_y, row, activation) = (self.isa, io.d_output, factor.len(), Activation::Linear);
        let pass = BackwardPass { isa, d_y, activation, value: &[], factor: &factor, row, norm: None };
        pass.run(io.d_inputs[0].take(), None, io.pool);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{Trial, op};
    use super::*;

    #[test]
    fn every_value_is_mapped() {
        for length in [1, 15, 16, 300, 40_000] {
            let rescale = op("rescale", &[("scale", Value::Float(0.25)), ("offset", Value::Int(-3))]);
            let trial = Trial::new(rescale, &[Shape::vector(1, length)]);
            let want: Vec<f64> = trial.input(0).iter().map(|x| 0.25 * x - 3.0).collect();
            trial.check(&want);
            trial.check_gradients(1e-1, 1e-4);
        }
    }
}
