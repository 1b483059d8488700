//! The node agent: loops (observe → plan → apply → report) over doors, one world of objects between them.

pub mod app;
pub mod cli;
pub mod config;
pub mod context;
pub mod control;
pub mod doors;
pub mod events;
pub mod health;
pub mod loops;
pub mod metrics;
pub mod world;
pub mod yaml;
