//! Values of the configuration that have a unit: room on a disk, and time.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use store::lifecycle::Disk;

/// Room: bytes, or a part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(i64),
    Text(String),
}

impl Space {
    /// Reads `10GB`, `512MiB` (a unit is 1024 of the one before, as BuildKit takes them), `20%`, `1000`.
    pub fn parse(text: &str) -> Result<Space, String> {
        let wrong = || format!("`{text}` is no space on a disk; expected 10GB, 20% or a number of bytes");
        if let Some(percent) = text.strip_suffix('%') {
            return percent.trim().parse().map(Space::Percent).map_err(|_| wrong());
        }
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let unit = lower[number.len()..].trim().trim_end_matches('b').trim_end_matches('i');
        let power = ["", "k", "m", "g", "t", "p"].iter().position(|u| *u == unit).ok_or_else(wrong)?;
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = value * 1024_f64.powi(i32::try_from(power).unwrap_or(0));
        if bytes.is_finite() && bytes >= 0.0 { Ok(Space::Bytes(bytes as u64)) } else { Err(wrong()) }
    }

    /// Bytes, on a disk of this size.
    pub fn bytes(self, disk: Disk) -> u64 {
        match self {
            Space::Bytes(bytes) => bytes,
            Space::Percent(percent) => (u128::from(disk.total) * u128::from(percent) / 100) as u64,
        }
    }
}

impl<'de> Deserialize<'de> for Space {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Space, D::Error> {
        match Raw::deserialize(deserializer)? {
            Raw::Number(number) => u64::try_from(number).map(Space::Bytes).map_err(D::Error::custom),
            Raw::Text(text) => Space::parse(&text).map_err(D::Error::custom),
        }
    }
}

/// A time: `48h`, `1h30m`, or a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let seconds = |n: i64| u64::try_from(n).map(|n| Span(Duration::from_secs(n))).map_err(D::Error::custom);
        match Raw::deserialize(deserializer)? {
            Raw::Number(number) => seconds(number),
            Raw::Text(text) => match text.parse() {
                Ok(number) => seconds(number),
                Err(_) => store::lifecycle::parse_duration(&text).map(Span).map_err(D::Error::custom),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(Space::parse("10GB"), Ok(Space::Bytes(10 << 30)));
        assert_eq!(Space::parse("1.5m"), Ok(Space::Bytes(3 << 19)));
        assert_eq!(Space::parse("512 MiB"), Ok(Space::Bytes(512 << 20)));
        assert_eq!(Space::parse("1000"), Ok(Space::Bytes(1000)));
        assert_eq!(Space::parse("20%").map(|s| s.bytes(Disk { total: 1000, free: 0 })), Ok(200));
        for wrong in ["", "GB", "10 parsecs", "-1", "x%", "1e999999"] {
            assert!(Space::parse(wrong).is_err(), "{wrong}");
        }
    }
}
