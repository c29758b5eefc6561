//! Networks: described as data, fused for inference, planned for given input shapes, executed.
//!
//! [`Graph`] is the description and never changes. [`fuse`] rewrites it for one purpose, [`plan`] decides for given
//! input shapes where every activation lives and which algorithm every step uses, [`exec`] runs that. [`Network`]
//! holds a graph, its parameters and the plans made so far.

mod exec;
mod fuse;
mod memory;
mod network;
mod plan;
mod recent;
mod spec;
mod training;
mod training_exec;
mod training_plan;

pub use network::{Network, StepProfile, Tensor, Unwatched, Watch};
pub use plan::Plan;
pub use spec::{Graph, Node};
pub use training::Training;
