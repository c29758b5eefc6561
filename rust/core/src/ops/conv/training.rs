//! Convolution in both directions.
//!
//! With `y = W x + b`: `d_x = Wᵀ d_y`, `d_W` is the sum of outer products in `weight_gradient`, or in `winograd::gradient`
//! where that pays, `d_b` the sum of `d_y` over all outputs. `Wᵀ` of stride 1 is a convolution with the taps in reverse order and the channels exchanged, by whichever
//! algorithm is best; of larger strides it is the transposed convolution, phase by phase. And the other way round: the
//! gradient of a transposed convolution's input is the convolution that it is the adjoint of.

use super::algorithm::{Algorithm, Layer};
use super::blocking::Work;
use super::transposed::Transposed;
use super::weight_gradient::WeightGradient;
use super::weights::{Adjoint, Weights};
use super::winograd;
use super::{Conv, ConvTranspose};
use crate::ops::activation::Activation;
use crate::ops::channel_sums::ChannelSums;
use crate::ops::epilogue::Epilogue;
use crate::ops::{Backward, Compile, Forward, Io, Keeps, Step, TrainStep, Wants};
use crate::parallel::Pool;
use crate::window::Window;

/// A linear map of activations with weights that can be packed again.
enum Product {
    /// A convolution.
    Conv(Algorithm, Kernel),
    /// One with exchanged channels and other taps.
    Adjoint(Algorithm, Kernel, Vec<usize>),
    Transposed(Transposed),
}

/// The weights of a convolution.
#[derive(Clone, Copy)]
struct Kernel {
    groups: usize,
    /// Input and output channels of a group.
    channels: [usize; 2],
    taps: usize,
}

impl Kernel {
    fn plain<'a>(&self, values: &'a [f32]) -> Weights<'a> {
        Weights::new(values, None, self.groups, self.channels[0], self.taps)
    }

    fn adjoint<'a>(&self, values: &'a [f32], order: &'a [usize]) -> Weights<'a> {
        Weights::adjoint(values, None, self.groups, self.channels[1], Adjoint { order, taps: self.taps })
    }
}

impl Product {
    fn conv(context: &mut Compile<'_>, work: Work, kernel: Kernel, residual: bool) -> Self {
        let weights = kernel.plain(context.parameters[0]);
        Self::Conv(compile(context, work, &weights, residual), kernel)
    }

    /// Packs the weights again, and the bias if there is one.
    fn repack(&mut self, values: &[f32], bias: &[f32], pool: &Pool) {
        match self {
            Self::Conv(algorithm, kernel) => algorithm.repack(&kernel.plain(values), bias, pool),
            Self::Adjoint(algorithm, kernel, order) => algorithm.repack(&kernel.adjoint(values, order), bias, pool),
            Self::Transposed(transposed) => transposed.repack(values, bias, pool),
        }
    }

    fn step(&self) -> &dyn Step {
        match self {
            Self::Conv(algorithm, _) | Self::Adjoint(algorithm, ..) => algorithm,
            Self::Transposed(transposed) => transposed,
        }
    }
}

fn compile(context: &mut Compile<'_>, work: Work, weights: &Weights<'_>, residual: bool) -> Algorithm {
    let zeros = vec![0.0; work.output.c];
    let variant = winograd::choose_for_training(&work, context.precision);
    let activation = Activation::Linear;
    Layer { name: "", work, weights: *weights, shift: &zeros, residual, activation }.compile(context, variant)
}

/// The gradient of the weights.
enum WeightProduct {
    Sums(WeightGradient),
    Winograd(winograd::Gradient),
}

impl WeightProduct {
    fn new(context: &Compile<'_>, work: Work) -> Self {
        match winograd::choose_for_gradient(&work, context.precision) {
            Some(variant) => Self::Winograd(winograd::Gradient::new(context.isa, work, variant)),
            None => Self::Sums(WeightGradient::new(context.isa, work)),
        }
    }

    fn scratch(&self) -> usize {
        match self {
            Self::Sums(gradient) => gradient.scratch(),
            Self::Winograd(gradient) => gradient.scratch(),
        }
    }

    fn run(&self, x: &[f32], d_y: &[f32], d_weight: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        match self {
            Self::Sums(gradient) => gradient.run(x, d_y, d_weight, scratch, pool),
            Self::Winograd(gradient) => gradient.run(x, d_y, d_weight, scratch, pool),
        }
    }
}

/// A convolution or a transposed one in both directions.
struct ConvTraining {
    forward: Product,
    d_input: Option<Product>,
    d_weight: Option<WeightProduct>,
    d_bias: Option<ChannelSums>,
    /// Whether forward is the transposed convolution.
    transposed: bool,
    /// Input and output channels.
    channels: [usize; 2],
}

impl Conv {
    pub(super) fn training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let (input, output) = (context.inputs[0], context.output);
        let channels = [input.c / self.groups, output.c / self.groups];
        let kernel = Kernel { groups: self.groups, channels, taps: self.window.taps() };
        let work = self.work(context.isa, context.threads, input, output);
        Box::new(ConvTraining {
            forward: Product::conv(context, work, kernel, false),
            d_input: wants.inputs[0].then(|| self.adjoint(context, kernel, wants.plus[0])),
            d_weight: wants.parameters[0].then(|| WeightProduct::new(context, work)),
            d_bias: (self.bias && wants.parameters[1]).then(|| ChannelSums::new(context.isa, output)),
            transposed: false,
            channels: [input.c, output.c],
        })
    }

    /// The gradient of the input.
    fn adjoint(&self, context: &mut Compile<'_>, kernel: Kernel, plus: bool) -> Product {
        let (input, output) = (context.inputs[0], context.output);
        let window = self.window;
        // For a stride of 1, outputs and inputs change places: the padding is what the window reached beyond them.
        let padding = [0, 1, 2].map(|axis| {
            let before = (window.extent(axis) - 1).checked_sub(window.padding[axis][0])?;
            let after = (input.dims()[axis] + window.extent(axis) - 1).checked_sub(output.dims()[axis] + before)?;
            (window.stride[axis] == 1).then_some([before, after])
        });
        if let [Some(d), Some(h), Some(w)] = padding {
            let adjoint = Conv { filters: input.c, window: Window { padding: [d, h, w], ..window }, ..*self };
            let work = adjoint.work(context.isa, context.threads, output, input);
            let order: Vec<usize> = (0..kernel.taps).rev().collect();
            let algorithm = compile(context, work, &kernel.adjoint(context.parameters[0], &order), plus);
            return Product::Adjoint(algorithm, kernel, order);
        }
        let epilogue = Epilogue { residual: plus, ..Epilogue::default() };
        let transposed = ConvTranspose::adjoint(input.c, window, self.groups, epilogue);
        let mut exchanged = Compile { inputs: &[output], output: input, packing: crate::ops::Packing::Own, ..*context };
        Product::Transposed(transposed.pieces(&mut exchanged))
    }
}

impl ConvTranspose {
    pub(super) fn training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let (input, output) = (context.inputs[0], context.output);
        let conv = self.conv(input.c);
        // What an output padding adds is seen by no window.
        let work = conv.work(context.isa, context.threads, output, input);
        let channels = [output.c / conv.groups, input.c / conv.groups];
        let kernel = Kernel { groups: conv.groups, channels, taps: conv.window.taps() };
        Box::new(ConvTraining {
            forward: Product::Transposed(self.pieces(context)),
            d_input: wants.inputs[0].then(|| Product::conv(context, work, kernel, wants.plus[0])),
            d_weight: wants.parameters[0].then(|| WeightProduct::new(context, work)),
            d_bias: (self.has_bias() && wants.parameters[1]).then(|| ChannelSums::new(context.isa, output)),
            transposed: true,
            channels: [input.c, output.c],
        })
    }
}

impl TrainStep for ConvTraining {
    fn keeps(&self) -> Keeps {
        if self.d_weight.is_some() { Keeps::inputs(&[0]) } else { Keeps::nothing() }
    }

    fn scratch(&self) -> [usize; 2] {
        let d_input = self.d_input.iter().map(|product| product.step().scratch());
        let d_weight = self.d_weight.iter().map(WeightProduct::scratch);
        let d_bias = self.d_bias.iter().map(|sums| sums.scratch(1));
        [self.forward.step().scratch(), d_input.chain(d_weight).chain(d_bias).max().unwrap_or(0)]
    }

    fn flops(&self) -> u64 {
        self.forward.step().flops()
    }

    fn repack(&mut self, parameters: &[&[f32]], pool: &Pool) {
        let [inputs, outputs] = self.channels.map(|channels| vec![0.0; channels]);
        self.forward.repack(parameters[0], parameters.get(1).copied().unwrap_or(&outputs), pool);
        if let Some(product) = &mut self.d_input {
            product.repack(parameters[0], &inputs, pool);
        }
    }

    fn forward(&self, io: Forward<'_>) {
        self.forward.step().forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { inputs, d_output, d_inputs, d_parameters, scratch, pool, .. } = io;
        if let (Some(gradient), Some(d_weight)) = (&self.d_weight, &mut d_parameters[0]) {
            let (x, d_y) = if self.transposed { (d_output, inputs[0]) } else { (inputs[0], d_output) };
            gradient.run(x, d_y, d_weight, scratch, pool);
        }
        if let (Some(sums), Some(Some(d_bias))) = (&self.d_bias, d_parameters.get_mut(1)) {
            sums.add(d_output, d_bias, scratch, pool);
        }
        if let (Some(product), Some(d_input)) = (&self.d_input, &mut d_inputs[0]) {
            let inputs: &[&[f32]] = &[d_output, d_input.plus.unwrap_or(&[])];
            let scratch = &mut scratch[..product.step().scratch()];
            product.step().forward(Io { inputs, output: &mut *d_input.values, in_place: false, scratch, pool });
        }
    }
}

#[cfg(test)]
mod tests;
