//! Filters of the build history: each a CSV record whose fields must all hold, several of them: any. `ref`, `status` and
//! `repository` compare as text (`==`, `!=`, `~=`); `startedAt`, `completedAt` and `duration` as times (`>=`, `>`, `<=`, `<`).

use builder::history::Summary;
use graph::git::GitUrl;
use store::HistoryEntry;
use tonic::Status;

use super::record;

/// Which kept builds are meant.
pub struct Filter(Vec<Tests>);

struct Tests {
    times: Vec<Test>,
    texts: store::lifecycle::Filter,
}

#[derive(Clone, Copy)]
enum Field {
    Started,
    Completed,
    Duration,
}

struct Test {
    field: Field,
    sign: &'static str,
    /// Seconds since 1970, or nanoseconds of a duration.
    value: i64,
}

impl Filter {
    /// Reads filters; `now` is in milliseconds since 1970: a duration instead of a time means so long ago.
    pub fn parse(texts: &[String], now: u64) -> Result<Filter, Status> {
        let texts = texts.iter().filter(|text| !text.trim().is_empty());
        texts.map(|text| Tests::parse(text, now)).collect::<Result<_, _>>().map(Filter)
    }

    /// Whether a build is meant.
    pub fn matches(&self, entry: &HistoryEntry, summary: &Summary) -> bool {
        self.0.is_empty() || self.0.iter().any(|tests| tests.hold(entry, summary))
    }
}

impl Tests {
    fn parse(text: &str, now: u64) -> Result<Tests, Status> {
        let (mut times, mut texts) = (Vec::new(), Vec::new());
        for field in builder::csv::fields(text).map_err(Status::invalid_argument)? {
            match Test::parse(&field, now)? {
                Some(test) => times.push(test),
                None => texts.push(field),
            }
        }
        let texts = store::lifecycle::Filter::parse(&[texts.join(",")]);
        Ok(Tests { times, texts: texts.map_err(|error| Status::invalid_argument(error.to_string()))? })
    }

    fn hold(&self, entry: &HistoryEntry, summary: &Summary) -> bool {
        let text = |name: &str| {
            let value = match name {
                "ref" => entry.id.clone(),
                "status" => status(summary).to_owned(),
                "repository" => repository(summary),
                _ => String::new(),
            };
            let set = !value.is_empty();
            (value, set)
        };
        self.times.iter().all(|test| test.holds(entry)) && self.texts.matches_by(&text)
    }
}

impl Test {
    /// `None` for what compares as text.
    fn parse(text: &str, now: u64) -> Result<Option<Test>, Status> {
        let signs = [">=", "<=", ">", "<"];
        let Some((name, sign, value)) = signs.iter().find_map(|sign| {
            let (name, value) = text.split_once(sign)?;
            Some((name, *sign, value))
        }) else {
            return Ok(None);
        };
        let duration = oci::time::duration(value);
        let field = match name {
            "startedAt" => Field::Started,
            "completedAt" => Field::Completed,
            "duration" => Field::Duration,
            _ => return Ok(None),
        };
        let value = match (field, duration) {
            (Field::Duration, duration) => duration,
            (_, Some(ago)) => Some((now / 1000).cast_signed() - ago / 1_000_000_000),
            (_, None) => oci::time::parse_rfc3339(value).map(|(seconds, _)| seconds),
        };
        let bad =
            || Status::invalid_argument(format!("`{text}` compares with no time: expected 48h or an RFC 3339 time"));
        Ok(Some(Test { field, sign, value: value.ok_or_else(bad)? }))
    }

    fn holds(&self, entry: &HistoryEntry) -> bool {
        let value = match self.field {
            Field::Started => (entry.created / 1000).cast_signed(),
            Field::Completed => (entry.completed / 1000).cast_signed(),
            Field::Duration => (entry.completed.saturating_sub(entry.created) * 1_000_000).cast_signed(),
        };
        match self.sign {
            ">=" => value >= self.value,
            "<=" => value <= self.value,
            ">" => value > self.value,
            _ => value < self.value,
        }
    }
}

fn status(summary: &Summary) -> &'static str {
    match record::error(summary) {
        None => "completed",
        Some(error) if error.message.contains(record::CANCELLED) => "canceled",
        Some(_) => "error",
    }
}

fn repository(summary: &Summary) -> String {
    let said = summary.attributes.get("vcs:source").cloned();
    let context = || GitUrl::parse(summary.attributes.get("context")?).map(|git| git.remote);
    said.or_else(context).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(filters: &[&str], summary: Summary) -> bool {
        let entry = HistoryEntry {
            id: "abc".to_owned(),
            created: 1_000_000_000_000,
            completed: 1_000_000_090_000,
            pinned: false,
            summary: Vec::new(),
        };
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Filter::parse(&filters, 1_000_000_100_000).unwrap().matches(&entry, &summary)
    }

    #[test]
    fn fields_and_operators() {
        let of = |filter: &str| holds(&[filter], Summary::default());
        assert!(of("ref==abc") && of("ref~=b") && !of("ref!=abc"));
        assert!(of("status==completed") && !of("status==error"));
        assert!(of("duration>1m") && of("duration<=90s") && !of("duration<1m"));
        assert!(of("startedAt>=2m") && !of("startedAt>99s") && of("startedAt>=2001-09-09T01:46:40Z"));
        assert!(of("completedAt<5s") && !of("completedAt>5s"));
        assert!(of("ref==abc,duration>1m") && !of("ref==abc,duration>2m"));
        assert!(holds(&["ref==x", "status==completed"], Summary::default()));
        assert!(holds(&[""], Summary::default()));
        let failed = Summary { error: Some("no".to_owned()), ..Summary::default() };
        assert!(holds(&["status==error"], failed));
        let cancelled = Summary { error: Some("cancelled".to_owned()), ..Summary::default() };
        assert!(holds(&["status==canceled"], cancelled));
        let attributes = [("context".to_owned(), "https://h/x.git#main".to_owned())].into();
        let of_git = Summary { attributes, ..Summary::default() };
        assert!(holds(&["repository==https://h/x.git"], of_git));
    }

    #[test]
    fn what_is_no_filter() {
        for text in ["startedAt>soon", "duration<x", "ref=~", "\"a"] {
            assert!(Filter::parse(&[text.to_owned()], 0).is_err(), "{text}");
        }
    }
}
