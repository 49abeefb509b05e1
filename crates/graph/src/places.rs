//! Places in clients' files: one of them, and those of several graphs in one. What stands at a place is not looked at.

use crate::wire::{Location, Position, Range, Source, SourceInfo};

/// A place in a client's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The file.
    pub file: SourceInfo,
    /// Its lines; none is the file as a whole.
    pub ranges: Vec<Range>,
}

impl Place {
    /// Lines from 1, the first and the last; one range a line, as BuildKit's clients have it.
    pub fn new(file: SourceInfo, lines: Option<(u32, u32)>) -> Place {
        Place { file, ranges: lines.map(ranges).unwrap_or_default() }
    }

    /// First and last line, from 1. A range without an end is one line.
    pub fn lines(&self) -> Option<(u32, u32)> {
        let number = |place: &Option<Position>| u32::try_from(place.as_ref()?.line).ok().filter(|line| *line > 0);
        let lines = self.ranges.iter().filter_map(|range| {
            let start = number(&range.start)?;
            Some((start, number(&range.end).unwrap_or(start)))
        });
        lines.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

/// One range a line.
pub fn ranges((first, last): (u32, u32)) -> Vec<Range> {
    let at = |line: u32| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    (first..=last).map(|line| Range { start: at(line), end: at(line) }).collect()
}

impl Source {
    /// Takes over the places of another graph. A file that both have is one; an operation that has places keeps them.
    pub fn join(&mut self, other: Option<&Source>) {
        let Some(other) = other else { return };
        let files: Vec<usize> = other.infos.iter().map(|info| self.file(info)).collect();
        for (operation, places) in &other.locations {
            let known = self.locations.entry(operation.clone()).or_default();
            if !known.locations.is_empty() {
                continue;
            }
            for place in &places.locations {
                let file = usize::try_from(place.source_index).ok().and_then(|i| files.get(i));
                let index = file.and_then(|i| i32::try_from(*i).ok());
                known.locations.extend(index.map(|source_index| Location { source_index, ..place.clone() }));
            }
        }
    }

    /// The position of a file among those known; a new one is added.
    fn file(&mut self, info: &SourceInfo) -> usize {
        let same = |known: &SourceInfo| {
            known.filename == info.filename && known.language == info.language && known.data == info.data
        };
        self.infos.iter().position(same).unwrap_or_else(|| {
            self.infos.push(info.clone());
            self.infos.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Locations;

    fn source(file: &str, operation: &str) -> Source {
        let info = SourceInfo { filename: file.to_owned(), ..SourceInfo::default() };
        let places = Locations { locations: vec![Location::default()] };
        Source { locations: [(operation.to_owned(), places)].into(), infos: vec![info] }
    }

    #[test]
    fn a_file_of_both_is_one() {
        let mut joined = source("a", "one");
        joined.join(Some(&source("b", "two")));
        joined.join(Some(&source("a", "three")));
        assert_eq!(joined.infos.len(), 2);
        let index = |operation: &str| joined.locations[operation].locations[0].source_index;
        assert_eq!((index("one"), index("two"), index("three")), (0, 1, 0));
    }
}
