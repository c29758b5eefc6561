//! Threads: the only file that names rayon.
//!
//! [`run`] hands its closure a [`Pool`]; inside, [`Pool::for_each`] splits work into numbered tasks. The workers
//! stand by for as long as the closure runs, spinning before they sleep, so that one `for_each` costs a microsecond or
//! two and a network of a hundred layers can afford one per layer. Which thread runs which task is never fixed: a task
//! must write memory of its own and must not depend on who runs it, which is what makes results independent of the
//! thread count.
//!
//! Threads belong to a process: a forked child finds none of its parent's threads and starts its own on first use.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::bell::Bell;
use crate::fork::Section;

/// More threads than this are refused: a typing error, not a machine.
pub const MAX_THREADS: usize = 1024;

static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that this process may use: CPU affinity and cgroup quota respected.
pub fn available_threads() -> usize {
    // Not a `OnceLock`: a fork could leave it locked.
    static AVAILABLE: AtomicUsize = AtomicUsize::new(0);
    match AVAILABLE.load(Ordering::Relaxed) {
        0 => {
            let available = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
            AVAILABLE.store(available, Ordering::Relaxed);
            available
        }
        known => known,
    }
}

/// The number of threads that [`run`] uses: those of the last [`set_threads`], else all that are available.
pub fn threads() -> usize {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => available_threads(),
        chosen => chosen,
    }
}

/// Sets the number of threads for all later runs of this process; `None` returns to the default.
///
/// # Panics
/// If the number is 0 or above [`MAX_THREADS`].
pub fn set_threads(threads: Option<usize>) {
    assert!(
        threads.is_none_or(|n| (1..=MAX_THREADS).contains(&n)),
        "threads: expected 1..={MAX_THREADS}, got {threads:?}"
    );
    CHOSEN.store(threads.unwrap_or(0), Ordering::Relaxed);
}

/// Runs `body` with a pool of [`threads`] threads, the calling one included.
pub fn run<R>(body: impl FnOnce(&Pool) -> R) -> R {
    run_with(threads(), body)
}

/// Runs `body` with a pool of exactly `threads` threads, the calling one included.
///
/// Where the system does not start so many, those that there are do the work of all: the result is the same.
/// A panic in `body` or in one of its tasks is passed on to the caller after all workers have left.
pub fn run_with<R>(threads: usize, body: impl FnOnce(&Pool) -> R) -> R {
    let pool = Pool { board: Board::new(threads.clamp(1, MAX_THREADS)), one_caller: PhantomData };
    let Some(crew) = (pool.threads() > 1).then(|| crew(pool.threads() - 1)).flatten() else {
        return body(&pool);
    };
    let outcome = crew.in_place_scope(|scope| {
        let board = &pool.board;
        scope.spawn_broadcast(move |_, context| board.stand_by(context.index() + 1));
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&pool)));
        board.dismissed.store(true, Ordering::Release);
        board.called.ring();
        outcome
    });
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The threads of one [`run`], for the thread that called it.
///
/// Another thread cannot call it at the same time, there is one place to put tasks:
///
/// ```compile_fail
/// resnet_core::parallel::run_with(2, |pool| {
///     std::thread::scope(|scope| {
///         scope.spawn(|| pool.for_each(4, |_| ()));
///     });
/// });
/// ```
pub struct Pool {
    board: Board,
    /// Not `Sync`.
    one_caller: PhantomData<Cell<()>>,
}

/// Where tasks are put, as caller and workers see it.
struct Board {
    /// One queue per thread: a thread empties its own range first (its caches know the data), then helps the others.
    queues: Vec<Queue>,
    /// `round << 32 | workers inside << 1 | open`.
    gate: AtomicU64,
    job: Mutex<Option<Job>>,
    dismissed: AtomicBool,
    /// Rings when a round begins, and when the workers are dismissed.
    called: Bell,
    /// Rings when a worker leaves a round.
    left: Bell,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[repr(align(128))]
struct Queue {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// The work of one round: `(thread, task)`.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;
type Job = &'static Work<'static>;

const OPEN: u64 = 1;
const ONE_INSIDE: u64 = 2;
const ROUND: u64 = 1 << 32;

thread_local! {
    /// Set while this thread runs a task: a `for_each` inside a task runs in place.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// How many threads were asked for, the calling one included.
    pub fn threads(&self) -> usize {
        self.board.queues.len()
    }

    /// Runs `work(task)` for every task in `0..tasks`, on all threads, and returns when all are done.
    pub fn for_each(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        self.board.distribute(tasks, &|_, task| work(task));
    }

    /// As [`Pool::for_each`] over the pieces of `data` that are `chunk` long (the last may be shorter): `work(index, piece)`.
    pub fn for_each_chunk(&self, data: &mut [f32], chunk: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        let (length, chunk) = (data.len(), chunk.max(1));
        let shared = SharedMut::new(data);
        self.board.distribute(length.div_ceil(chunk), &|_, task| {
            let start = task * chunk;
            // SAFETY: pieces of different tasks do not overlap, and every task runs once.
            work(task, unsafe { shared.slice_mut(start..length.min(start + chunk)) });
        });
    }

    /// As [`Pool::for_each`], with a piece of `scratch`, `scratch.len() / threads` long, that no other running task uses.
    pub fn for_each_scratch(&self, tasks: usize, scratch: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
        let piece = scratch.len() / self.threads();
        let shared = SharedMut::new(scratch);
        self.board.distribute(tasks, &|thread, task| {
            // SAFETY: a thread runs one task at a time, and pieces of different threads do not overlap.
            work(task, unsafe { shared.slice_mut(thread * piece..(thread + 1) * piece) });
        });
    }
}

impl Board {
    fn new(threads: usize) -> Self {
        Self {
            queues: (0..threads).map(|_| Queue { next: AtomicUsize::new(0), end: AtomicUsize::new(0) }).collect(),
            gate: AtomicU64::new(0),
            job: Mutex::new(None),
            dismissed: AtomicBool::new(false),
            called: Bell::default(),
            left: Bell::default(),
            panic: Mutex::new(None),
        }
    }

    fn distribute(&self, tasks: usize, work: &Work<'_>) {
        if self.queues.len() == 1 || tasks <= 1 || IN_TASK.get() {
            return (0..tasks).for_each(|task| work(0, task));
        }
        // SAFETY: only the lifetime changes. The job is taken back below, after the gate is closed and the last
        // worker has left, so that no worker can use it once `work` is gone; a panic of `work` does not skip that.
        let job = unsafe { std::mem::transmute::<&Work<'_>, Job>(work) };
        let threads = self.queues.len();
        for (thread, queue) in self.queues.iter().enumerate() {
            queue.next.store(thread * tasks / threads, Ordering::Relaxed);
            queue.end.store((thread + 1) * tasks / threads, Ordering::Relaxed);
        }
        *self.lock_job() = Some(job);
        let round = (self.gate.load(Ordering::Relaxed) / ROUND).wrapping_add(1) & u64::from(u32::MAX);
        self.gate.store((round * ROUND) | OPEN, Ordering::Release);
        self.called.ring();
        self.work_through(0, job);
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        self.left.wait(|| self.gate.load(Ordering::Acquire).is_multiple_of(ROUND));
        *self.lock_job() = None;
        let panic = self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// A worker's life during one `run`: wait for a round, join it, leave it, until dismissed.
    fn stand_by(&self, thread: usize) {
        let mut last_round = 0;
        loop {
            let joinable = |gate: u64| gate & OPEN != 0 && gate / ROUND != last_round;
            self.called.wait(|| self.dismissed.load(Ordering::Acquire) || joinable(self.gate.load(Ordering::Acquire)));
            if self.dismissed.load(Ordering::Acquire) {
                return;
            }
            let gate = self.gate.load(Ordering::Acquire);
            let joined = joinable(gate)
                && self.gate.compare_exchange(gate, gate + ONE_INSIDE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !joined {
                continue;
            }
            last_round = gate / ROUND;
            let job = *self.lock_job();
            if let Some(job) = job {
                self.work_through(thread, job);
            }
            self.gate.fetch_sub(ONE_INSIDE, Ordering::AcqRel);
            self.left.ring();
        }
    }

    fn work_through(&self, thread: usize, job: Job) {
        IN_TASK.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let threads = self.queues.len();
            for queue in (0..threads).map(|offset| &self.queues[(thread + offset) % threads]) {
                let end = queue.end.load(Ordering::Relaxed);
                while queue.next.load(Ordering::Relaxed) < end {
                    let task = queue.next.fetch_add(1, Ordering::Relaxed);
                    if task < end {
                        job(thread, task);
                    }
                }
            }
        }));
        IN_TASK.set(false);
        if let Err(panic) = outcome {
            *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }

    fn lock_job(&self) -> std::sync::MutexGuard<'_, Option<Job>> {
        self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A `&mut [f32]` that several tasks write to at once, each to a part of its own.
#[derive(Clone, Copy)]
pub struct SharedMut<'a> {
    start: *mut f32,
    length: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice whose users promise, in `slice_mut`, to touch disjoint parts.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    /// Shares `data` for as long as it is borrowed.
    pub fn new(data: &'a mut [f32]) -> Self {
        Self { start: data.as_mut_ptr(), length: data.len(), life: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first element.
    pub fn as_mut_ptr(&self) -> *mut f32 {
        self.start
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other live slice of this data may overlap `range`.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: in bounds by the assertion above, exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Rayon threads, started once for each (process, number of threads) and kept.
struct Crew {
    process: u32,
    /// How many were wanted. There may be fewer.
    workers: usize,
    threads: rayon::ThreadPool,
    next: Option<&'static Crew>,
}

/// A list that is only ever pushed to, without a lock: a lock held by another thread at the moment of a fork would
/// never be released in the child. Crews of the parent stay in the child's list, unused: their threads are not there.
static CREWS: AtomicPtr<Crew> = AtomicPtr::new(std::ptr::null_mut());

/// `None` where not one can be started.
fn crew(workers: usize) -> Option<&'static rayon::ThreadPool> {
    let process = std::process::id();
    let mut seen = CREWS.load(Ordering::Acquire);
    // SAFETY: the pointers come from `Box::leak` below and are never freed.
    let first = unsafe { seen.cast_const().as_ref() };
    let found =
        std::iter::successors(first, |crew| crew.next).find(|crew| crew.process == process && crew.workers == workers);
    if let Some(crew) = found {
        return Some(&crew.threads);
    }
    let threads = {
        let _section = Section::enter();
        most(workers, |workers| {
            let name = |index| format!("resnet_rs-{}", index + 1);
            rayon::ThreadPoolBuilder::new().num_threads(workers).thread_name(name).build().ok()
        })?
    };
    let new = Box::leak(Box::new(Crew { process, workers, threads, next: None }));
    loop {
        // SAFETY: as above.
        new.next = unsafe { seen.cast_const().as_ref() };
        match CREWS.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(&new.threads),
            Err(newer) => seen = newer,
        }
    }
}

/// What `start` makes of `workers`, or else of half as many, and so on: a limit is not told, only met.
fn most<T>(workers: usize, start: impl Fn(usize) -> Option<T>) -> Option<T> {
    std::iter::successors(Some(workers), |workers| Some(workers / 2)).take_while(|&workers| workers > 0).find_map(start)
}

#[cfg(test)]
mod tests;
