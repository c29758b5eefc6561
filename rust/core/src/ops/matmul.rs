//! The product of two activations: at every point of `x` its channels times the matrix that the other input is.
//!
//! - `y[n][p][j] = Σ_c x[n][p][c] * b[n][c][j]`: the points of `b` are rows.
//! - transposed: `y[n][p][j] = Σ_c x[n][p][c] * b[n][j][c]`: the points of `b` are columns.
//!
//! Backward is two such products: `dx = dy · bᵀ`, `db = xᵀ · dy`.

use super::rows::{Rows, pack, run};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
use crate::buffer::align_up;
use crate::gemm::{Panels, Segment};
use crate::parallel::SharedMut;
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
        let (isa, x) = (context.isa, context.inputs[0]);
        let panels = Panels::new(isa, x.c, self.units);
        Box::new(MatmulStep { isa, x, panels, transpose: self.transpose, zeros: vec![0.0; panels.width()] })
    }
}

struct MatmulStep {
    isa: Isa,
    x: Shape,
    panels: Panels,
    transpose: bool,
    zeros: Vec<f32>,
}

impl Step for MatmulStep {
    fn scratch(&self) -> usize {
        self.x.n * align_up(self.panels.len())
    }

    fn forward(&self, io: Io<'_>) {
        /// Rows of a task.
        const ROWS: usize = 56;
        let Self { isa, x: shape, panels, .. } = *self;
        let units = panels.columns;
        let (x, b) = (io.inputs[0], io.inputs[1]);
        let strides = if self.transpose { [1, shape.c] } else { [units, 1] };
        io.pool.for_each_chunk(&mut io.scratch[..self.scratch()], align_up(panels.len()), |n, packed| {
            pack(panels, &b[n * shape.c * units..], strides, packed);
        });
        let packed = &io.scratch[..self.scratch()];
        let blocks = shape.spatial().div_ceil(ROWS);
        let segments = [Segment { a: 0, b: 0, length: shape.c }];
        let y = SharedMut::new(io.output);
        io.pool.for_each(shape.n * blocks * panels.count(), |task| {
            let (index, task) = (task % panels.count(), task / panels.count());
            let (n, first) = (task / blocks, task % blocks * ROWS);
            let rows = ROWS.min(shape.spatial() - first);
            let point = n * shape.spatial() + first;
            let panel = panels.panel(index);
            let x = &x[point * shape.c..(point + rows) * shape.c];
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
                start: Some(&self.zeros),
            };
            // SAFETY: the rows are in `x` and in the output, where tasks write different rows or columns.
            unsafe { run(isa, rows) };
        });
    }

    fn algorithm(&self) -> String {
        "packed".into()
    }

    fn flops(&self) -> u64 {
        2 * (self.x.len() * self.panels.columns) as u64
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
    fn shapes_must_fit() {
        let product = Matmul { units: 5, transpose: true };
        assert!(product.signature(&[8, 7]).unwrap_err().contains("8 channels"));
        let shapes = [Shape::new(1, [1, 2, 2], 8), Shape::new(1, [1, 1, 6], 8)];
        assert!(product.infer(&shapes).unwrap_err().contains("5 points"));
    }
}
