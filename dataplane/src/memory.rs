//! The allocator, and giving its pages back.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// Large bodies cost twice the CPU with glibc's, which returns pages and faults them in again; its thread-local data
/// must not need static TLS, since this library is loaded by a running process.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What `malloc` aligns to by itself, where so much is asked for.
const USUAL_ALIGNMENT: usize = 16;

/// mimalloc, asked for an alignment only where its usual one does not do: asking costs as much as allocating.
struct MiMalloc;

fn is_usual(align: usize, size: usize) -> bool {
    align <= USUAL_ALIGNMENT && align <= size
}

// SAFETY: mimalloc gives what is not in use, of the size and alignment asked for, or null; what one of its functions gave,
// any other may resize or free, on any thread.
unsafe impl GlobalAlloc for MiMalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the caller asks for more than nothing, and `align` is a power of two.
        unsafe { if is_usual(align, size) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } }.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe { if is_usual(align, size) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } }.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller has it from here, and does not use it any more.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        let block = block.cast();
        // SAFETY: the caller has it from here, and uses what is given back in its place.
        unsafe { if is_usual(align, size) { mi_realloc(block, size) } else { mi_realloc_aligned(block, size, align) } }
            .cast()
    }
}

/// Returns what the current thread has freed to the system.
pub fn purge() {
    // SAFETY: mi_collect may be called by any thread at any time.
    unsafe { mi_collect(true) }
}
