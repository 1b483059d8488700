//! The loop against a fake runtime, with time that only moves when everybody waits.

mod bench;
mod ending;
mod failing;
mod running;
