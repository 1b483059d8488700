//! Quantities, QoS class, CPU shares and quota, memory, oom_score_adj. (Kubernetes' formulas.)

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// CPU time is given out in periods of this length, microseconds.
pub const CPU_PERIOD: u64 = 100_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA: u64 = 1000;
const NANO: i128 = 1_000_000_000;

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits, and requests no less.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As it stands in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What a container or a pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 1024 per core.
    pub cpu_shares: u64,
    /// Microseconds of CPU time per [`CPU_PERIOD`].
    pub cpu_quota: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// A quantity in thousandths of its unit: `100m` is 100, `2` is 2000, `1Ki` is 1024000. `None` = not a quantity, or beyond all sense.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let unit_at = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nano = whole.checked_mul(NANO)?.checked_add(nano_fraction(fraction)?)?;
    let (numerator, denominator) = scale(unit)?;
    let scaled = nano.checked_mul(numerator)?.checked_mul(1000)?;
    let unit = denominator.checked_mul(NANO)?;
    // Rounded up, as Kubernetes does: a request is never less than what was asked for.
    Some(sign * scaled.checked_add(unit - 1)? / unit)
}

/// Billionths, rounded up.
fn nano_fraction(digits: &str) -> Option<i128> {
    let (kept, cut) = digits.split_at(digits.len().min(9));
    let kept: i128 = format!("{kept:0<9}").parse().ok()?;
    Some(kept + i128::from(cut.contains(|c| c != '0')))
}

/// A quantity in whole units, rounded up: bytes of memory.
pub fn units(quantity: &Quantity) -> Option<u64> {
    u64::try_from((milli(quantity)? + 999) / 1000).ok()
}

/// A unit as numerator and denominator.
fn scale(unit: &str) -> Option<(i128, i128)> {
    let decimal = ["k", "M", "G", "T", "P", "E"];
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = |units: [&str; 6]| {
        units
            .iter()
            .position(|known| *known == unit)
            .and_then(|at| u32::try_from(at + 1).ok())
    };
    if let Some(power) = power(decimal) {
        return Some((1000_i128.pow(power), 1));
    }
    if let Some(power) = power(binary) {
        return Some((1024_i128.pow(power), 1));
    }
    match unit {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "u" => Some((1, 1_000_000)),
        "n" => Some((1, 1_000_000_000)),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10_i128.checked_pow(power.unsigned_abs())?;
            Some(if power < 0 { (1, size) } else { (size, 1) })
        }
    }
}

type List = BTreeMap<String, Quantity>;

fn named(list: Option<&List>, name: &str) -> Option<i128> {
    list.and_then(|list| list.get(name)).and_then(milli)
}

/// Request of a container; a limit alone is a request too.
fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<i128> {
    let resources = resources?;
    named(resources.requests.as_ref(), name).or_else(|| named(resources.limits.as_ref(), name))
}

fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<i128> {
    named(resources?.limits.as_ref(), name)
}

fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
}

/// The pod's class.
pub fn qos(spec: &PodSpec) -> Qos {
    let mut anything = false;
    let mut guaranteed = true;
    for container in all(spec) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let (request, limit) = (
                request(resources, name).unwrap_or(0),
                limit(resources, name).unwrap_or(0),
            );
            anything |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (anything, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What one container gets.
pub fn container(container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    Resources {
        cpu_shares: shares(request(resources, "cpu").unwrap_or(0)),
        cpu_quota: limit(resources, "cpu").and_then(quota),
        memory: limit(resources, "memory")
            .and_then(|milli| u64::try_from((milli + 999) / 1000).ok())
            .filter(|m| *m > 0),
    }
}

/// What the pod as a whole gets: the sum of its containers, or its hungriest init container. A limit only where every container
/// has one.
pub fn pod(spec: &PodSpec) -> Resources {
    let total = |of: &dyn Fn(&Container) -> Option<i128>, all_must: bool| -> Option<i128> {
        let regular: Vec<_> = spec.containers.iter().map(of).collect();
        let inits: Vec<_> = spec.init_containers.iter().flatten().map(of).collect();
        if all_must && regular.iter().chain(&inits).any(Option::is_none) {
            return None;
        }
        let sum: i128 = regular.into_iter().flatten().sum();
        Some(inits.into_iter().flatten().max().unwrap_or(0).max(sum))
    };
    let cpu_request = total(&|c| request(c.resources.as_ref(), "cpu"), false).unwrap_or(0);
    let memory = total(&|c| limit(c.resources.as_ref(), "memory"), true);
    Resources {
        cpu_shares: shares(cpu_request),
        cpu_quota: total(&|c| limit(c.resources.as_ref(), "cpu"), true).and_then(quota),
        memory: memory
            .and_then(|milli| u64::try_from((milli + 999) / 1000).ok())
            .filter(|memory| *memory > 0),
    }
}

fn shares(milli_cpu: i128) -> u64 {
    let shares = milli_cpu.saturating_mul(1024) / 1000;
    u64::try_from(shares.clamp(MIN_SHARES.into(), MAX_SHARES.into())).unwrap_or(MIN_SHARES)
}

fn quota(milli_cpu: i128) -> Option<u64> {
    let quota = milli_cpu.saturating_mul(CPU_PERIOD.into()) / 1000;
    let quota = u64::try_from(quota).ok().filter(|_| milli_cpu > 0)?;
    Some(quota.max(MIN_QUOTA))
}

/// How willingly the kernel kills a container when memory runs out: least for Guaranteed, most for BestEffort, in between by the
/// share of the machine's memory that was asked for.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, machine_memory: u64) -> i64 {
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(container.resources.as_ref(), "memory").unwrap_or(0) / 1000;
            let share = request.saturating_mul(1000) / i128::from(machine_memory.max(1));
            i64::try_from(1000 - share).unwrap_or(999).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quantity(text: &str) -> Option<i128> {
        milli(&Quantity(text.into()))
    }

    fn spec(containers: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers})).expect("a spec")
    }

    fn with(requests: serde_json::Value, limits: serde_json::Value) -> PodSpec {
        spec(json!([{"name": "c", "resources": {"requests": requests, "limits": limits}}]))
    }

    #[test]
    fn quantities_are_read_in_all_their_forms() {
        let table = [
            ("100m", 100),
            ("1", 1000),
            ("0.5", 500),
            (".5", 500),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1e3", 1_000_000),
            ("1n", 1),
            ("1500u", 2),
            ("128Mi", 134_217_728_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1Ei", 1_152_921_504_606_846_976_000),
            ("2E3", 2_000_000),
            ("5e-3", 5),
            ("+5", 5000),
            ("-2", -2000),
            ("0.0000000001", 1),
        ];
        for (text, milli) in table {
            assert_eq!(quantity(text), Some(milli), "{text}");
        }
        for bad in [
            "", ".", "abc", "1X", "--1", "+-1", "1.2.3", "1.-5", "1-2", "1e", "1e99", "1 Ki", "1ki",
        ] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_quantity_is_too_large_to_be_looked_at() {
        let huge = [
            "9".repeat(18) + "Ei",
            "9".repeat(60),
            "9".repeat(18) + "e18",
            "1".repeat(40) + "n",
        ];
        for text in huge {
            let huge = json!({"cpu": text, "memory": text});
            let spec = with(huge.clone(), huge);
            let resources = pod(&spec);
            assert!(resources.cpu_shares >= 2, "{text}");
            assert!(
                oom_score_adj(&spec, &spec.containers[0], 1 << 30) <= 1000,
                "{text}"
            );
        }
        let many = json!({"cpu": "1E"});
        assert_eq!(pod(&with(many.clone(), many)).cpu_shares, 262_144);
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        assert_eq!(qos(&with(json!({}), json!({}))), Qos::BestEffort);
        assert_eq!(qos(&with(json!({"cpu": "1"}), json!({}))), Qos::Burstable);
        let full = json!({"cpu": "1", "memory": "1Mi"});
        assert_eq!(qos(&with(full.clone(), full.clone())), Qos::Guaranteed);
        assert_eq!(qos(&with(json!({}), full.clone())), Qos::Guaranteed);
        assert_eq!(
            qos(&with(json!({"cpu": "500m", "memory": "1Mi"}), full)),
            Qos::Burstable
        );
    }

    #[test]
    fn shares_and_quota_have_their_floors() {
        let none = pod(&with(json!({}), json!({})));
        assert_eq!((none.cpu_shares, none.cpu_quota, none.memory), (2, None, None));
        let small = pod(&with(
            json!({"cpu": "100m"}),
            json!({"cpu": "5m", "memory": "64Mi"}),
        ));
        assert_eq!(
            (small.cpu_shares, small.cpu_quota, small.memory),
            (102, Some(1000), Some(67_108_864))
        );
    }

    #[test]
    fn a_pod_limit_needs_a_limit_on_every_container() {
        let mixed = spec(json!([{"name": "a", "resources": {"limits": {"cpu": "1"}}}, {"name": "b"}]));
        assert_eq!(pod(&mixed).cpu_quota, None);
        let both = spec(json!([{"name": "a", "resources": {"limits": {"cpu": "1"}}},
                               {"name": "b", "resources": {"limits": {"cpu": "2"}}}]));
        assert_eq!(pod(&both).cpu_quota, Some(300_000));
    }

    #[test]
    fn the_hungriest_init_container_counts() {
        let mut pod_spec = with(json!({"cpu": "1"}), json!({}));
        pod_spec.init_containers =
            serde_json::from_value(json!([{"name": "i", "resources": {"requests": {"cpu": "3"}}}]))
                .expect("inits");
        assert_eq!(pod(&pod_spec).cpu_shares, 3072);
    }

    #[test]
    fn a_burstable_container_is_killed_the_sooner_the_less_it_asked_for() {
        let pod_spec = with(json!({"memory": "256Mi"}), json!({}));
        let score = |memory| oom_score_adj(&pod_spec, &pod_spec.containers[0], memory);
        assert_eq!(score(1 << 30), 750);
        assert_eq!(score(1 << 20), 3);
        assert_eq!(score(1 << 50), 999, "BestEffort goes first");
    }
}
