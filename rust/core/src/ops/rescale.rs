//! One affine map of all values: `y = x * scale + offset`.

use super::activation::Activation;
use super::affine::AffineStep;
use super::{Attributes, Compile, Op, Signature, Step, expect_inputs};
use crate::shape::Shape;

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
        }
    }
}
