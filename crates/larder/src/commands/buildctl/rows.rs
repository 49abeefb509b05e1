//! Text in columns as buildctl prints it (Go's text/tabwriter, cells padded by tabs of eight), and its forms of times.
//! Scripts cut these columns at tabs: they are the same to the byte.

use proto::Timestamp;
use serde_json::Value;

/// Width of a tab.
const TAB: usize = 8;

/// Lines whose cells are separated by tabs; consecutive lines that have a column align in it.
pub fn aligned(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut out = String::new();
    columns(&cells, &mut Vec::new(), &mut out);
    out
}

/// Whether a line's cell is part of a column: the last one of a line is not.
fn has(line: &[&str], column: usize) -> bool {
    column + 1 < line.len()
}

/// Writes lines whose first columns have these widths, and finds the widths of the next.
fn columns(lines: &[Vec<&str>], widths: &mut Vec<usize>, out: &mut String) {
    let column = widths.len();
    let mut at = 0;
    while at < lines.len() {
        let end = at + lines[at..].iter().take_while(|line| has(line, column)).count();
        if end == at {
            write(&lines[at], widths, out);
            at += 1;
            continue;
        }
        let width = lines[at..end].iter().map(|line| line[column].chars().count() + 1).max().unwrap_or(1);
        widths.push(width.div_ceil(TAB) * TAB);
        columns(&lines[at..end], widths, out);
        widths.pop();
        at = end;
    }
}

fn write(line: &[&str], widths: &[usize], out: &mut String) {
    for (column, cell) in line.iter().enumerate() {
        out.push_str(cell);
        if let Some(width) = widths.get(column) {
            let tabs = width.saturating_sub(cell.chars().count()).div_ceil(TAB);
            out.extend(std::iter::repeat_n('\t', tabs));
        }
    }
    out.push('\n');
}

/// Prints it.
pub fn print(lines: &[String]) {
    print!("{}", aligned(lines));
}

/// `2024-01-31T12:00:00.5Z`, as Go's JSON has times.
pub fn json_time(time: &Timestamp) -> String {
    oci::time::rfc3339_nanos(time.seconds, u32::try_from(time.nanos).unwrap_or(0))
}

/// `2024-01-31 12:00:00.5 +0000 UTC`, as Go prints times.
pub fn long_time(time: &Timestamp) -> String {
    json_time(time).replace('T', " ").replace('Z', " +0000 UTC")
}

/// `2024-01-31T12:00:00Z`; nothing for no time.
pub fn short_time(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, |time| oci::time::rfc3339(time.seconds))
}

/// An object without its empty fields, as Go's `omitempty` leaves them out.
pub fn without_empty(value: Value) -> Value {
    let Value::Object(object) = value else { return value };
    let is_full = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::Bool(true) => true,
    };
    Value::Object(object.into_iter().filter(|(_, value)| is_full(value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's tabwriter gives for the same lines.
    #[test]
    fn cells_are_padded_by_tabs() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(aligned(&lines("ID\tPLATFORMS\nabcdefgh\tlinux/amd64")), "ID\t\tPLATFORMS\nabcdefgh\tlinux/amd64\n");
        assert_eq!(aligned(&lines("ID:\ta\nUsage count:\t1\n\nID:\tb")), "ID:\t\ta\nUsage count:\t1\n\nID:\tb\n");
        assert_eq!(aligned(&lines("Total:\t0B")), "Total:\t0B\n");
        assert_eq!(aligned(&lines("a\tb\tc\nlonger than\tb\td")), "a\t\tb\tc\nlonger than\tb\td\n");
        let time = Timestamp { seconds: 0, nanos: 500_000_000 };
        assert_eq!(long_time(&time), "1970-01-01 00:00:00.5 +0000 UTC");
    }
}
