//! Tables without borders: columns left aligned and padded, four blanks after each. The exact blanks are part of the
//! contract with scripts that cut columns.

use unicode_width::UnicodeWidthStr;

const GAP: &str = "    ";

/// Widest a cell gets before its words are wrapped.
pub const CELL_WIDTH: usize = 30;
/// The same for running text (a licence, a system message).
pub const TEXT_WIDTH: usize = 100;

/// Cells with more words are cut into lines at once instead of being balanced, which costs words².
const BALANCED_WORDS_MAX: usize = 1000;

/// Header and rows; the header's last column is followed by one blank, a row's by the gap.
pub fn with_header(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells: Vec<Vec<Vec<String>>> = wrapped(rows, CELL_WIDTH);
    let widths = widths(header, &cells);
    let mut out = String::new();
    for (index, title) in header.iter().enumerate() {
        out.push_str(&padded(title, widths[index]));
        out.push_str(if index + 1 == header.len() { " " } else { GAP });
    }
    out.push('\n');
    push_rows(&mut out, &cells, &widths);
    out
}

/// Rows only. A row may have fewer cells than others; then it ends early.
pub fn plain(rows: &[Vec<String>], cell_width: usize) -> String {
    let cells = wrapped(rows, cell_width);
    let widths = widths(&[], &cells);
    let mut out = String::new();
    push_rows(&mut out, &cells, &widths);
    out
}

/// Rows → cells → lines.
fn wrapped(rows: &[Vec<String>], cell_width: usize) -> Vec<Vec<Vec<String>>> {
    let cell = |text: &String| wrap(&text.replace('\n', " "), cell_width);
    rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

fn widths(header: &[&str], rows: &[Vec<Vec<String>>]) -> Vec<usize> {
    let mut widths: Vec<usize> = header.iter().map(|title| title.width()).collect();
    for row in rows {
        for (index, lines) in row.iter().enumerate() {
            if index == widths.len() {
                widths.push(0);
            }
            let widest = lines.iter().map(|line| line.width()).max().unwrap_or(0);
            widths[index] = widths[index].max(widest);
        }
    }
    widths
}

fn push_rows(out: &mut String, rows: &[Vec<Vec<String>>], widths: &[usize]) {
    for row in rows {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            for (lines, width) in row.iter().zip(widths) {
                out.push_str(&padded(lines.get(line).map_or("", String::as_str), *width));
                out.push_str(GAP);
            }
            out.push('\n');
        }
    }
}

fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Lines of at most `limit` columns (or the longest word), as equal in length as can be: the sum of the squares of
/// what is left blank is smallest, the last line not counted.
fn wrap(text: &str, limit: usize) -> Vec<String> {
    if text.width() <= limit {
        return vec![text.to_owned()];
    }
    let words: Vec<&str> = text.split(' ').collect();
    let lengths: Vec<usize> = words.iter().map(|word| word.width()).collect();
    let limit = lengths.iter().copied().fold(limit, usize::max);
    let ends = if words.len() > BALANCED_WORDS_MAX {
        greedy_ends(&lengths, limit)
    } else {
        balanced_ends(&lengths, limit)
    };
    let mut start = 0;
    let line = |end: usize| {
        let line = words[start..end].join(" ");
        start = end;
        line
    };
    ends.into_iter().map(line).collect()
}

fn greedy_ends(lengths: &[usize], limit: usize) -> Vec<usize> {
    let (mut ends, mut length) = (Vec::new(), lengths[0]);
    for (index, word) in lengths.iter().enumerate().skip(1) {
        length += 1 + word;
        if length > limit {
            ends.push(index);
            length = *word;
        }
    }
    ends.push(lengths.len());
    ends
}

fn balanced_ends(lengths: &[usize], limit: usize) -> Vec<usize> {
    let count = lengths.len();
    // For the words from `i` on: the least cost, and where the first line ends.
    let mut cost = vec![u64::MAX; count + 1];
    let mut end = vec![count; count + 1];
    cost[count] = 0;
    for i in (0..count).rev() {
        let rest: usize = lengths[i..].iter().sum::<usize>() + (count - i - 1);
        if rest <= limit {
            cost[i] = 0;
            continue;
        }
        let mut length = lengths[i];
        for j in i + 1..count {
            let blank = (limit - length) as u64;
            let total = cost[j].saturating_add(blank * blank);
            if total < cost[i] {
                (cost[i], end[i]) = (total, j);
            }
            length += 1 + lengths[j];
            if length > limit {
                break;
            }
        }
    }
    std::iter::successors(Some(end[0]), |at| (*at < count).then(|| end[*at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn an_empty_table_is_its_header() {
        let out = with_header(&["NAME", "ID", "SIZE", "MODIFIED"], &[]);
        assert_eq!(out, "NAME    ID    SIZE    MODIFIED \n");
    }

    #[test]
    fn columns_are_padded_and_every_cell_has_its_gap() {
        let out = with_header(
            &["NAME", "ID", "SIZE", "MODIFIED"],
            &rows(&[&["tiny2:latest", "558c738d8943", "293 KB", "Less than a second ago"]]),
        );
        let expected = "NAME            ID              SIZE      MODIFIED               \n\
                        tiny2:latest    558c738d8943    293 KB    Less than a second ago    \n";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_short_row_ends_early() {
        let out = plain(
            &rows(&[&["", "stop", "\"a", "b\""], &["", "seed", "1"], &["", "num_predict", "8"]]),
            CELL_WIDTH,
        );
        let expected = "    stop           \"a    b\"    \n    seed           1     \n    num_predict    8     \n";
        assert_eq!(out, expected);
    }

    #[test]
    fn long_text_is_wrapped_evenly() {
        for (text, limit, expected) in [
            ("short", 10, vec!["short"]),
            ("aaa bb cc ddddd", 6, vec!["aaa", "bb cc", "ddddd"]),
            ("one verylongwordindeed", 5, vec!["one", "verylongwordindeed"]),
        ] {
            assert_eq!(wrap(text, limit), expected, "{text}");
        }
        let text = "lorem ipsum ".repeat(1000);
        let lines = wrap(text.trim(), 100);
        assert!(lines.iter().all(|line| line.width() <= 100));
        assert_eq!(lines.join(" "), text.trim());
    }
}
