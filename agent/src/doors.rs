//! Doors: the only code that touches one outside world each.

pub mod store;
#[cfg(test)]
pub mod temporary;
