//! Global pooling: the mean or the maximum over all points, one vector of channels for each sample.

use super::fold::{Max, Slabs, Sum};
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
use crate::shape::Shape;

/// The mean or the maximum over all points.
#[derive(Clone, Copy, Debug)]
pub enum GlobalPool {
    /// The mean.
    Avg,
    /// The maximum; NaN where there is one.
    Max,
}

impl GlobalPool {
    pub(super) fn parse_avg(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Avg))
    }

    pub(super) fn parse_max(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Max))
    }
}

impl Op for GlobalPool {
    fn kind(&self) -> &'static str {
        match self {
            Self::Avg => "global_avg_pool",
            Self::Max => "global_max_pool",
        }
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::vector(inputs[0].n, inputs[0].c))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let shape = context.inputs[0];
        Box::new(GlobalPoolStep { pool: *self, shape, slabs: Slabs::new(context.isa, shape) })
    }
}

struct GlobalPoolStep {
    pool: GlobalPool,
    shape: Shape,
    slabs: Slabs,
}

impl Step for GlobalPoolStep {
    fn scratch(&self) -> usize {
        self.slabs.scratch()
    }

    fn forward(&self, io: Io<'_>) {
        let x = io.inputs[0];
        match self.pool {
            GlobalPool::Avg => {
                self.slabs.fold::<Sum>(x, io.output, io.scratch, io.pool, 1.0 / self.shape.spatial() as f32);
            }
            GlobalPool::Max => self.slabs.fold::<Max>(x, io.output, io.scratch, io.pool, 1.0),
        }
    }

    fn algorithm(&self) -> String {
        "slabs".into()
    }

    fn flops(&self) -> u64 {
        self.shape.len() as u64
    }
}
