//! Convolution (cross-correlation, as everywhere in deep learning) with stride, dilation, padding and groups:
//!
//! `y[o][k] = bias[k] + Σ_tap Σ_c x[o * stride - padding + tap * dilation][c] * weight[k][c][tap]`
//!
//! with `c` over the channels of k's group. 2D is a kernel of depth 1. The algorithms, one file each:
//!
//! | file | for |
//! |---|---|
//! | `direct` | everything: a matrix product over windows of the activations |
//! | `excited` | a pointwise one and the squeeze-and-excitation after it |
//! | `grouped` | few channels per group: a vector spans several groups |
//! | `transposed` | the transposed convolution, as direct convolutions |
//! | `winograd` | kernels of 3 or 4 taps and stride 1, with fewer multiplications |
//! | `maps` | several maps side by side, the first of them enlarged |
//! | `strided` | stems: a kernel of stride 2 as one of stride 1 for `winograd` |
//! | `sparse` | windows that hardly see anything but padding |
//!
//! The norm that follows is folded into weights and bias; residual and activation run in registers.

mod algorithm;
mod block;
mod blocking;
mod constant;
mod direct;
mod excited;
mod grouped;
mod maps;
mod sequence;
mod sparse;
mod stage;
mod strided;
mod training;
mod transposed;
mod weight_gradient;
mod weights;
mod winograd;

use super::epilogue::Epilogue;
use super::{Attributes, Compile, Op, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::simd::Isa;
use crate::window::Window;

use algorithm::{Algorithm, Layer};
use blocking::{Grid, Work};
use excited::ExcitedConv;
use weights::Weights;
use winograd::Variant;

pub use maps::ConvOfMaps;
pub use transposed::ConvTranspose;
pub use winograd::Precision;

/// A convolution with what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    filters: usize,
    window: Window,
    groups: usize,
    bias: bool,
    epilogue: Epilogue,
}

impl Conv {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (filters, groups) = (attributes.size("filters")?, attributes.size("groups")?);
        let (kernel, stride) = (attributes.sizes("kernel")?, attributes.sizes("stride")?);
        let window = Window::new(kernel, stride, attributes.sizes("dilation")?, attributes.pairs("padding")?)?;
        let bias = attributes.flag("bias")?;
        if !filters.is_multiple_of(groups) {
            return Err(format!("{filters} filters cannot be dealt to {groups} groups"));
        }
        Ok(Box::new(Self { filters, window, groups, bias, epilogue: Epilogue::default() }))
    }

    /// A dense layer at every point of a map, and what follows it.
    pub(super) fn pointwise(filters: usize, bias: bool, epilogue: Epilogue) -> Self {
        let window = Window { kernel: [1; 3], stride: [1; 3], dilation: [1; 3], padding: [[0; 2]; 3] };
        Self { filters, window, groups: 1, bias, epilogue }
    }
}

impl Op for Conv {
    fn kind(&self) -> &'static str {
        "conv"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let (c, groups) = (channels[0], self.groups);
        if !c.is_multiple_of(groups) {
            return Err(format!("{c} input channels cannot be dealt to {groups} groups"));
        }
        let [kd, kh, kw] = self.window.kernel;
        let mut parameters = vec![Parameter::new("weight", &[self.filters, c / groups, kd, kh, kw], Role::Kernel)];
        if self.bias {
            parameters.push(Parameter::new("bias", &[self.filters], Role::Bias));
        }
        Ok(Signature { channels: self.filters, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let output = inputs[0].with_dims(self.window.output(inputs[0].dims())?).with_channels(self.filters);
        self.epilogue.infer(output, inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        if let Some(excited) = ExcitedConv::new(*self, next) {
            return Some(Box::new(excited));
        }
        let epilogue = self.absorb_epilogue(next, slot)?;
        Some(Box::new(Self { epilogue, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let precision = context.precision;
        Box::new(self.compile_as(context, |work| winograd::choose(work, precision)))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        self.training(context, wants)
    }
}

impl Conv {
    /// Compiles it with Winograd's algorithm where `choose` says so.
    fn compile_as(&self, context: &mut Compile<'_>, choose: impl FnOnce(&Work) -> Option<Variant>) -> Algorithm {
        let values = self.epilogue.own_parameters(context.parameters)[0];
        let (scale, shift) = self.scale_shift(context);
        let work = self.work(context.isa, context.threads, context.inputs[0], context.output);
        let channels = work.input.c / self.groups;
        let weights = Weights::new(values, Some(&scale), self.groups, channels, self.window.taps());
        let Epilogue { residual, activation, .. } = self.epilogue;
        Layer { name: "", work, weights, shift: &shift, residual, activation }.compile(context, choose(&work))
    }

    /// What has to be computed; a pointwise convolution as one long row.
    fn work(&self, isa: Isa, threads: usize, mut input: Shape, mut output: Shape) -> Work {
        if self.window.is_pointwise() && self.window.stride == [1; 3] {
            (input, output) = direct::flatten(input, output);
        }
        let (window, groups, grid) = (self.window, self.groups, Grid::dense(output));
        Work { window, input, output, grid, groups, tile: isa.tile(), threads }
    }

    /// The epilogue with `next`, if that is worth it.
    fn absorb_epilogue(&self, next: &dyn Op, slot: usize) -> Option<Epilogue> {
        self.worth(self.epilogue.absorb(next, slot)?)
    }

    /// `epilogue`, if that is worth it.
    fn worth(&self, epilogue: Epilogue) -> Option<Epilogue> {
        /// Fewer channels leave lanes of a costly function empty: a pass of its own over few elements is faster.
        const FEW: usize = 8;
        (self.filters >= FEW || epilogue.activation.is_cheap()).then_some(epilogue)
    }

    /// Factor and summand of each output channel.
    fn scale_shift(&self, context: &Compile<'_>) -> (Vec<f32>, Vec<f32>) {
        let own = self.epilogue.own_parameters(context.parameters);
        scale_shift(self.filters, own.get(1).copied(), self.epilogue.scale_shift(context.parameters))
    }
}

/// Bias and norm as one factor and one summand of each of `k` output channels: `(x + bias) * scale + shift`.
fn scale_shift(k: usize, bias: Option<&[f32]>, norm: Option<(Vec<f32>, Vec<f32>)>) -> (Vec<f32>, Vec<f32>) {
    let (scale, mut shift) = norm.unwrap_or_else(|| (vec![1.0; k], vec![0.0; k]));
    if let Some(bias) = bias {
        for ((shift, scale), bias) in shift.iter_mut().zip(&scale).zip(bias) {
            *shift = (f64::from(*bias) * f64::from(*scale) + f64::from(*shift)) as f32;
        }
    }
    (scale, shift)
}

#[cfg(test)]
mod tests;
