//! The product of two maps of one size: `y[p][c] = x[p][c] * g[p][c]`, or `x[p][c] * g[p]` for a gate of one channel.
//!
//! Backward: `d_x[p][c] = d_y[p][c] * g[p][c]` and `d_g[p][c] = d_y[p][c] * x[p][c]`; for a gate of one channel
//! `d_x[p][c] = d_y[p][c] * g[p]` and `d_g[p] = Σ_c d_y[p][c] * x[p][c]`. One pass makes both; of `x` and `g` only that is kept whose
//! partner's gradient is wanted.

use std::ops::Range;

use super::affine_backward::Target;
use super::lanes::{load, store};
use super::{Attributes, Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// The product of a map and a gate.
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

impl Multiply {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self))
    }
}

impl Op for Multiply {
    fn kind(&self) -> &'static str {
        "multiply"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 2)?;
        let (c, gate) = (channels[0], channels[1]);
        if gate != c && gate != 1 {
            return Err(format!("cannot multiply {c} channels by {gate}: expected {c} or 1"));
        }
        Ok(Signature { channels: c, parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, gate) = (inputs[0], inputs[1]);
        if gate.with_channels(x.c) == x { Ok(x) } else { Err(format!("cannot multiply shapes {x} and {gate}")) }
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(MultiplyStep::new(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(MultiplyTraining { step: MultiplyStep::new(context), wants: [wants.inputs[0], wants.inputs[1]] })
    }
}

struct MultiplyStep {
    isa: Isa,
    c: usize,
    /// Channels of the gate.
    gate: usize,
}

/// Elements of a task.
const CHUNK: usize = 16 * 1024;

impl MultiplyStep {
    fn new(context: &Compile<'_>) -> Self {
        Self { isa: context.isa, c: context.inputs[0].c, gate: context.inputs[1].c }
    }
}

impl Step for MultiplyStep {
    fn forward(&self, io: Io<'_>) {
        let Self { isa, c, gate } = *self;
        let points = (CHUNK / c).max(1);
        let (x, g) = (io.inputs[0], io.inputs[1]);
        io.pool.for_each_chunk(io.output, points * c, |task, y| {
            let x = &x[task * points * c..][..y.len()];
            let g = &g[task * points * gate..][..y.len() / c * gate];
            if gate == c {
                dispatch(isa, Elements { x, g, y });
            } else {
                dispatch(isa, Points { x, g, y, c });
            }
        });
    }

    fn algorithm(&self) -> String {
        "elementwise".into()
    }
}

struct MultiplyTraining {
    step: MultiplyStep,
    /// Which gradients are wanted.
    wants: [bool; 2],
}

impl TrainStep for MultiplyTraining {
    fn keeps(&self) -> Keeps {
        let inputs = [0, 1].into_iter().filter(|&input| self.wants[1 - input]).collect();
        Keeps { inputs, output: false }
    }

    fn forward(&self, io: Forward<'_>) {
        self.step.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let MultiplyStep { isa, c, gate } = self.step;
        let Backward { inputs, d_output, d_inputs, pool, .. } = io;
        let count = d_output.len() / c;
        let points = (CHUNK / c).max(1);
        let d_x = d_inputs[0].take().map(|gradient| Target::new(gradient, count * c));
        let d_g = d_inputs[1].take().map(|gradient| Target::new(gradient, count * gate));
        assert!(d_x.is_none() || inputs[1].len() == count * gate);
        assert!(d_g.is_none() || inputs[0].len() == count * c);
        pool.for_each(count.div_ceil(points), |task| {
            let points = task * points..count.min((task + 1) * points);
            let part = Products { x: inputs[0], g: inputs[1], d_y: d_output, d_x, d_g, c, points };
            if gate == c { dispatch(isa, BackwardElements(part)) } else { dispatch(isa, BackwardPoints(part)) }
        });
    }
}

/// The gradients at a range of points.
struct Products<'a> {
    x: &'a [f32],
    g: &'a [f32],
    d_y: &'a [f32],
    d_x: Option<Target<'a>>,
    d_g: Option<Target<'a>>,
    c: usize,
    points: Range<usize>,
}

/// For a gate of all channels.
struct BackwardElements<'a>(Products<'a>);

impl Kernel for BackwardElements<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Products { x, g, d_y, d_x, d_g, c, points } = self.0;
        let end = points.end * c;
        for i in (points.start * c..end).step_by(S::LANES) {
            let tail = (end - i < S::LANES).then(|| simd.first(end - i));
            // SAFETY: a whole vector of the task's points, or the rest of them, in maps of one shape; `x` and `g` are there
            // where the other's gradient is.
            unsafe {
                let d_y = load(simd, d_y.as_ptr().add(i), tail);
                if let Some(d_x) = &d_x {
                    d_x.write(simd, i, simd.mul(d_y, load(simd, g.as_ptr().add(i), tail)), tail);
                }
                if let Some(d_g) = &d_g {
                    d_g.write(simd, i, simd.mul(d_y, load(simd, x.as_ptr().add(i), tail)), tail);
                }
            }
        }
    }
}

/// For a gate of one channel.
struct BackwardPoints<'a>(Products<'a>);

impl Kernel for BackwardPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Products { x, g, d_y, d_x, d_g, c, points } = self.0;
        for point in points {
            let gate = simd.splat(if d_x.is_some() { g[point] } else { 0.0 });
            let mut sum = simd.splat(0.0);
            for channel in (0..c).step_by(S::LANES) {
                let i = point * c + channel;
                let tail = (c - channel < S::LANES).then(|| simd.first(c - channel));
                // SAFETY: a whole vector of the point, or the rest of it, in maps of one shape.
                unsafe {
                    let d_y = load(simd, d_y.as_ptr().add(i), tail);
                    if let Some(d_x) = &d_x {
                        d_x.write(simd, i, simd.mul(d_y, gate), tail);
                    }
                    if d_g.is_some() {
                        sum = simd.fma(d_y, load(simd, x.as_ptr().add(i), tail), sum);
                    }
                }
            }
            if let Some(d_g) = &d_g {
                let sum = simd.splat(simd.reduce_add(sum));
                // SAFETY: the gate of one of the task's points.
                unsafe { d_g.write(simd, point, sum, Some(simd.first(1))) };
            }
        }
    }
}

/// `y = x * g`
struct Elements<'a> {
    x: &'a [f32],
    g: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Elements<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, g, y } = self;
        for ((x, g), y) in x.chunks(S::LANES).zip(g.chunks(S::LANES)).zip(y.chunks_mut(S::LANES)) {
            let tail = (y.len() < S::LANES).then_some(simd.first(y.len()));
            // SAFETY: three whole vectors, or pieces as long as the mask.
            unsafe {
                let product = simd.mul(load(simd, x.as_ptr(), tail), load(simd, g.as_ptr(), tail));
                store(simd, y.as_mut_ptr(), product, tail);
            }
        }
    }
}

/// `y = x * g`, one `g` for the `c` channels of a point.
struct Points<'a> {
    x: &'a [f32],
    g: &'a [f32],
    y: &'a mut [f32],
    c: usize,
}

impl Kernel for Points<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, g, y, c } = self;
        for ((x, &g), y) in x.chunks_exact(c).zip(g).zip(y.chunks_exact_mut(c)) {
            let g = simd.splat(g);
            for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
                let tail = (y.len() < S::LANES).then_some(simd.first(y.len()));
                // SAFETY: two whole vectors, or pieces as long as the mask.
                unsafe { store(simd, y.as_mut_ptr(), simd.mul(load(simd, x.as_ptr(), tail), g), tail) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::trial::{CHANNELS, Trial, op};
    use super::*;

    #[test]
    fn gates_of_one_channel_and_of_all() {
        for c in CHANNELS {
            for gate in [1, c] {
                for dims in [[1, 1, 1], [1, 13, 9], [3, 5, 7], [1, 61, 67]] {
                    let shape = Shape::new(2, dims, c);
                    let trial = Trial::new(op("multiply", &[]), &[shape, shape.with_channels(gate)]);
                    let (x, g) = (trial.input(0), trial.input(1));
                    let want: Vec<f64> = x.iter().enumerate().map(|(i, x)| x * g[i / (c / gate)]).collect();
                    trial.check(&want);
                }
            }
        }
    }

    #[test]
    fn gradients() {
        for c in [1, 5, 16, 70] {
            for gate in [1, c] {
                for dims in [[1, 13, 9], [3, 5, 31]] {
                    let shape = Shape::new(2, dims, c);
                    Trial::new(op("multiply", &[]), &[shape, shape.with_channels(gate)]).check_gradients(1e-1, 1e-4);
                }
            }
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        assert!(Multiply.signature(&[6, 2]).unwrap_err().contains("6 or 1"));
        let shapes = [Shape::new(1, [1, 4, 4], 6), Shape::new(1, [1, 2, 2], 1)];
        assert!(Multiply.infer(&shapes).unwrap_err().contains("multiply"));
    }
}
