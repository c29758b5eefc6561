//! Matrix products: packed panels of B, and the register tile that multiplies them.

mod pack;
mod tile;

pub(crate) use pack::Panels;
pub(crate) use tile::{GROUPS, PREFETCHED, Segment, Stages, Tile, group_sizes, run};
