//! The input of a network: a placeholder that is never compiled.

use super::{Attributes, Compile, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;

/// An input of so many channels.
#[derive(Debug)]
pub struct Input {
    channels: usize,
}

impl Input {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { channels: attributes.size("channels")? }))
    }
}

impl Op for Input {
    fn kind(&self) -> &'static str {
        "input"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 0)?;
        Ok(Signature { channels: self.channels, parameters: Vec::new() })
    }

    fn infer(&self, _: &[Shape]) -> Result<Shape, String> {
        Err("an input takes its shape from the caller".into())
    }

    fn compile(&self, _: &mut Compile<'_>) -> Box<dyn Step> {
        unreachable!("an input has nothing to compute")
    }

    fn compile_for_training(&self, _: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        unreachable!("the caller gives the value of an input")
    }
}
