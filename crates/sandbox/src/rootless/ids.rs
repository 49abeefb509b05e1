//! Which ids a user may use in a namespace: subordinate ranges as subuid(5) and subgid(5) write them, and the map made of
//! them. Pure text and numbers; whether the kernel takes the map is found out elsewhere.

/// Ids `start..start + count` of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u32,
    /// How many; never 0.
    pub count: u32,
}

/// The ranges that a file (`name-or-number:start:count` a line) gives to a user.
pub fn ranges(text: &str, name: Option<&str>, number: u32) -> Vec<Range> {
    let number = number.to_string();
    let of_user = |owner: &str| owner == number || Some(owner) == name;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next().filter(|owner| of_user(owner))?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (count > 0 && !owner.is_empty()).then_some(Range { start, count })
        })
        .collect()
}

/// The map as `newuidmap` and `newgidmap` take it, `inside outside count` three by three: the user's own id becomes 0, the
/// ranges follow from 1 on.
pub fn map(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut numbers = vec![0, own, 1];
    let mut inside = 1u32;
    for range in ranges {
        let count = range.count.min(u32::MAX - inside);
        numbers.extend([inside, range.start, count]);
        inside += count;
    }
    numbers.iter().map(u32::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_and_by_number() {
        let text = "root:1:5\n# a comment\nana:100000:65536\n1000:300000:10\nana:bad:7\nana:5:0\nbanana:9:9\n";
        let want = [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 10 }];
        assert_eq!(ranges(text, Some("ana"), 1000), want);
        assert_eq!(ranges(text, None, 1000), want[1..]);
        assert!(ranges(text, Some("nobody"), 65_534).is_empty());
    }

    #[test]
    fn the_own_id_is_root_and_ranges_follow() {
        let two = [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 10 }];
        assert_eq!(map(1000, &two), ["0", "1000", "1", "1", "100000", "65536", "65537", "300000", "10"]);
        let all = Range { start: 1, count: u32::MAX };
        assert_eq!(map(7, &[all, Range { start: 5, count: 9 }])[5], (u32::MAX - 1).to_string());
    }
}
