//! The allocator, and giving its pages back.

/// Large bodies cost twice the CPU with glibc's, which returns pages and faults them in again; its thread-local data
/// must not need static TLS, since this library is loaded by a running process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns what the current thread has freed to the system.
pub fn purge() {
    // SAFETY: mi_collect may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
