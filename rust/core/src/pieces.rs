//! Work over a [`Pool`] on pieces of any type: disjoint parts of several buffers, results in the order of the tasks.
//!
//! [`Pool::for_each_chunk`] splits one slice of floats. What is here costs an uncontended lock for each task and needs no
//! unsafe code: for tasks of some microseconds and more.

use std::sync::{Mutex, OnceLock};

use crate::parallel::Pool;
use crate::simd::Isa;

/// Elements of a task that is bound by memory: some microseconds.
pub const CHUNK: usize = 16 * 1024;

/// Where work is done.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub pool: &'a Pool,
}

/// Runs `work(index, piece)` for every piece, each moved into its task.
pub fn for_each<T: Send>(pool: &Pool, pieces: Vec<T>, work: impl Fn(usize, T) + Sync) {
    let pieces: Vec<Mutex<Option<T>>> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    pool.for_each(pieces.len(), |task| {
        let piece = pieces[task].lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(piece) = piece {
            work(task, piece);
        }
    });
}

/// `work(0), work(1), ...`, in this order whoever computed them.
pub fn map<T: Send + Sync>(pool: &Pool, tasks: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..tasks).map(|_| OnceLock::new()).collect();
    pool.for_each(tasks, |task| {
        results[task].get_or_init(|| work(task));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// The sum of `work` over `0..tasks`, added up in this order: the same bits for any number of threads.
pub fn sum(pool: &Pool, tasks: usize, work: impl Fn(usize) -> f64 + Sync) -> f64 {
    map(pool, tasks, work).into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::run_with;

    #[test]
    fn pieces_reach_their_tasks_and_results_keep_their_order() {
        for threads in [1, 2, 3] {
            run_with(threads, |pool| {
                let mut data = vec![0usize; 1000];
                let pieces: Vec<_> = data.chunks_mut(7).collect();
                for_each(pool, pieces, |index, piece| piece.fill(index));
                assert!(data.iter().enumerate().all(|(i, &value)| value == i / 7));
                assert_eq!(map(pool, 100, |task| task * task), (0..100).map(|i| i * i).collect::<Vec<_>>());
                assert_eq!(sum(pool, 4, |task| task as f64), 6.0);
                for_each(pool, Vec::<u8>::new(), |_, _| panic!("no pieces, no tasks"));
            });
        }
    }
}
