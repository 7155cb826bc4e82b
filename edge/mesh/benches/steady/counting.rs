//! An allocator that counts for whom memory is taken, and remembers from where.

#![expect(unsafe_code, reason = "an allocator cannot be written without; it passes everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
};

/// Who runs when memory is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    /// The benchmark and the wire.
    World,
    /// The core that is measured.
    Left,
    /// The other one.
    Right,
}

const ACCOUNTS: usize = 3;

/// What an account took since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) allocations: u64,
    /// Bytes taken and not given back.
    pub(crate) held: i64,
}

/// One allocation that was traced.
pub(crate) struct Traced {
    pub(crate) account: Account,
    pub(crate) bytes: usize,
    pub(crate) from: Backtrace,
}

/// Which allocations are traced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trace {
    Off,
    /// One in so many, whatever becomes of it.
    OneIn(u64),
    /// Those of an account that are not given back.
    HeldBy(Account),
}

thread_local! {
    static ACCOUNT: Cell<Account> = const { Cell::new(Account::World) };
    static TALLIES: Cell<[Tally; ACCOUNTS]> =
        const { Cell::new([Tally { allocations: 0, held: 0 }; ACCOUNTS]) };
    static TRACE: Cell<Trace> = const { Cell::new(Trace::Off) };
    /// What tracing itself allocates is no part of what is traced.
    static TRACING: Cell<bool> = const { Cell::new(false) };
    static TRACED: RefCell<HashMap<usize, Traced>> = RefCell::default();
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Runs `work` on an account.
pub(crate) fn on<T>(account: Account, work: impl FnOnce() -> T) -> T {
    let before = ACCOUNT.replace(account);
    let output = work();
    ACCOUNT.set(before);
    output
}

pub(crate) fn tally(account: Account) -> Tally {
    TALLIES.get()[account as usize]
}

/// Traces from now on; what was traced until now.
pub(crate) fn trace(trace: Trace) -> Vec<Traced> {
    TRACE.set(trace);
    TRACING.set(true);
    let traced = TRACED.with_borrow_mut(mem::take).into_values().collect();
    TRACING.set(false);
    traced
}

fn taken(pointer: *mut u8, bytes: usize) {
    if TRACING.get() {
        return;
    }
    let account = ACCOUNT.get();
    let count = change(bytes as i64, 1);
    let traces = match TRACE.get() {
        Trace::Off => false,
        Trace::OneIn(many) => account != Account::World && count.is_multiple_of(many),
        Trace::HeldBy(whose) => account == whose,
    };
    if traces {
        TRACING.set(true);
        let traced = Traced { account, bytes, from: Backtrace::force_capture() };
        // Memory that was given back and taken again is another allocation.
        let key = match TRACE.get() {
            Trace::OneIn(_) => count as usize * ACCOUNTS + account as usize,
            Trace::Off | Trace::HeldBy(_) => pointer.addr(),
        };
        TRACED.with_borrow_mut(|all| all.insert(key, traced));
        TRACING.set(false);
    }
}

fn given_back(pointer: *mut u8, bytes: usize) {
    if TRACING.get() {
        return;
    }
    change(-(bytes as i64), 0);
    if matches!(TRACE.get(), Trace::HeldBy(_)) {
        TRACING.set(true);
        drop(TRACED.with_borrow_mut(|all| all.remove(&pointer.addr())));
        TRACING.set(false);
    }
}

/// The account's number of allocations now.
fn change(bytes: i64, allocations: u64) -> u64 {
    let mut tallies = TALLIES.get();
    let tally = &mut tallies[ACCOUNT.get() as usize];
    tally.held += bytes;
    tally.allocations += allocations;
    let count = tally.allocations;
    TALLIES.set(tallies);
    count
}

// SAFETY: every call goes to the system's allocator with the arguments it came with. Counting
// touches thread-local cells that need no allocation; tracing allocates, and is not entered again.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is the one that is asked for.
        let pointer = unsafe { System.alloc(layout) };
        taken(pointer, layout.size());
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(pointer, layout.size());
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        given_back(pointer, layout.size());
        // SAFETY: `pointer` came from `System` with this layout; `new_size` is the caller's promise.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        taken(moved, new_size);
        moved
    }
}
