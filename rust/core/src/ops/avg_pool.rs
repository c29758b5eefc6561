//! Average pooling: `y[o] = sum over the taps t of x[o * stride - padding + t] / count`.
//!
//! `count` is the number of taps (`count_include_pad`: padding is zeros), or the number of those that see the input,
//! as Keras has it with "same" padding, and PyTorch with `count_include_pad=False`.
//!
//! Backward: `d_x[i] = sum over the outputs o whose window sees i of d_y[o] / count[o]`. Either count is a product over the
//! axes, so that this is linear along each of them: see `transposed_axes`. Nothing is kept.

use super::fold::Sum;
use super::pool::{Divisor, Pooling, parse_window};
use super::transposed_axes::{Readers, TransposedAxes, readers};
use super::{Attributes, Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::window::Window;

/// The mean over a window.
#[derive(Clone, Copy, Debug)]
pub struct AvgPool {
    window: Window,
    divisor: Divisor,
}

impl AvgPool {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let window = parse_window(attributes, [1; 3])?;
        let divisor = if attributes.flag("count_include_pad")? { Divisor::Taps } else { Divisor::ValidTaps };
        Ok(Box::new(Self { window, divisor }))
    }
}

impl Op for AvgPool {
    fn kind(&self) -> &'static str {
        "avg_pool"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0].with_dims(self.window.output(inputs[0].dims())?))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        let Compile { isa, threads, inputs, output, .. } = *context;
        let readers = [0, 1, 2].map(|axis| self.readers(axis, inputs[0].dims()[axis], output.dims()[axis]));
        let transposed = TransposedAxes { isa, threads, input: inputs[0], output, readers };
        Box::new(AvgPoolTraining { step: self.step(context), transposed })
    }
}

impl AvgPool {
    fn step(&self, context: &Compile<'_>) -> AvgPoolStep {
        let Compile { isa, inputs, output, .. } = *context;
        AvgPoolStep {
            pooling: Pooling { isa, window: self.window, input: inputs[0], output, mean: Some(self.divisor) },
        }
    }

    /// The outputs that see each of `input` positions of an axis, with the axis' part of the divisor.
    fn readers(&self, axis: usize, input: usize, output: usize) -> Readers {
        let window = self.window;
        let seen = |out: usize| {
            let taps = window.valid_taps(axis, out, input);
            let count = if self.divisor == Divisor::Taps { window.kernel[axis] } else { taps.len() };
            taps.filter_map(move |tap| Some((window.position(axis, out, tap, input)?, 1.0 / count as f32)))
        };
        readers(input, (0..output).map(seen))
    }
}

struct AvgPoolStep {
    pooling: Pooling,
}

impl Step for AvgPoolStep {
    fn forward(&self, io: Io<'_>) {
        self.pooling.run::<Sum, ()>(io.inputs[0], io.output, (), io.pool);
    }

    fn algorithm(&self) -> String {
        "window".into()
    }

    fn flops(&self) -> u64 {
        self.pooling.flops()
    }
}

struct AvgPoolTraining {
    step: AvgPoolStep,
    transposed: TransposedAxes,
}

impl TrainStep for AvgPoolTraining {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn scratch(&self) -> [usize; 2] {
        [0, self.transposed.scratch()]
    }

    fn forward(&self, io: Forward<'_>) {
        self.step.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        if let Some(d_x) = io.d_inputs[0].take() {
            self.transposed.run(io.d_output, d_x, io.scratch, io.pool);
        }
    }
}
