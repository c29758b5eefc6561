//! Both directions of an operator: what a plan for training asks of it.
//!
//! The gradient of a value `v`, written `d_v`, is that of the loss. Gradients of parameters are always added to what is
//! there; the gradient of an input is written, plus what readers of that input have contributed before.

use super::Io;
use crate::parallel::Pool;

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wants<'a> {
    /// Of each input.
    pub inputs: &'a [bool],
    /// Of each input: whether the gradient is added to what others have contributed ([`Gradient::plus`]).
    pub plus: &'a [bool],
    /// Of each parameter: frozen ones have none.
    pub parameters: &'a [bool],
}

/// What the backward direction reads besides the gradient of the output. Nothing else is kept for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Inputs, by number.
    pub inputs: Vec<usize>,
    /// The output.
    pub output: bool,
}

impl Keeps {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The output alone.
    pub fn output() -> Self {
        Self { inputs: Vec::new(), output: true }
    }

    /// These inputs, and not the output.
    pub fn inputs(inputs: &[usize]) -> Self {
        Self { inputs: inputs.to_vec(), output: false }
    }
}

/// An operator compiled for training. Its plan has it alone, so it may keep weights packed.
pub trait TrainStep: Send {
    /// What `backward` reads.
    fn keeps(&self) -> Keeps;

    /// Elements that `forward` writes for `backward` to read.
    fn saved(&self) -> usize {
        0
    }

    /// Scratch memory of the two directions in elements, for all threads together.
    fn scratch(&self) -> [usize; 2] {
        [0, 0]
    }

    /// Packs the parameters, in the order of the signature, again: they have changed.
    fn repack(&mut self, _parameters: &[&[f32]], _pool: &Pool) {}

    /// Computes the output. Every element of it is written.
    fn forward(&self, io: Forward<'_>);

    /// Computes the output once more, the same bits. `saved` is as `forward` left it.
    fn forward_again(&self, io: Forward<'_>) {
        self.forward(io);
    }

    /// Multiplications and additions of `forward`, where they are what it costs.
    fn flops(&self) -> u64 {
        0
    }

    /// Updates running statistics from what `forward` saved.
    fn settle(&self, _saved: &[f32], _parameters: &mut [&mut [f32]]) {}

    /// Computes the gradients that are wanted.
    fn backward(&self, io: Backward<'_>);
}

/// The memory and threads of a step forward.
pub struct Forward<'a> {
    /// In the order of the signature.
    pub parameters: &'a [&'a [f32]],
    /// As declared by the shapes.
    pub inputs: &'a [&'a [f32]],
    /// To be written.
    pub output: &'a mut [f32],
    /// As large as the step asked for.
    pub saved: &'a mut [f32],
    /// As large as the step asked for, with undefined content.
    pub scratch: &'a mut [f32],
    /// Different in every step of a training, the same for the same node of the same step.
    pub seed: u64,
    /// The threads.
    pub pool: &'a Pool,
}

impl<'a> Forward<'a> {
    /// What a step for inference takes.
    pub fn io(self) -> Io<'a> {
        let Self { inputs, output, scratch, pool, .. } = self;
        Io { inputs, output, in_place: false, scratch, pool }
    }
}

/// The memory and threads of a step backward.
pub struct Backward<'a> {
    /// In the order of the signature.
    pub parameters: &'a [&'a [f32]],
    /// Those that are kept; others are empty.
    pub inputs: &'a [&'a [f32]],
    /// If it is kept, else empty.
    pub output: &'a [f32],
    /// The gradient of the output.
    pub d_output: &'a [f32],
    /// As the step forward left it.
    pub saved: &'a [f32],
    /// To be written: the gradients of the inputs that want one.
    pub d_inputs: &'a mut [Option<Gradient<'a>>],
    /// To be added to: the gradients of the parameters that want one.
    pub d_parameters: &'a mut [Option<&'a mut [f32]>],
    /// As large as the step asked for, with undefined content.
    pub scratch: &'a mut [f32],
    /// That of the step forward.
    pub seed: u64,
    /// The threads.
    pub pool: &'a Pool,
}

/// The gradient of an input: `values = what the step contributes + plus`.
pub struct Gradient<'a> {
    /// To be written, every element.
    pub values: &'a mut [f32],
    /// What other readers of the input have contributed.
    pub plus: Option<&'a [f32]>,
}

impl Gradient<'_> {
    /// Writes the gradient of an input that the output does not depend on.
    pub(super) fn nothing(&mut self, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 64 * 1024;
        let plus = self.plus;
        pool.for_each_chunk(self.values, CHUNK, |task, values| match plus {
            Some(plus) => values.copy_from_slice(&plus[task * CHUNK..][..values.len()]),
            None => values.fill(0.0),
        });
    }
}
