//! The one place that makes threads. They never touch PostgreSQL, never receive its signals, and are gone when the call
//! ends; meanwhile the main thread waits for them and listens for a cancel.

use crate::pg::error::{report, throw};
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, pg_sys::panic::ErrorReport};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

/// How often the main thread looks for a cancel.
const TICK: Duration = Duration::from_millis(50);

/// The worker and whether it is to stop. Dropped by an ERROR on the main thread too: then it stops the worker and waits
/// until it is gone.
struct Worker<'s, T> {
    stop: &'s AtomicBool,
    thread: Option<ScopedJoinHandle<'s, T>>,
}

impl<T> Drop for Worker<'_, T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The ERROR is raised, not the worker's result or panic.
            let _ = thread.join();
        }
    }
}

/// Runs `work` on a worker with a pool of `threads` threads of its own; `on_progress` is called on the main thread for every
/// message it sends. `work` must return soon after the flag is set. A panic of the worker is raised here.
pub fn run<T: Send, M: Send>(
    threads: usize,
    work: impl FnOnce(&AtomicBool, Sender<M>) -> T + Send,
    mut on_progress: impl FnMut(M),
) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let flag = &stop;
        let body = move || {
            let mut work = Some(move || work(flag, sender));
            let mut run = || work.take().expect("it is run once")();
            // A scoped pool's threads are gone when it returns; those of any other end some time after it.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            // Without threads to be had the work is done on this one.
            pool.build_scoped(|thread| thread.run(), |pool| pool.install(&mut run)).unwrap_or_else(|_| run())
        };
        let thread = without_signals(|| std::thread::Builder::new().spawn_scoped(scope, body));
        let thread = thread.unwrap_or_else(|e| throw(no_thread(&e)));
        let mut worker = Worker { stop: flag, thread: Some(thread) };
        loop {
            check_for_interrupts!();
            match receiver.recv_timeout(TICK) {
                Ok(message) => on_progress(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let thread = worker.thread.take().expect("nobody else takes it");
        let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Training lets glibc keep freed memory; the backend, which may live for days, does not.
        // SAFETY: no preconditions.
        unsafe { libc::malloc_trim(0) };
        result
    })
}

/// Jobs under way on workers, and what they answer, in the order of sending.
pub struct Pipeline<'a, J, R> {
    work: &'a (dyn Fn(J, &AtomicBool) -> R + Sync),
    stop: &'a AtomicBool,
    jobs: Sender<(J, Sender<R>)>,
    answers: VecDeque<Receiver<R>>,
    workers: usize,
}

impl<J, R> Pipeline<'_, J, R> {
    /// Hands a job over and takes the answers that are due; waits where the workers have enough to do.
    pub fn send(&mut self, job: J, on_progress: &mut dyn FnMut(R)) {
        if self.workers == 0 {
            return on_progress((self.work)(job, self.stop));
        }
        let (answer, due) = channel();
        self.jobs.send((job, answer)).unwrap_or_else(|_| panic!("the workers are gone"));
        self.answers.push_back(due);
        self.drain(2 * self.workers, on_progress);
    }

    /// Waits for all that was sent.
    pub fn finish(&mut self, on_progress: &mut dyn FnMut(R)) {
        self.drain(0, on_progress);
    }

    /// Takes answers until at most `left` jobs are under way, and whatever else is ready.
    fn drain(&mut self, left: usize, on_progress: &mut dyn FnMut(R)) {
        while let Some(due) = self.answers.front() {
            let wait = if self.answers.len() > left { TICK } else { Duration::ZERO };
            match due.recv_timeout(wait) {
                Ok(answer) => {
                    self.answers.pop_front();
                    on_progress(answer);
                }
                Err(RecvTimeoutError::Timeout) if self.answers.len() <= left => return,
                Err(RecvTimeoutError::Timeout) => {
                    check_for_interrupts!();
                }
                Err(RecvTimeoutError::Disconnected) => panic!("a worker failed"),
            }
        }
    }
}

/// Stops the workers when dropped, so that an ERROR on the main thread ends them too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `feed` on this thread, the main one, and its jobs on `threads` workers. `work` must return soon after
/// the flag is set, whatever it returns then. Without threads to be had the work is done on this one.
pub fn pipeline<J: Send, R: Send>(
    threads: usize,
    work: impl Fn(J, &AtomicBool) -> R + Sync,
    feed: impl FnOnce(&mut Pipeline<J, R>),
) {
    let stop = AtomicBool::new(false);
    let (jobs, queue) = channel::<(J, Sender<R>)>();
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        let (work, flag, queue) = (&work, &stop, &queue);
        let body = move || {
            // A worker holds the lock while it waits for a job; the others wait for the lock.
            let next = || queue.lock().ok()?.recv().ok();
            while let Some((job, answer)) = next() {
                if !flag.load(Ordering::Relaxed) {
                    // Nobody listens any more where the main thread has failed.
                    let _ = answer.send(work(job, flag));
                }
            }
        };
        let start = |_: &usize| without_signals(|| std::thread::Builder::new().spawn_scoped(scope, body)).is_ok();
        let workers = (0..threads).take_while(start).count();
        let _stop = Stop(flag);
        feed(&mut Pipeline { work, stop: flag, jobs, answers: VecDeque::new(), workers });
    });
}

fn no_thread(e: &std::io::Error) -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        format!("could not start a thread: {e}"),
        "The limits of the server's processes, threads or address space are too low.",
    )
}

/// What a worker asks often: whether it may go on.
pub fn go_on(stop: &AtomicBool) -> coupon_base::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(coupon_base::Error::Cancelled) } else { Ok(()) }
}

/// Threads inherit the signal mask of the one that makes them: PostgreSQL's handlers must run on the main thread only.
fn without_signals<T>(make: impl FnOnce() -> T) -> T {
    // SAFETY: sigset_t is plain data that sigfillset initialises; the old mask is put back before returning.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let made = make();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        made
    }
}
