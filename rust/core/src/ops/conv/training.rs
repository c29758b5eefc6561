//! Convolution in both directions.
//!
//! With `y = W x + b`: `d_x = Wᵀ d_y`, `d_W` is the sum of outer products in `weight_gradient`, `d_b` the sum of `d_y` over
//! all outputs. `Wᵀ` of stride 1 is a convolution with the taps in reverse order and the channels exchanged, by whichever
//! algorithm is best; of larger strides it is the transposed convolution, phase by phase. And the other way round: the
//! gradient of a transposed convolution's input is the convolution that it is the adjoint of.

use super::algorithm::Algorithm;
use super::blocking::{Grid, Work};
use super::transposed::Phases;
use super::weight_gradient::WeightGradient;
use super::weights::Weights;
use super::winograd;
use super::{Conv, ConvTranspose, direct};
use crate::ops::activation::Activation;
use crate::ops::column_sums::ColumnSums;
use crate::ops::epilogue::Epilogue;
use crate::ops::{Backward, Compile, Forward, Io, Keeps, Step, TrainStep, Wants};
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::window::Window;

/// A linear map of a map of activations: a convolution or a transposed one, with weights that can be packed again.
enum Product {
    Conv(Algorithm, Kernel),
    Transposed(Phases),
}

/// Which way round a convolution reads its weights.
#[derive(Clone, Copy)]
struct Kernel {
    groups: usize,
    /// Input and output channels of a group of the convolution that the weights belong to.
    channels: [usize; 2],
    taps: usize,
    adjoint: bool,
}

impl Kernel {
    fn of<'a>(&self, values: &'a [f32]) -> Weights<'a> {
        let Self { groups, channels, taps, adjoint } = *self;
        if adjoint {
            Weights::adjoint(values, groups, channels, taps)
        } else {
            Weights::new(values, None, groups, channels[0], taps)
        }
    }
}

impl Product {
    fn conv(context: &mut Compile<'_>, work: Work, kernel: Kernel, values: &[f32], residual: bool) -> Self {
        let zeros = vec![0.0; work.output.c];
        let variant = winograd::choose_for_training(&work);
        let weights = (&kernel.of(values), zeros.as_slice());
        Self::Conv(Algorithm::new(context, work, variant, weights, (residual, Activation::Linear)), kernel)
    }

    fn repack(&mut self, values: &[f32], bias: &[f32], pool: &Pool) {
        match self {
            Self::Conv(algorithm, kernel) => algorithm.repack(&kernel.of(values), bias, pool),
            Self::Transposed(phases) => phases.repack(values, bias, pool),
        }
    }

    fn step(&self) -> &dyn Step {
        match self {
            Self::Conv(algorithm, _) => algorithm,
            Self::Transposed(phases) => phases,
        }
    }
}

/// A convolution or a transposed one in both directions.
struct ConvTraining {
    forward: Product,
    /// The gradient of the input without and with what other readers contribute.
    d_input: Option<[Product; 2]>,
    d_weight: Option<WeightGradient>,
    d_bias: Option<ColumnSums>,
    /// Whether forward is the transposed convolution.
    transposed: bool,
    filters: usize,
}

impl Conv {
    pub(super) fn training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let (input, output) = (context.inputs[0], context.output);
        let values = context.parameters[0];
        let taps = self.window.taps();
        let channels = [input.c / self.groups, output.c / self.groups];
        let kernel = Kernel { groups: self.groups, channels, taps, adjoint: false };
        let work = self.work(context.isa, context.threads(), input, output);
        let forward = Product::conv(context, work, kernel, values, false);
        let d_input = wants.inputs[0].then(|| [false, true].map(|plus| self.adjoint(context, kernel, plus)));
        let d_weight = wants.parameters[0].then(|| WeightGradient::new(context.isa, work));
        let d_bias = (self.bias && wants.parameters[1]).then(|| ColumnSums::new(context.isa, output));
        Box::new(ConvTraining { forward, d_input, d_weight, d_bias, transposed: false, filters: self.filters })
    }

    /// The gradient of the input.
    fn adjoint(&self, context: &mut Compile<'_>, kernel: Kernel, plus: bool) -> Product {
        let (input, output) = (context.inputs[0], context.output);
        let window = self.window;
        let mut padding = [[0; 2]; 3];
        let fits = (0..3).all(|axis| {
            let before = (window.extent(axis) - 1).checked_sub(window.padding[axis][0]);
            let after = before.and_then(|before| {
                (input.dims()[axis] + window.extent(axis) - 1).checked_sub(output.dims()[axis] + before)
            });
            padding[axis] = [before.unwrap_or(0), after.unwrap_or(0)];
            window.stride[axis] == 1 && before.is_some() && after.is_some()
        });
        if fits {
            let adjoint = Conv { filters: input.c, window: Window { padding, ..window }, ..*self };
            let work = adjoint.work(context.isa, context.threads(), output, input);
            return Product::conv(context, work, Kernel { adjoint: true, ..kernel }, context.parameters[0], plus);
        }
        let epilogue = Epilogue { residual: plus, ..Epilogue::default() };
        let transposed = ConvTranspose::new(input.c, window, self.groups, epilogue);
        Product::Transposed(transposed.phases(context, output, input))
    }
}

impl ConvTranspose {
    pub(super) fn training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let (input, output) = (context.inputs[0], context.output);
        let values = context.parameters[0];
        let conv = Conv {
            filters: input.c,
            window: self.window(),
            groups: self.groups(),
            bias: false,
            epilogue: Epilogue::default(),
        };
        let forward = Product::Transposed(self.phases(context, input, output));
        // What an output padding adds is seen by no window.
        let work = conv.work(context.isa, context.threads(), output, input);
        let channels = [output.c / conv.groups, input.c / conv.groups];
        let kernel = Kernel { groups: conv.groups, channels, taps: conv.window.taps(), adjoint: false };
        let d_input =
            wants.inputs[0].then(|| [false, true].map(|plus| Product::conv(context, work, kernel, values, plus)));
        let d_weight = wants.parameters[0].then(|| WeightGradient::new(context.isa, work));
        let d_bias = (self.bias() && wants.parameters[1]).then(|| ColumnSums::new(context.isa, output));
        Box::new(ConvTraining { forward, d_input, d_weight, d_bias, transposed: true, filters: output.c })
    }
}

impl TrainStep for ConvTraining {
    fn keeps(&self) -> Keeps {
        if self.d_weight.is_some() { Keeps::inputs(&[0]) } else { Keeps::nothing() }
    }

    fn scratch(&self) -> [usize; 2] {
        let d_input = self.d_input.iter().flatten().map(|product| product.step().scratch());
        let d_weight = self.d_weight.iter().map(WeightGradient::scratch);
        let d_bias = self.d_bias.iter().map(ColumnSums::scratch);
        [self.forward.step().scratch(), d_input.chain(d_weight).chain(d_bias).max().unwrap_or(0)]
    }

    fn repack(&mut self, parameters: &[&[f32]], pool: &Pool) {
        let zeros = vec![0.0; self.filters];
        self.forward.repack(parameters[0], parameters.get(1).copied().unwrap_or(&zeros), pool);
        for product in self.d_input.iter_mut().flatten() {
            product.repack(parameters[0], pool);
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
        if let (Some([alone, plus]), Some(d_input)) = (&self.d_input, &mut d_inputs[0]) {
            let step = if d_input.plus.is_some() { plus.step() } else { alone.step() };
            let inputs: &[&[f32]] = &[d_output, d_input.plus.unwrap_or(&[])];
            let scratch = &mut scratch[..step.scratch()];
            step.forward(Io { inputs, output: &mut *d_input.values, scratch, pool });
        }
    }
}
