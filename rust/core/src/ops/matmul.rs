//! The product of two activations: at every point of `x` its channels times the matrix that the other input is.
//!
//! - `y[n][p][j] = Σ_c x[n][p][c] * b[n][c][j]`: the points of `b` are rows.
//! - transposed: `y[n][p][j] = Σ_c x[n][p][c] * b[n][j][c]`: the points of `b` are columns.
//!
//! Backward, for every sample: `d_x = d_y bᵀ`, which is the product of the other order, and `d_b = xᵀ d_y`, or `d_yᵀ x` for
//! the transposed one, a sum of outer products over the points.

use super::outer_sum::OuterSum;
use super::rows::{Rows, pack, run};
use super::{
    Attributes, Backward, Compile, Forward, Gradient, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs,
};
use crate::buffer::align_up;
use crate::gemm::{Panels, Segment};
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::Isa;

/// A product of activations.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// Channels of the output.
    units: usize,
    transpose: bool,
}

impl Matmul {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { units: attributes.size("units")?, transpose: attributes.flag("transpose")? }))
    }
}

impl Op for Matmul {
    fn kind(&self) -> &'static str {
        "matmul"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 2)?;
        let (what, got, want) = match self.transpose {
            true => ("the channels of the first input", channels[1], channels[0]),
            false => ("units", channels[1], self.units),
        };
        if got != want {
            return Err(format!("expected the second input to have {want} channels, {what}, got {got}"));
        }
        Ok(Signature { channels: self.units, parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, b) = (inputs[0], inputs[1]);
        let (what, want) = if self.transpose { ("units", self.units) } else { ("channels", x.c) };
        if b.n != x.n || b.spatial() != want {
            return Err(format!(
                "cannot multiply {x} by {b}: expected a batch of {} and {want} points, the {what}",
                x.n
            ));
        }
        Ok(x.with_channels(self.units))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(MatmulStep::new(context.isa, context.inputs[0], self.units, self.transpose))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let Compile { isa, inputs, output, .. } = *context;
        Box::new(MatmulTraining {
            product: MatmulStep::new(isa, inputs[0], self.units, self.transpose),
            d_x: MatmulStep::new(isa, output, inputs[0].c, !self.transpose),
            wants: [wants.inputs[0], wants.inputs[1]],
        })
    }
}

struct MatmulStep {
    isa: Isa,
    x: Shape,
    panels: Panels,
    transpose: bool,
    zeros: Vec<f32>,
}

impl MatmulStep {
    fn new(isa: Isa, x: Shape, units: usize, transpose: bool) -> Self {
        let panels = Panels::new(isa, x.c, units);
        Self { isa, x, panels, transpose, zeros: vec![0.0; panels.width()] }
    }

    fn run(&self, [x, b]: [&[f32]; 2], y: Gradient<'_>, scratch: &mut [f32], pool: &Pool) {
        /// Rows of a task.
        const ROWS: usize = 56;
        let Self { isa, x: shape, panels, .. } = *self;
        let units = panels.columns;
        let strides = if self.transpose { [1, shape.c] } else { [units, 1] };
        let packed = &mut scratch[..self.scratch()];
        pool.for_each_chunk(packed, align_up(panels.len()), |n, packed| {
            pack(panels, &b[n * shape.c * units..], strides, packed);
        });
        let packed = &*packed;
        let blocks = shape.spatial().div_ceil(ROWS);
        let segments = [Segment { a: 0, b: 0, length: shape.c }];
        let (y, plus) = (SharedMut::new(y.values), y.plus);
        pool.for_each(shape.n * blocks * panels.count(), |task| {
            let (index, task) = (task % panels.count(), task / panels.count());
            let (n, first) = (task / blocks, task % blocks * ROWS);
            let rows = ROWS.min(shape.spatial() - first);
            let point = n * shape.spatial() + first;
            let panel = panels.panel(index);
            let x = &x[point * shape.c..(point + rows) * shape.c];
            if let Some(plus) = plus {
                for row in point..point + rows {
                    let at = row * units + panel.column;
                    // SAFETY: these columns of these rows belong to this task.
                    unsafe { y.slice_mut(at..at + panel.columns) }.copy_from_slice(&plus[at..at + panel.columns]);
                }
            }
            let rows = Rows {
                a: x.as_ptr(),
                a_stride: shape.c,
                rows,
                segments: &segments,
                b: &packed[n * align_up(panels.len()) + panel.start..],
                vectors: panel.vectors,
                columns: panel.columns,
                out: y.as_mut_ptr().wrapping_add(point * units + panel.column),
                out_stride: units,
                start: plus.is_none().then_some(&self.zeros),
            };
            // SAFETY: the rows are in `x` and in the output, where tasks write different rows or columns.
            unsafe { run(isa, rows) };
        });
    }
}

impl Step for MatmulStep {
    fn scratch(&self) -> usize {
        self.x.n * align_up(self.panels.len())
    }

    fn forward(&self, io: Io<'_>) {
        let y = Gradient { values: io.output, plus: None };
        self.run([io.inputs[0], io.inputs[1]], y, io.scratch, io.pool);
    }

    fn algorithm(&self) -> String {
        "packed".into()
    }

    fn flops(&self) -> u64 {
        2 * (self.x.len() * self.panels.columns) as u64
    }
}

/// Both directions.
struct MatmulTraining {
    product: MatmulStep,
    d_x: MatmulStep,
    /// Of each input, whether its gradient is wanted.
    wants: [bool; 2],
}

impl TrainStep for MatmulTraining {
    fn keeps(&self) -> Keeps {
        // The gradient of one takes the other.
        let inputs = [0, 1].into_iter().filter(|&input| self.wants[1 - input]);
        Keeps { inputs: inputs.collect(), output: false }
    }

    fn scratch(&self) -> [usize; 2] {
        [self.product.scratch(), self.d_x.scratch()]
    }

    fn flops(&self) -> u64 {
        self.product.flops()
    }

    fn forward(&self, io: Forward<'_>) {
        self.product.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { inputs, d_output, d_inputs, scratch, pool, .. } = io;
        let MatmulStep { isa, x: shape, panels, transpose, .. } = self.product;
        if let Some(d_x) = d_inputs[0].take() {
            self.d_x.run([d_output, inputs[1]], d_x, scratch, pool);
        }
        if let Some(Gradient { values, plus }) = d_inputs[1].take() {
            if let Some(plus) = plus {
                values.copy_from_slice(plus);
            }
            let units = panels.columns;
            for (n, d_b) in values.chunks_exact_mut(shape.c * units).enumerate() {
                let x = &inputs[0][n * shape.sample()..][..shape.sample()];
                let d_y = &d_output[n * shape.spatial() * units..][..shape.spatial() * units];
                let sum = match transpose {
                    true => OuterSum { isa, a: d_y, b: x, rows: units, columns: shape.c },
                    false => OuterSum { isa, a: x, b: d_y, rows: shape.c, columns: units },
                };
                sum.run(d_b, plus.is_some(), pool);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{Trial, op};
    use super::super::{Op, Value};
    use super::*;

    #[test]
    fn both_orders() {
        for (dims, c, units) in [([1, 1, 1], 1, 1), ([1, 3, 5], 7, 33), ([2, 9, 7], 64, 16), ([1, 4, 4], 17, 100)] {
            for transpose in [false, true] {
                let attributes = [("units", Value::Int(units as i64)), ("transpose", Value::Bool(transpose))];
                let x = Shape::new(2, dims, c);
                let b = if transpose { Shape::new(2, [1, 1, units], c) } else { Shape::new(2, [1, 1, c], units) };
                let trial = Trial::new(op("matmul", &attributes), &[x, b]);
                let (values, matrix) = (trial.input(0), trial.input(1));
                let mut want = Vec::new();
                for (row, values) in values.chunks(c).enumerate() {
                    let matrix = &matrix[row / x.spatial() * c * units..];
                    let at = |i: usize, j: usize| if transpose { matrix[j * c + i] } else { matrix[i * units + j] };
                    want.extend((0..units).map(|j| (0..c).map(|i| values[i] * at(i, j)).sum::<f64>()));
                }
                trial.check(&want);
            }
        }
    }

    #[test]
    fn gradients() {
        for (dims, c, units) in [([1, 1, 1], 1, 1), ([1, 3, 5], 7, 33), ([2, 9, 7], 64, 16), ([1, 4, 4], 17, 100)] {
            for transpose in [false, true] {
                let attributes = [("units", Value::Int(units as i64)), ("transpose", Value::Bool(transpose))];
                let x = Shape::new(2, dims, c);
                let b = if transpose { Shape::new(2, [1, 1, units], c) } else { Shape::new(2, [1, 1, c], units) };
                Trial::new(op("matmul", &attributes), &[x, b]).check_gradients(1e-1, 1e-4);
            }
        }
    }

    #[test]
    fn shapes_must_fit() {
        let product = Matmul { units: 5, transpose: true };
        assert!(product.signature(&[8, 7]).unwrap_err().contains("8 channels"));
        let shapes = [Shape::new(1, [1, 2, 2], 8), Shape::new(1, [1, 1, 6], 8)];
        assert!(product.infer(&shapes).unwrap_err().contains("5 points"));
    }
}
