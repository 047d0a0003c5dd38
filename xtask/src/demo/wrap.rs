//! Lines no wider than the page.

/// Columns of a page.
pub const WIDTH: usize = 100;
/// How much further in a line goes on.
const HANG: usize = 4;

/// Sets a paragraph: words joined anew, each line behind `indent` blanks.
pub fn paragraph(text: &str, indent: usize) -> Vec<String> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    fold(&words, indent, 0)
}

/// Keeps a line as it is, and breaks it at a blank only where it is too wide.
pub fn line(text: &str, indent: usize) -> Vec<String> {
    fold(&text.replace('\t', "        "), indent, HANG)
}

fn fold(text: &str, indent: usize, hang: usize) -> Vec<String> {
    let own = text.chars().take_while(|character| *character == ' ').count();
    let mut rest = text.trim_end();
    let mut margin = indent;
    let mut lines = Vec::new();
    loop {
        let room = WIDTH.saturating_sub(margin).max(1);
        let (head, tail) = split(rest, room);
        lines.push(format!("{:margin$}{head}", "").trim_end().to_owned());
        match tail {
            Some(tail) => rest = tail,
            None => return lines,
        }
        margin = (indent + own + hang).min(WIDTH / 2);
    }
}

/// The part of `text` that fits into `room`, and the rest, if any.
fn split(text: &str, room: usize) -> (&str, Option<&str>) {
    let Some((too_far, _)) = text.char_indices().nth(room) else {
        return (text, None);
    };
    let blanks = text.len() - text.trim_start().len();
    // A blank just beyond the edge will do, leading ones will not.
    let last =
        if text[too_far..].starts_with(' ') { Some(too_far) } else { text[..too_far].rfind(' ') };
    let last = last.filter(|at| *at > blanks);
    match last {
        Some(at) => (&text[..at], Some(text[at..].trim_start())),
        None => (&text[..too_far], Some(&text[too_far..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_joined_and_set_anew() {
        assert_eq!(paragraph("one\n   two", 2), ["  one two"]);
        let lines = paragraph(&"word ".repeat(60), 3);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH && line.starts_with("   w")));
        assert_eq!(paragraph("", 3), [""]);
    }

    #[test]
    fn lines_keep_their_blanks_and_hang_where_they_are_broken() {
        assert_eq!(line("    a  b", 2), ["      a  b"]);
        let lines = line(&format!("  {} end", "x".repeat(94)), 2);
        assert_eq!(lines, [format!("    {}", "x".repeat(94)), "        end".to_owned()]);
    }

    #[test]
    fn a_line_that_just_fits_stays_whole() {
        assert_eq!(line(&"x".repeat(WIDTH), 0).len(), 1);
        assert_eq!(line(&format!("{} y", "x".repeat(WIDTH)), 0).len(), 2);
        let unbroken = line(&"ä".repeat(WIDTH + 1), 0);
        assert_eq!(unbroken, ["ä".repeat(WIDTH), "    ä".to_owned()]);
    }
}
