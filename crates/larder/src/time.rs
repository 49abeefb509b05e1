//! Ages as text, for people. Microseconds since 1970 come in; no clock is read.

/// How long ago, for people: `3 minutes ago`.
pub fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then) / 1_000_000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(ago(0, 61_000_000), "1 minute ago");
    }
}
