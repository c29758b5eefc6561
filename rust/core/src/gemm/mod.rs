//! Matrix products: packed panels of B and the register tile that multiplies them; sums of outer products.

pub(crate) mod outer;
mod pack;
mod tile;

pub(crate) use pack::Panels;
pub(crate) use tile::{Ahead, GROUPS, Next, Scaling, Segment, Stages, Tile, group_sizes, run};
