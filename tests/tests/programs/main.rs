//! The kernel programs: the verifier accepts each, crafted packets get the verdict and the bytes they should, and real
//! sockets talk over every path. Needs root; every test owns its namespaces.

mod ageing;
mod between;
mod cluster;
mod collisions;
mod crafted;
mod dry;
mod packet;
mod paths;
mod raw;
mod room;
mod sctp;
mod semantics;
mod services;
mod state;
mod takeover;
mod talk;
mod topology;
mod verifier;
