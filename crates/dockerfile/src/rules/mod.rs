//! Build checks. (being built)

use crate::diagnostic::Diagnostic;

/// Errors and findings of a Dockerfile, all stages, without knowing anything of the outside.
pub fn check(bytes: &[u8]) -> Vec<Diagnostic> {
    crate::parse(bytes).1
}
