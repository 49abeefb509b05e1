//! What is particular about the registries of one host: other hosts to ask first, plain HTTP, whom to believe. Where that
//! is said is the caller's.

use crate::Trust;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Hosts that are asked first, each perhaps with a path that goes before the image's: `mirror.example/proxy`.
    pub mirrors: Vec<String>,
    /// Whether it speaks plain HTTP. Hosts on loopback do unless this says no. Where any certificate is believed, TLS is
    /// tried first all the same.
    pub http: Option<bool>,
    /// How its certificate is looked at.
    pub trust: Trust,
}
