//! CPU and memory of processes and of the machine, read from `/proc`.

use std::fs;

/// Linux reports times to users in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// User and system CPU seconds of a process, with its threads and without its children; `None` where it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit_once(") ")?.1;
    let mut ticks = fields.split(' ').skip(11).map(|field| field.parse::<f64>().ok());
    Some((ticks.next()?? + ticks.next()??) / TICKS_PER_SECOND)
}

pub fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    statm
        .split(' ')
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|pages| pages * PAGE_BYTES)
}

/// CPU seconds that the whole machine spent busy, stolen time included.
pub fn machine_busy_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = fields.iter().take(8).sum::<f64>() - fields.get(3)? - fields.get(4)?;
    Some(busy / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_process_and_not_one_that_is_gone() {
        let own = std::process::id();
        assert!(cpu_seconds(own).is_some());
        assert!(resident_bytes(own).unwrap() > 100_000);
        assert!(machine_busy_seconds().unwrap() >= cpu_seconds(own).unwrap());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
