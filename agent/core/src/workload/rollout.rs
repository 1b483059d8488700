//! How far a Deployment may move at once.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number of pods, or a share of `replicas` rounded up or down. `None` if it is neither, or negative.
pub fn scaled(value: &IntOrString, replicas: i32, up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => (*number >= 0).then_some(*number),
        IntOrString::String(text) => {
            let share: i64 = text.strip_suffix('%')?.parse().ok()?;
            if share < 0 {
                return None;
            }
            let product = share.checked_mul(i64::from(replicas))?;
            let rounded = if up {
                product.checked_add(99)? / 100
            } else {
                product / 100
            };
            i32::try_from(rounded).ok()
        }
    }
}
