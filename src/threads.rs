//! The one place that makes threads. They never touch PostgreSQL, never receive its signals, and are gone when the call
//! ends; meanwhile the main thread waits for them and listens for a cancel.

use pgrx::check_for_interrupts;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often the main thread looks for a cancel.
const TICK: Duration = Duration::from_millis(50);

/// Told to the worker: whether to stop. Stops it when dropped, so that an ERROR on the main thread ends it too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            match pool {
                Ok(pool) => pool.install(|| work(flag, sender)),
                // Without threads to be had the work is done on this one.
                Err(_) => work(flag, sender),
            }
        };
        let worker = without_signals(|| scope.spawn(body));
        let _stop = Stop(&stop);
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(message) => heard(message),
                Err(RecvTimeoutError::Timeout) => {
                    check_for_interrupts!();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
