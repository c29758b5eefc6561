//! Packed weights: made once for each layout, shared by plans, and gathered into one stretch of memory.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, OnceLock};

use crate::buffer::{Buffer, align_up};

/// Packed weights of a node by layout: plans for different input shapes share them.
pub type Packs = HashMap<String, Packed>;

/// Weights in the layout of a kernel. They can be read once they have been gathered.
#[derive(Clone)]
pub struct Packed(Arc<Weights>);

struct Weights {
    /// Until they are gathered.
    own: Mutex<Option<Buffer>>,
    place: OnceLock<(Arc<Buffer>, Range<usize>)>,
}

impl Packed {
    pub(super) fn new(values: Buffer) -> Self {
        Self(Arc::new(Weights { own: Mutex::new(Some(values)), place: OnceLock::new() }))
    }

    /// Weights of one step alone, to be packed again whenever they change.
    pub(super) fn own(length: usize) -> Self {
        let place = OnceLock::from((Arc::new(Buffer::zeroed(length)), 0..length));
        Self(Arc::new(Weights { own: Mutex::new(None), place }))
    }

    /// The memory, to pack again.
    ///
    /// # Panics
    /// If another step has the same weights.
    pub(super) fn refill(&mut self) -> &mut [f32] {
        let (buffer, range) =
            Arc::get_mut(&mut self.0).and_then(|weights| weights.place.get_mut()).expect("weights of one step alone");
        &mut Arc::get_mut(buffer).expect("weights of one step alone")[range.clone()]
    }
}

/// Who owns the weights that are packed for a step.
pub enum Packing<'a> {
    /// Plans for inference share them, and they are packed at once.
    Shared {
        /// Packed weights of this node made before, for other shapes.
        known: &'a mut Packs,
        /// Those made now, to be gathered when all nodes have been compiled.
        made: &'a mut Vec<Packed>,
    },
    /// The step itself, which packs them whenever it is told that they have changed.
    Own,
}

impl Deref for Packed {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let (buffer, range) = self.0.place.get().expect("weights are read before they are gathered");
        &buffer[range.clone()]
    }
}

/// Moves weights that were just packed into one buffer, in this order.
///
/// A run reads them in the order of its steps: one stretch of huge pages, which the processor prefetches across layers.
/// Each is freed when it has been moved, so that they are not in memory twice.
pub fn gather(packed: &[Packed]) {
    let take = |packed: &Packed| packed.0.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    let length = |packed: &Packed| {
        packed
            .0
            .own
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .as_ref()
            .map_or(0, |own| align_up(own.len()))
    };
    let mut all = Buffer::zeroed(packed.iter().map(length).sum());
    let mut ranges = Vec::with_capacity(packed.len());
    let mut start = 0;
    for weights in packed {
        let own = take(weights).unwrap_or_default();
        let range = start..start + own.len();
        all[range.clone()].copy_from_slice(&own);
        start = align_up(range.end);
        ranges.push(range);
    }
    let all = Arc::new(all);
    for (weights, range) in packed.iter().zip(ranges) {
        weights.0.place.get_or_init(|| (Arc::clone(&all), range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_weights_are_where_they_belong() {
        let buffers = [3usize, 0, 16, 40].map(|length| Buffer::copy_of(&vec![length as f32; length]));
        let packed = buffers.map(Packed::new);
        gather(&packed);
        for (weights, length) in packed.iter().zip([3usize, 0, 16, 40]) {
            assert_eq!(**weights, vec![length as f32; length]);
            assert_eq!(weights.as_ptr().align_offset(crate::buffer::ALIGNMENT), 0);
        }
    }
}
