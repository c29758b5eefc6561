//! Layer normalisation over the channels of every point (Ba et al. 2016):
//!
//! `y[c] = (x[c] - mean) / sqrt(variance + epsilon) * weight[c] + bias[c]`
//!
//! with mean and variance of the point's own channels, in two passes over a row that stays in the first cache.
//! Backward, with `h = (x - mean) / deviation` and `u = d_y * weight`: `d_bias = Σ d_y`, `d_weight = Σ d_y * h` over points,
//! `d_x = (u - mean(u) - h * mean(u * h)) / deviation`: see `point_norm`.

use super::activation::Activation;
use super::point_norm::{PointNorm, Rule};
use super::{Attributes, Compile, Op, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;

/// Layer normalisation with the activation that follows it.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    epsilon: f32,
    activation: Activation,
}

impl LayerNorm {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let epsilon = attributes.number("epsilon")?;
        if epsilon < 0.0 {
            return Err(format!("attribute \"epsilon\": expected a number >= 0, got {epsilon}"));
        }
        Ok(Box::new(Self { epsilon, activation: Activation::Linear }))
    }
}

impl Op for LayerNorm {
    fn kind(&self) -> &'static str {
        "layer_norm"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let c = channels[0];
        let parameters = vec![Parameter::new("weight", &[c], Role::Scale), Parameter::new("bias", &[c], Role::Bias)];
        Ok(Signature { channels: c, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn absorb(&self, next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        let activation = self.activation.followed_by(next)?;
        Some(Box::new(Self { activation, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.norm(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        self.norm(context).training(context)
    }
}

impl LayerNorm {
    fn norm(&self, context: &Compile<'_>) -> PointNorm {
        let [weight, bias] = [0, 1].map(|i| context.parameters[i].to_vec());
        let rule = Rule::Deviation { epsilon: self.epsilon };
        PointNorm { isa: context.isa, rule, weight, bias, activation: self.activation }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op, text};
    use super::super::{Op, Value};
    use crate::shape::Shape;

    fn naive(x: &[f64], c: usize, weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let point = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / c as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
            let deviation = (variance + 1e-3).sqrt();
            x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) / deviation * w + b).collect()
        };
        x.chunks(c).flat_map(point).collect()
    }

    fn layer_norm() -> Box<dyn Op> {
        op("layer_norm", &[("epsilon", Value::Float(1e-3))])
    }

    #[test]
    fn all_channels_and_an_activation() {
        // One channel is its own mean.
        for c in CHANNELS.into_iter().filter(|&c| c > 1) {
            for dims in [[1, 1, 1], [1, 5, 33], [3, 4, 7]] {
                let mut trial = Trial::new(layer_norm(), &[Shape::new(2, dims, c)]);
                // Far from zero: the mean must be taken off before squaring.
                trial.inputs[0].iter_mut().for_each(|x| *x += 3.0);
                let want = naive(&trial.input(0), c, &trial.parameter(0), &trial.parameter(1));
                trial.check(&want);
                let relu = op("activation", &[("function", text("relu"))]);
                let want: Vec<f64> = want.iter().map(|y| y.max(0.0)).collect();
                trial.absorb(&*relu, &[]).check(&want);
            }
        }
    }

    #[test]
    fn gradients() {
        for c in [3, 5, 16, 17, 70] {
            for dims in [[1, 5, 7], [3, 4, 5]] {
                Trial::new(layer_norm(), &[Shape::new(2, dims, c)]).check_gradients(1e-2, 2e-3);
            }
        }
        // Several slabs.
        Trial::new(layer_norm(), &[Shape::new(2, [1, 31, 33], 24)]).check_gradients(1e-2, 2e-3);
    }
}
