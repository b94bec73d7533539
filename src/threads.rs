//! The one place that makes threads. They never touch PostgreSQL, never receive its signals, and are gone when the call
//! ends; meanwhile the main thread waits for them and listens for a cancel.

use crate::error::{report, throw};
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, pg_sys::panic::ErrorReport};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
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
            // What it would have returned, or its panic, is of no interest beside the ERROR.
            let _ = thread.join();
        }
    }
}

/// Runs `work` on a worker with a pool of `threads` threads of its own; `heard` is called on the main thread for every
/// message it sends. `work` must return soon after the flag is set. A panic of the worker is raised here.
pub fn run<T: Send, M: Send>(
    threads: usize,
    work: impl FnOnce(&AtomicBool, Sender<M>) -> T + Send,
    mut heard: impl FnMut(M),
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
                Ok(message) => heard(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let thread = worker.thread.take().expect("nobody else takes it");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn no_thread(e: &std::io::Error) -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        format!("could not start a thread: {e}"),
        "The limits of the server's processes, threads or address space are too low.",
    )
}

/// What a worker asks often: whether it may go on.
pub fn go_on(stop: &AtomicBool) -> coupon_model::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(coupon_model::Error::Cancelled) } else { Ok(()) }
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
