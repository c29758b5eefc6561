//! A learned map that no input changes: position embeddings, queries. Every sample gets a copy: `y[n] = weight`.
//!
//! The input only says how many samples there are. Backward: `d_weight = Σ dy` over the samples; no gradient of the input.

use super::{Attributes, Compile, Io, Op, Parameter as Row, Role, Signature, Step, expect_inputs};
use crate::shape::{Dims3, Shape};

/// A learned map of a fixed size.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    size: Dims3,
    channels: usize,
}

impl Parameter {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { size: attributes.sizes("size")?, channels: attributes.size("channels")? }))
    }

    fn points(&self) -> Result<usize, String> {
        let points = self.size.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        points.ok_or_else(|| format!("a size of {:?} has too many points", self.size))
    }
}

impl Op for Parameter {
    fn kind(&self) -> &'static str {
        "parameter"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let weight = Row::new("weight", &[self.points()?, self.channels], Role::Embedding);
        Ok(Signature { channels: self.channels, parameters: vec![weight] })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::new(inputs[0].n, self.size, self.channels))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(ParameterStep { weight: context.parameters[0].to_vec() })
    }
}

struct ParameterStep {
    weight: Vec<f32>,
}

impl Step for ParameterStep {
    fn forward(&self, io: Io<'_>) {
        io.pool.for_each_chunk(io.output, self.weight.len(), |_, y| y.copy_from_slice(&self.weight));
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{Trial, op, triple};
    use super::*;

    #[test]
    fn every_sample_gets_a_copy() {
        let parameter = op("parameter", &[("size", triple([1, 3, 5])), ("channels", Value::Int(7))]);
        let trial = Trial::new(parameter, &[Shape::new(3, [2, 2, 2], 4)]);
        assert_eq!(trial.output(), Shape::new(3, [1, 3, 5], 7));
        let want = trial.parameter(0).repeat(3);
        trial.check(&want);
    }
}
