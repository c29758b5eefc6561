//! What runs on an operator's output while it is still in registers: `y = activation(norm(x) + residual)`.
//!
//! Convolutions, dense layers and the elementwise operators absorb what follows them into their epilogue, so that it
//! costs no pass over memory.

use std::any::Any;

use super::Op;
use super::activation::Activation;
use super::add::Add;
use super::batch_norm::BatchNorm;
use crate::shape::Shape;

/// Steps in the order in which they run. Each may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epilogue {
    /// `y * scale[c] + shift[c]`. Its parameters come after the operator's own.
    pub norm: Option<BatchNorm>,
    /// `y + residual`. The residual, of the output's shape, is the input after the operator's own.
    pub residual: bool,
    /// The activation function, linear if there is none.
    pub activation: Activation,
}

impl Epilogue {
    /// This epilogue followed by `next`, if that is an epilogue too.
    ///
    /// The inputs and parameters of `next` are then appended as [`Op::absorb`] says.
    pub fn absorb(&self, next: &dyn Op, _slot: usize) -> Option<Self> {
        if self.activation != Activation::Linear {
            return None;
        }
        let next: &dyn Any = next;
        if let Some(&norm) = next.downcast_ref::<BatchNorm>() {
            (self.norm.is_none() && !self.residual).then_some(Self { norm: Some(norm), ..*self })
        } else if next.is::<Add>() {
            (!self.residual).then_some(Self { residual: true, ..*self })
        } else {
            next.downcast_ref::<Activation>().map(|&activation| Self { activation, ..*self })
        }
    }

    /// As [`Epilogue::absorb`], for training: what can be undone from the output, which is kept anyway.
    pub fn absorb_for_training(&self, next: &dyn Op, slot: usize) -> Option<Self> {
        self.absorb(next, slot).filter(|epilogue| epilogue.activation.backward_takes_output())
    }

    /// Scale and shift of the norm, from all parameters of an operator: the norm's are the last four.
    pub fn scale_shift(&self, parameters: &[&[f32]]) -> Option<(Vec<f32>, Vec<f32>)> {
        let norm = self.norm?;
        Some(norm.scale_shift(&parameters[parameters.len() - BatchNorm::PARAMETERS..]))
    }

    /// The parameters that are the operator's own.
    pub fn own_parameters<'a, 'b>(&self, parameters: &'a [&'b [f32]]) -> &'a [&'b [f32]] {
        &parameters[..parameters.len() - if self.norm.is_some() { BatchNorm::PARAMETERS } else { 0 }]
    }

    /// `output`, after checking that the residual, the last of `inputs`, fits it.
    ///
    /// # Errors
    /// A residual of another shape.
    pub fn infer(&self, output: Shape, inputs: &[Shape]) -> Result<Shape, String> {
        match inputs.last() {
            Some(&residual) if self.residual && residual != output => {
                Err(format!("cannot add shapes {output} and {residual}"))
            }
            _ => Ok(output),
        }
    }
}
