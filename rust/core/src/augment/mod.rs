//! Augmentation of images and volumes, with their masks, in one pass over the output.
//!
//! Stages are drawn for each sample from (seed, index of the sample, number of the stage), see [`crate::rng`]: neither the
//! number of threads nor the way samples are put into batches changes a bit, and adding a stage does not change what the
//! stages before it draw. A drawn list of stages becomes a [`recipe`](recipe::Recipe): for a point of the output, where it
//! comes from (stage after stage, backwards), and what becomes of its intensity.

mod elastic;
mod recipe;
mod stage;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::ops::Attributes;
use crate::parallel::Pool;
use crate::pieces;
use crate::shape::Dims3;

use recipe::{Origin, Recipe};
use stage::Stage;

/// A list of stages, in the order in which they are applied.
#[derive(Clone, Debug)]
pub struct Augmentation {
    stages: Vec<Stage>,
}

/// Samples of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Depth (1 for images), height, width.
    pub dims: Dims3,
    /// Channels of the images.
    pub channels: usize,
}

impl Augmentation {
    /// The stages, each with its `kind`. `rank` is 2 for images and 3 for volumes: axes and sizes are given for as many.
    ///
    /// # Errors
    /// [`Error::Graph`] for a kind or an option that is unknown or out of range.
    pub fn new(rank: usize, stages: Vec<Attributes>) -> Result<Self> {
        let parse = |(number, options)| {
            Stage::parse(rank, options)
                .map_err(|message| Error::Graph { node: format!("augmentation stage {number}"), message })
        };
        Ok(Self { stages: stages.into_iter().enumerate().map(parse).collect::<Result<_>>()? })
    }

    /// Draws what happens to the samples of these indices.
    ///
    /// # Errors
    /// [`Error::Shape`] if a stage cannot be applied to samples of that size, [`Error::Memory`].
    pub fn draw(&self, samples: Samples, seed: u64, indices: &[u64], pool: &Pool) -> Result<Drawn> {
        let mut dims = samples.dims;
        for (number, stage) in self.stages.iter().enumerate() {
            dims = stage
                .output(dims, samples.channels)
                .map_err(|message| Error::Shape { node: format!("augmentation stage {number}"), message })?;
        }
        let recipes = indices.iter().map(|&index| Recipe::draw(&self.stages, samples, seed, index, pool));
        let recipes = recipes.collect::<std::result::Result<_, _>>();
        let recipes =
            recipes.map_err(|failed| Error::out_of_memory("augmentation", "displacement fields", failed.bytes))?;
        Ok(Drawn { samples, dims, recipes })
    }
}

/// What happens to some samples.
pub struct Drawn {
    samples: Samples,
    dims: Dims3,
    recipes: Vec<Recipe>,
}

/// What masks are made of.
pub trait Label: Copy + Send + Sync {
    /// The label as this type, or the nearest to it.
    fn from_label(label: i64) -> Self;
}

impl Label for u8 {
    fn from_label(label: i64) -> Self {
        label.clamp(0, u8::MAX.into()) as u8
    }
}

impl Label for i32 {
    fn from_label(label: i64) -> Self {
        label.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }
}

impl Label for i64 {
    fn from_label(label: i64) -> Self {
        label
    }
}

impl Label for f32 {
    fn from_label(label: i64) -> Self {
        label as f32
    }
}

impl Drawn {
    /// The size of the output.
    pub fn dims(&self) -> Dims3 {
        self.dims
    }

    /// The images (n, d, h, w, c), augmented. Where a displacement leads between points, their values are interpolated
    /// linearly.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many values as the samples have, [`Error::Memory`].
    pub fn images<T: Copy + Sync + Into<f32>>(&self, images: &[T], pool: &Pool) -> Result<Vec<f32>> {
        let channels = self.samples.channels;
        let size = self.samples.dims.iter().product::<usize>() * channels;
        self.warp([images.len(), channels], 0.0, pool, |n, point, values: &mut [f32]| {
            let recipe = &self.recipes[n];
            match recipe.origin(point, true) {
                Origin::Hole(hole) => values.copy_from_slice(recipe.hole(hole)),
                Origin::Point(position) => {
                    recipe.sample(&images[n * size..][..size], position, values);
                    recipe.adjust(values);
                }
            }
        })
    }

    /// The masks (n, d, h, w, channels), moved as the images are: every point takes the nearest label.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many values as the samples have, [`Error::Memory`].
    pub fn masks<T: Label>(&self, masks: &[T], channels: usize, pool: &Pool) -> Result<Vec<T>> {
        let size = self.samples.dims.iter().product::<usize>() * channels;
        self.warp([masks.len(), channels], T::from_label(0), pool, |n, point, values: &mut [T]| {
            let recipe = &self.recipes[n];
            match recipe.origin(point, false) {
                Origin::Hole(hole) => values.fill(T::from_label(recipe.hole_label(hole))),
                Origin::Point(position) => {
                    let start = recipe.nearest(position) * channels;
                    values.copy_from_slice(&masks[n * size + start..][..channels]);
                }
            }
        })
    }

    /// Fills an output of this many `channels`: `point(sample, position, values)` for each of its points.
    fn warp<T: Copy + Send>(
        &self,
        [length, channels]: [usize; 2],
        start: T,
        pool: &Pool,
        point: impl Fn(usize, [f32; 3], &mut [T]) + Sync,
    ) -> Result<Vec<T>> {
        /// Elements of a task.
        const CHUNK: usize = 4 * 1024;
        let expected = self.recipes.len() * self.samples.dims.iter().product::<usize>() * channels;
        if length != expected {
            let message = format!("expected {expected} values for {} indices, got {length}", self.recipes.len());
            return Err(Error::Shape { node: "augmentation".into(), message });
        }
        let [d, h, w] = self.dims;
        let total = self.recipes.len() * d * h * w * channels;
        let mut output = Vec::new();
        let bytes = total.saturating_mul(size_of::<T>());
        output
            .try_reserve_exact(total)
            .map_err(|_| Error::out_of_memory("augmentation", "the augmented samples", bytes))?;
        output.resize(total, start);
        if total == 0 {
            return Ok(output);
        }
        let rows = (CHUNK / (w * channels)).max(1);
        let chunks = output.chunks_mut(rows * w * channels).collect();
        pieces::for_each(pool, chunks, |chunk, values| {
            for (i, row) in values.chunks_exact_mut(w * channels).enumerate() {
                let row_number = chunk * rows + i;
                let (n, z, y) = (row_number / (d * h), row_number / h % d, row_number % h);
                for (x, values) in row.chunks_exact_mut(channels).enumerate() {
                    point(n, [z, y, x].map(|position| position as f32), values);
                }
            }
        });
        Ok(output)
    }
}
