//! An allocator that counts the current and maximum allocation of each thread.

#![expect(unsafe_code, reason = "an allocator needs it; all calls are forwarded")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Runs `work` and returns the maximum number of bytes that it had allocated, on this thread.
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let output = work();
    (output, usize::try_from(PEAK.get() - before).unwrap())
}

fn count(bytes: usize, sign: isize) {
    let now = NOW.get() + sign * isize::try_from(bytes).unwrap_or(isize::MAX / 4);
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; counting
// touches thread-local cells that need neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller guarantees for `layout` what `System` needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Counted like a copy, during which both exist.
        count(new_size, 1);
        count(layout.size(), -1);
        // SAFETY: `pointer` came from `System` with this layout; the caller guarantees `new_size`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
