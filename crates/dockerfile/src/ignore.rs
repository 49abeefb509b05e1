//! Ignore files (`.dockerignore`): text to patterns. What a pattern matches is `graph::pattern`'s.

/// The patterns of an ignore file: no comments, no empty lines, cleaned, `!` kept.
pub fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.trim();
        let (mark, rest) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if line.is_empty() {
            continue;
        }
        let clean = if rest.is_empty() { String::new() } else { graph::pattern::clean(rest) };
        let clean = if clean.len() > 1 { clean.strip_prefix('/').unwrap_or(&clean) } else { &clean };
        found.push(format!("{mark}{clean}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_buildkit_reads_them() {
        let text = "\u{feff}# comment\n\n  *.log  \n/build/\n! keep.log\n#x\n./a/../b\n\\#odd\r\n!\n";
        assert_eq!(patterns(text), ["*.log", "build", "!keep.log", "b", "\\#odd", "!"]);
    }
}
