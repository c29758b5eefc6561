//! Average pooling: `y[o] = sum over the taps t of x[o * stride - padding + t] / count`.
//!
//! `count` is the number of taps (`count_include_pad`: padding is zeros), or the number of those that see the input,
//! as Keras has it with "same" padding, and PyTorch with `count_include_pad=False`.

use super::fold::Sum;
use super::pool::{Divisor, Pooling, parse_window};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
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
        let Compile { isa, inputs, output, .. } = *context;
        let pooling = Pooling { isa, window: self.window, input: inputs[0], output, mean: Some(self.divisor) };
        Box::new(AvgPoolStep { pooling })
    }
}

struct AvgPoolStep {
    pooling: Pooling,
}

impl Step for AvgPoolStep {
    fn forward(&self, io: Io<'_>) {
        self.pooling.run::<Sum>(io);
    }

    fn algorithm(&self) -> String {
        "window".into()
    }

    fn flops(&self) -> u64 {
        self.pooling.flops()
    }
}
