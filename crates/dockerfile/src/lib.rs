//! Dockerfiles: text to a spanned tree, and the tree to a graph and an image configuration.
//! It asks and never fetches: what it must know of the outside (base images, ignore files) comes in as facts.

pub mod ast;
mod check;
pub mod diagnostic;
pub mod ignore;
pub mod lower;
pub mod parse;
pub mod rules;
pub mod words;

pub use check::check;
pub use diagnostic::{Diagnostic, LineIndex, Severity, Span};
pub use lower::lower;
pub use parse::{parse, trigger};
