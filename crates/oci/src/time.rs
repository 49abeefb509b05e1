//! Times since 1970 as RFC 3339 text in UTC, as image configurations and BuildKit's clients have them. No clock is read.

/// A time of microseconds since 1970: `2026-11-24T02:00:00.000000Z`.
pub fn rfc3339_micros(micros: u64) -> String {
    let seconds = rfc3339(i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX));
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), micros % 1_000_000)
}

/// A time of seconds since 1970: `2024-01-31T12:00:00Z`.
pub fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: eras of 400 years, years that begin in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_days() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::rfc3339(1_709_208_000), "2024-02-29T12:00:00Z");
        assert_eq!(super::rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(super::rfc3339_micros(1_709_210_096_000_001), "2024-02-29T12:34:56.000001Z");
    }
}
