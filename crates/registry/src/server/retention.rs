//! Which tags stay and which go, by rules: newest so many, pushed lately, pulled lately. Pure: it decides, with a reason for
//! every tag, and whoever calls it acts.

use std::time::Duration;

use super::users::matches;

/// A rule for the tags that fit it. A tag that fits no rule stays; of several the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Repositories: `*` stands for any text.
    pub repositories: String,
    /// Tags: the same.
    pub tags: String,
    /// So many of those pushed last stay.
    pub newest: Option<usize>,
    /// What was pushed within this time stays.
    pub pushed: Option<Duration>,
    /// What was pulled within this time stays.
    pub pulled: Option<Duration>,
}

/// A tag as the rules see it. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// Its name.
    pub tag: String,
    /// When it was last pushed.
    pub pushed: u64,
    /// When it was last pulled, if it ever was.
    pub pulled: Option<u64>,
}

/// Why a tag stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It stays: no rule is for it.
    NoRule,
    /// It stays: it is the so-manieth newest that its rule is for.
    Newest(usize),
    /// It stays: it was pushed so lately (age in milliseconds).
    Pushed(u64),
    /// It stays: it was pulled so lately.
    Pulled(u64),
    /// It goes: the rule of this number (from 1) is for it and has nothing that keeps it.
    Nothing(usize),
}

impl Reason {
    /// Whether the tag stays.
    pub fn keeps(&self) -> bool {
        !matches!(self, Reason::Nothing(_))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hours = |age: &u64| age / 3_600_000;
        match self {
            Reason::NoRule => f.write_str("stays: no rule is for it"),
            Reason::Newest(rank) => write!(f, "stays: number {rank} of the newest"),
            Reason::Pushed(age) => write!(f, "stays: pushed {} hours ago", hours(age)),
            Reason::Pulled(age) => write!(f, "stays: pulled {} hours ago", hours(age)),
            Reason::Nothing(rule) => write!(f, "goes: rule {rule} is for it, and nothing in it keeps it"),
        }
    }
}

/// Decides on every tag of a repository, in their order.
pub fn decide(repository: &str, tags: &[Tagged], rules: &[Retention], now: u64) -> Vec<Reason> {
    let rule_of = |tag: &Tagged| {
        rules.iter().position(|rule| matches(&rule.repositories, repository) && matches(&rule.tags, &tag.tag))
    };
    let found: Vec<Option<usize>> = tags.iter().map(rule_of).collect();
    // The place of each among those of its rule, newest first; of two pushed at once the greater name counts as newer.
    let rank = |at: usize| {
        let newer = |other: &usize| {
            let key = |i: usize| (tags[i].pushed, &tags[i].tag);
            found[*other] == found[at] && key(*other) > key(at)
        };
        1 + (0..tags.len()).filter(newer).count()
    };
    let within = |time: u64, limit: Option<Duration>| {
        let age = now.saturating_sub(time);
        limit.filter(|limit| u128::from(age) <= limit.as_millis()).map(|_| age)
    };
    let reason = |at: usize| {
        let Some(number) = found[at] else { return Reason::NoRule };
        let (rule, tag) = (&rules[number], &tags[at]);
        let newest = rule.newest.and_then(|count| Some(rank(at)).filter(|rank| *rank <= count));
        let pushed = || within(tag.pushed, rule.pushed).map(Reason::Pushed);
        let pulled = || tag.pulled.and_then(|time| within(time, rule.pulled)).map(Reason::Pulled);
        newest.map(Reason::Newest).or_else(pushed).or_else(pulled).unwrap_or(Reason::Nothing(number + 1))
    };
    (0..tags.len()).map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1000 * HOUR;

    fn tag(name: &str, pushed: u64, pulled: Option<u64>) -> Tagged {
        let before = |hours: u64| NOW - hours * HOUR;
        Tagged { tag: name.to_owned(), pushed: before(pushed), pulled: pulled.map(before) }
    }

    fn rule(tags: &str, newest: Option<usize>, pushed: Option<u64>, pulled: Option<u64>) -> Retention {
        let time = |hours: Option<u64>| hours.map(|hours| Duration::from_secs(hours * 3600));
        let (pushed, pulled) = (time(pushed), time(pulled));
        Retention { repositories: "team/*".into(), tags: tags.into(), newest, pushed, pulled }
    }

    #[test]
    fn every_tag_has_its_reason() {
        let tags = [
            tag("pr-1", 50, None),
            tag("pr-2", 40, Some(2)),
            tag("pr-3", 30, Some(30)),
            tag("pr-4", 1, None),
            tag("v1", 900, None),
        ];
        use Reason::{Newest, NoRule, Nothing, Pulled, Pushed};
        let cases = [
            (vec![], [NoRule, NoRule, NoRule, NoRule, NoRule]),
            (vec![rule("pr-*", Some(2), None, None)], [Nothing(1), Nothing(1), Newest(2), Newest(1), NoRule]),
            (
                vec![rule("pr-*", None, Some(35), None)],
                [Nothing(1), Nothing(1), Pushed(30 * HOUR), Pushed(HOUR), NoRule],
            ),
            (vec![rule("pr-*", None, None, Some(3))], [Nothing(1), Pulled(2 * HOUR), Nothing(1), Nothing(1), NoRule]),
            // Any of them keeps.
            (
                vec![rule("*", Some(1), Some(45), Some(3))],
                [Nothing(1), Pushed(40 * HOUR), Pushed(30 * HOUR), Newest(1), Nothing(1)],
            ),
            // The first rule that fits decides, and counts its own tags alone.
            (
                vec![rule("pr-1", Some(1), None, None), rule("*", Some(1), None, None)],
                [Newest(1), Nothing(2), Nothing(2), Newest(1), Nothing(2)],
            ),
            // A rule that says nothing keeps nothing.
            (vec![rule("v*", None, None, None)], [NoRule, NoRule, NoRule, NoRule, Nothing(1)]),
        ];
        for (rules, reasons) in cases {
            assert_eq!(decide("team/app", &tags, &rules, NOW), reasons, "{rules:?}");
            assert_eq!(decide("other/app", &tags, &rules, NOW), [NoRule, NoRule, NoRule, NoRule, NoRule]);
        }
    }

    #[test]
    fn two_pushed_at_once_are_counted_once_each() {
        let tags = [tag("b", 1, None), tag("a", 1, None), tag("c", 1, None)];
        let reasons = decide("team/x", &tags, &[rule("*", Some(2), None, None)], NOW);
        assert_eq!(reasons, [Reason::Newest(2), Reason::Nothing(1), Reason::Newest(1)]);
    }
}
