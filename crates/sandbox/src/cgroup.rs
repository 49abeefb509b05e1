//! Cgroups (stub).
/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cgroups of dead owners.
    pub cgroups: usize,
    /// Processes killed in them.
    pub processes: usize,
}
/// Removes what crashed owners left.
pub fn sweep() -> Swept {
    Swept::default()
}
