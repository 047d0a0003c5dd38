//! What both kinds of pictures have in common.

/// A font whose characters have the same width, wherever the picture is looked at.
pub const MONOSPACE: &str =
    "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/// The text as it is written in XML, in an attribute, too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // XML 1.0 has no others below the blank.
            '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_would_read_is_escaped() {
        assert_eq!(
            escape("a<b> & \"c\"\n\u{1b}['d'"),
            "a&lt;b&gt; &amp; &quot;c&quot;\n\u{fffd}['d'"
        );
    }
}
