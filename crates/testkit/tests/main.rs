//! Tidy tests over the whole repository: floors, file sizes, opening words.

mod tidy;
