//! One line of a live picture: how many columns it takes on a terminal, and what of it fits into how many.
//! What would move the cursor is left out; only colours stay.

use std::iter::Peekable;
use std::str::Chars;

use unicode_width::UnicodeWidthChar;

/// Columns between two stops of a tabulator.
const STOP: usize = 8;

/// Asks for the picture of the character before it, which may be wider than its letter.
const AS_PICTURE: char = '\u{fe0f}';

/// Columns that a character takes. Where terminals differ, it is the most: a line that turns out shorter does no harm.
fn columns_of(c: char) -> usize {
    if c == AS_PICTURE { 1 } else { c.width().unwrap_or(0) }
}

/// Columns that a line takes.
pub fn width(line: &str) -> usize {
    let mut chars = line.chars().peekable();
    let mut width = 0;
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            escape(&mut chars);
        } else {
            width += columns_of(c);
        }
    }
    width
}

/// The line with blanks instead of tabulators.
pub fn without_tabs(line: &str) -> String {
    let (mut out, mut parts) = (String::new(), line.split('\t'));
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let gap = STOP - width(&out) % STOP;
        out.push_str(&format!("{:gap$}{part}", ""));
    }
    out
}

/// Cuts a line to less than `columns`; colour codes take no room. At the very edge the cursor would wait on this line or go
/// to the next, as the terminal likes.
pub fn fit(line: &str, columns: usize) -> String {
    let (mut cut, mut width) = (String::new(), 0);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            cut.push_str(&escape(&mut chars).unwrap_or_default());
            continue;
        }
        if c.is_control() {
            continue;
        }
        width += columns_of(c);
        if width >= columns {
            break;
        }
        cut.push(c);
    }
    cut
}

/// Takes the rest of a control sequence (ECMA-48); gives it whole when it sets a colour.
fn escape(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    match chars.next()? {
        '[' => {
            let mut sequence = String::from("\x1b[");
            for c in chars.by_ref() {
                sequence.push(c);
                if ('@'..='~').contains(&c) {
                    return (c == 'm').then_some(sequence);
                }
            }
        }
        // A text for the terminal itself, such as a title: up to a bell or `ESC \\`.
        ']' => {
            while let Some(c) = chars.next() {
                if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_the_screen() {
        assert_eq!(fit("\x1b[31mabcdef", 4), "\x1b[31mabc");
        assert_eq!(fit("a\x07b\r", 10), "ab");
        // A wide character is drawn whole or not at all.
        assert_eq!([fit("构建镜像", 6), fit("构建镜像", 5), fit("🦀🦀", 4)], ["构建", "构建", "🦀"]);
        assert_eq!(fit("e\u{301}e\u{301}", 2), "e\u{301}");
    }

    #[test]
    fn nothing_but_colours_reaches_the_terminal() {
        assert_eq!(fit("a\x1b[2Kb\x1b[1;32mc\x1b[9Ad", 80), "ab\x1b[1;32mcd");
        assert_eq!(fit("\x1b]8;;https://kitchen.example\x1b\\link\x1b]8;;\x07 end\x1b7\x1b[", 80), "link end");
    }

    #[test]
    fn widths_and_tabulators() {
        assert_eq!([width("a构\x1b[31m🦀"), width("\u{2764}\u{fe0f}"), width("e\u{301}\t")], [5, 2, 1]);
        assert_eq!(without_tabs("a\tb\t\tc"), "a       b               c");
        assert_eq!(without_tabs("\x1b[31m构建\tb"), "\x1b[31m构建    b");
        assert_eq!(without_tabs("12345678\tb"), "12345678        b");
    }
}
