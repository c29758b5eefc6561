//! Matrix products: packed panels of B, and the register tile that multiplies them.

mod pack;
mod tile;

pub(crate) use pack::Panels;
pub(crate) use tile::{Ahead, GROUPS, Segment, Stages, Tile, group_sizes, run};
