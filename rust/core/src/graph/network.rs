//! A network ready to run: graph, parameters, and the plans made so far.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

use super::plan::{Key, PacksOfNodes, Plan, activation_bytes};
use super::recent::Recent;
use super::spec::Graph;
use super::training::Trainer;
use crate::buffer::{Buffer, zeros};
use crate::error::{Error, Result};
use crate::fork::Section;
use crate::ops::{Attributes, Precision};
use crate::parallel;
use crate::params::{Entry, Params};
use crate::shape::Shape;
use crate::simd::Isa;

/// A graph with its parameters. All methods may be called from several threads at once.
pub struct Network {
    graph: Graph,
    state: Mutex<State>,
    /// Arenas that no run is using now. Plans share them: only the largest that ran at once are ever kept.
    arenas: Mutex<Vec<Buffer>>,
}

pub(super) struct State {
    pub(super) params: Params,
    /// The version of the parameters that packs and plans were made from.
    version: u64,
    packs: PacksOfNodes,
    pub(super) precision: Precision,
    plans: Recent<Key, Arc<Plan>>,
    pub(super) trainer: Trainer,
}

/// How one step did.
pub struct StepProfile {
    /// The node, or the first of those that were fused.
    pub name: String,
    /// The algorithm.
    pub algorithm: String,
    /// The shape of the output.
    pub output: Shape,
    /// Multiplications and additions of the direct algorithm.
    pub flops: u64,
    /// The least of the repetitions.
    pub seconds: f64,
}

/// Sees a run coming and going on, and may end it. It is called by the thread that runs, which holds no lock then.
pub trait Watch {
    /// Whether to start, now that it is known that `bytes` will be allocated.
    fn allocate(&mut self, bytes: usize) -> bool;

    /// Whether to go on with the next step.
    fn go_on(&mut self) -> bool;
}

/// Lets everything happen.
pub struct Unwatched;

impl Watch for Unwatched {
    fn allocate(&mut self, _bytes: usize) -> bool {
        true
    }

    fn go_on(&mut self) -> bool {
        true
    }
}

/// Values with their shapes.
pub type Tensor = (Shape, Vec<f32>);

impl Network {
    /// A network of these nodes: name, operator, inputs, attributes.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn new(nodes: impl IntoIterator<Item = (String, String, Vec<usize>, Attributes)>) -> Result<Self> {
        let (mut graph, mut params) = (Graph::default(), Params::default());
        for (name, kind, inputs, attributes) in nodes {
            graph.push(&name, &kind, &inputs, attributes, &mut params)?;
        }
        let state = State {
            params,
            version: 0,
            packs: PacksOfNodes::new(),
            precision: Precision::Default,
            plans: Recent::default(),
            trainer: Trainer::default(),
        };
        Ok(Self { graph, state: Mutex::new(state), arenas: Mutex::default() })
    }

    /// The description.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Sets how exact the next runs must be. Plans made for another precision are kept.
    pub fn set_precision(&self, precision: Precision) {
        self.lock().precision = precision;
    }

    /// The table of parameters.
    pub fn parameters(&self) -> Vec<Entry> {
        self.lock().params.entries().to_vec()
    }

    /// A copy of a parameter, with its shape.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown name, [`Error::Memory`].
    pub fn get(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let mut state = self.lock();
        let number = state.params.find(name)?;
        state.params.allocate()?;
        let value = state.params.value(number);
        let mut copy = zeros(value.len()).map_err(|failed| Error::out_of_memory(name, "a copy", failed.bytes))?;
        copy.copy_from_slice(value);
        Ok((state.params.entries()[number].shape.clone(), copy))
    }

    /// Sets a parameter. Plans made so far are made anew when they are next needed.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown name or another shape, [`Error::Memory`].
    pub fn set(&self, name: &str, shape: &[usize], value: &[f32]) -> Result<()> {
        let mut state = self.lock();
        let number = state.params.find(name)?;
        state.params.set(number, shape, value)
    }

    /// Sets a part of a parameter, whatever its shape: its elements from `first` on. Otherwise as [`Network::set`].
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown name or too many values, [`Error::Memory`].
    pub fn write(&self, name: &str, first: usize, values: &[f32]) -> Result<()> {
        let mut state = self.lock();
        let number = state.params.find(name)?;
        state.params.write(number, first, values)
    }

    /// The values of the nodes `outputs` for these inputs.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Memory`] if the network cannot work on inputs of these shapes.
    pub fn run(&self, isa: Isa, inputs: &[(Shape, &[f32])], outputs: &[usize]) -> Result<Vec<Tensor>> {
        self.run_watched(isa, inputs, outputs, &mut Unwatched)
    }

    /// As [`Network::run`], but `watch` may end it.
    ///
    /// # Errors
    /// [`Error::Stopped`] by `watch`, and as [`Network::run`].
    pub fn run_watched(
        &self,
        isa: Isa,
        inputs: &[(Shape, &[f32])],
        outputs: &[usize],
        watch: &mut dyn Watch,
    ) -> Result<Vec<Tensor>> {
        let plan = self.plan(isa, inputs, outputs)?;
        let lengths = plan.outputs.iter().map(|(_, shape)| shape.len());
        let arena = self.arena(&plan, lengths.fold(0, usize::saturating_add), watch)?;
        let results = plan.outputs.iter().map(|&(_, shape)| {
            let values = zeros(shape.len()).map_err(|failed| {
                Error::out_of_memory(plan.largest(), &format!("a result of shape {shape}"), failed.bytes)
            });
            Ok((shape, values?))
        });
        let mut results = results.collect::<Result<Vec<Tensor>>>()?;
        let mut slices: Vec<&mut [f32]> = results.iter_mut().map(|(_, values)| values.as_mut_slice()).collect();
        self.lend(arena, |arena| plan.forward(arena, &values_of(inputs), &mut slices, watch))?;
        Ok(results)
    }

    /// How long each step takes.
    ///
    /// # Errors
    /// As [`Network::run_watched`].
    pub fn profile(
        &self,
        isa: Isa,
        inputs: &[(Shape, &[f32])],
        outputs: &[usize],
        repeats: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<StepProfile>> {
        let plan = self.plan(isa, inputs, outputs)?;
        let arena = self.arena(&plan, 0, watch)?;
        let seconds = self.lend(arena, |arena| plan.time(arena, &values_of(inputs), repeats.max(1), watch))?;
        let steps = plan.steps.iter().zip(seconds);
        Ok(steps
            .map(|(planned, seconds)| StepProfile {
                name: planned.name.clone(),
                algorithm: planned.step.algorithm(),
                output: planned.shape,
                flops: planned.step.flops(),
                seconds,
            })
            .collect())
    }

    /// Bytes of activations that a run would need at its widest, found without planning it.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn activation_bytes(&self, inputs: &[Shape], outputs: &[usize]) -> Result<usize> {
        self.graph.infer(inputs)?;
        self.check_outputs(outputs)?;
        activation_bytes(&self.graph, inputs, outputs)
    }

    fn plan(&self, isa: Isa, inputs: &[(Shape, &[f32])], outputs: &[usize]) -> Result<Arc<Plan>> {
        self.check(inputs, outputs)?;
        let shapes = inputs.iter().map(|(shape, _)| *shape).collect();
        let (outputs, threads) = (outputs.to_vec(), parallel::threads());

        let mut state = self.lock();
        let key = Key { inputs: shapes, outputs, isa, threads, precision: state.precision };
        state.params.allocate()?;
        let State { params, version, packs, plans, .. } = &mut *state;
        if *version != params.version() {
            *version = params.version();
            packs.clear();
            plans.clear();
        }
        if let Some(plan) = plans.get(&key) {
            return Ok(plan);
        }
        // Packs of a plan that failed half way are lost with it: their memory was not finished.
        let mut grown = std::mem::take(packs);
        let plan = Plan::new(&self.graph, params, &mut grown, &key)?;
        *packs = grown;
        Ok(plans.keep(key, Arc::new(plan)))
    }

    /// Checks that the values have their shapes and that there are such nodes.
    pub(super) fn check(&self, inputs: &[(Shape, &[f32])], outputs: &[usize]) -> Result<()> {
        self.check_outputs(outputs)?;
        for (&node, (shape, values)) in self.graph.inputs().iter().zip(inputs) {
            if shape.checked_len() != Some(values.len()) {
                let message = format!("expected the values of shape {shape}, got {}", values.len());
                return Err(Error::Shape { node: self.graph.nodes()[node].name.clone(), message });
            }
        }
        Ok(())
    }

    fn check_outputs(&self, outputs: &[usize]) -> Result<()> {
        match outputs.iter().find(|&&output| output >= self.graph.nodes().len()) {
            Some(output) => {
                Err(Error::Graph { node: format!("node {output}"), message: "there is no node of that number".into() })
            }
            None => Ok(()),
        }
    }

    /// An arena for a run: one that is free and large enough, or a new one.
    ///
    /// `watch` hears how many bytes will be allocated, for it and for `results` elements of results.
    fn arena(&self, plan: &Plan, results: usize, watch: &mut dyn Watch) -> Result<Buffer> {
        let free = lock(&self.arenas).pop().filter(|arena| arena.len() >= plan.arena);
        let needed = results.saturating_add(if free.is_some() { 0 } else { plan.arena });
        if !watch.allocate(needed.saturating_mul(size_of::<f32>())) {
            lock(&self.arenas).extend(free);
            return Err(Error::Stopped { node: plan.largest().into() });
        }
        let new = || {
            let what = "activations and scratch memory";
            Buffer::try_zeroed(plan.arena).map_err(|failed| Error::out_of_memory(plan.largest(), what, failed.bytes))
        };
        free.map_or_else(new, Ok)
    }

    /// Lends an arena, and keeps it for the next run.
    fn lend<R>(&self, mut arena: Buffer, body: impl FnOnce(&mut Buffer) -> R) -> R {
        let result = body(&mut arena);
        lock(&self.arenas).push(arena);
        result
    }

    pub(super) fn lock(&self) -> Locked<'_, State> {
        lock(&self.state)
    }
}

/// What a lock protects. A fork waits until it is released, see [`fork`](crate::fork).
pub(super) struct Locked<'a, T> {
    // Dropped in this order.
    guard: MutexGuard<'a, T>,
    _section: Section,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A panic elsewhere does not make the data behind a lock wrong: every change is completed before it can be seen.
fn lock<T>(mutex: &Mutex<T>) -> Locked<'_, T> {
    let section = Section::enter();
    Locked { guard: mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), _section: section }
}

fn values_of<'a>(inputs: &[(Shape, &'a [f32])]) -> Vec<&'a [f32]> {
    inputs.iter().map(|(_, values)| *values).collect()
}
