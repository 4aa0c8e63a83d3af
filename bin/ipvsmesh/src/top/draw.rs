//! The screen.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row as Cells, Table, TableState},
};

use super::{
    rates::{Looks, Row, sparkline},
    view::{Sort, View},
};
use crate::units::amount;

/// Bars of the history.
const BARS: usize = 20;

/// Headings, and what sorts by them.
pub(super) const COLUMNS: [(&str, Option<Sort>); 9] = [
    ("NAME", Some(Sort::Name)),
    ("TASKS", None),
    ("ACTIVE", Some(Sort::Active)),
    ("INACTIVE", None),
    ("CONN/S", Some(Sort::Connections)),
    ("PACKETS/S", Some(Sort::Packets)),
    ("IN", Some(Sort::Bytes)),
    ("OUT", None),
    ("HISTORY", None),
];

/// A row's cells.
pub(super) fn cells(row: &Row) -> [String; 9] {
    let name = match &row.task {
        Some(task) => format!("  {task}"),
        None => row.service.clone(),
    };
    [
        name,
        row.state.clone(),
        row.active.to_string(),
        row.inactive.to_string(),
        count(row.rates.connections),
        count(row.rates.packets),
        octets(row.rates.bytes_in),
        octets(row.rates.bytes_out),
        sparkline(&row.history, BARS),
    ]
}

/// So many a second, with a fraction where it is small.
fn count(rate: f64) -> String {
    match rate {
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// Octets a second.
fn octets(rate: f64) -> String {
    format!("{}/s", amount(rate as u64))
}

/// What is drawn besides the rows.
pub(super) struct Around<'a> {
    /// Who is looked at, and when.
    pub(super) title: &'a str,
    /// Why there is nothing new.
    pub(super) trouble: Option<&'a str>,
    /// The text of what is looked at closely.
    pub(super) inspection: &'a str,
    /// Whether colours are wanted.
    pub(super) colour: bool,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, looks: &Looks, around: &Around<'_>) {
    let lines = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [above, middle, below] = lines.areas(frame.area());
    frame.render_widget(Line::from(around.title).bold(), above);
    if view.inspected.is_some() {
        let text = Paragraph::new(Text::from(around.inspection)).scroll((view.scrolled, 0));
        frame.render_widget(text, middle);
    } else {
        table(frame, middle, view, looks, around.colour);
    }
    frame.render_widget(footer(view, around), below);
}

fn footer<'a>(view: &View, around: &Around<'a>) -> Line<'a> {
    if let Some(trouble) = around.trouble {
        let line = Line::from(trouble.to_owned());
        return if around.colour {
            line.red()
        } else {
            line.bold()
        };
    }
    if view.typing {
        return Line::from(format!("filter: {}_   Enter: keep  Esc: drop", view.filter));
    }
    let mut keys = match view.inspected {
        Some(_) => "↑↓ scroll  Esc back".to_owned(),
        None => "↑↓ choose  Enter inspect  t tasks  s sort  r reverse  / filter  q quit".to_owned(),
    };
    if !view.filter.is_empty() {
        keys = format!("filter: {}  {keys}", view.filter);
    }
    Line::from(keys).style(Style::new().add_modifier(Modifier::DIM))
}

fn table(
    frame: &mut Frame<'_>,
    area: ratatui::layout::Rect,
    view: &View,
    looks: &Looks,
    colour: bool,
) {
    let (rows, selected) = view.rows(looks);
    let longest = rows.iter().map(|row| cells(row)[0].chars().count()).max();
    let name = u16::try_from(longest.unwrap_or(0).clamp(12, 40)).unwrap_or(40);
    let heading = COLUMNS.map(|(title, sort)| {
        let arrow = match (sort == Some(view.sort), view.reverse) {
            (false, _) => "",
            (true, false) => "▾",
            (true, true) => "▴",
        };
        Cell::from(format!("{title}{arrow}"))
    });
    let lines = rows.iter().map(|row| {
        let mut cells = cells(row).map(Cell::from);
        if !row.well {
            let style = match colour {
                true => Style::new().fg(Color::Red),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            cells[1] = std::mem::take(&mut cells[1]).style(style);
        }
        Cells::new(cells)
    });
    let widths = [
        Constraint::Length(name),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Min(8),
    ];
    let table = Table::new(lines, widths)
        .header(Cells::new(heading).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::stats::Stats;
    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::rates::tests::{seen, traffic},
        *,
    };

    fn screen(view: &View, around: &Around<'_>) -> String {
        let mut looks = Looks::default();
        for connections in [0, 5, 25] {
            let services = vec![
                seen("api", &[traffic(0)]),
                seen("web", &[traffic(connections), traffic(2 * connections)]),
            ];
            looks.take(&Stats { services }, Duration::from_secs(2));
        }
        let mut terminal = Terminal::new(TestBackend::new(100, 7)).unwrap();
        terminal
            .draw(|frame| draw(frame, view, &looks, around))
            .unwrap();
        terminal.backend().to_string()
    }

    const AROUND: Around<'static> = Around {
        title: "ipvsmesh top",
        trouble: None,
        inspection: "",
        colour: false,
    };

    #[test]
    fn services_and_tasks_fit_a_screen() {
        let view = View {
            tasks: true,
            ..View::default()
        };
        let expected = "\
\"ipvsmesh top                                                                                        \"
\"NAME▾        TASKS     ACTIVE   INACTIVE  CONN/S   PACKETS/S  IN        OUT       HISTORY           \"
\"api          1/2       3        1         0        0          0B/s      0B/s      ▁▁▁               \"
\"  api.1      running   3        1         0        0          0B/s      0B/s      ▁▁▁               \"
\"web          2/2       6        2         30       600        3.0kB/s   30kB/s    ▁▃█               \"
\"  web.1      running   3        1         10       200        1.0kB/s   10kB/s    ▁▃█               \"
\"↑↓ choose  Enter inspect  t tasks  s sort  r reverse  / filter  q quit                              \"
";
        assert_eq!(screen(&view, &AROUND), expected);
    }

    #[test]
    fn trouble_is_said_below() {
        let around = Around {
            trouble: Some("cannot reach ipvsmeshd"),
            ..AROUND
        };
        let text = screen(&View::default(), &around);
        assert!(
            text.lines()
                .last()
                .unwrap()
                .contains("cannot reach ipvsmeshd"),
            "{text}"
        );
    }
}
