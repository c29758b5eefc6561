//! Batch normalisation with running statistics (Ioffe & Szegedy 2015, inference form):
//!
//! `y = (x - mean[c]) / sqrt(variance[c] + epsilon) * weight[c] + bias[c]`
//!
//! which is `x * scale[c] + shift[c]` with both computed once, in float64. A channel of variance 0 without epsilon is NaN,
//! as it is in Keras.

use super::affine::Affine;
use super::epilogue::Epilogue;
use super::{Attributes, Compile, Op, Parameter, Role, Signature, Step, expect_inputs};
use crate::shape::Shape;

/// Batch normalisation over everything but channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// The share of the old running statistics that training keeps (Keras's convention; PyTorch's is 1 minus this).
    pub momentum: f32,
}

impl BatchNorm {
    /// The number of its parameters: weight, bias, running_mean, running_var.
    pub const PARAMETERS: usize = 4;

    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (epsilon, momentum) = (attributes.number("epsilon")?, attributes.number("momentum")?);
        if epsilon < 0.0 {
            return Err(format!("attribute \"epsilon\": expected a number >= 0, got {epsilon}"));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(format!("attribute \"momentum\": expected a number from 0 to 1, got {momentum}"));
        }
        Ok(Box::new(Self { epsilon, momentum }))
    }

    /// Scale and shift of every channel, from weight, bias, running mean and running variance.
    pub fn scale_shift(&self, parameters: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
        let &[weight, bias, mean, variance] = parameters else {
            unreachable!("batch_norm has {} parameters, got {}", Self::PARAMETERS, parameters.len())
        };
        (0..weight.len())
            .map(|c| {
                let scale = f64::from(weight[c]) / (f64::from(variance[c]) + f64::from(self.epsilon)).sqrt();
                (scale as f32, (f64::from(bias[c]) - f64::from(mean[c]) * scale) as f32)
            })
            .unzip()
    }

    fn alone(self) -> Epilogue {
        Epilogue { norm: Some(self), ..Epilogue::default() }
    }
}

impl Op for BatchNorm {
    fn kind(&self) -> &'static str {
        "batch_norm"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let c = channels[0];
        let parameters = vec![
            Parameter::new("weight", &[c], Role::Scale),
            Parameter::new("bias", &[c], Role::Bias),
            Parameter::new("running_mean", &[c], Role::RunningMean),
            Parameter::new("running_var", &[c], Role::RunningVariance),
        ];
        Ok(Signature { channels: c, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Affine { epilogue: self.alone() }.absorb(next, slot)
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Affine { epilogue: self.alone() }.compile(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{CHANNELS, Trial, naive_norm, norm, op, text, try_op};
    use super::*;

    #[test]
    fn alone_and_with_sum_and_activation() {
        for c in CHANNELS.into_iter().chain([100, 256, 2048]) {
            for dims in [[1, 1, 1], [1, 9, 13], [3, 7, 11]] {
                let shape = Shape::new(2, dims, c);
                let trial = Trial::new(norm(), &[shape]);
                let mut want = naive_norm(&trial.input(0), &trial.parameters);
                trial.check(&want);
                let trial = trial.absorb(&*op("add", &[]), &[shape]);
                want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
                trial.check(&want);
                let trial = trial.absorb(&*op("activation", &[("function", text("relu"))]), &[]);
                want.iter_mut().for_each(|y| *y = y.max(0.0));
                trial.check(&want);
            }
        }
    }

    #[test]
    fn attributes_out_of_range_are_refused() {
        let with = |epsilon, momentum| {
            try_op("batch_norm", &[("epsilon", Value::Float(epsilon)), ("momentum", Value::Float(momentum))])
                .map(|_| ())
        };
        assert_eq!(with(0.0, 1.0), Ok(()));
        assert!(with(-1e-3, 0.9).unwrap_err().contains("epsilon"));
        assert!(with(1e-3, 1.5).unwrap_err().contains("momentum"));
    }
}
