//! Training a network: forward with what the way back needs kept, backward, and the gradients in between.

use std::ops::Range;

use super::network::{Network, State, Tensor};
use super::training_exec::Tape;
use super::training_plan::{Layouts, TrainingKey, TrainingNode, TrainingPlan};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::optim::Optimizer;
use crate::parallel;
use crate::params::Params;
use crate::pieces::Place;
use crate::shape::Shape;
use crate::simd::Isa;

/// What a training step is to do.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The nodes whose values are wanted.
    pub outputs: &'a [usize],
    /// For each parameter, in the order of the table, whether its gradient is wanted. A batch norm whose weight and bias
    /// are both frozen uses its running statistics.
    pub trainable: &'a [bool],
    /// Whether gradients of the inputs are wanted.
    pub input_gradients: bool,
    /// Whether to keep fewer values for the step backward and to compute the others again: the same bits with less memory,
    /// in more time.
    pub recompute: bool,
    /// Of the random numbers of this step.
    pub seed: u64,
}

impl Training<'_> {
    fn key(&self, state: &State, inputs: Vec<Shape>) -> TrainingKey {
        let State { params, precision, .. } = state;
        let trainable = params.entries().iter().enumerate();
        let trainable =
            trainable.map(|(row, entry)| entry.trainable() && self.trainable.get(row).copied().unwrap_or(false));
        TrainingKey {
            inputs,
            outputs: self.outputs.to_vec(),
            isa: self.isa,
            threads: parallel::threads(),
            precision: *precision,
            trainable: trainable.collect(),
            input_gradients: self.input_gradients,
            recompute: self.recompute,
        }
    }
}

/// What lies between the directions, and what is kept from one step to the next.
#[derive(Default)]
pub(super) struct Trainer {
    /// Of the last step.
    plan: Option<TrainingPlan>,
    layouts: Layouts,
    arena: Buffer,
    seed: u64,
    /// Whether a step forward waits for its step backward.
    ready: bool,
    /// The edition of the parameters that the plan was made from.
    edition: u64,
    /// Whether an optimiser has changed them since.
    pub(super) stale: bool,
    pub(super) gradients: Buffer,
}

impl Network {
    /// The values of the outputs, with batch statistics; moves the running statistics, and keeps what
    /// [`Network::train_backward`] needs. Nobody [watches](super::Watch): each direction is a change of the network as a whole.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Memory`] if the network cannot work on inputs of these shapes.
    pub fn train_forward(&self, inputs: &[(Shape, &[f32])], training: &Training<'_>) -> Result<Vec<Tensor>> {
        self.check(inputs, training.outputs)?;
        let mut state = self.lock();
        state.params.allocate()?;
        let key = training.key(&state, inputs.iter().map(|(shape, _)| *shape).collect());
        let State { params, trainer, .. } = &mut *state;
        trainer.ready = false;
        let before = trainer.plan.take();
        // A larger arena that is there will do for a smaller batch, but not for a plan that was made to need less memory.
        let lend = before.as_ref().is_some_and(|plan| plan.key.recompute == key.recompute);
        let known = before.filter(|plan| plan.key == key && trainer.edition == params.edition());
        let fresh = known.is_none();
        let mut plan = match known {
            Some(plan) => plan,
            None => TrainingPlan::new(self.graph(), params, key, &mut trainer.layouts)?,
        };
        if fresh || trainer.stale {
            plan.repack(params);
        }
        (trainer.edition, trainer.stale) = (params.edition(), false);
        if trainer.arena.len() < plan.layout.arena || !lend {
            // The old one goes first: both at once may be too much.
            trainer.arena = Buffer::default();
            trainer.arena = plan.allocate()?;
        }
        let shapes = plan.layout.outputs.iter().map(|port| plan.nodes[port.node].shape);
        let mut results: Vec<Tensor> = shapes.map(|shape| (shape, vec![0.0; shape.len()])).collect();
        let mut slices: Vec<&mut [f32]> = results.iter_mut().map(|(_, values)| values.as_mut_slice()).collect();
        let values: Vec<&[f32]> = inputs.iter().map(|(_, values)| *values).collect();
        trainer.seed = training.seed;
        let tape = Tape { arena: &mut trainer.arena, seed: trainer.seed };
        plan.forward(tape, params, &values, &mut slices);
        plan.settle(&trainer.arena, params);
        trainer.ready = true;
        trainer.plan = Some(plan);
        Ok(results)
    }

    /// Goes back through the last [`Network::train_forward`]: adds to the gradients of the parameters, and returns those of
    /// the inputs if they were wanted.
    ///
    /// # Errors
    /// [`Error::State`] if there was none or the parameters have changed since, [`Error::Shape`] if a gradient has not the
    /// shape of its output.
    pub fn train_backward(&self, d_outputs: &[(Shape, &[f32])]) -> Result<Vec<Tensor>> {
        let mut state = self.lock();
        let State { params, trainer, .. } = &mut *state;
        let plan = trainer.plan.as_ref().filter(|_| trainer.ready).ok_or_else(|| Error::State {
            message: "expected a step forward in training mode before each step backward".into(),
        })?;
        if trainer.stale || trainer.edition != params.edition() {
            let message = "expected the parameters that the step forward had: they have changed since".into();
            return Err(Error::State { message });
        }
        if plan.layout.outputs.len() != d_outputs.len() {
            let message = format!("expected {} gradients, got {}", plan.layout.outputs.len(), d_outputs.len());
            return Err(Error::Shape { node: "output".into(), message });
        }
        for (port, (got, values)) in plan.layout.outputs.iter().zip(d_outputs) {
            let TrainingNode { shape, name, .. } = &plan.nodes[port.node];
            if shape != got || values.len() != shape.len() {
                let message = format!("expected the gradient of shape {shape}, got {got}");
                return Err(Error::Shape { node: name.clone(), message });
            }
        }
        if trainer.gradients.len() != params.len() {
            let gradients = Buffer::try_zeroed(params.len());
            trainer.gradients =
                gradients.map_err(|failed| Error::out_of_memory("the network", "gradients", failed.bytes))?;
        }
        let values: Vec<&[f32]> = d_outputs.iter().map(|(_, values)| *values).collect();
        let tape = Tape { arena: &mut trainer.arena, seed: trainer.seed };
        trainer.ready = false;
        plan.backward(tape, params, &mut trainer.gradients, &values);
        Ok(if plan.key.input_gradients { plan.input_gradients(&trainer.arena) } else { Vec::new() })
    }

    /// Bytes of activations, gradients of activations and scratch memory of a training step, found by planning it: the
    /// step itself need not do that again.
    ///
    /// # Errors
    /// As [`Network::train_forward`].
    pub fn training_bytes(&self, inputs: &[Shape], training: &Training<'_>) -> Result<usize> {
        let mut state = self.lock();
        state.params.allocate()?;
        let key = training.key(&state, inputs.to_vec());
        let State { params, trainer, .. } = &mut *state;
        let layout = match trainer.layouts.get(&key) {
            Some(layout) => layout,
            None => TrainingPlan::new(self.graph(), params, key, &mut trainer.layouts)?.layout,
        };
        Ok(layout.arena.saturating_mul(size_of::<f32>()))
    }

    /// A copy of the gradient of a parameter, with its shape: zeros if there is none.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown name.
    pub fn gradient(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let state = self.lock();
        let row = state.params.find(name)?;
        let range = state.params.range(row);
        let gradients = &state.trainer.gradients;
        let values = if gradients.is_empty() { vec![0.0; range.len()] } else { gradients[range].to_vec() };
        Ok((state.params.entries()[row].shape.clone(), values))
    }

    /// Moves the parameters by the gradients that are there, as `optimizer` says.
    ///
    /// # Errors
    /// [`Error::State`] if there are no gradients, and those of [`Optimizer::update`].
    pub fn update(&self, isa: Isa, optimizer: &mut Optimizer, learning_rate: f32) -> Result<()> {
        let mut state = self.lock();
        let State { params, trainer, .. } = &mut *state;
        if trainer.gradients.is_empty() {
            return Err(Error::State { message: "expected a step backward before an update".into() });
        }
        let rows = rows(params);
        let gradients = &trainer.gradients;
        let (values, threads) = (params.values_mut(), parallel::threads());
        parallel::run_with(threads, |pool| {
            optimizer.update(&rows, values, gradients, learning_rate, Place { isa, pool })
        })?;
        trainer.stale = true;
        Ok(())
    }

    /// Exchanges the parameters and their moving averages.
    ///
    /// # Errors
    /// Those of [`Optimizer::swap_average`].
    pub fn swap_average(&self, optimizer: &mut Optimizer) -> Result<()> {
        let mut state = self.lock();
        state.params.allocate()?;
        let State { params, trainer, .. } = &mut *state;
        optimizer.swap_average(&rows(params), params.values_mut())?;
        trainer.stale = true;
        Ok(())
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&self) {
        /// Elements of a task.
        const CHUNK: usize = 256 * 1024;
        let gradients = &mut self.lock().trainer.gradients;
        parallel::run(|pool| pool.for_each_chunk(gradients, CHUNK, |_, values| values.fill(0.0)));
    }
}

/// Where each parameter lies.
fn rows(params: &Params) -> Vec<Range<usize>> {
    (0..params.entries().len()).map(|row| params.range(row)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::super::network::Unwatched;
    use super::super::training_plan::{Action, Layout};
    use super::*;
    use crate::ops::{Attributes, Value};
    use crate::optim::Group;
    use crate::params::Entry;
    use crate::testing::random;

    type Row = (String, String, Vec<usize>, Attributes);

    fn node(name: &str, kind: &str, inputs: &[usize], attributes: &[(&str, Value)]) -> Row {
        let values: BTreeMap<String, Value> =
            attributes.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        (name.into(), kind.into(), inputs.to_vec(), Attributes::new(values))
    }

    fn pointwise(name: &str, input: usize, filters: i64) -> Row {
        let triple = |value: i64| Value::List(vec![Value::Int(value); 3]);
        let attributes = [
            ("filters", Value::Int(filters)),
            ("kernel", triple(1)),
            ("stride", triple(1)),
            ("padding", Value::List(vec![Value::List(vec![Value::Int(0); 2]); 3])),
            ("dilation", triple(1)),
            ("groups", Value::Int(1)),
            ("bias", Value::Bool(false)),
        ];
        node(name, "conv", &[input], &attributes)
    }

    /// Four convolutions with norms; the last node is the output.
    fn stages() -> Vec<Row> {
        let mut rows = vec![node("x", "input", &[], &[("channels", Value::Int(8))])];
        for stage in 0..4 {
            let last = rows.len() - 1;
            let norm = [("epsilon", Value::Float(1e-5)), ("momentum", Value::Float(0.9))];
            rows.push(pointwise(&format!("conv{stage}"), last, 16));
            rows.push(node(&format!("norm{stage}"), "batch_norm", &[last + 1], &norm));
            rows.push(node(
                &format!("relu{stage}"),
                "activation",
                &[last + 2],
                &[("function", Value::Text("relu".into()))],
            ));
        }
        rows
    }

    #[test]
    fn the_arena_is_as_large_as_was_said() {
        let rows = stages();
        let outputs = [rows.len() - 1];
        let network = Network::new(rows).unwrap();
        let mut sizes = Vec::new();
        // One after the other: what is there is not kept when less is asked for.
        for (recompute, batch) in [(false, 4), (true, 4), (true, 2), (false, 4)] {
            let shape = Shape::new(batch, [3, 5, 7], 8);
            let trainable = vec![true; network.parameters().len()];
            let (isa, input_gradients) = (Isa::best(), false);
            let training =
                Training { isa, outputs: &outputs, trainable: &trainable, input_gradients, recompute, seed: 0 };
            let bytes = network.training_bytes(&[shape], &training).unwrap();
            network.train_forward(&[(shape, &vec![1.0; shape.len()])], &training).unwrap();
            let state = network.lock();
            sizes.push((bytes, state.trainer.arena.len() * size_of::<f32>()));
            let again =
                state.trainer.plan.iter().flat_map(|plan| &plan.layout.backward).filter_map(|action| match action {
                    Action::Again(step) => Some(step.node),
                    Action::Backward(_) => None,
                });
            let again: Vec<usize> = again.collect();
            assert_eq!(again.is_empty(), !recompute);
            assert_eq!(again.iter().collect::<BTreeSet<_>>().len(), again.len(), "no step runs more than twice");
        }
        let [(kept, all), (less, arena), (_, larger), (back, whole)] = sizes[..] else { panic!("four plans") };
        assert_eq!((kept, less, back), (all, arena, whole));
        assert_eq!(kept, back);
        assert!(less < kept);
        // Of a smaller batch.
        assert_eq!(larger, arena);
    }

    #[test]
    fn batches_that_take_turns_are_laid_out_once_and_compute_what_each_does_alone() {
        let rows = stages();
        let outputs = [rows.len() - 1];
        let network = Network::new(rows).unwrap();
        let entries = network.parameters();
        for (seed, entry) in entries.iter().enumerate() {
            let start = random(seed as u64, entry.shape.iter().product());
            let start: Vec<f32> = start.into_iter().map(|value| if entry.trainable() { value } else { 1.0 }).collect();
            network.set(&entry.name, &entry.shape, &start).unwrap();
        }
        let groups = vec![Group { factor: 1.0, decay: 0.0 }; entries.len()];
        let options = [("convention", Value::Text("torch".into()))].map(|(name, value)| (name.into(), value));
        let mut optimizer = Optimizer::new("sgd", Attributes::new(options.into()), groups).unwrap();
        let every: Vec<bool> = entries.iter().map(Entry::trainable).collect();
        let later: Vec<bool> = entries.iter().map(|entry| entry.trainable() && !entry.name.contains("0.")).collect();
        let kinds = [(4, false, &every), (3, false, &every), (4, true, &every), (4, true, &later), (3, true, &later)];
        let mut known: Vec<Arc<Layout>> = Vec::new();
        for turn in 0..3 {
            for (number, (batch, recompute, trainable)) in kinds.into_iter().enumerate() {
                let shape = Shape::new(batch, [3, 5, 7], 8);
                let (isa, input_gradients) = (Isa::best(), false);
                let training = Training { isa, outputs: &outputs, trainable, input_gradients, recompute, seed: 0 };
                if turn == 0 {
                    // Whoever asks for the memory has the plan made.
                    network.training_bytes(&[shape], &training).unwrap();
                    let mut state = network.lock();
                    let key = training.key(&state, vec![shape]);
                    known.push(state.trainer.layouts.get(&key).unwrap());
                }
                let (x, d_y) = (random(50, shape.len()), random(51 + turn, 2 * shape.len()));
                let step = |network: &Network| {
                    network.zero_gradients();
                    let y = network.train_forward(&[(shape, &x)], &training).unwrap();
                    network.train_backward(&[(y[0].0, &d_y)]).unwrap();
                    (y, entries.iter().map(|entry| network.gradient(&entry.name).unwrap()).collect::<Vec<_>>())
                };
                let alone = Network::new(stages()).unwrap();
                for entry in &entries {
                    alone.set(&entry.name, &entry.shape, &network.get(&entry.name).unwrap().1).unwrap();
                }
                let (y, gradients) = step(&network);
                assert!(gradients.iter().zip(trainable).all(|((_, g), &trains)| g.iter().any(|&g| g != 0.0) == trains));
                assert!((y, gradients) == step(&alone), "turn {turn}, batch {batch}");
                let layout = network.lock().trainer.plan.as_ref().map(|plan| Arc::clone(&plan.layout));
                assert!(
                    layout.is_some_and(|layout| Arc::ptr_eq(&layout, &known[number])),
                    "turn {turn}, batch {batch}"
                );
                network.update(isa, &mut optimizer, 0.1).unwrap();
            }
            // Values from outside are packed anew, but lie where the others lay.
            network.set("norm1.weight", &[16], &random(60 + turn, 16)).unwrap();
        }
    }

    #[test]
    fn dropout_vanishes_at_inference_and_works_where_nothing_before_it_trains() {
        let network = Network::new([
            node("x", "input", &[], &[("channels", Value::Int(8))]),
            node("drop", "dropout", &[0], &[("rate", Value::Float(0.5))]),
            pointwise("head", 1, 3),
            node("end", "dropout", &[2], &[("rate", Value::Float(0.5))]),
        ])
        .unwrap();
        let (isa, shape) = (Isa::best(), Shape::vector(20, 8));
        let x = vec![1.0; shape.len()];
        network.set("head.weight", &[3, 8, 1, 1, 1], &[1.0; 24]).unwrap();
        let inputs = [(shape, x.as_slice())];
        let run = network.run(isa, &inputs, &[1, 3]).unwrap();
        assert_eq!(run[0].1, x);
        assert_eq!(run[1].1, vec![8.0; 60]);
        assert_eq!(network.profile(isa, &inputs, &[3], 1, &mut Unwatched).unwrap().len(), 1);

        let train = |trainable: bool, seed: u64| {
            let trainable = [trainable];
            let (input_gradients, recompute) = (false, false);
            let training = Training { isa, outputs: &[1, 3], trainable: &trainable, input_gradients, recompute, seed };
            network.train_forward(&inputs, &training).unwrap()
        };
        for trainable in [false, true] {
            let values = train(trainable, 1);
            assert_eq!(values, train(trainable, 1));
            assert_ne!(values, train(trainable, 2));
            let [(_, dropped), (_, y)] = values.as_slice() else { panic!("two outputs") };
            assert!(dropped.iter().all(|&x| x == 0.0 || x == 2.0));
            for (x, y) in dropped.chunks(8).zip(y.chunks(3)) {
                let sum: f32 = x.iter().sum();
                assert!(y.iter().all(|&y| y == 0.0 || y == 2.0 * sum));
            }
        }
    }
}
