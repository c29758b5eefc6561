//! A learned map that no input changes: position embeddings, queries. Every sample gets a copy: `y[n] = weight`.
//!
//! The input only says how many samples there are. Backward: `d_weight = Σ d_y[n]` over the samples; the gradient of the
//! input is 0. Nothing is kept.

use super::lanes::add;
use super::{
    Attributes, Backward, Compile, Forward, Io, Keeps, Op, Parameter as Row, Role, Signature, Step, TrainStep, Wants,
    expect_inputs,
};
use crate::shape::{Dims3, Shape};
use crate::simd::{Isa, Kernel, Simd, dispatch};

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

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(ParameterTraining { isa: context.isa })
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

struct ParameterTraining {
    isa: Isa,
}

impl TrainStep for ParameterTraining {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        let weight = io.parameters[0];
        io.pool.for_each_chunk(io.output, weight.len(), |_, y| y.copy_from_slice(weight));
    }

    fn backward(&self, io: Backward<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 4 * 1024;
        let (isa, d_y, length) = (self.isa, io.d_output, io.parameters[0].len());
        if let Some(d_weight) = &mut io.d_parameters[0] {
            io.pool.for_each_chunk(d_weight, CHUNK, |task, d_weight| {
                dispatch(isa, Samples { d_y, length, start: task * CHUNK, d_weight });
            });
        }
        io.d_inputs.iter_mut().flatten().for_each(|d_x| d_x.nothing(io.pool));
    }
}

/// Adds the elements from `start` of every sample.
struct Samples<'a> {
    d_y: &'a [f32],
    length: usize,
    start: usize,
    d_weight: &'a mut [f32],
}

impl Kernel for Samples<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { d_y, length, start, d_weight } = self;
        let mut sum = d_y[start..start + d_weight.len()].to_vec();
        for d_y in d_y.chunks_exact(length).skip(1) {
            add(simd, &d_y[start..start + sum.len()], &mut sum);
        }
        add(simd, &sum, d_weight);
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

    #[test]
    fn gradients() {
        for (size, channels) in [([1, 3, 5], 7), ([3, 20, 9], 17), ([1, 1, 1], 1)] {
            let parameter = op("parameter", &[("size", triple(size)), ("channels", Value::Int(channels))]);
            Trial::new(parameter, &[Shape::new(3, [2, 2, 2], 4)]).check_gradients(1e-1, 1e-4);
        }
    }
}
