//! Where a stage stands between two instructions: its files so far, its environment, the image it will be.
//! Also how steps are named and how history is written.

use oci::Platform;
use oci::{ContainerConfig, History, ImageConfig};

use super::draft::{Draft, Drafts, Id};
use crate::ast::{Instruction, Kind};
use crate::diagnostic::Diagnostic;
use crate::rules::instructions::Seen;
use crate::words::Shell;

/// PATH where an image has none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const COMMENT: &str = "buildkit.dockerfile.v0";

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    /// The files; `None` is scratch.
    pub head: Option<Id>,
    /// The named directory of the client's that it is built on.
    pub local: Option<Id>,
    /// Environment of processes, arguments with values among it, in order.
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub image: ImageConfig,
    /// The base image's configuration, when there is one.
    pub base_image: Option<ImageConfig>,
    pub platform: Platform,
    /// Declared arguments with their values, those of the stages that it is built on first.
    pub args: Vec<(String, Option<String>)>,
    pub cmd_set: bool,
    pub naming: Naming,
    /// The flag that keeps its steps from being looked up.
    pub no_cache: Option<&'static str>,
    pub epoch: Option<i64>,
    pub shell: Shell,
    /// What stood in the stage before, for checks.
    pub seen: Seen,
    /// Nothing is known of the base image: any variable may be its.
    pub unknown: bool,
}

/// How the steps of a stage are named.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    pub stage: String,
    /// Name or number, for `larder.stage`.
    pub id: String,
    pub index: u32,
    pub total: u32,
    /// The platform, when several are built.
    pub platform: Option<String>,
    pub onbuild: bool,
}

impl Naming {
    /// The next step's name.
    pub fn next(&mut self, text: &str) -> String {
        let text = if self.onbuild { format!("ONBUILD {text}") } else { text.to_owned() };
        if self.total == 0 {
            return text;
        }
        self.index += 1;
        let mut place = String::new();
        for part in self.platform.iter().chain((!self.stage.is_empty()).then_some(&self.stage)) {
            place.push_str(part);
            place.push(' ');
        }
        let width = self.total.to_string().len();
        format!("[{place}{:>width$}/{}] {text}", self.index, self.total)
    }
}

impl State {
    /// Begins with nothing.
    pub fn scratch(platform: &Platform, shell: Shell) -> State {
        let mut image = ImageConfig::default();
        image.config.working_dir = "/".to_owned();
        if platform.os != "windows" {
            image.config.env = vec![format!("PATH={PATH}")];
        }
        State::of_image(None, image, platform, shell)
    }

    /// Begins with an image.
    pub fn of_image(head: Option<Id>, mut image: ImageConfig, platform: &Platform, shell: Shell) -> State {
        // What is built on it is made later.
        image.created = None;
        if !image.config.env.iter().any(|e| e.starts_with("PATH=")) && platform.os != "windows" {
            image.config.env.push(format!("PATH={PATH}"));
        }
        let cwd = if image.config.working_dir.is_empty() { "/".to_owned() } else { image.config.working_dir.clone() };
        let mut state = State {
            head,
            local: None,
            env: Vec::new(),
            cwd,
            image,
            base_image: None,
            platform: platform.clone(),
            args: Vec::new(),
            cmd_set: false,
            naming: Naming::default(),
            no_cache: None,
            epoch: None,
            shell,
            seen: Seen::default(),
            unknown: false,
        };
        state.renew_env();
        state
    }

    /// The image's variables come to the end, in the image's order, as they do for BuildKit where a stage begins.
    pub fn renew_env(&mut self) {
        let split = |e: &String| e.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
        for (name, value) in self.image.config.env.iter().filter_map(split) {
            set(&mut self.env, &name, &value);
        }
    }

    /// Sets a variable; one that is set again moves to the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        set(&mut self.env, name, value);
    }

    /// A variable's value.
    pub fn get_env(&self, name: &str) -> Option<String> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    /// A word with its variables expanded.
    pub fn word(&self, word: &crate::ast::Word) -> Result<String, Diagnostic> {
        let lookup = |name: &str| self.get_env(name);
        self.shell.word(&word.value, &lookup).map_err(|e| Diagnostic::error(word.span, e))
    }

    /// Words, split at spaces that come out of variables too.
    pub fn words(&self, word: &crate::ast::Word) -> Result<Vec<String>, Diagnostic> {
        let lookup = |name: &str| self.get_env(name);
        self.shell.words(&word.value, &lookup).map_err(|e| Diagnostic::error(word.span, e))
    }

    /// An instruction as progress shows it: its keyword in capitals, quotes taken away, variables expanded.
    pub fn shown(&self, text: &str) -> String {
        self.expanded(text, self.shell, &[])
    }

    /// A RUN as progress shows it: quotes and unknown variables are the shell's. What is in `secrets` comes from a secret,
    /// whatever else has its name.
    pub fn shown_run(&self, text: &str, secrets: &[String]) -> String {
        self.expanded(text, Shell { raw_quotes: true, keep_unset: true, ..self.shell }, secrets)
    }

    fn expanded(&self, text: &str, shell: Shell, secrets: &[String]) -> String {
        let lookup = |name: &str| match secrets.iter().any(|secret| secret == name) {
            true => Some("****".to_owned()),
            false => self.get_env(name),
        };
        let text = shell.word(text, &lookup).unwrap_or_else(|_| text.to_owned());
        match text.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_ascii_uppercase()),
            None => text.to_ascii_uppercase(),
        }
    }

    /// A path inside the image, relative ones from the working directory; a trailing `/` stays.
    pub fn path(&self, path: &str) -> String {
        let full = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.cwd) };
        let clean = graph::pattern::clean(&full);
        match (path.ends_with('/'), path.ends_with("/."), clean.as_str()) {
            (_, _, "/") if path.ends_with("/.") => "/.".to_owned(),
            (_, _, "/") => "/".to_owned(),
            (true, ..) => format!("{clean}/"),
            (_, true, _) => format!("{clean}/."),
            _ => clean,
        }
    }

    /// Adds an operation of an instruction to the graph, with everything that is said about every step.
    pub fn add(&self, drafts: &mut Drafts, mut draft: Draft, from: &Instruction) -> Id {
        draft.lines = Some(from.lines);
        draft.describe("larder.stage", &self.naming.id);
        // A folder is the same folder each time.
        if let Some(flag) = self.no_cache.filter(|_| !matches!(from.kind, Kind::Workdir(_))) {
            draft.metadata.ignore_cache = true;
            draft.describe("larder.no-cache", flag);
        }
        drafts.add(draft)
    }

    /// Writes a line of history.
    pub fn record(&mut self, text: &str, layer: bool) {
        let line = History {
            created: self.epoch.map(oci::time::rfc3339),
            created_by: text.to_owned(),
            comment: COMMENT.to_owned(),
            empty_layer: !layer,
            ..History::default()
        };
        self.image.history.get_or_insert_default().push(line);
    }

    /// The image's container part.
    pub fn config(&mut self) -> &mut ContainerConfig {
        &mut self.image.config
    }

    /// The words in front of a shell form.
    pub fn shell_words(&self) -> Vec<String> {
        let default = if self.platform.os == "windows" { ["cmd", "/S", "/C"].as_slice() } else { &["/bin/sh", "-c"] };
        self.image.config.shell.clone().unwrap_or_else(|| default.iter().map(|w| (*w).to_owned()).collect())
    }
}

/// Sets a variable in place of an earlier one, at the end.
pub fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    env.retain(|(n, _)| n != name);
    env.push((name.to_owned(), value.to_owned()));
}
