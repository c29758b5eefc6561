//! Channels of zeros before and after those of the input (the parameter-free shortcut of He et al. 2016, option A).
//!
//! Backward: `d_x[p][c] = d_y[p][before + c]` for every point `p`; the other channels of `d_y` go nowhere.

use super::concat::{Columns, Part};
use super::{Attributes, Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::simd::{Isa, dispatch};

/// Zeros on both sides of the channels.
#[derive(Clone, Copy, Debug)]
pub struct PadChannels {
    before: usize,
    after: usize,
}

impl PadChannels {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { before: attributes.count("before")?, after: attributes.count("after")? }))
    }

    fn padded(&self, channels: usize) -> Result<usize, String> {
        let sum = channels.checked_add(self.before).and_then(|sum| sum.checked_add(self.after));
        sum.ok_or_else(|| format!("too many channels: {channels} + {} + {}", self.before, self.after))
    }

    fn step(&self, context: &Compile<'_>) -> PadChannelsStep {
        let (width, c) = (context.inputs[0].c, context.output.c);
        PadChannelsStep { isa: context.isa, width, c, before: self.before }
    }
}

impl Op for PadChannels {
    fn kind(&self) -> &'static str {
        "pad_channels"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: self.padded(channels[0])?, parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0].with_channels(self.padded(inputs[0].c)?))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(self.step(context))
    }
}

struct PadChannelsStep {
    isa: Isa,
    /// Channels of the input.
    width: usize,
    /// Channels of the output.
    c: usize,
    before: usize,
}

impl Step for PadChannelsStep {
    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, width, c, before } = *self;
        let points = (CHUNK / c).max(1);
        let x = io.inputs[0];
        io.pool.for_each_chunk(io.output, points * c, |task, y| {
            y.fill(0.0);
            let x = &x[task * points * width..][..y.len() / c * width];
            dispatch(isa, Columns { x, y, width, c, before, times: 1 });
        });
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

impl TrainStep for PadChannelsStep {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        Step::forward(self, io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let Self { isa, width, c, before } = *self;
        if let Some(d_x) = io.d_inputs[0].take() {
            Part { isa, c, before, width }.gradient(io.d_output, d_x, io.pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{CHANNELS, Trial, op};
    use super::*;

    #[test]
    fn zeros_on_both_sides() {
        for c in CHANNELS {
            for (before, after) in [(0, 0), (8, 8), (0, 3), (17, 1)] {
                let shape = Shape::new(2, [3, 5, 7], c);
                let counts = [("before", Value::Int(before)), ("after", Value::Int(after))];
                let trial = Trial::new(op("pad_channels", &counts), &[shape]);
                let zeros = |count: i64| std::iter::repeat_n(0.0, count as usize);
                let x = trial.input(0);
                let row = |x: &[f64]| zeros(before).chain(x.to_vec()).chain(zeros(after)).collect::<Vec<_>>();
                trial.check(&x.chunks(c).flat_map(row).collect::<Vec<_>>());
                trial.check_gradients(1e-1, 1e-4);
            }
        }
        let huge = PadChannels { before: usize::MAX, after: 0 };
        assert!(huge.signature(&[1]).is_err());
    }
}
