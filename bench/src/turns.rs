//! A word with the scheduler.

/// The shortest turn that can be asked for, in nanoseconds.
const SHORT_TURN_NS: u64 = 100_000;

/// Asks for short turns on a core, soon after waking up, for the current thread and those it starts.
///
/// The generator and the model server stand for other machines and containers. Where they share the cores with what is
/// measured, they would wait for it to let go of one, and that would count as its latency. Linux before 6.12 takes
/// no notice.
pub fn ask_for_short_ones() {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    // SAFETY: zeros are a value of every member, and the kernel reads and writes no more than `size` bytes.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) == 0 {
            attributes.size = size;
            attributes.sched_runtime = SHORT_TURN_NS;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
}
