//! `--call`: a question that the Dockerfile's frontend answers instead of building, and its answer as buildx shows it.
//! Who is asked, this process or a daemon, is not known here.

use std::collections::BTreeMap;

use base64::Engine;
use builder::frontends::questions::{Answer, excerpt};
use serde::Deserialize;

use super::csv;
use crate::commands::Failure;
use crate::report;

/// A question as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Without `frontend.`: `lint`, `outline`, `targets`, `subrequests.describe`, or what another frontend knows.
    name: String,
    /// The answer is wanted as JSON.
    json: bool,
    /// What the answer says of success does not count.
    ignore_status: bool,
}

impl Call {
    /// Reads `METHOD[,format=json|text][,ignorestatus=true]`; `None` is a build. `check` is the name for people of `lint`.
    pub fn parse(text: &str) -> Result<Option<Call>, String> {
        let mut call = Call { name: String::new(), json: false, ignore_status: false };
        for field in csv::fields(text)? {
            match field.split_once('=') {
                Some(("format", format)) => call.json = format == "json",
                Some(("ignorestatus", value)) => call.ignore_status = csv::truth("ignorestatus", value)?,
                Some((key, _)) => {
                    return Err(format!("--call {text}: unknown key `{key}`; expected format or ignorestatus"));
                }
                None if call.name.is_empty() => call.name = field,
                None => return Err(format!("--call {text}: expected one method, then format=json")),
            }
        }
        match call.name.as_str() {
            "check" => call.name = "lint".to_owned(),
            "" | "build" => return Ok(None),
            _ => {}
        }
        Ok(Some(call))
    }

    /// The question as frontends know it.
    pub fn question(&self) -> String {
        format!("frontend.{}", self.name)
    }

    /// The answer for standard output, then how the command ends. `dockerfile` is the file as the user named it.
    pub fn show(&self, answer: &Answer, dockerfile: &str) -> (String, Result<(), Failure>) {
        let text = |key: &str| answer.get(key).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let json = text("result.json").unwrap_or_default();
        let status = text("result.statuscode").and_then(|code| code.trim().parse().ok()).unwrap_or(0);
        let status = if self.ignore_status { 0 } else { status };
        let ended = match status {
            0 => Ok(()),
            code => Err(Failure { code, text: String::new() }),
        };
        match (self.json, text("result.txt")) {
            (false, Some(shown)) if self.name == "lint" => match serde_json::from_str::<Lint>(&json) {
                Ok(lint) => lint.show(shown, dockerfile, ended),
                Err(error) => (shown, Err(Failure::failed(format!("the checks can't be read: {error}")))),
            },
            (false, Some(shown)) => (shown, ended),
            _ => {
                let broken = if self.name == "lint" { serde_json::from_str::<Lint>(&json).ok() } else { None };
                let error = broken.and_then(|lint| lint.error(dockerfile));
                (json + "\n", error.map_or(ended, Err))
            }
        }
    }
}

/// As much of a lint's `result.json` as is shown.
#[derive(Deserialize)]
struct Lint {
    warnings: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(default)]
    sources: Vec<Source>,
    #[serde(rename = "buildError")]
    error: Option<Broken>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Broken {
    message: String,
    #[serde(default)]
    location: Location,
}

#[derive(Default, Deserialize)]
struct Location {
    #[serde(default)]
    ranges: Vec<BTreeMap<String, Position>>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    line: u32,
}

impl Lint {
    /// How many findings there are, the findings, and what keeps the file from being built.
    fn show(&self, shown: String, dockerfile: &str, ended: Result<(), Failure>) -> (String, Result<(), Failure>) {
        // The frontend knows the file by its last name; the user by what was typed.
        let known = self.sources.first().map(|source| source.filename.as_str()).unwrap_or_default();
        let at = |name: &str| format!("\n{name}:");
        let shown = if known.is_empty() { shown } else { shown.replace(&at(known), &at(dockerfile)) };
        let mut text = match self.warnings.as_ref().map_or(0, Vec::len) {
            0 => String::new(),
            count => format!("{}\n{shown}", report::conclusion(count)),
        };
        match self.error(dockerfile) {
            Some(error) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                (text, Err(error))
            }
            None if text.is_empty() => (report::conclusion(0) + "\n", ended),
            None => (text, ended),
        }
    }

    fn error(&self, dockerfile: &str) -> Option<Failure> {
        let Broken { message, location } = self.error.as_ref()?;
        let data = self.sources.first().map(|source| source.data.as_str()).unwrap_or_default();
        let data = base64::engine::general_purpose::STANDARD.decode(data).unwrap_or_default();
        let line = |range: Option<&BTreeMap<String, Position>>, end: &str| Some(range?.get(end)?.line);
        let lines = line(location.ranges.first(), "start").zip(line(location.ranges.last(), "end"));
        let excerpt = excerpt(dockerfile, &String::from_utf8_lossy(&data), lines);
        Some(Failure::failed(format!("{message}\n{excerpt}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        Call::parse(text).unwrap().unwrap()
    }

    #[test]
    fn as_buildx_reads_them() {
        assert_eq!(Call::parse("build"), Ok(None));
        assert_eq!(call("check,format=json"), Call { name: "lint".into(), json: true, ignore_status: false });
        assert_eq!(call("outline,ignorestatus=1"), Call { name: "outline".into(), json: false, ignore_status: true });
        assert_eq!(call("subrequests.describe").question(), "frontend.subrequests.describe");
        assert!(Call::parse("check,outline").is_err());
        assert!(Call::parse("check,colour=red").unwrap_err().contains("colour"));
        assert!(Call::parse("check,ignorestatus=maybe").is_err());
    }

    #[test]
    fn the_status_counts_unless_it_is_to_be_ignored() {
        let answer = Answer::from([
            ("result.txt".to_owned(), b"shown".to_vec()),
            ("result.json".to_owned(), b"{}".to_vec()),
            ("result.statuscode".to_owned(), b"3".to_vec()),
        ]);
        let (text, ended) = call("other").show(&answer, "Dockerfile");
        assert_eq!((text.as_str(), ended.unwrap_err().code), ("shown", 3));
        let (text, ended) = call("other,format=json,ignorestatus=true").show(&answer, "Dockerfile");
        assert_eq!((text.as_str(), ended.is_ok()), ("{}\n", true));
    }
}
