//! Matrix products: packed panels of B, and the register tile that multiplies them.

mod pack;
mod tile;

pub(crate) use pack::{Panel, Panels};
pub(crate) use tile::{group_sizes, run, Segment, Stages, Tile, GROUPS};
