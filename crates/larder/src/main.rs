//! The command. Only this crate prints or reads the environment.
fn main() {}
