//! The product of two maps of one size: `y[p][c] = x[p][c] * g[p][c]`, or `x[p][c] * g[p]` for a gate of one channel.
//!
//! Backward: `dx = dy * g`; `dg = dy * x`, summed over the channels where the gate has one.

use super::lanes::{load, store};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
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
        Box::new(MultiplyStep { isa: context.isa, c: context.inputs[0].c, gate: context.inputs[1].c })
    }
}

struct MultiplyStep {
    isa: Isa,
    c: usize,
    /// Channels of the gate.
    gate: usize,
}

impl Step for MultiplyStep {
    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
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
    fn other_shapes_are_refused() {
        assert!(Multiply.signature(&[6, 2]).unwrap_err().contains("6 or 1"));
        let shapes = [Shape::new(1, [1, 4, 4], 6), Shape::new(1, [1, 2, 2], 1)];
        assert!(Multiply.infer(&shapes).unwrap_err().contains("multiply"));
    }
}
