//! The kernel programs: the verifier accepts each, crafted packets get the verdict and the bytes they should, and real
//! sockets talk over every path. Needs root; every test owns its namespaces.

mod crafted;
#[cfg(test)]
mod packet;
mod paths;
mod room;
mod talk;
mod topology;
mod verifier;
