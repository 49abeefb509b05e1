//! The rules of what stays: each names the records it speaks of, how long they stay after their last use, and how much
//! room they may take. The meaning of every number is BuildKit's (`PruneRequest`), so its clients' flags fit.

use std::time::Duration;

use super::{Disk, Filter, parse_duration};
use crate::error::Result;

/// One rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// For people, and for tombstones.
    pub name: String,
    /// Which records it speaks of.
    pub filter: Filter,
    /// Also those that are internal, a frontend's or shared with a named image.
    pub all: bool,
    /// Those used within this time stay (milliseconds); 0 is no such time.
    pub keep_duration: u64,
    /// Never go below this many bytes in total; 0 is none.
    pub reserved_space: u64,
    /// Go down to this many bytes in total; 0 is no limit.
    pub max_used_space: u64,
    /// Go down until this many bytes of the disk are free; 0 is no limit. With no limit at all, everything it speaks of
    /// goes.
    pub min_free_space: u64,
}

impl Rule {
    /// Adds `--filter` flags, see [`flags`].
    ///
    /// # Errors
    /// [`Error::Filter`](crate::Error::Filter) for what cannot be read.
    pub fn with_flags<T: AsRef<str>>(mut self, flags: &[T]) -> Result<Rule> {
        let (filter, unused) = self::flags(flags)?;
        self.filter = Filter::parse(&[filter])?;
        if let Some(unused) = unused {
            self.keep_duration = u64::try_from(unused.as_millis()).unwrap_or(u64::MAX);
        }
        Ok(self)
    }

    /// The total that it goes down to; `None` when everything it speaks of goes.
    pub(super) fn target(&self, total: u64, disk: Disk) -> Option<u64> {
        if self.max_used_space == 0 && self.reserved_space == 0 && self.min_free_space == 0 {
            return None;
        }
        let shortage = self.min_free_space.saturating_sub(disk.free);
        let keep = match (shortage, self.max_used_space) {
            (0, 0) if self.min_free_space > 0 => total,
            (0, max) => max,
            (shortage, 0) => total.saturating_sub(shortage),
            (shortage, max) => max.min(total.saturating_sub(shortage)),
        };
        Some(keep.max(self.reserved_space))
    }
}

/// `--filter` flags as buildx has them: `until=24h` (or `unused-for`), `type=regular`, `id=abc` (a part of it),
/// `description~=make`, `inuse`. All of them must hold. Gives the filter as BuildKit's clients send it, and the age.
///
/// # Errors
/// [`Error::Filter`](crate::Error::Filter) for an age that cannot be read.
pub fn flags<T: AsRef<str>>(flags: &[T]) -> Result<(String, Option<Duration>)> {
    let (mut tests, mut unused) = (Vec::new(), None);
    for flag in flags.iter().map(AsRef::as_ref) {
        match flag.split_once('=') {
            Some(("until" | "unused-for", age)) => unused = Some(parse_duration(age)?),
            Some((field, value)) => {
                let value = value.strip_prefix('=').unwrap_or(value);
                let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                let compare = match field.as_bytes().last() {
                    _ if field == "id" => "~=",
                    Some(b'!' | b'~') => "=",
                    _ => "==",
                };
                tests.push(format!("{field}{compare}\"{value}\""));
            }
            None => tests.push(flag.to_owned()),
        }
    }
    Ok((tests.join(","), unused))
}

/// Who wants it, for tombstones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The collector, by its policy.
    Collector,
    /// Somebody, named here.
    User(String),
}

/// Rules, applied one after another.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Who wants it.
    pub ask: Ask,
}

impl Policy {
    /// BuildKit's defaults for a disk of this size: what is cheap to get again first, then what was not used for long,
    /// then what does not fit.
    pub fn standard(disk: Disk) -> Policy {
        const GB: u64 = 1_000_000_000;
        const HOUR: u64 = 3_600_000;
        let reserved_space = (disk.total / 10).min(10 * GB);
        let max_used_space = (disk.total / 10 * 8).min(100 * GB);
        let min_free_space = disk.total / 5;
        let cheap = Filter::parse(&["type==source.local", "type==exec.cachemount", "type==source.git.checkout"]);
        let fit = Rule { reserved_space, max_used_space, min_free_space, ..Rule::default() };
        let rules = vec![
            Rule {
                name: "sources and volumes unused for 48 h, above 512 MB".to_owned(),
                filter: cheap.unwrap_or_default(),
                keep_duration: 48 * HOUR,
                max_used_space: 512_000_000,
                ..Rule::default()
            },
            Rule { name: "unused for 60 days".to_owned(), keep_duration: 60 * 24 * HOUR, ..fit.clone() },
            Rule { name: "room for the cache".to_owned(), ..fit.clone() },
            Rule { name: "room for everything".to_owned(), all: true, ..fit },
        ];
        Policy { rules, ask: Ask::Collector }
    }

    /// One rule that `by` asked for.
    pub fn asked(by: &str, rule: Rule) -> Policy {
        Policy { rules: vec![rule], ask: Ask::User(by.to_owned()) }
    }
}
