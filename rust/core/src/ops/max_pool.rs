//! Maximum pooling: `y[o] = max over the taps t of x[o * stride - padding + t * dilation]`.
//!
//! Padding counts as minus infinity, as in PyTorch. It is narrower than the window, so that only a dilated window on a
//! map smaller than the dilation can see nothing but padding; its maximum is minus infinity, as PyTorch has it. NaN in
//! a window gives NaN.

use super::fold::Max;
use super::pool::{Pooling, parse_window};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
use crate::shape::Shape;
use crate::window::Window;

/// The maximum over a window.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    window: Window,
}

impl MaxPool {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let dilation = attributes.sizes("dilation")?;
        Ok(Box::new(Self { window: parse_window(attributes, dilation)? }))
    }
}

impl Op for MaxPool {
    fn kind(&self) -> &'static str {
        "max_pool"
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
        Box::new(MaxPoolStep { pooling: Pooling { isa, window: self.window, input: inputs[0], output, mean: None } })
    }
}

struct MaxPoolStep {
    pooling: Pooling,
}

impl Step for MaxPoolStep {
    fn forward(&self, io: Io<'_>) {
        self.pooling.run::<Max>(io);
    }

    fn algorithm(&self) -> String {
        "window".into()
    }

    fn flops(&self) -> u64 {
        self.pooling.flops()
    }
}
