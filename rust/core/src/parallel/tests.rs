//! Threads: every task once, whoever runs it and in whatever order.

use super::*;

#[test]
fn as_many_threads_as_can_be_had() {
    let limit = |limit: usize| move |workers: usize| (workers <= limit).then_some(workers);
    assert_eq!(most(1023, limit(usize::MAX)), Some(1023));
    assert_eq!(most(1023, limit(100)), Some(63));
    assert_eq!(most(1023, limit(1)), Some(1));
    assert_eq!(most(1023, limit(0)), None);
}

#[test]
fn every_task_runs_once_for_any_number_of_threads_and_tasks() {
    for threads in [1, 2, 3, 8] {
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            run_with(threads, |pool| {
                for _ in 0..20 {
                    pool.for_each(tasks, |task| {
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 20), "{threads} threads, {tasks} tasks");
        }
    }
}

#[test]
fn a_panic_of_a_task_reaches_the_caller_and_the_threads_survive() {
    for _ in 0..20 {
        let outcome = catch_unwind(|| run_with(2, |pool| pool.for_each(64, |task| assert!(task != 40, "task forty"))));
        assert!(outcome.is_err());
    }
    run_with(2, |pool| pool.for_each(8, |_| ()));
}

#[test]
fn chunks_and_scratch_are_disjoint() {
    let mut data = vec![0.0; 1003];
    let mut scratch = vec![0.0; 3 * 16];
    run_with(3, |pool| {
        pool.for_each_chunk(&mut data, 10, |index, piece| piece.fill(index as f32));
        pool.for_each_scratch(100, &mut scratch, |task, piece| {
            piece.fill(task as f32);
            std::thread::yield_now();
            assert!(piece.iter().all(|&value| value == task as f32));
        });
    });
    assert!(data.iter().enumerate().all(|(i, &value)| value == (i / 10) as f32));
}

#[test]
fn two_callers_at_once_both_finish() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let sum = AtomicUsize::new(0);
                run_with(2, |pool| {
                    for _ in 0..200 {
                        pool.for_each(16, |task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                    }
                });
                assert_eq!(sum.into_inner(), 200 * 120);
            });
        }
    });
}
