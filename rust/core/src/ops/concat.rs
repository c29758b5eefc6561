//! Concatenation along channels: at every point the channels of all inputs in their order.
//!
//! `y[p] = (x0[p], x1[p] ...)` for every point `p`. Backward: the gradient of an input is its channels of `d_y`,
//! `d_x[p][c] = d_y[p][before + c]`, where `before` are the channels of the inputs before it. Nothing is kept.

use std::any::Any;

use super::conv::ConvOfMaps;
use super::lanes::{copy, copy_plus};
use super::{Attributes, Backward, Compile, Forward, Gradient, Io, Keeps, Op, Signature, Step, TrainStep, Wants};
use crate::parallel::Pool;
use crate::shape::{Dims3, Shape};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Inputs side by side.
#[derive(Clone, Copy, Debug)]
pub struct Concat {
    /// How often each cell of the first input is repeated along every axis: what an upsampling before it did.
    scale: Dims3,
}

impl Concat {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { scale: [1; 3] }))
    }

    /// `next`, if that is a concatenation, with its first input enlarged.
    pub(super) fn enlarging(next: &dyn Op, scale: Dims3) -> Option<Self> {
        let next: &dyn Any = next;
        next.downcast_ref::<Self>().filter(|concat| concat.scale == [1; 3]).map(|_| Self { scale })
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
        let dims = inputs[0].dims();
        let first = inputs[0].with_dims(std::array::from_fn(|axis| dims[axis] * self.scale[axis]));
        if let Some(other) = inputs[1..].iter().find(|input| input.with_channels(first.c) != first) {
            return Err(format!("cannot concatenate shapes {first} and {other}"));
        }
        let channels = inputs.iter().map(|input| input.c).try_fold(0, usize::checked_add);
        Ok(first.with_channels(channels.ok_or("too many channels")?))
    }

    fn absorb(&self, next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        // Without an enlarged map among them, one copy costs less than convolutions of their own for all maps.
        let conv = (self.scale != [1; 3]).then(|| ConvOfMaps::new(next, self.scale))??;
        Some(Box::new(conv))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(ConcatStep::new(context, self.scale))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(ConcatStep::new(context, self.scale))
    }
}

struct ConcatStep {
    isa: Isa,
    scale: Dims3,
    /// Of every input.
    channels: Vec<usize>,
    output: Shape,
}

impl ConcatStep {
    fn new(context: &Compile<'_>, scale: Dims3) -> Self {
        let channels = context.inputs.iter().map(|input| input.c).collect();
        Self { isa: context.isa, scale, channels, output: context.output }
    }
}

impl Step for ConcatStep {
    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, scale, output, ref channels } = *self;
        let Shape { d, h, w, c, .. } = output;
        // An enlarged map is read row by row.
        let points = if scale == [1; 3] { (CHUNK / c).max(1) } else { w };
        io.pool.for_each_chunk(io.output, points * c, |task, y| {
            let mut before = 0;
            for (number, (x, &width)) in io.inputs.iter().zip(channels).enumerate() {
                let (mut start, mut times) = (task * points, 1);
                if number == 0 && scale != [1; 3] {
                    let (plane, row) = (task / h % d / scale[0], task % h / scale[1]);
                    start = ((task / (d * h) * (d / scale[0]) + plane) * (h / scale[1]) + row) * (w / scale[2]);
                    times = scale[2];
                }
                let x = &x[start * width..][..y.len() / c / times * width];
                dispatch(isa, Columns { x, y, width, c, before, times });
                before += width;
            }
        });
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

impl TrainStep for ConcatStep {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        Step::forward(self, io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let mut before = 0;
        for (d_x, &width) in io.d_inputs.iter_mut().zip(&self.channels) {
            if let Some(d_x) = d_x.take() {
                Part { isa: self.isa, c: self.output.c, before, width }.gradient(io.d_output, d_x, io.pool);
            }
            before += width;
        }
    }
}

/// The channels of an output that come from one input: `width` of `c`, from `before` on.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) isa: Isa,
    pub(super) c: usize,
    pub(super) before: usize,
    pub(super) width: usize,
}

impl Part {
    /// Writes the gradient of that input.
    pub(super) fn gradient(self, d_y: &[f32], d_x: Gradient<'_>, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, c, width, .. } = self;
        let points = (CHUNK / width).max(1);
        let Gradient { values, plus } = d_x;
        pool.for_each_chunk(values, points * width, |task, d_x| {
            let d_y = &d_y[task * points * c..][..d_x.len() / width * c];
            let plus = plus.map(|plus| &plus[task * points * width..][..d_x.len()]);
            dispatch(isa, PartColumns { part: self, d_y, plus, d_x });
        });
    }
}

/// [`Columns`] in reverse.
struct PartColumns<'a> {
    part: Part,
    d_y: &'a [f32],
    plus: Option<&'a [f32]>,
    d_x: &'a mut [f32],
}

impl Kernel for PartColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { part: Part { c, before, width, .. }, d_y, plus, d_x } = self;
        for (point, (d_y, d_x)) in d_y.chunks_exact(c).zip(d_x.chunks_exact_mut(width)).enumerate() {
            let plus = plus.map(|plus| &plus[point * width..][..width]);
            copy_plus(simd, &d_y[before..before + width], plus, d_x);
        }
    }
}

/// Points of `width` channels, copied `times` over to the channels from `before` of points of `c` channels.
pub(super) struct Columns<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
    pub(super) width: usize,
    pub(super) c: usize,
    pub(super) before: usize,
    pub(super) times: usize,
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, y, width, c, before, times } = self;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(times * c)) {
            for y in y.chunks_exact_mut(c) {
                copy(simd, x, &mut y[before..before + width]);
            }
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
    fn gradients() {
        for widths in [vec![1, 1], vec![3, 17], vec![64, 32, 16], vec![5, 1, 33, 15]] {
            for dims in [[1, 9, 7], [4, 20, 9]] {
                let shapes: Vec<Shape> = widths.iter().map(|&c| Shape::new(2, dims, c)).collect();
                Trial::new(op("concat", &[]), &shapes).check_gradients(1e-1, 1e-4);
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
