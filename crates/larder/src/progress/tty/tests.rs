//! The picture as a terminal shows it: it is drawn through a real pseudo terminal, whose size changes between two draws.
//! The screen is a small one of our own; like most terminals it breaks lines anew when its width changes.

use std::fs::File;
use std::io::Read;

use builder::event::Stream;
use oci::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use unicode_width::UnicodeWidthChar;

use super::*;

/// What a terminal shows: whole lines as they were written, each of which may take several rows.
struct Screen {
    terminal: File,
    columns: usize,
    lines: Vec<String>,
    /// Row of the cursor, counted over all lines, at the begin of which it stands.
    row: usize,
}

impl Screen {
    fn new(columns: usize, rows: u16) -> (Screen, Tty<File>) {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let out = File::from(rustix::fs::open(name, flags, Mode::empty()).unwrap());
        let mut screen = Screen { terminal: terminal.into(), columns, lines: Vec::new(), row: 0 };
        screen.resize(columns, rows);
        (screen, Tty::new(out))
    }

    fn rows_of(&self, line: &str) -> usize {
        width(line).div_ceil(self.columns).max(1)
    }

    /// The cursor stays at the line at which it is.
    fn resize(&mut self, columns: usize, rows: u16) {
        let at = self.line();
        let size = Winsize { ws_col: columns as u16, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.terminal, size).unwrap();
        self.columns = columns;
        self.row = self.lines[..at].iter().map(|line| self.rows_of(line)).sum();
    }

    /// The line at whose begin the cursor is.
    fn line(&self) -> usize {
        let mut left = self.row;
        for (i, line) in self.lines.iter().enumerate() {
            if left == 0 {
                return i;
            }
            left = left.checked_sub(self.rows_of(line)).expect("the cursor is in the middle of a line");
        }
        self.lines.len()
    }

    /// Takes what one draw has written.
    fn read(&mut self, tty: &mut Tty<File>, end: bool) {
        // Anything later than the draw: so much of the terminal's input is its own.
        tty.draw(end);
        tty.out.write_all(b"\0").unwrap();
        let mut bytes = Vec::new();
        while bytes.last() != Some(&0) {
            let mut more = [0; 4096];
            let count = self.terminal.read(&mut more).unwrap();
            bytes.extend_from_slice(&more[..count]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut line = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\0' | '\r' => {}
                '\n' => {
                    assert!(width(&line) < self.columns, "a line reaches the edge: {line}");
                    self.row += self.rows_of(&line);
                    self.lines.push(std::mem::take(&mut line));
                }
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let sequence: String = chars.by_ref().take_while_inclusive();
                    match (sequence.trim_end_matches(char::is_alphabetic), sequence.chars().last().unwrap()) {
                        (up, 'A') => self.row = self.row.saturating_sub(up.parse().unwrap()),
                        ("", 'J') => self.lines.truncate(self.line()),
                        (_, 'm') => {}
                        other => panic!("{other:?}"),
                    }
                }
                c => {
                    assert!(c.width().is_some(), "{c:?} is drawn");
                    line.push(c);
                }
            }
        }
    }

    /// Its lines, without what time makes of them.
    fn shown(&self) -> String {
        self.lines
            .iter()
            .map(|line| line.replace(|c: char| c.is_ascii_digit(), "0").trim_end().to_owned() + "|\n")
            .collect()
    }
}

trait TakeInclusive {
    fn take_while_inclusive(self) -> String;
}

impl<I: Iterator<Item = char>> TakeInclusive for I {
    /// A control sequence up to its last character.
    fn take_while_inclusive(self) -> String {
        let mut sequence = String::new();
        for c in self {
            sequence.push(c);
            if c.is_alphabetic() {
                break;
            }
        }
        sequence
    }
}

/// Tells of a step that goes on and has printed `log`.
fn begin(tty: &mut Tty<File>, name: &str, log: &str) {
    let step = Digest::of(name.as_bytes());
    let whats = [
        What::Known { step, name: name.to_owned(), inputs: Vec::new(), group: None },
        What::Started { step },
        What::Log { step, stream: Stream::Out, bytes: log.into() },
    ];
    for what in whats {
        // Nothing is drawn but where a test says so.
        tty.last = now();
        tty.show(&Event { at: now(), what });
    }
}

#[test]
fn wide_characters_and_tabulators() {
    let (mut screen, mut tty) = Screen::new(50, 20);
    begin(
        &mut tty,
        "[1/2] RUN 编译所有的源代码并且运行全部的测试用例 && make",
        "正在下载依赖\n名\t大小\n🦀 crates\t12\n",
    );
    begin(&mut tty, "[2/2] RUN a\tb", "\x1b[2Kone\x1b[1A two\n");
    screen.read(&mut tty, false);
    let once = screen.shown();
    screen.read(&mut tty, false);
    assert_eq!(screen.shown(), once, "drawn over");
    insta::assert_snapshot!(once, @r"
    [+] Building 0.0s (0/0)|
     => [0/0] RUN 编译所有的源代码并且运行全部的 0.0s|
     => => # 正在下载依赖|
     => => # 名      大小|
     => => # 🦀 crates       00|
     => [0/0] RUN a b                            0.0s|
     => => # one two|
    ");
}

#[test]
fn a_terminal_that_gets_narrower_and_wider() {
    let (mut screen, mut tty) = Screen::new(60, 20);
    begin(
        &mut tty,
        "[1/1] RUN a command that is as long as the terminal is wide or longer",
        "line 构建镜像 of the output, rather long\n",
    );
    for columns in [60, 31, 20, 9, 3, 80] {
        screen.resize(columns, 20);
        screen.read(&mut tty, false);
        assert_eq!(screen.lines.len(), 3, "{columns}: {:#?}", screen.lines);
    }
    screen.resize(24, 20);
    screen.read(&mut tty, true);
    insta::assert_snapshot!(screen.shown(), @r"
    [+] Building 0.0s (0/0)|
     => CANCELED [0/0] 0.0s|
    ");
}

#[test]
fn small_terminals() {
    let surpluses = [surplus(8, 10), surplus(9, 10), surplus(20, 10), surplus(3, 1)];
    assert_eq!(surpluses, [0, 1, 12, 3]);
    assert_eq!(headline("RUN x", 0.25, 16), "RUN x      0.2s");
    assert_eq!(headline("RUN a long command", 12.0, 16), "RUN a lon 12.0s");
    assert_eq!(headline("RUN 构建镜像", 0.25, 14), "RUN 构建 0.2s");
    assert_eq!([height(&[3, 0, 60], 60), height(&[3, 0, 61], 60), height(&[59, 59], 20)], [3, 4, 6]);
}
