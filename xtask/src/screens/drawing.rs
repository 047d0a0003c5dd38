//! A terminal's screen as an SVG. Pure.

use std::fmt::Write as _;

use vt100::Color;

use super::{
    screen::{Look, Piece, Screen},
    svg::{MONOSPACE, escape},
};

/// Pixels of a character, and of a row.
const CHARACTER: f64 = 7.8;
const ROW: f64 = 18.0;
const FONT_SIZE: f64 = 13.0;
/// Around the text.
const MARGIN: f64 = 14.0;
/// The height of the bar with the command.
const BAR: f64 = 30.0;

const FOREGROUND: &str = "#d7dae0";
const BACKGROUND: &str = "#1b1e24";
/// The first 16 colours of a terminal.
const PALETTE: [&str; 16] = [
    "#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0",
    "#5c6370", "#ff7b86", "#b5e890", "#ffd68a", "#7cc4ff", "#dd94f2", "#6fd3de", "#ffffff",
];

/// Draws a screen with the command in its title bar.
pub fn draw(screen: &Screen, title: &str) -> String {
    let width = f64::from(screen.columns) * CHARACTER + 2.0 * MARGIN;
    let rows = u32::try_from(screen.rows.len()).unwrap_or_default();
    let height = BAR + f64::from(rows) * ROW + 2.0 * MARGIN;
    let title = escape(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" font-family=\"{MONOSPACE}\" \
         font-size=\"{FONT_SIZE}\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <path d=\"M0 {BAR}V8a8 8 0 0 1 8-8H{:.0}a8 8 0 0 1 8 8V{BAR}z\" fill=\"#2c313a\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.0}\" fill=\"#abb2bf\" font-weight=\"bold\">{title}</text>\n\
         <g fill=\"{FOREGROUND}\" xml:space=\"preserve\">\n",
        width - 8.0,
        BAR * 2.0 / 3.0,
    );
    let mut top = BAR + MARGIN;
    for row in &screen.rows {
        row.iter().for_each(|piece| svg += &drawn(piece, top));
        top += ROW;
    }
    svg + "</g>\n</svg>\n"
}

/// A piece of a row that begins `top` pixels below the edge. Its width is given, too: fonts differ.
fn drawn(piece: &Piece, top: f64) -> String {
    let Piece { column, width, text, look } = piece;
    let (x, length) = (MARGIN + f64::from(*column) * CHARACTER, f64::from(*width) * CHARACTER);
    let (foreground, background) = colours(look);
    let mut svg = String::new();
    if let Some(colour) = background {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top:.0}\" width=\"{length:.1}\" height=\"{ROW}\" fill=\"{colour}\"/>"
        );
    }
    let mut style = String::new();
    if foreground != FOREGROUND {
        style += &format!(" fill=\"{foreground}\"");
    }
    if look.is_bold {
        style += " font-weight=\"bold\"";
    }
    if look.is_dim {
        style += " opacity=\"0.6\"";
    }
    if look.is_underlined {
        style += " text-decoration=\"underline\"";
    }
    let (base, text) = (top + FONT_SIZE, escape(text));
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{base:.0}\" textLength=\"{length:.1}\"{style}>{text}</text>"
    );
    svg
}

/// The colours of the characters and, where it is not the screen's own, behind them.
fn colours(look: &Look) -> (String, Option<String>) {
    let foreground = colour(look.foreground).unwrap_or_else(|| FOREGROUND.to_owned());
    let background = colour(look.background);
    if look.is_inverse {
        return (background.unwrap_or_else(|| BACKGROUND.to_owned()), Some(foreground));
    }
    (foreground, background)
}

/// A colour of a terminal; `None` for the screen's own.
fn colour(colour: Color) -> Option<String> {
    let rgb = |red: u8, green: u8, blue: u8| format!("#{red:02x}{green:02x}{blue:02x}");
    match colour {
        Color::Default => None,
        Color::Rgb(red, green, blue) => Some(rgb(red, green, blue)),
        Color::Idx(index @ 0..=15) => Some(PALETTE[usize::from(index)].to_owned()),
        // A cube of six levels in each colour, then greys, as xterm has them.
        Color::Idx(index @ 16..=231) => {
            let level = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
            let cube = index - 16;
            Some(rgb(level(cube / 36), level(cube / 6 % 6), level(cube % 6)))
        }
        Color::Idx(index) => {
            let grey = 8 + 10 * (index - 232);
            Some(rgb(grey, grey, grey))
        }
    }
}

#[cfg(test)]
mod tests {
    use tunless_lab::terminal::Size;

    use super::*;

    fn of(bytes: &str) -> String {
        let screen = Screen::read(bytes.as_bytes(), Size { columns: 50, rows: 9 }).unwrap();
        draw(&screen, "node2# a < b")
    }

    #[test]
    fn text_is_escaped_and_has_its_place() {
        let svg = of("x\r\n  if a<b && c>d  \"q\"");
        assert!(svg.contains("<title>node2# a &lt; b</title>"), "{svg}");
        let line =
            "<text x=\"29.6\" y=\"75\" textLength=\"101.4\">if a&lt;b &amp;&amp; c&gt;d</text>\n";
        assert!(svg.contains(line), "{svg}");
        assert!(svg.contains(">&quot;q&quot;</text>"), "{svg}");
        // Two rows, and no more.
        assert!(svg.contains("viewBox=\"0 0 418 94\""), "{svg}");
    }

    #[test]
    fn colours_bold_and_inverse_are_drawn() {
        let svg = of("\x1b[1;32mok\x1b[0m  \x1b[7mtab\x1b[0m  \x1b[2;4;48;5;196mx");
        assert!(svg.contains("fill=\"#98c379\" font-weight=\"bold\">ok</text>"), "{svg}");
        assert!(svg.contains("width=\"23.4\" height=\"18\" fill=\"#d7dae0\"/>"), "{svg}");
        assert!(svg.contains("fill=\"#1b1e24\">tab</text>"), "{svg}");
        assert!(svg.contains("fill=\"#ff0000\"/>"), "{svg}");
        assert!(svg.contains(" opacity=\"0.6\" text-decoration=\"underline\">x</text>"), "{svg}");
    }

    #[test]
    fn each_colour_of_a_terminal_has_its_own() {
        for (index, expected) in
            [(9, "#ff7b86"), (16, "#000000"), (21, "#0000ff"), (231, "#ffffff"), (255, "#eeeeee")]
        {
            assert_eq!(colour(Color::Idx(index)).as_deref(), Some(expected), "{index}");
        }
        assert_eq!(colour(Color::Rgb(1, 16, 255)).as_deref(), Some("#0110ff"));
        assert_eq!(colour(Color::Default), None);
    }
}
