//! Instructions that change the image's configuration and nothing else: ENV, LABEL, ARG, USER, CMD and their like.
//! They add lines of history; none makes an operation.

use std::collections::BTreeMap;

use oci::time::{duration, duration_text};
use serde_json::{Map, Value, json};

use super::state::State;
use super::{Options, scan};
use crate::ast::{Command, Health, Instruction, Kind, Word};
use crate::diagnostic::Diagnostic;

type Result<T> = std::result::Result<T, Diagnostic>;

/// Arguments that steer tools and are no part of a process' environment.
const NOT_ENVIRONMENT: [&str; 2] = [scan::CONTEXT, scan::STAGE];

/// Applies an instruction; `false` when it is none of these.
pub fn apply(
    state: &mut State,
    instruction: &Instruction,
    options: &Options,
    globals: &BTreeMap<String, String>,
) -> Result<bool> {
    match &instruction.kind {
        Kind::Env { pairs, .. } => env(state, pairs)?,
        Kind::Label { pairs, .. } => labels(state, pairs)?,
        Kind::Arg(list) => args(state, list, options, globals)?,
        Kind::User(word) => {
            let user = state.word(word)?;
            state.config().user.clone_from(&user);
            state.record(&format!("USER {user}"), false);
        }
        Kind::Cmd(command) => {
            let words = words(state, command);
            state.record(&format!("CMD {}", quoted(&words)), false);
            state.cmd_set = true;
            state.config().args_escaped = true;
            state.config().cmd = Some(words);
        }
        Kind::Entrypoint(command) => {
            let words = words(state, command);
            state.record(&format!("ENTRYPOINT {}", quoted(&words)), false);
            if !state.cmd_set {
                state.config().cmd = None;
            }
            state.config().entrypoint = Some(words);
        }
        Kind::Shell(words) => {
            state.record(&format!("SHELL [{}]", words.join(" ")), false);
            state.config().shell = Some(words.clone());
        }
        Kind::Expose(ports) => expose(state, ports)?,
        Kind::Volume(paths) => volumes(state, paths)?,
        Kind::StopSignal(word) => {
            let signal = state.word(word)?;
            if !is_signal(&signal) {
                return Err(Diagnostic::error(word.span, format!("invalid signal: {signal}")));
            }
            state.record(&format!("STOPSIGNAL {signal}"), false);
            state.config().stop_signal = signal;
        }
        Kind::Healthcheck(health) => healthcheck(state, health)?,
        Kind::Onbuild(text, _) => {
            state.config().on_build.get_or_insert_default().push(text.value.clone());
        }
        Kind::Maintainer(word) => {
            state.image.author = Some(word.value.clone());
            state.record(&format!("MAINTAINER {}", word.value), false);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A number, or a name of Linux with or without `SIG`, in letters of either case.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |text: &str, most: u32| text.parse::<u32>().is_ok_and(|n| (1..=most).contains(&n));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|n| number(n, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|n| number(n, 14))
}

/// `NAME=value` into a list of them, in place of an earlier one.
fn set_config_env(list: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match list.iter_mut().find(|e| e.split_once('=').is_some_and(|(n, _)| n == name)) {
        Some(old) => *old = entry,
        None => list.push(entry),
    }
}

fn env(state: &mut State, pairs: &[(Word, Word)]) -> Result<()> {
    let expanded = expand_pairs(state, pairs)?;
    let mut text = String::from("ENV");
    for (name, value) in expanded {
        text.push_str(&format!(" {name}={value}"));
        state.set_env(&name, &value);
        set_config_env(&mut state.config().env, &name, &value);
    }
    state.record(&text, false);
    Ok(())
}

fn labels(state: &mut State, pairs: &[(Word, Word)]) -> Result<()> {
    let mut text = String::from("LABEL");
    for (name, value) in expand_pairs(state, pairs)? {
        text.push_str(&format!(" {name}={value}"));
        state.config().labels.get_or_insert_default().insert(name, value);
    }
    state.record(&text, false);
    Ok(())
}

/// All values see the environment as it was before the instruction.
fn expand_pairs(state: &State, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>> {
    pairs.iter().map(|(name, value)| Ok((state.word(name)?, state.word(value)?))).collect()
}

fn args(
    state: &mut State,
    list: &[(Word, Option<Word>)],
    options: &Options,
    globals: &BTreeMap<String, String>,
) -> Result<()> {
    let mut texts = Vec::new();
    for (name, default) in list {
        let given = options.build_args.get(&name.value).cloned();
        let value = match (given, default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(state.word(default)?),
            (None, None) => globals.get(&name.value).cloned(),
        };
        texts.push(match &value {
            Some(value) => format!("{}={value}", name.value),
            None => name.value.clone(),
        });
        if let Some(value) = value.as_ref().filter(|_| !NOT_ENVIRONMENT.contains(&name.value.as_str())) {
            state.set_env(&name.value, value);
        }
        match state.args.iter_mut().find(|(known, _)| *known == name.value) {
            Some(known) => known.1 = value,
            None => state.args.push((name.value.clone(), value)),
        }
    }
    state.record(&format!("ARG {}", texts.join(" ")), false);
    Ok(())
}

/// The words that a container runs.
fn words(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) => {
            let mut words = state.shell_words();
            words.push(line.value.clone());
            words
        }
    }
}

/// As Go's `%q` of a list: `["a" "b"]`.
pub fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| Value::String(w.clone()).to_string()).collect();
    format!("[{}]", words.join(" "))
}

fn expose(state: &mut State, words: &[Word]) -> Result<()> {
    let mut words: Vec<&Word> = words.iter().collect();
    words.sort_by(|a, b| a.value.cmp(&b.value));
    let mut shown = Vec::new();
    for word in words {
        for port in state.words(word)? {
            let bad = || {
                Diagnostic::error(word.span, format!("invalid port `{port}`"))
                    .help("expected PORT, PORT-PORT, or either with /tcp, /udp or /sctp")
            };
            for spec in ports(&port).ok_or_else(bad)? {
                state.config().exposed_ports.get_or_insert_default().insert(spec.clone(), Map::new());
                shown.push(spec);
            }
        }
    }
    state.record(&format!("EXPOSE [{}]", shown.join(" ")), false);
    Ok(())
}

/// `[ip:][host:]port[-port][/protocol]` as `port/protocol` each.
fn ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let range = range.rsplit(':').next().unwrap_or(range);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn volumes(state: &mut State, words: &[Word]) -> Result<()> {
    let mut shown = Vec::new();
    for word in words {
        let path = state.word(word)?;
        if path.is_empty() {
            return Err(Diagnostic::error(word.span, "VOLUME specified can not be an empty string"));
        }
        state.config().volumes.get_or_insert_default().insert(path.clone(), Map::new());
        shown.push(path);
    }
    state.record(&format!("VOLUME [{}]", shown.join(" ")), false);
    Ok(())
}

/// Flags of HEALTHCHECK and their names in the configuration, in the order in which history tells them.
const HEALTH: [(&str, &str); 5] = [
    ("interval", "Interval"),
    ("timeout", "Timeout"),
    ("start-period", "StartPeriod"),
    ("start-interval", "StartInterval"),
    ("retries", "Retries"),
];

fn healthcheck(state: &mut State, health: &Health) -> Result<()> {
    let none: &[(String, Word)] = &[];
    let (test, flags) = match health {
        Health::None => (vec!["NONE".to_owned()], none),
        Health::Command { command: Command::Shell(line), flags } => {
            (vec!["CMD-SHELL".to_owned(), line.value.clone()], flags.as_slice())
        }
        Health::Command { command: Command::Exec(words), flags } => {
            (std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(), flags.as_slice())
        }
    };
    let mut told = format!("Test:[{}]", test.join(" "));
    let mut object = Map::new();
    object.insert("Test".to_owned(), json!(test));
    for (name, key) in HEALTH {
        let mut number = 0;
        if let Some((_, word)) = flags.iter().find(|(flag, _)| flag == name) {
            let bad = || Diagnostic::error(word.span, format!("`{}` is no value for --{name}", word.value));
            number = match name {
                "retries" => word.value.parse::<i64>().map_err(|_| bad())?,
                _ => duration(&word.value).ok_or_else(|| bad().help("expected a duration such as 30s or 1m30s"))?,
            };
        }
        if number != 0 {
            object.insert(key.to_owned(), json!(number));
        }
        let number = if name == "retries" { number.to_string() } else { duration_text(number) };
        told.push_str(&format!(" {key}:{number}"));
    }
    state.config().healthcheck = Some(Value::Object(object));
    state.record(&format!("HEALTHCHECK {{{told}}}"), false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_forms() {
        assert_eq!(ports("80"), Some(vec!["80/tcp".into()]));
        assert_eq!(ports("127.0.0.1:8080:80-81/UDP"), Some(vec!["80/udp".into(), "81/udp".into()]));
        assert_eq!(ports("81-80"), None);
        assert_eq!(ports("http"), None);
    }
}
