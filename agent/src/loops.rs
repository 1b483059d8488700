//! Loops: observe, plan, apply, report.
