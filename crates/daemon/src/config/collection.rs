//! What the collector lets stay, as an operator sets it: buildkitd's `gcpolicy` rules, or its one size for the usual rules.

use serde::Deserialize;
use store::lifecycle::{Ask, Disk, Filter, Policy, Rule};

use super::Worker;
use super::values::{Space, Span};

/// One `[[worker.oci.gcpolicy]]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct GcPolicy {
    /// Also what is internal or shared.
    pub all: bool,
    /// Records it speaks of; one must match.
    pub filters: Vec<String>,
    /// What was used within this time stays.
    pub keep_duration: Span,
    /// Old name of `reserved_space`.
    pub keep_bytes: Option<Space>,
    /// Never go below this.
    pub reserved_space: Option<Space>,
    /// Go down to this.
    pub max_used_space: Option<Space>,
    /// Go down until so much is free.
    pub min_free_space: Option<Space>,
}

impl Worker {
    /// The rules for a disk.
    pub fn policy(&self, disk: Disk) -> Result<Policy, String> {
        if !self.gcpolicy.is_empty() {
            let rules = self.gcpolicy.iter().enumerate();
            let rules = rules.map(|(number, rule)| rule.rule(number, disk)).collect::<Result<_, _>>()?;
            return Ok(Policy { rules, ask: Ask::Collector });
        }
        let mut policy = Policy::standard(disk);
        let sizes = [self.reserved_space, self.max_used_space, self.min_free_space];
        let is_set = sizes.iter().any(Option::is_some);
        let reserved = if is_set { self.reserved_space } else { self.gckeepstorage };
        if is_set || reserved.is_some() {
            let bytes = |space: Option<Space>| space.map_or(0, |space| space.bytes(disk));
            // The first rule is about what is cheap to get again, whatever the room.
            for rule in policy.rules.iter_mut().skip(1) {
                rule.reserved_space = bytes(reserved);
                rule.max_used_space = bytes(self.max_used_space);
                rule.min_free_space = bytes(self.min_free_space);
            }
        }
        Ok(policy)
    }
}

impl GcPolicy {
    fn rule(&self, number: usize, disk: Disk) -> Result<Rule, String> {
        let bytes = |space: Option<Space>| space.map_or(0, |space| space.bytes(disk));
        let filter = Filter::parse(&self.filters).map_err(|e| format!("gcpolicy {number}: {e}"))?;
        Ok(Rule {
            name: format!("gcpolicy {number} of the configuration"),
            filter,
            all: self.all,
            keep_duration: u64::try_from(self.keep_duration.0.as_millis()).unwrap_or(u64::MAX),
            reserved_space: bytes(self.reserved_space.or(self.keep_bytes)),
            max_used_space: bytes(self.max_used_space),
            min_free_space: bytes(self.min_free_space),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let worker: Worker = toml::from_str(text).unwrap();
        worker.policy(Disk { total: 1000 << 30, free: 0 })
    }

    #[test]
    fn rules_and_sizes() {
        let usual = policy("").unwrap();
        assert_eq!(usual.rules.len(), 4);
        let sized = policy("reservedSpace = \"1GB\"\nmaxUsedSpace = \"10%\"").unwrap();
        let numbers = |rule: &Rule| (rule.reserved_space, rule.max_used_space, rule.min_free_space);
        assert_eq!(numbers(&sized.rules[2]), (1 << 30, 100 << 30, 0));
        assert_eq!(numbers(&sized.rules[0]), numbers(&usual.rules[0]));
        assert_eq!(numbers(&policy("gckeepstorage = 5000").unwrap().rules[3]), (5000, 0, 0));
        let own = policy(
            "[[gcpolicy]]\nfilters = [\"type==exec.cachemount\"]\nkeepDuration = \"48h\"\nkeepBytes = 7\n[[gcpolicy]]\nall = true",
        );
        let own = own.unwrap();
        assert_eq!((own.rules.len(), own.rules[0].keep_duration, own.rules[0].reserved_space), (2, 48 * 3_600_000, 7));
        assert!(own.rules[1].all);
        assert!(policy("[[gcpolicy]]\nfilters = [\"type~=(\"]").is_err());
    }
}
