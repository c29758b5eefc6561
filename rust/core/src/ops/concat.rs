//! Concatenation along channels: at every point the channels of all inputs in their order.

use super::lanes::copy;
use super::{Attributes, Compile, Io, Op, Signature, Step};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Inputs side by side.
#[derive(Clone, Copy, Debug)]
pub struct Concat;

impl Concat {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self))
    }
}

impl Op for Concat {
    fn kind(&self) -> &'static str {
        "concat"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        if channels.len() < 2 {
            return Err(format!("expected at least 2 inputs, got {}", channels.len()));
        }
        let sum = channels.iter().try_fold(0, |sum: usize, &c| sum.checked_add(c));
        let channels = sum.ok_or_else(|| format!("too many channels: {channels:?}"))?;
        Ok(Signature { channels, parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let first = inputs[0];
        if let Some(other) = inputs.iter().find(|input| input.with_channels(first.c) != first) {
            return Err(format!("cannot concatenate shapes {first} and {other}"));
        }
        let channels = inputs.iter().map(|input| input.c).try_fold(0, usize::checked_add);
        Ok(first.with_channels(channels.ok_or("too many channels")?))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let channels = context.inputs.iter().map(|input| input.c).collect();
        Box::new(ConcatStep { isa: context.isa, channels, c: context.output.c })
    }
}

struct ConcatStep {
    isa: Isa,
    /// Of every input.
    channels: Vec<usize>,
    /// Of the output.
    c: usize,
}

impl Step for ConcatStep {
    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, c, ref channels } = *self;
        let points = (CHUNK / c).max(1);
        io.pool.for_each_chunk(io.output, points * c, |task, y| {
            let mut before = 0;
            for (x, &width) in io.inputs.iter().zip(channels) {
                let x = &x[task * points * width..][..y.len() / c * width];
                dispatch(isa, Columns { x, y, width, c, before });
                before += width;
            }
        });
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

/// Points of `width` channels, copied to the channels from `before` of points of `c` channels.
pub(super) struct Columns<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
    pub(super) width: usize,
    pub(super) c: usize,
    pub(super) before: usize,
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, y, width, c, before } = self;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(c)) {
            copy(simd, x, &mut y[before..before + width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{Trial, op};
    use super::*;

    #[test]
    fn channels_follow_each_other() {
        for widths in [vec![1, 1], vec![3, 17], vec![64, 32, 16], vec![5, 1, 33, 15]] {
            for dims in [[1, 1, 1], [1, 6, 7], [4, 20, 9]] {
                let shapes: Vec<Shape> = widths.iter().map(|&c| Shape::new(2, dims, c)).collect();
                let trial = Trial::new(op("concat", &[]), &shapes);
                let mut want = Vec::new();
                for point in 0..2 * shapes[0].spatial() {
                    for (number, &c) in widths.iter().enumerate() {
                        want.extend(&trial.input(number)[point * c..(point + 1) * c]);
                    }
                }
                assert_eq!(trial.output().len(), want.len());
                trial.check(&want);
            }
        }
    }

    #[test]
    fn shapes_must_agree() {
        let concat = op("concat", &[]);
        assert!(concat.signature(&[4]).is_err());
        assert!(concat.signature(&[usize::MAX, 1]).is_err());
        let shape = Shape::new(1, [1, 4, 4], 3);
        assert!(concat.infer(&[shape, Shape { w: 5, ..shape }]).unwrap_err().contains("(1, 4, 5, 3)"));
    }
}
