//! The threads that compute: one pool for all models, sized once.
//!
//! Whoever has work opens a region: a closure that every thread of the pool may enter and that shares out its own work
//! (see [`share`]). The caller works too. A thread that comes late finds the region closed and goes on waiting, and the
//! caller waits only for those that entered: a thread that the system has put aside costs its help and not the step.
//! Threads spin between the regions of a step, which follow within microseconds, and park when nothing comes.
//!
//! Models take turns. A step holds the pool ([`Pool::install`]) and offers it to the next in line at every region once
//! it has had its share of time, so two busy models alternate in milliseconds and never run on more threads than the
//! pool has. A panic within a region ends the step that opened it and leaves nothing behind. A step that never ends keeps
//! its turn and the threads that are in its region: after a time the others leave them to it, and the pool gets new ones.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread spins for the next region before it parks.
const SPIN: Duration = Duration::from_micros(40);
/// How long a step may keep the pool while another waits for it.
const QUANTUM: Duration = Duration::from_millis(2);
/// How long to wait for a turn before the one who has it is taken to be lost. No region takes a tenth of it.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// It is waited for in so many pieces, so that a process which the system stops meanwhile loses one of them and not all.
const NUM_LOOKS: u32 = 10;
/// How long a caller spins for those who are still within its region, before it looks only now and then.
const REGION_PATIENCE: Duration = Duration::from_millis(100);

/// A region is open: threads may enter.
const OPEN: u64 = 1 << 31;
/// Threads within, in the low bits.
const ENTERED: u64 = OPEN - 1;

/// Threads for the kernels of all models.
pub(crate) struct Pool {
    num_threads: usize,
    lost_after: Duration,
    /// The threads of the moment: others take their place if a step never gives them back.
    crew: Mutex<Arc<Crew>>,
}

/// Threads that compute together, and whose turn it is to have them.
struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Turn,
}

/// What callers and workers share. Alone on its cache lines, since everybody spins on it.
#[repr(align(128))]
struct Shared {
    /// Number of the region in the high half, whether it is open, and how many workers are within.
    region: AtomicU64,
    /// The closure of the open region.
    body: UnsafeCell<Body>,
    /// For each worker, whether it has parked.
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    /// The first panic of the region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A region's closure, without its lifetime.
type Body = Option<*const (dyn Fn() + Sync)>;

// SAFETY: `body` is written only by the one who holds the turn, while no region is open and nobody is within one;
// workers read it after entering. What it points to is `Sync`, and outlives the region because `region` does not
// return while somebody is within.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

thread_local! {
    /// The threads whose turn this one has, outside of their regions.
    static INSTALLED: Cell<Option<*const Crew>> = const { Cell::new(None) };
}

impl Pool {
    /// A pool that computes on that many threads, the caller's among them. Fails if the system refuses one.
    pub(crate) fn new(num_threads: usize) -> io::Result<Self> {
        Self::with_patience(num_threads, LOST_AFTER)
    }

    /// The same, that takes a step for lost which keeps its turn for so long while others wait.
    fn with_patience(num_threads: usize, lost_after: Duration) -> io::Result<Self> {
        let num_threads = num_threads.max(1);
        let crew = Mutex::new(Arc::new(Crew::new(num_threads, lost_after)?));
        Ok(Self { num_threads, lost_after, crew })
    }

    /// Threads that compute, the caller's among them.
    pub(crate) fn num_threads(&self) -> usize {
        self.num_threads
    }

    /// Runs a step: all [`share`] calls within it are shared out over this pool. Waits for its turn first.
    pub(crate) fn install<R>(&self, step: impl FnOnce() -> R) -> R {
        let mut crew = self.crew();
        let mut has_turn = crew.turn.take();
        while !has_turn && let Some(next) = self.replace(&crew) {
            crew = next;
            has_turn = crew.turn.take();
        }
        let _reset = Installed::set(has_turn.then_some(Arc::as_ptr(&crew)));
        let _turn = TurnGuard(&crew.turn);
        step()
    }

    fn crew(&self) -> Arc<Crew> {
        self.lock().clone()
    }

    /// New threads in place of those that a step does not give back, or those that already are; `None` if the system
    /// refuses them, and then everybody computes alone. The old ones end with the step, if it ever ends.
    fn replace(&self, lost: &Arc<Crew>) -> Option<Arc<Crew>> {
        let mut crew = self.lock();
        if Arc::ptr_eq(&crew, lost) {
            match Crew::new(self.num_threads, self.lost_after) {
                Ok(new) => *crew = Arc::new(new),
                Err(error) => {
                    tracing::error!(
                        "a step hangs and holds the threads that compute, and there are no others: {error}"
                    );
                    return None;
                }
            }
            tracing::error!("a step hangs and holds the threads that compute: others take their place");
        }
        Some(crew.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Crew>> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    fn new(num_threads: usize, lost_after: Duration) -> io::Result<Self> {
        let num_workers = num_threads - 1;
        let shared = Arc::new(Shared {
            region: AtomicU64::new(0),
            body: UnsafeCell::new(None),
            parked: (0..num_workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut crew = Self { shared, workers: Vec::new(), turn: Turn::new(lost_after) };
        for index in 0..num_workers {
            let shared = crew.shared.clone();
            let name = format!("compute-{index}");
            crew.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.work(index))?);
        }
        Ok(crew)
    }

    fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Opens a region, takes part in it, and waits until everybody has left.
    fn region(&self, body: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is taken off; the pointer is not used after this call (see `Shared`).
        let body_ptr: *const (dyn Fn() + Sync) = unsafe {
            std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync + 'static)>(body)
        };
        // SAFETY: this thread has the turn, no region is open and nobody is within one.
        unsafe { *shared.body.get() = Some(body_ptr) };
        let number = (shared.region.load(Relaxed) >> 32).wrapping_add(1);
        shared.region.store(number << 32 | OPEN, SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(SeqCst) && parked.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(body));
        shared.region.fetch_and(!OPEN, AcqRel);
        let (mut patience, closed) = (Patience::new(), Instant::now());
        while shared.region.load(Acquire) & ENTERED > 0 {
            if patience.is_over() {
                match closed.elapsed() < REGION_PATIENCE {
                    true => std::thread::yield_now(),
                    // Somebody hangs in there, or has been put aside for long: not worth a core.
                    false => std::thread::park_timeout(Duration::from_millis(1)),
                }
            }
        }
        let theirs = shared.panic().take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic; there is no result to look at.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        let mut last = 0;
        let mut patience = Patience::new();
        while !self.stop.load(SeqCst) {
            let region = self.region.load(Acquire);
            if region & OPEN > 0 && region >> 32 != last {
                if self.region.compare_exchange(region, region + 1, AcqRel, Relaxed).is_ok() {
                    last = region >> 32;
                    self.take_part();
                    self.region.fetch_sub(1, AcqRel);
                    patience = Patience::new();
                }
            } else if patience.is_over() {
                self.park(index, last);
                patience = Patience::new();
            }
        }
    }

    fn take_part(&self) {
        // SAFETY: this worker entered an open region, so the closure is there and stays until it leaves.
        let body = unsafe { (*self.body.get()).map(|body| &*body) };
        if let Some(body) = body
            && let Err(panic) = catch_unwind(AssertUnwindSafe(body))
        {
            self.panic().get_or_insert(panic);
        }
    }

    /// Parks until a region opens. Says so first and looks again, so that no opening is missed.
    fn park(&self, index: usize, last: u64) {
        self.parked[index].store(true, SeqCst);
        let region = self.region.load(SeqCst);
        let is_new = region & OPEN > 0 && region >> 32 != last;
        if !is_new && !self.stop.load(SeqCst) {
            std::thread::park();
        }
        self.parked[index].store(false, SeqCst);
    }

    fn panic(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spinning, for as long as it pays.
struct Patience {
    spins: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self { spins: 0, since: None }
    }

    /// Spins a little; `true` once it has been [`SPIN`].
    fn is_over(&mut self) -> bool {
        std::hint::spin_loop();
        self.spins = self.spins.wrapping_add(1);
        // The clock is looked at now and then: it costs more than a spin.
        self.spins.is_multiple_of(64) && self.since.get_or_insert_with(Instant::now).elapsed() > SPIN
    }
}

/// Who has the threads: first come, first served.
struct Turn {
    line: Mutex<Line>,
    moved: Condvar,
    num_waiting: AtomicUsize,
    lost_after: Duration,
}

#[derive(Default)]
struct Line {
    next: u64,
    serving: u64,
    since: Option<Instant>,
    /// Whoever has the turn is lost, and nobody waits here any more.
    is_lost: bool,
}

impl Turn {
    fn new(lost_after: Duration) -> Self {
        let (line, num_waiting) = (Mutex::default(), AtomicUsize::new(0));
        Self { line, moved: Condvar::new(), num_waiting, lost_after }
    }

    /// Waits in line; `false` if whoever has the turn is lost.
    fn take(&self) -> bool {
        let mut line = self.lock();
        if line.is_lost {
            return false;
        }
        let ticket = line.next;
        line.next += 1;
        if line.serving != ticket {
            self.num_waiting.fetch_add(1, SeqCst);
            let mut num_looks = 0;
            while line.serving != ticket && !line.is_lost {
                let before = line.serving;
                let piece = self.lost_after / NUM_LOOKS;
                let (again, waited) =
                    self.moved.wait_timeout(line, piece).unwrap_or_else(PoisonError::into_inner);
                line = again;
                let stands_still = waited.timed_out() && line.serving == before;
                num_looks = if stands_still { num_looks + 1 } else { 0 };
                if num_looks == NUM_LOOKS {
                    line.is_lost = true;
                    self.moved.notify_all();
                }
            }
            self.num_waiting.fetch_sub(1, SeqCst);
            if line.serving != ticket {
                return false;
            }
        }
        line.since = Some(Instant::now());
        true
    }

    /// Passes the turn on.
    fn pass(&self) {
        let mut line = self.lock();
        line.serving += 1;
        drop(line);
        self.moved.notify_all();
    }

    /// Lets the next one go first, if there is one and this one has had its time. `false` if the turn did not come back.
    fn offer(&self) -> bool {
        if self.num_waiting.load(Relaxed) == 0 {
            return true;
        }
        let is_over = self.lock().since.is_some_and(|since| since.elapsed() > QUANTUM);
        if !is_over {
            return true;
        }
        self.pass();
        self.take()
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes the turn on when a step ends, however it ends, if this thread still has it.
struct TurnGuard<'a>(&'a Turn);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if INSTALLED.get().is_some() {
            self.0.pass();
        }
    }
}

/// The thread's crew, put back when a step or region ends.
struct Installed(Option<*const Crew>);

impl Installed {
    fn set(crew: Option<*const Crew>) -> Self {
        Self(INSTALLED.replace(crew))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.set(self.0);
    }
}

/// Threads of the pool that the caller is in; one if it is in none.
pub(crate) fn num_threads() -> usize {
    // SAFETY: `install` borrows the pool for as long as it is set.
    INSTALLED.get().map_or(1, |pool| unsafe { &*pool }.num_threads())
}

/// Calls `body` with ranges that together make `0..len`, each of at least `min` items but the last, on the threads of
/// the pool that the caller is in; on its own thread if it is in none, or within a region already. Large ranges are given
/// out first and small ones last, so that all threads end at about the same time.
///
/// Which thread has which range changes from run to run: what `body` computes for an item must not depend on it.
pub(crate) fn share(len: usize, min: usize, body: impl Fn(Range<usize>) + Sync) {
    let crew = INSTALLED.get().filter(|_| len > min);
    // SAFETY: `install` keeps the crew for as long as it is set.
    let crew = crew.map(|crew| unsafe { &*crew }).filter(|crew| crew.num_threads() > 1);
    let Some(crew) = crew else {
        if len > 0 {
            body(0..len);
        }
        return;
    };
    if !crew.turn.offer() {
        INSTALLED.set(None);
        return body(0..len);
    }
    // Within the region this thread is in none, so that what `body` shares out in turn stays on its thread.
    let _reset = Installed::set(None);
    let next = AtomicUsize::new(0);
    let portions = crew.num_threads() * 2;
    crew.region(&|| {
        while let Some(range) = claim(&next, len, min, portions) {
            body(range);
        }
    });
}

/// The next range, or `None` when all are given out.
fn claim(next: &AtomicUsize, len: usize, min: usize, portions: usize) -> Option<Range<usize>> {
    let mut start = next.load(Relaxed);
    loop {
        let left = len - start;
        if left == 0 {
            return None;
        }
        let end = start + (left / portions).max(min).clamp(1, left);
        match next.compare_exchange_weak(start, end, Relaxed, Relaxed) {
            Ok(_) => return Some(start..end),
            Err(now) => start = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    /// How often each item was given out.
    fn counts(pool: &Pool, len: usize, min: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        pool.install(|| {
            share(len, min, |range| {
                for item in range {
                    counts[item].fetch_add(1, SeqCst);
                }
            });
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_item_is_given_out_once() {
        for num_threads in [1, 2, 5] {
            let pool = Pool::new(num_threads).unwrap();
            for (len, min) in [(0, 1), (1, 1), (7, 3), (1000, 1), (1000, 64), (5, 100)] {
                assert_eq!(counts(&pool, len, min), vec![1; len], "{num_threads} threads, {len} by {min}");
            }
        }
    }

    #[test]
    fn all_threads_take_part() {
        let pool = Pool::new(3).unwrap();
        // Each of three items waits for the other two: one thread alone would wait for ever.
        let together = Barrier::new(3);
        pool.install(|| {
            share(3, 1, |range| {
                for _ in range {
                    together.wait();
                }
            });
        });
    }

    #[test]
    fn regions_in_quick_succession_and_after_a_rest_all_run() {
        let pool = Pool::new(2).unwrap();
        for round in 0..2000 {
            if round % 500 == 0 {
                // Long enough for the workers to park; what is tested does not depend on whether they did.
                let until = Instant::now() + SPIN * 5;
                while Instant::now() < until {
                    std::thread::yield_now();
                }
            }
            assert_eq!(counts(&pool, 64, 1), vec![1; 64]);
        }
    }

    #[test]
    fn what_is_shared_out_within_a_region_stays_on_its_thread() {
        let pool = Pool::new(2).unwrap();
        pool.install(|| {
            share(4, 1, |_| {
                let thread = std::thread::current().id();
                share(100, 1, |_| assert_eq!(std::thread::current().id(), thread));
            });
        });
    }

    #[test]
    fn a_panic_ends_its_step_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        for bad in [0, 50, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.install(|| {
                    share(100, 1, |range| assert!(!range.contains(&bad), "item {bad} is bad"));
                });
            }));
            let panic = result.expect_err("the panic reaches the one who opened the region");
            assert!(panic.downcast_ref::<String>().unwrap().contains("is bad"));
            assert_eq!(counts(&pool, 1000, 1), vec![1; 1000], "after a panic at {bad}");
            // Nor is the turn lost to other threads.
            std::thread::scope(|scope| {
                scope.spawn(|| assert_eq!(counts(&pool, 1000, 1), vec![1; 1000]));
            });
        }
    }

    #[test]
    fn a_step_that_never_ends_keeps_its_threads_and_the_others_get_new_ones() {
        let pool = Pool::with_patience(2, Duration::from_millis(50)).unwrap();
        let (is_hung, may_end) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| {
                pool.install(|| {
                    share(2, 1, |_| {
                        is_hung.store(true, SeqCst);
                        while !may_end.load(SeqCst) {
                            std::thread::yield_now();
                        }
                    });
                });
            });
            while !is_hung.load(SeqCst) {
                std::thread::yield_now();
            }
            let lost = pool.crew();
            // Who comes first waits; all who come after find new threads at once, and more than one.
            for _ in 0..3 {
                assert_eq!(counts(&pool, 1000, 1), vec![1; 1000]);
            }
            assert!(!Arc::ptr_eq(&lost, &pool.crew()));
            let together = Barrier::new(2);
            pool.install(|| share(2, 1, |range| range.for_each(|_| _ = together.wait())));
            may_end.store(true, SeqCst);
            hung.join().unwrap();
            // Nobody else has the old threads now, and they end.
            assert_eq!(Arc::strong_count(&lost), 1);
        });
        assert_eq!(counts(&pool, 1000, 1), vec![1; 1000]);
    }

    #[test]
    fn models_take_turns_and_never_compute_at_once() {
        let pool = Pool::new(2).unwrap();
        let (busy, steps) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let step = |model: usize| {
            pool.install(|| {
                let until = Instant::now() + QUANTUM * 3;
                while Instant::now() < until {
                    share(8, 1, |_| {
                        let other = busy.swap(model, SeqCst);
                        assert!(other == 0 || other == model, "a region of another model is open");
                        std::hint::spin_loop();
                    });
                    busy.store(0, SeqCst);
                }
                steps.fetch_add(1, SeqCst);
            });
        };
        std::thread::scope(|scope| {
            for model in 1..=3 {
                let step = &step;
                scope.spawn(move || (0..3).for_each(|_| step(model)));
            }
        });
        assert_eq!(steps.into_inner(), 9);
    }
}
