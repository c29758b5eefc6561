//! Kernels, graph planner and executor of resnet_rs. No Python, no NumPy: all of it runs under `cargo test`.
//!
//! Layers, each of which knows only those after it:
//!
//! 1. [`graph`]: a network as data, fused for inference, planned for given input shapes, executed.
//! 2. [`ops`]: the operators, one file each, both directions. Beside them what training needs outside the graph:
//!    [`losses`], [`optim`], [`augment`].
//! 3. `gemm`, [`window`]: the register tile and packed panels; the geometry that convolution and pooling share.
//! 4. [`simd`], [`parallel`], [`pieces`], [`peak`], [`fork`], [`buffer`], [`shape`], [`rng`]: vectors, threads, processes, memory,
//!    the layout of activations, random numbers.
//!
//! Letters, everywhere: n batch, c input channels, k output channels, g groups; d h w depth, height, width of the
//! input, od oh ow of the output, kd kh kw of the kernel; `d_` before a name is a gradient.

mod bell;
mod gemm;
#[cfg(test)]
mod testing;

pub mod augment;
pub mod buffer;
pub mod error;
pub mod fork;
pub mod graph;
pub mod losses;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod params;
pub mod peak;
pub mod pieces;
pub mod rng;
pub mod shape;
pub mod simd;
pub mod window;

pub use error::{Error, Result};
pub use shape::Shape;
