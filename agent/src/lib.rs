//! The node agent: loops (observe → plan → apply → report) over doors, one world of objects between them.

pub mod world;
