//! An allocator that counts allocations per account, and can record their backtraces.

#![expect(unsafe_code, reason = "an allocator needs it; all calls go to the system allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
};

/// To whom an allocation is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    /// The benchmark itself and the wire.
    Benchmark,
    /// The core on the left, or the hub.
    Left,
    /// The core on the right.
    Right,
}

const ACCOUNTS: usize = 3;

/// Totals of one account since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) allocations: u64,
    /// Bytes allocated and not freed.
    pub(crate) held: i64,
}

/// One traced allocation.
pub(crate) struct Traced {
    pub(crate) account: Account,
    pub(crate) bytes: usize,
    pub(crate) from: Backtrace,
}

/// Which allocations are traced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trace {
    Off,
    /// One in so many of both cores.
    OneIn(u64),
    /// Those of an account that are not freed.
    HeldBy(Account),
}

thread_local! {
    static ACCOUNT: Cell<Account> = const { Cell::new(Account::Benchmark) };
    static TALLIES: Cell<[Tally; ACCOUNTS]> =
        const { Cell::new([Tally { allocations: 0, held: 0 }; ACCOUNTS]) };
    static TRACE: Cell<Trace> = const { Cell::new(Trace::Off) };
    /// Allocations of the tracing itself are not counted.
    static TRACING: Cell<bool> = const { Cell::new(false) };
    static TRACED: RefCell<HashMap<usize, Traced>> = RefCell::default();
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Counts the allocations of `work` to an account.
pub(crate) fn charge<T>(account: Account, work: impl FnOnce() -> T) -> T {
    let before = ACCOUNT.replace(account);
    let output = work();
    ACCOUNT.set(before);
    output
}

pub(crate) fn tally(account: Account) -> Tally {
    TALLIES.get()[account as usize]
}

/// Changes what is traced; returns what was traced before.
pub(crate) fn trace(trace: Trace) -> Vec<Traced> {
    TRACE.set(trace);
    TRACING.set(true);
    let traced = TRACED.with_borrow_mut(mem::take).into_values().collect();
    TRACING.set(false);
    traced
}

fn record_alloc(pointer: *mut u8, bytes: usize) {
    if TRACING.get() {
        return;
    }
    let account = ACCOUNT.get();
    let count = update_tally(bytes as i64, 1);
    let traces = match TRACE.get() {
        Trace::Off => false,
        Trace::OneIn(many) => account != Account::Benchmark && count.is_multiple_of(many),
        Trace::HeldBy(whose) => account == whose,
    };
    if traces {
        TRACING.set(true);
        let traced = Traced { account, bytes, from: Backtrace::force_capture() };
        // An address that is freed and allocated again is another allocation.
        let key = match TRACE.get() {
            Trace::OneIn(_) => count as usize * ACCOUNTS + account as usize,
            Trace::Off | Trace::HeldBy(_) => pointer.addr(),
        };
        TRACED.with_borrow_mut(|all| all.insert(key, traced));
        TRACING.set(false);
    }
}

fn record_dealloc(pointer: *mut u8, bytes: usize) {
    if TRACING.get() {
        return;
    }
    update_tally(-(bytes as i64), 0);
    if matches!(TRACE.get(), Trace::HeldBy(_)) {
        TRACING.set(true);
        drop(TRACED.with_borrow_mut(|all| all.remove(&pointer.addr())));
        TRACING.set(false);
    }
}

/// Updates the current account; returns its number of allocations.
fn update_tally(bytes: i64, allocations: u64) -> u64 {
    let mut tallies = TALLIES.get();
    let tally = &mut tallies[ACCOUNT.get() as usize];
    tally.held += bytes;
    tally.allocations += allocations;
    let count = tally.allocations;
    TALLIES.set(tallies);
    count
}

// SAFETY: every call goes to the system's allocator with its arguments unchanged. Counting uses
// thread-local cells that need no allocation; tracing allocates, and is not entered recursively.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees what `System` requires of `layout`.
        let pointer = unsafe { System.alloc(layout) };
        record_alloc(pointer, layout.size());
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        record_dealloc(pointer, layout.size());
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        record_dealloc(pointer, layout.size());
        // SAFETY: `pointer` came from `System` with this layout; the caller guarantees `new_size`.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        record_alloc(moved, new_size);
        moved
    }
}
