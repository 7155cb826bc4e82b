//! Bar charts as SVG, with a background, so that they are readable on light and dark pages.

use std::fmt::Write;

#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// The unit, and whether more or less is better.
    pub(super) note: &'a str,
    pub(super) bars: Vec<Bar<'a>>,
}

#[derive(Clone, Debug)]
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) value: f64,
    /// Smallest and largest value, drawn as a line across the bar's end.
    pub(super) range: (f64, f64),
    /// Text after the bar.
    pub(super) label: String,
    pub(super) highlighted: bool,
}

const WIDTH: f64 = 720.0;
/// Where bars start.
const LEFT: f64 = 130.0;
/// Room for the label of the longest bar.
const RIGHT: f64 = 110.0;
const TOP: f64 = 62.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;

impl Chart<'_> {
    pub(super) fn svg(&self) -> String {
        let height = TOP + ROW * self.bars.len() as f64 + 14.0;
        let longest = self.bars.iter().map(|bar| bar.range.1.max(bar.value)).fold(0.0, f64::max);
        let scale = if longest > 0.0 { (WIDTH - LEFT - RIGHT) / longest } else { 0.0 };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#f7f8fa\"/>\n\
             <text x=\"16\" y=\"27\" font-size=\"16\" font-weight=\"600\" fill=\"#16202c\">{}</text>\n\
             <text x=\"16\" y=\"46\" font-size=\"12\" fill=\"#5b6875\">{}</text>\n",
            escaped(self.title),
            escaped(self.note),
        );
        for (row, bar) in self.bars.iter().enumerate() {
            svg += &bar.svg(TOP + ROW * row as f64, scale);
        }
        svg + "</svg>\n"
    }
}

impl Bar<'_> {
    fn svg(&self, top: f64, scale: f64) -> String {
        let (text, middle) = (top + 14.0, top + BAR / 2.0);
        let at = |value: f64| LEFT + value * scale;
        let (low, high) = (at(self.range.0), at(self.range.1));
        let (fill, weight) = if self.highlighted { ("#1f6feb", 600) } else { ("#a9b4c0", 400) };
        let mut svg = String::new();
        // Writing to a string can't fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" font-weight=\"{weight}\" fill=\"#16202c\">{}</text>\n\
             <rect x=\"{LEFT:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR:.1}\" rx=\"2\" fill=\"{fill}\"/>\n\
             <path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8\" stroke=\"#16202c\" fill=\"none\"/>\n\
             <text x=\"{:.1}\" y=\"{text:.1}\" font-weight=\"{weight}\" fill=\"#16202c\">{}</text>",
            LEFT - 10.0,
            escaped(self.name),
            (self.value * scale).max(1.0),
            middle - 4.0,
            middle - 4.0,
            high.max(at(self.value)) + 8.0,
            escaped(&self.label),
        );
        svg
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fits_and_names_are_escaped() {
        let bar =
            |name, value, range| Bar { name, value, range, label: "1".into(), highlighted: false };
        let bars = vec![bar("a<b", 10.0, (5.0, 20.0)), bar("none", 0.0, (0.0, 0.0))];
        let svg = Chart { title: "A & B", note: "less is better", bars }.svg();
        assert!(svg.contains("a&lt;b") && svg.contains("A &amp; B"), "{svg}");
        // 10 of 20 is half of what lies between the margins.
        assert!(svg.contains("width=\"240.0\" height=\"18.0\""), "{svg}");
        assert!(svg.contains("H610.0"), "{svg}");
    }
}
