//! Channels of zeros before and after those of the input (the parameter-free shortcut of He et al. 2016, option A).

use super::concat::Columns;
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
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
        let (width, c) = (context.inputs[0].c, context.output.c);
        Box::new(PadChannelsStep { isa: context.isa, width, c, before: self.before })
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
            }
        }
        let huge = PadChannels { before: usize::MAX, after: 0 };
        assert!(huge.signature(&[1]).is_err());
    }
}
