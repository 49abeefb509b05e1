//! What a build is: operations, edges between them, and their form as LLB bytes and digests (BuildKit's exchange format).
//! Identity is the sha256 of an operation's own bytes, so a graph keeps those bytes and never re-encodes for a digest.
//! Nothing here reads a file, knows a cache, or runs anything.

pub mod git;
mod graph;
pub mod pattern;
mod places;
mod vertex;
pub mod wire;

pub use graph::{Error, Graph, GraphBuilder};
pub use places::{Place, ranges};
pub use vertex::{Edge, Kind, Vertex};
