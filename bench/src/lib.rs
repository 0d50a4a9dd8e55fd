//! What the benchmark programs are made of: sockets, the wire format, requests, and what they cost.

pub mod net;
pub mod plan;
pub mod procfs;
pub mod tally;
pub mod turns;
pub mod wire;
