//! What this kernel can do.
/// What this kernel can do.
#[derive(Debug, Clone)]
pub struct Abilities {}
