//! Doors: the only code that touches one outside world each.
