//! Wait on conditions, within a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Wait until `condition` gives something; what it says meanwhile goes into the error.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = condition();
        if let Ok(Some(value)) = outcome {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            match outcome {
                Err(error) => bail!("waited {limit:?} for {what}: {error:#}"),
                _ => bail!("waited {limit:?} for {what}"),
            }
        }
        thread::sleep(STEP);
    }
}

/// Wait until `condition` holds.
pub fn holds(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(condition()?.then_some(())))
}
