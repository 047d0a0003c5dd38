//! What keys change. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    View,
    table::{self, Table},
};

/// What the loop has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// End.
    Leave,
    /// Something else is to be looked at.
    Look,
    /// The same is to be drawn otherwise.
    Draw,
}

/// The choices so far.
#[derive(Clone, Debug)]
pub struct Keys {
    /// What the rows that are shown contain; empty: all are shown.
    filter: String,
    /// The next characters belong to the filter.
    is_typing: bool,
    view: View,
    column: usize,
    is_descending: bool,
    /// The first row that is shown.
    top: usize,
    is_paused: bool,
}

/// Rows that a page has; the screen may have more or fewer.
const PAGE: usize = 20;
/// The longest filter, characters: none of what is searched for is longer.
const LONGEST: usize = 64;

impl Keys {
    /// A view as it is shown first.
    #[must_use]
    pub fn new(view: View) -> Self {
        let column = table::first_rate(view);
        Self {
            filter: String::new(),
            is_typing: false,
            view,
            column,
            is_descending: true,
            top: 0,
            is_paused: false,
        }
    }

    /// What is shown.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// The column that is sorted by, and whether the largest comes first.
    #[must_use]
    pub const fn order(&self) -> (usize, bool) {
        (self.column, self.is_descending)
    }

    /// The first row that is shown.
    #[must_use]
    pub const fn top(&self) -> usize {
        self.top
    }

    /// Nothing is looked at any more.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// What is searched for, and whether it is still being typed; `None`: nothing is.
    #[must_use]
    pub fn search(&self) -> Option<(&str, bool)> {
        (self.is_typing || !self.filter.is_empty())
            .then_some((self.filter.as_str(), self.is_typing))
    }

    /// Returns a table with the rows that are searched for, sorted as it was chosen.
    pub fn arrange(&mut self, table: &Table) -> Table {
        let mut arranged = table.matching(&self.filter);
        arranged.sort(self.column, self.is_descending);
        self.top = self.top.min(arranged.rows.len().saturating_sub(1));
        arranged
    }

    /// Takes in a key. There are so many columns and rows.
    pub fn press(&mut self, key: KeyEvent, columns: usize, rows: usize) -> Wish {
        let last = rows.saturating_sub(1);
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            // Ctrl-Space is what a terminal makes of a zero, and is no wish.
            return if key.code == KeyCode::Char('c') { Wish::Leave } else { Wish::Draw };
        }
        if self.is_typing && self.edit(key.code) {
            return Wish::Draw;
        }
        match key.code {
            KeyCode::Esc if !self.filter.is_empty() => self.set_filter(String::new()),
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Leave,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char(digit @ '1'..='4') => {
                let at = digit as usize - '1' as usize;
                return self.show(View::ALL[at]);
            }
            KeyCode::Tab => return self.show(self.beside(1)),
            KeyCode::BackTab => return self.show(self.beside(View::ALL.len() - 1)),
            KeyCode::Right | KeyCode::Char('>') => {
                self.column = (self.column + 1).min(columns.saturating_sub(1));
            }
            KeyCode::Left | KeyCode::Char('<') => self.column = self.column.saturating_sub(1),
            KeyCode::Char('r') => self.is_descending = !self.is_descending,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Down => self.top = (self.top + 1).min(last),
            KeyCode::Up => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown => self.top = (self.top + PAGE).min(last),
            KeyCode::PageUp => self.top = self.top.saturating_sub(PAGE),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = last,
            _ => {}
        }
        Wish::Draw
    }

    /// Takes in a key of the line that is typed. Returns whether it was one.
    fn edit(&mut self, code: KeyCode) -> bool {
        match code {
            KeyCode::Char(character) => {
                if self.filter.chars().count() < LONGEST {
                    self.set_filter(format!("{}{character}", self.filter));
                }
            }
            KeyCode::Backspace => {
                let mut shorter = self.filter.clone();
                shorter.pop();
                self.set_filter(shorter);
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.set_filter(String::new());
            }
            _ => return false,
        }
        true
    }

    fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.top = 0;
    }

    fn show(&mut self, view: View) -> Wish {
        *self = Self { is_paused: self.is_paused, ..Self::new(view) };
        Wish::Look
    }

    fn beside(&self, steps: usize) -> View {
        let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or_default();
        View::ALL[(at + steps) % View::ALL.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 10;
    const ROWS: usize = 50;

    fn press(keys: &mut Keys, codes: &[KeyCode]) -> Vec<Wish> {
        codes.iter().map(|code| keys.press((*code).into(), COLUMNS, ROWS)).collect()
    }

    #[test]
    fn keys_choose_views() {
        let mut keys = Keys::new(View::Nodes);
        for (code, view) in [
            (KeyCode::Tab, View::Pods),
            (KeyCode::Char('4'), View::Leases),
            (KeyCode::Tab, View::Nodes),
            (KeyCode::BackTab, View::Leases),
            (KeyCode::Char('3'), View::Reasons),
        ] {
            assert_eq!(press(&mut keys, &[code]), [Wish::Look]);
            assert_eq!(keys.view(), view, "{code:?}");
            assert_eq!(keys.order(), (table::first_rate(view), true));
        }
        assert_eq!(press(&mut keys, &[KeyCode::Char('9')]), [Wish::Draw]);
    }

    #[test]
    fn keys_choose_columns_and_rows_and_stay_within() {
        let mut keys = Keys::new(View::Nodes);
        press(&mut keys, &[KeyCode::Right; 30]);
        assert_eq!(keys.order(), (COLUMNS - 1, true));
        press(&mut keys, &[KeyCode::Left; 30]);
        press(&mut keys, &[KeyCode::Char('r')]);
        assert_eq!(keys.order(), (0, false));
        press(&mut keys, &[KeyCode::PageDown, KeyCode::Down, KeyCode::Up, KeyCode::Down]);
        assert_eq!(keys.top(), PAGE + 1);
        press(&mut keys, &[KeyCode::PageDown; 9]);
        assert_eq!(keys.top(), ROWS - 1);
        press(&mut keys, &[KeyCode::Home, KeyCode::Up]);
        assert_eq!(keys.top(), 0);
        press(&mut keys, &[KeyCode::End]);
        assert_eq!(keys.top(), ROWS - 1);
        // Where there are none.
        assert_eq!(keys.press(KeyCode::End.into(), 0, 0), Wish::Draw);
        assert_eq!(keys.top(), 0);
    }

    #[test]
    fn a_slash_searches_until_escape() {
        let mut keys = Keys::new(View::Nodes);
        assert_eq!(keys.search(), None);
        press(&mut keys, &[KeyCode::Down, KeyCode::Char('/')]);
        assert_eq!(keys.search(), Some(("", true)));
        // Letters that mean something elsewhere, too.
        let typed = ['q', 'r', '1', ' ', '/'].map(KeyCode::Char);
        assert_eq!(press(&mut keys, &typed), [Wish::Draw; 5]);
        assert_eq!((keys.search(), keys.top()), (Some(("qr1 /", true)), 0));
        press(&mut keys, &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Down, KeyCode::Enter]);
        assert_eq!((keys.search(), keys.top()), (Some(("qr1", false)), 1), "arrows scroll");
        assert_eq!(press(&mut keys, &[KeyCode::Char('r')]), [Wish::Draw]);
        assert_eq!(
            (keys.search(), keys.order().1),
            (Some(("qr1", false)), false),
            "typed to its end"
        );
        // One Esc clears, the next leaves.
        assert_eq!(press(&mut keys, &[KeyCode::Esc]), [Wish::Draw]);
        assert_eq!(keys.search(), None);
        press(&mut keys, &[KeyCode::Char('/'), KeyCode::Char('x'), KeyCode::Esc]);
        assert_eq!(keys.search(), None);
        assert_eq!(press(&mut keys, &[KeyCode::Esc]), [Wish::Leave]);
        // Too much, nothing, and another view.
        press(&mut keys, &[KeyCode::Char('/')]);
        press(&mut keys, &[KeyCode::Char('ü'); 99]);
        assert_eq!(keys.search().unwrap().0.chars().count(), LONGEST);
        press(&mut keys, &[KeyCode::Backspace; 99]);
        assert_eq!(keys.search(), Some(("", true)));
        press(&mut keys, &[KeyCode::Char('a'), KeyCode::Tab]);
        assert_eq!((keys.search(), keys.view()), (None, View::Pods));
        press(&mut keys, &[KeyCode::Char('/')]);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(keys.press(ctrl_c, COLUMNS, ROWS), Wish::Leave);
    }

    #[test]
    fn keys_leave_and_pause() {
        let mut keys = Keys::new(View::Nodes);
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut keys, &[code]), [Wish::Leave]);
        }
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(keys.press(ctrl_c, COLUMNS, ROWS), Wish::Leave);
        let ctrl_space = KeyEvent::new(KeyCode::Char(' '), KeyModifiers::CONTROL);
        assert_eq!(keys.press(ctrl_space, COLUMNS, ROWS), Wish::Draw);
        assert!(!keys.is_paused());
        press(&mut keys, &[KeyCode::Char(' ')]);
        assert!(keys.is_paused());
        press(&mut keys, &[KeyCode::Tab]);
        assert!(keys.is_paused(), "also in the next view");
        press(&mut keys, &[KeyCode::Char(' ')]);
        assert!(!keys.is_paused());
    }
}
