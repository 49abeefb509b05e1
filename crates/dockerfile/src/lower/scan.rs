//! Which trees beside the target are scanned for an SBOM: arguments of stages and of the whole file say so.
//! Only which; what a scanner is, is not known here.

use std::collections::BTreeMap;

use super::draft::Id;
use super::state::State;

/// The argument that asks for the context.
pub const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// The argument that asks for a stage.
pub const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// Whether an argument asks for what a stage has: `true`, or a list with the stage's name.
pub fn asks(state: &State, globals: &BTreeMap<String, String>, argument: &str) -> bool {
    let own = state.args.iter().rev().find(|(name, value)| name == argument && value.is_some());
    let value = own.and_then(|(_, value)| value.as_ref()).or_else(|| globals.get(argument));
    let Some(value) = value else { return false };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        list => list.split(',').any(|name| name == state.naming.id),
    }
}

/// The heads of what is to be scanned, by name.
pub type Heads = BTreeMap<String, Option<Id>>;
