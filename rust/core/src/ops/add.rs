//! The sum of two activations of one shape: `y = a + b`.

use super::affine::Affine;
use super::epilogue::Epilogue;
use super::{Attributes, Compile, Op, Signature, Step, expect_inputs};
use crate::shape::Shape;

/// The sum of two inputs.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Add {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self))
    }

    fn alone() -> Affine {
        Affine { epilogue: Epilogue { residual: true, ..Epilogue::default() } }
    }
}

impl Op for Add {
    fn kind(&self) -> &'static str {
        "add"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 2)?;
        if channels[0] != channels[1] {
            return Err(format!("cannot add {} channels and {} channels", channels[0], channels[1]));
        }
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Self::alone().infer(inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Self::alone().absorb(next, slot)
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Self::alone().compile(context)
    }
}
