//! The file descriptor by which Python learns that there is something to fetch.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

pub struct Wake(File);

impl Wake {
    pub fn new() -> std::io::Result<Wake> {
        Ok(Wake(File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn wake(&self) {
        // It cannot fail for good: the counter overflows only after 2^64 writes without a read.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// To be called before what it stands for is fetched, so that nothing pushed in between goes unnoticed.
    pub fn clear(&self) {
        let mut counter = [0; 8];
        let _ = (&self.0).read(&mut counter);
    }
}
