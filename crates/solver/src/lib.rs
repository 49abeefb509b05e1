//! From graph to decisions: cache keys, matching, scheduling, and the cause of every miss.
//! It decides and never acts: no file, clock, network or thread is touched here; the builder's driver performs the
//! effects and feeds the events, so that thousands of schedules run in a test from a seed.

mod actions;
mod cause;
pub mod exchange;
mod explain;
pub mod files;
mod ingredients;
pub mod key;
mod record;
mod solver;

pub use cause::{Cause, HitSource, Ran, Verdict};
pub use explain::{Facts, Lost, explain};
pub use files::{FileEntry, FileKind, Files};
pub use ingredients::{Ingredients, Parent, Part, shown};
pub use record::{Cost, KeyId, Link, Locator, Record};
pub use solver::{Build, Effect, Event, Index, Reason, ResultId, Save, Solver, Stored, Trail, Wanted};
