//! Lowering a Dockerfile as often as something more must be known, and telling what is wrong with it and where.
//! What it asks for is a reference's image, an ignore file, the time of a source; nothing is built.

use std::collections::BTreeMap;

use dockerfile::ast::File;
use dockerfile::lower::{Fact, Lines, Lowered, Need, Options, Outcome};
use dockerfile::{Diagnostic, LineIndex, rules};
use oci::{Platform, Reference};

use super::dockerfile::{Definition, Frontend, Loaded};
use crate::Error;
use crate::build::Faulty;
use crate::event::{Warning, What};

impl Frontend<'_> {
    /// Lowers. `tell`: findings of the checks are told as warnings, also when it fails.
    pub(super) async fn lower(&self, loaded: &Loaded, options: &Options, tell: bool) -> Result<Lowered, Error> {
        let warn = |findings: &[Diagnostic]| {
            if tell {
                self.warn(&loaded.definition, &loaded.file, findings);
            }
        };
        let mut facts = BTreeMap::new();
        loop {
            match dockerfile::lower(&loaded.file, options, &facts) {
                Err(diagnostics) => {
                    let findings: Vec<_> = diagnostics.iter().filter(|d| !d.is_error()).cloned().collect();
                    warn(&findings);
                    return Err(self.faulty(&loaded.definition, &loaded.file, diagnostics, false));
                }
                Ok(Outcome::Done(lowered)) => {
                    warn(&lowered.findings);
                    return Ok(*lowered);
                }
                Ok(Outcome::Needs { needs, findings }) => {
                    let answers = needs.iter().map(|(need, lines)| async {
                        let learnt = self.learn(need, options).await;
                        learnt.map_err(|error| self.placed(&loaded.definition, *lines, near(&loaded.file, need, error)))
                    });
                    let answers = futures_util::future::try_join_all(answers).await;
                    if answers.is_err() {
                        warn(&findings);
                    }
                    facts.extend(needs.into_keys().zip(answers?));
                }
            }
        }
    }

    async fn learn(&self, need: &Need, options: &Options) -> Result<Fact, Error> {
        let platform = |text: &str| Platform::parse(text, &options.platform).map_err(|e| Error::Request(e.to_string()));
        let resolved = match need {
            Need::Ignore { context } => {
                let text = self.ignore_of(context).await?;
                return Ok(Fact::Patterns(dockerfile::ignore::patterns(&text)));
            }
            Need::Image { reference, platform: wanted } => {
                let parsed = Reference::parse(reference).map_err(|e| Error::Request(e.to_string()))?;
                let (now, resolved) = self.build.image(&parsed, &platform(wanted)?, &options.resolve_mode, &[]).await?;
                let moved = (now != parsed).then(|| now.to_string());
                return Ok(Fact::Image { digest: resolved.digest, config: Box::new(resolved.config), moved });
            }
            Need::Time { identifier, attributes } => {
                return Ok(Fact::Time(self.build.time(identifier, attributes.clone()).await?));
            }
            Need::Layout { store, reference, platform: wanted } => {
                self.build.layout("", store, reference, &platform(wanted)?).await?
            }
        };
        Ok(Fact::Image { digest: resolved.digest, config: Box::new(resolved.config), moved: None })
    }

    /// Tells findings as warnings of the step that loaded the Dockerfile.
    pub(super) fn warn(&self, definition: &Definition, file: &File, findings: &[Diagnostic]) {
        let index = LineIndex::new(&file.text);
        for finding in findings {
            let lines = rules::lines(file, &index, finding);
            let rule = finding.rule.clone().unwrap_or_default();
            let at = lines.map(|(first, _)| format!(" (line {first})")).unwrap_or_default();
            let warning = Warning {
                short: format!("{rule}: {}{at}", finding.message),
                detail: finding.help.iter().cloned().collect(),
                url: finding.url.clone().unwrap_or_default(),
                level: 1,
                file: definition.filename.clone(),
                lines,
                text: file.text.clone(),
            };
            self.build.events().tell(What::Warning { step: definition.step, warning });
        }
    }

    /// The error that a Dockerfile is which can't be built. `parsing`: it can't even be read.
    pub(super) fn faulty(
        &self,
        definition: &Definition,
        file: &File,
        diagnostics: Vec<Diagnostic>,
        parsing: bool,
    ) -> Error {
        let index = LineIndex::new(&file.text);
        let first = diagnostics.iter().find(|d| d.is_error());
        let lines = first.and_then(|error| rules::lines(file, &index, error));
        Error::Dockerfile(Box::new(Faulty { place: place(definition, lines), diagnostics, parsing }))
    }

    /// An error with the lines that led to it.
    fn placed(&self, definition: &Definition, lines: Lines, error: Error) -> Error {
        match error {
            Error::Cancelled => Error::Cancelled,
            error => Error::Placed { place: Box::new(place(definition, Some(lines))), error: Box::new(error) },
        }
    }
}

/// Names the stage that was meant, where an image that can't be had is called almost like one.
fn near(file: &File, need: &Need, error: Error) -> Error {
    let Need::Image { reference, .. } = need else { return error };
    let image = Reference::parse(reference).map(|r| r.familiar()).unwrap_or_default();
    let stage = file.near_stage(image.strip_suffix(":latest").unwrap_or(&image));
    match (stage, error) {
        (Some(stage), error) if !matches!(error, Error::Cancelled) => {
            Error::Near { stage: stage.to_owned(), error: Box::new(error) }
        }
        (_, error) => error,
    }
}

/// Lines of the Dockerfile.
pub(super) fn place(definition: &Definition, lines: Option<Lines>) -> graph::Place {
    let file = graph::wire::SourceInfo {
        filename: definition.filename.clone(),
        data: definition.text.clone(),
        definition: Some(definition.source.clone()),
        language: "Dockerfile".to_owned(),
    };
    graph::Place::new(file, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_called_almost_like_a_stage() {
        let text = "FROM scratch AS deps\nFROM scratch\nCOPY --from=dps /a /\n";
        let (file, _) = dockerfile::parse(text.as_bytes());
        let told = |reference: &str| {
            let need = Need::Image { reference: reference.to_owned(), platform: String::new() };
            near(&file, &need, Error::Failed("not found".into())).to_string()
        };
        assert_eq!(told("docker.io/library/dps:latest"), "not found (there is a stage `deps`: was that meant?)");
        for other in ["docker.io/library/dps:1", "docker.io/library/debian:latest", "127.0.0.1:1/dps:latest"] {
            assert_eq!(told(other), "not found");
        }
    }
}
