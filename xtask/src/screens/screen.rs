//! What a terminal shows after the bytes of a command. Pure.

use std::num::NonZeroU16;

use anyhow::{Context as _, Result};
use tunless_lab::terminal::Size;
use vt100::{Cell, Color, Parser};

/// What a full-screen program sends before it gives the terminal back (`rmcup` of terminfo).
const LEAVE: &[u8] = b"\x1b[?1049l";

/// The rows of a terminal, up to the last that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Screen {
    /// Characters of a row.
    pub columns: u16,
    /// Each row's text, from the left.
    pub rows: Vec<Vec<Piece>>,
}

/// Text that looks alike, without gaps.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, from 0.
    pub column: u16,
    /// Columns that it takes.
    pub width: u16,
    /// Its characters.
    pub text: String,
    /// How it looks.
    pub look: Look,
}

/// How text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The colour of the characters.
    pub foreground: Color,
    /// The colour behind them.
    pub background: Color,
    /// Bold.
    pub is_bold: bool,
    /// Less bright.
    pub is_dim: bool,
    /// Underlined.
    pub is_underlined: bool,
    /// Both colours are exchanged.
    pub is_inverse: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        Self {
            foreground: cell.fgcolor(),
            background: cell.bgcolor(),
            is_bold: cell.bold(),
            is_dim: cell.dim(),
            is_underlined: cell.underline(),
            is_inverse: cell.inverse(),
        }
    }

    /// Whether one sees it where there is no character.
    fn shows_blanks(&self) -> bool {
        self.is_inverse || self.is_underlined || self.background != Color::Default
    }
}

impl Screen {
    /// Reads what a terminal of this size was sent. Of a full-screen program it is what was there before it
    /// gave the terminal back.
    ///
    /// # Errors
    /// If the terminal has no rows or no columns.
    pub fn read(bytes: &[u8], size: Size) -> Result<Self> {
        let Size { columns, rows } = size;
        let both = NonZeroU16::new(rows).zip(NonZeroU16::new(columns));
        let (height, width) = both.context("a terminal has rows and columns")?;
        let end = bytes.windows(LEAVE.len()).rposition(|window| window == LEAVE);
        let mut parser = Parser::new(height, width, 0);
        parser.process(&bytes[..end.unwrap_or(bytes.len())]);
        let screen = parser.screen();
        let row = |row| {
            pieces((0..columns).filter_map(|column| Some((column, screen.cell(row, column)?))))
        };
        let mut rows: Vec<Vec<Piece>> = (0..rows).map(row).collect();
        while rows.last().is_some_and(Vec::is_empty) {
            rows.pop();
        }
        Ok(Self { columns, rows })
    }

    /// All its text, a line for each row; gaps become one blank.
    pub fn text(&self) -> String {
        let row = |row: &Vec<Piece>| {
            row.iter().map(|piece| piece.text.as_str()).collect::<Vec<_>>().join(" ")
        };
        self.rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }
}

/// Joins neighbours that look alike. Two blanks without colours end a piece, so that columns of a table keep
/// their place in every font.
fn pieces<'a>(cells: impl Iterator<Item = (u16, &'a Cell)>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut is_open = false;
    for (column, cell) in cells.filter(|(_, cell)| !cell.is_wide_continuation()) {
        let look = Look::of(cell);
        let text = if cell.has_contents() { cell.contents() } else { " " };
        let width = if cell.is_wide() { 2 } else { 1 };
        let is_seen = text != " " || look.shows_blanks();
        let last = pieces.last_mut().filter(|last| is_open && last.look == look);
        match last {
            Some(last) if is_seen || !last.text.ends_with(' ') => {
                last.text += text;
                last.width += width;
            }
            _ if is_seen => pieces.push(Piece { column, width, text: text.to_owned(), look }),
            _ => {
                is_open = false;
                continue;
            }
        }
        is_open = true;
    }
    for piece in pieces.iter_mut().filter(|piece| !piece.look.shows_blanks()) {
        let kept = piece.text.trim_end_matches(' ').len();
        piece.width -= u16::try_from(piece.text.len() - kept).unwrap_or_default();
        piece.text.truncate(kept);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<Piece>> {
        Screen::read(text.as_bytes(), Size { columns: 20, rows: 5 }).unwrap().rows
    }

    fn piece(column: u16, text: &str, look: Look) -> Piece {
        let width = text.chars().count().try_into().unwrap();
        Piece { column, width, text: text.to_owned(), look }
    }

    #[test]
    fn columns_of_a_table_are_pieces_of_their_own() {
        let plain = Look::default();
        let rows = read("\r\na b  c   \r\n  d\u{2192}e");
        let expected = [
            vec![],
            vec![piece(0, "a b", plain), piece(5, "c", plain)],
            vec![piece(2, "d\u{2192}e", plain)],
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn looks_are_kept() {
        let rows = read("\x1b[1;31mred\x1b[0m \x1b[7m in \x1b[0m\x1b[38;2;1;2;3;48;5;9mx \x1b[m.");
        let red = Look { is_bold: true, foreground: Color::Idx(1), ..Look::default() };
        let inverse = Look { is_inverse: true, ..Look::default() };
        let both =
            Look { foreground: Color::Rgb(1, 2, 3), background: Color::Idx(9), ..Look::default() };
        let expected = vec![
            piece(0, "red", red),
            piece(4, " in ", inverse),
            piece(8, "x ", both),
            piece(10, ".", Look::default()),
        ];
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn a_wide_character_takes_two_columns() {
        let rows = read("\u{6f22}x");
        let look = Look::default();
        assert_eq!(rows, [vec![Piece { column: 0, width: 3, text: "\u{6f22}x".into(), look }]]);
    }

    #[test]
    fn a_full_screen_program_is_seen_before_it_leaves() {
        let rows = read("before\x1b[?1049h\x1b[Hduring\x1b[?1049lafter");
        assert_eq!(rows, [vec![piece(0, "during", Look::default())]]);
        let screen = Screen::read(b"one  two\r\nthree", Size { columns: 20, rows: 5 }).unwrap();
        assert_eq!(screen.text(), "one two\nthree");
        assert!(Screen::read(b"", Size { columns: 0, rows: 5 }).is_err());
    }
}
