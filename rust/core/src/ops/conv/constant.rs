//! The outputs of a transposed convolution that no tap sees: `y = activation(bias + residual)`.

use super::blocking::Work;
use crate::ops::activation::Activation;
use crate::ops::{Io, Packed, Step};
use crate::parallel::SharedMut;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// The compiled piece.
pub(super) struct Constant {
    isa: Isa,
    work: Work,
    bias: Packed,
    residual: bool,
    activation: Activation,
}

impl Constant {
    pub(super) fn new(isa: Isa, work: Work, bias: Packed, residual: bool, activation: Activation) -> Self {
        Self { isa, work, bias, residual, activation }
    }

    /// Takes another bias.
    pub(super) fn repack(&mut self, bias: &[f32]) {
        self.bias.refill().copy_from_slice(bias);
    }
}

impl Step for Constant {
    fn forward(&self, io: Io<'_>) {
        let Work { output, grid, .. } = self.work;
        let residual = self.residual.then(|| io.inputs[1]);
        let y = SharedMut::new(io.output);
        io.pool.for_each(output.n * output.d * output.h, |row| {
            let (oh, od, n) = (row % output.h, row / output.h % output.d, row / (output.h * output.d));
            for ow in 0..output.w {
                let start = grid.at([n, od, oh, ow]);
                // SAFETY: the pixels of different rows, and of other pieces, do not overlap.
                let y = unsafe { y.slice_mut(start..start + output.c) };
                y.copy_from_slice(&self.bias);
                if let Some(residual) = residual {
                    y.iter_mut().zip(&residual[start..]).for_each(|(y, residual)| *y += residual);
                }
                dispatch(self.isa, Apply { activation: self.activation, y });
            }
        });
    }

    fn algorithm(&self) -> String {
        "constant".into()
    }
}

struct Apply<'a> {
    activation: Activation,
    y: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.activation.apply_slice(simd, self.y);
    }
}
