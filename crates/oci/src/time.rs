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

/// A time as Go writes it (`time.RFC3339Nano`): the fraction without trailing zeros, or none.
pub fn rfc3339_nanos(seconds: i64, nanos: u32) -> String {
    let whole = rfc3339(seconds);
    if nanos == 0 {
        return whole;
    }
    let fraction = format!("{nanos:09}");
    format!("{}.{}Z", whole.trim_end_matches('Z'), fraction.trim_end_matches('0'))
}

/// Reads RFC 3339 with any fraction and offset: seconds and nanoseconds since 1970. Digits beyond nanoseconds are cut.
pub fn parse_rfc3339(text: &str) -> Option<(i64, u32)> {
    let number = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    };
    let mark = |at: usize, marks: &str| text.get(at..=at).is_some_and(|c| marks.contains(c));
    if !(mark(4, "-") && mark(7, "-") && mark(10, "Tt") && mark(13, ":") && mark(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or(0, |f| f.bytes().take_while(u8::is_ascii_digit).count());
    if rest.starts_with('.') && digits == 0 {
        return None;
    }
    let fraction = if digits > 0 { &rest[1..=digits] } else { "" };
    let nanos = format!("{:0<9.9}", fraction).parse().ok()?;
    let offset = offset(&rest[if digits > 0 { digits + 1 } else { 0 }..])?;
    // The other way round of `rfc3339`: days_from_civil.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// Seconds east of UTC of `Z` or `+02:00`.
fn offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let number = |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<i64>().ok());
    Some(sign * (number(hours)?? * 3600 + number(minutes)?? * 60))
}

/// Nanoseconds of a duration as Go writes it: `1m30s`, `1.5ms`, `0`.
pub fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * factor;
    }
    (!text.is_empty()).then_some(total as i64)
}

/// The way back, as Go writes it: the largest unit is hours, and of less than a second the unit that makes a whole part.
pub fn duration_text(nanos: i64) -> String {
    let (sign, left) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let units = [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)];
    if let Some((unit, size)) = units.into_iter().rev().find(|(_, size)| (*size..1_000_000_000).contains(&left)) {
        return format!("{sign}{}{unit}", fraction(left, size));
    }
    let (hours, minutes) = (left / 3_600_000_000_000, left / 60_000_000_000 % 60);
    let mut text = sign.to_owned();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    text + &fraction(left % 60_000_000_000, 1_000_000_000) + "s"
}

/// `value / unit` without trailing zeros.
fn fraction(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let rest = format!("{:0width$}", value % unit);
    match rest.trim_end_matches('0') {
        "" => (value / unit).to_string(),
        rest => format!("{}.{rest}", value / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, duration_text, parse_rfc3339, rfc3339_nanos};

    #[test]
    fn what_go_writes_is_read() {
        for text in ["2026-11-23T23:50:37.40195248Z", "2024-02-29T12:00:00Z", "0001-01-01T00:00:00Z"] {
            let (seconds, nanos) = parse_rfc3339(text).unwrap();
            assert_eq!(rfc3339_nanos(seconds, nanos), text);
        }
        assert_eq!(parse_rfc3339("1970-01-01T02:00:00+02:00"), Some((0, 0)));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5-00:30"), Some((1800, 500_000_000)));
        for text in ["", "1970-01-01", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z", "1970-01-01T00:00:00.Z", "é"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(super::duration("1m30s"), Some(90_000_000_000));
        assert_eq!(super::duration("1.5ms"), Some(1_500_000));
        assert_eq!(super::duration("5"), None);
        assert_eq!(super::duration("x"), None);
    }

    #[test]
    fn known_days() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::rfc3339(1_709_208_000), "2024-02-29T12:00:00Z");
        assert_eq!(super::rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(super::rfc3339_micros(1_709_210_096_000_001), "2024-02-29T12:34:56.000001Z");
    }

    #[test]
    fn durations_as_go_writes_them() {
        for text in ["0s", "1ns", "1.5µs", "20ms", "1s", "1.5s", "1m0s", "1m30s", "1h0m0s", "26h0m0.25s", "-1m0s"] {
            let nanos = match text.strip_prefix('-') {
                Some(rest) => -duration(rest).unwrap_or_default(),
                None => duration(text).unwrap_or_default(),
            };
            assert_eq!(duration_text(nanos), text);
        }
    }
}
