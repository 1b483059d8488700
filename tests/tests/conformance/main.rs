//! What this project programs, held against a model of kube-proxy's rules: the agent's decision as it stands in the maps, and the loaded
//! programs run on packets. Seeds are printed, failures are made as small as they can be.
//!
//! `KEELSON_CASES=N` asks for so many packets, `KEELSON_SEED=N` for the same ones again.

mod decision;
mod found;
mod lab;
mod matrix;
mod packet;
mod path;
mod people;
mod planned;
mod programs;
mod reader;
#[path = "../programs/room.rs"]
mod room;
#[expect(
    dead_code,
    reason = "shared with the tests of the programs, which use more of it"
)]
#[path = "../programs/topology.rs"]
mod topology;
