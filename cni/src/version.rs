//! Versions of the CNI specification.

use std::fmt;

use crate::error::{Code, Error, Result};

/// A version this plugin speaks. Ordered by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum SpecVersion {
    /// 0.1.0: one address per family.
    V0_1_0,
    /// 0.2.0: the shape of 0.1.0.
    V0_2_0,
    /// 0.3.0: interfaces, any number of addresses.
    V0_3_0,
    /// 0.3.1: the shape of 0.3.0.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses without a `version` field.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more fields of interfaces and routes.
    V1_1_0,
}

impl SpecVersion {
    /// All, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// The newest.
    pub const CURRENT: Self = Self::V1_1_0;

    /// As written in configurations and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of a configuration; an absent one is the oldest, as every runtime reads it.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text.filter(|t| !t.is_empty()) else {
            return Ok(Self::V0_1_0);
        };
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            Error::new(
                Code::IncompatibleVersion,
                format!("incompatible CNI versions: the configuration asks for {text:?}"),
            )
            .details(format!("supported: {}", supported()))
        })
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The supported versions, for people.
#[must_use]
pub fn supported() -> String {
    SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
}

/// The answer to VERSION.
#[must_use]
pub fn answer() -> String {
    let versions = SpecVersion::ALL.map(SpecVersion::as_str);
    serde_json::json!({ "cniVersion": SpecVersion::CURRENT.as_str(), "supportedVersions": versions })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_version_is_the_oldest_and_an_unknown_one_is_refused_with_code_1() {
        assert_eq!(SpecVersion::parse(None).unwrap(), SpecVersion::V0_1_0);
        assert_eq!(SpecVersion::parse(Some("")).unwrap(), SpecVersion::V0_1_0);
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(Some(version.as_str())).unwrap(), version);
        }
        for wrong in ["0.5.0", "1.2.0", "1.0", "v1.0.0", " 1.0.0"] {
            assert_eq!(
                SpecVersion::parse(Some(wrong)).unwrap_err().code,
                Code::IncompatibleVersion,
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_version_answer_lists_every_version() {
        let value: serde_json::Value = serde_json::from_str(&answer()).unwrap();
        assert_eq!(
            value["supportedVersions"].as_array().unwrap().len(),
            SpecVersion::ALL.len()
        );
        assert_eq!(value["cniVersion"], "1.1.0");
    }
}
