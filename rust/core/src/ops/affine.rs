//! The elementwise pass `y = activation(x * scale + shift + residual)`: one read of each input, one write.
//!
//! Batch norm, sums, activations and rescaling are this pass with parts left out, alone or fused with each other;
//! squeeze-and-excitation ends with it. Scale and shift depend on the channel, the scale possibly on the sample too.

use super::activation::Activation;
use super::affine_backward::BackwardPass;
use super::epilogue::Epilogue;
use super::lanes::{load, store};
use super::{Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::buffer::LINE;
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// An epilogue applied to an input: what elementwise operators become when they are fused or compiled.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// What is computed.
    pub epilogue: Epilogue,
}

impl Op for Affine {
    fn kind(&self) -> &'static str {
        "affine"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1 + usize::from(self.epilogue.residual))?;
        let norm = self.epilogue.norm.map(|norm| norm.signature(&channels[..1])).transpose()?;
        Ok(norm.unwrap_or(Signature { channels: channels[0], parameters: Vec::new() }))
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.epilogue.infer(inputs[0], inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.epilogue.absorb(next, slot)?;
        Some(Box::new(Self { epilogue }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let Epilogue { residual, activation, .. } = self.epilogue;
        let (scale, shift) = self.epilogue.scale_shift(context.parameters).unwrap_or((vec![1.0], vec![0.0]));
        Box::new(AffineStep::new(context.isa, &scale, &shift, residual, activation))
    }

    fn absorb_for_training(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.epilogue.absorb_for_training(next, slot)?;
        Some(Box::new(Self { epilogue }))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let Epilogue { norm, residual, activation } = self.epilogue;
        match norm {
            Some(norm) => norm.training(context, wants, residual, activation),
            None => Box::new(AffineTraining { isa: context.isa, residual, activation }),
        }
    }
}

/// A sum or an activation, or both, in both directions.
struct AffineTraining {
    isa: Isa,
    residual: bool,
    activation: Activation,
}

impl TrainStep for AffineTraining {
    fn keeps(&self) -> Keeps {
        match self.activation {
            Activation::Linear => Keeps::nothing(),
            activation if activation.backward_takes_output() => Keeps::output(),
            _ => Keeps::inputs(&[0]),
        }
    }

    fn forward(&self, io: Forward<'_>) {
        AffineStep::new(self.isa, &[1.0], &[0.0], self.residual, self.activation).forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let Self { isa, residual, activation } = *self;
        let Backward { inputs, output, d_output, d_inputs, pool, .. } = io;
        let value = if activation.backward_takes_output() { output } else { inputs[0] };
        let factor = vec![1.0; repeats(1)];
        let pass =
            BackwardPass { isa, d_y: d_output, activation, value, factor: &factor, row: factor.len(), norm: None };
        let d_residual = if residual { d_inputs[1].take() } else { None };
        pass.run(d_inputs[0].take(), d_residual, pool);
    }
}

/// The pass with coefficients that are known when it is compiled.
pub(super) struct AffineStep {
    isa: Isa,
    scale: Vec<f32>,
    shift: Vec<f32>,
    residual: bool,
    activation: Activation,
}

impl AffineStep {
    /// Coefficients of every channel, or one for all channels.
    pub(super) fn new(isa: Isa, scale: &[f32], shift: &[f32], residual: bool, activation: Activation) -> Self {
        let repeats = repeats(scale.len());
        Self { isa, scale: scale.repeat(repeats), shift: shift.repeat(repeats), residual, activation }
    }
}

impl Step for AffineStep {
    fn forward(&self, io: Io<'_>) {
        let residual = self.residual.then(|| io.inputs[1]);
        let Self { isa, activation, .. } = *self;
        Pass { isa, x: io.inputs[0], residual, scale: &self.scale, shift: &self.shift, activation }
            .run(io.output, io.pool);
    }

    fn algorithm(&self) -> String {
        "elementwise".into()
    }
}

/// How often coefficients of `c` channels are repeated for [`Pass`]: so that rows are long, and end on a whole vector
/// where few channels would make its tail expensive.
pub(super) fn repeats(c: usize) -> usize {
    const ROW: usize = 256;
    if c >= ROW / 4 && !c.is_multiple_of(LINE) {
        return 1;
    }
    let whole = LINE >> c.trailing_zeros().min(LINE.trailing_zeros());
    whole * ROW.div_ceil(c * whole)
}

/// The arguments of the pass. A row is as long as `shift`; `scale` holds one row for all samples, or one for each.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) isa: Isa,
    pub(super) x: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) activation: Activation,
}

impl Pass<'_> {
    /// Writes all of `y`, which is as long as `x`.
    pub(super) fn run(self, y: &mut [f32], pool: &Pool) {
        /// Elements of a task: some microseconds, and a multiple of most rows.
        const CHUNK: usize = 16 * 1024;
        assert!(self.x.len() == y.len() && self.residual.is_none_or(|residual| residual.len() == y.len()));
        let row = self.shift.len();
        let samples = self.scale.len() / row;
        assert!(samples * row == self.scale.len() && y.len().is_multiple_of(samples));
        let sample = y.len() / samples;
        let chunk = (CHUNK / row).max(1) * row;
        let chunks = sample.div_ceil(chunk);
        let y = SharedMut::new(y);
        pool.for_each(samples * chunks, |task| {
            let (n, start) = (task / chunks, task % chunks * chunk);
            let range = n * sample + start..n * sample + sample.min(start + chunk);
            let part = Self {
                x: &self.x[range.clone()],
                residual: self.residual.map(|residual| &residual[range.clone()]),
                scale: &self.scale[n * row..(n + 1) * row],
                ..self
            };
            // SAFETY: the ranges of different tasks do not overlap.
            dispatch(self.isa, Rows { pass: part, y: unsafe { y.slice_mut(range) } });
        });
    }

    /// # Safety
    /// The vector, or the lanes of the tail, must be inside `x`, `y` and the residual at `i`, and inside `scale` and
    /// `shift` at `channel`.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, simd: S, y: &mut [f32], [i, channel]: [usize; 2], tail: Option<S::M>) {
        // SAFETY: by this function's contract.
        unsafe {
            let x = load(simd, self.x.as_ptr().add(i), tail);
            let scale = load(simd, self.scale.as_ptr().add(channel), tail);
            let mut sum = simd.fma(x, scale, load(simd, self.shift.as_ptr().add(channel), tail));
            if let Some(residual) = self.residual {
                sum = simd.add(sum, load(simd, residual.as_ptr().add(i), tail));
            }
            store(simd, y.as_mut_ptr().add(i), self.activation.apply(simd, sum), tail);
        }
    }
}

struct Rows<'a> {
    pass: Pass<'a>,
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { pass, y } = self;
        let row = pass.shift.len();
        for start in (0..y.len()).step_by(row) {
            let length = row.min(y.len() - start);
            let vectors = length / S::LANES;
            for vector in 0..vectors {
                let channel = vector * S::LANES;
                // SAFETY: `channel + LANES <= length`, which is inside the row and inside `y`, `x` and the residual.
                unsafe { pass.vector(simd, y, [start + channel, channel], None) };
            }
            let channel = vectors * S::LANES;
            if channel < length {
                // SAFETY: the mask ends where the row does.
                unsafe { pass.vector(simd, y, [start + channel, channel], Some(simd.first(length - channel))) };
            }
        }
    }
}
