//! What of it is shown: which rows in which order, and what keys change about that.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{Looks, Row};

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// The name
    #[default]
    Name,
    /// Open connections
    Active,
    /// New connections a second
    Connections,
    /// Packets a second
    Packets,
    /// Octets a second, in and out
    Bytes,
}

/// Those that keys go through.
pub(super) const SORTS: [Sort; 5] = [
    Sort::Name,
    Sort::Active,
    Sort::Connections,
    Sort::Packets,
    Sort::Bytes,
];

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sort: Sort,
    /// The other way round than is usual: names forwards, numbers from the highest.
    pub(super) reverse: bool,
    /// Tasks below their services.
    pub(super) tasks: bool,
    /// What names must contain.
    pub(super) filter: String,
    /// Whether keys are letters of the filter.
    pub(super) typing: bool,
    /// The row that is chosen, by service and task, wherever it moves to.
    pub(super) selected: Option<(String, Option<String>)>,
    /// The service or task that is looked at closely.
    pub(super) inspected: Option<String>,
    /// How many lines of that are above the screen.
    pub(super) scrolled: u16,
}

/// What a key asks for besides another view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// Look again now.
    Look,
    Quit,
}

impl View {
    /// The rows in order, and which of them is chosen.
    pub(super) fn rows<'a>(&self, looks: &'a Looks) -> (Vec<&'a Row>, Option<usize>) {
        let fits = |row: &&Row| {
            let name = row.task.as_ref().unwrap_or(&row.service);
            name.contains(&self.filter) || row.service.contains(&self.filter)
        };
        let mut services: Vec<_> = looks.rows().filter(|row| row.task.is_none()).collect();
        let mut tasks: Vec<_> = looks.rows().filter(|row| row.task.is_some()).collect();
        services.sort_by(|a, b| self.order(a, b));
        tasks.sort_by(|a, b| self.order(a, b));
        let mut rows = Vec::new();
        for service in services {
            rows.push(service);
            if self.tasks {
                let of_it = tasks.iter().filter(|task| task.service == service.service);
                rows.extend(of_it.copied());
            }
        }
        rows.retain(fits);
        let selected = self.selected.as_ref().and_then(|selected| {
            rows.iter()
                .position(|row| (&row.service, &row.task) == (&selected.0, &selected.1))
        });
        let selected = selected.or(if rows.is_empty() { None } else { Some(0) });
        (rows, selected)
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let by = |value: fn(&Row) -> f64| value(b).total_cmp(&value(a));
        let names = || (&a.service, &a.task).cmp(&(&b.service, &b.task));
        let order = match self.sort {
            Sort::Name => names(),
            Sort::Active => by(|row| row.active as f64),
            Sort::Connections => by(|row| row.rates.connections),
            Sort::Packets => by(|row| row.rates.packets),
            Sort::Bytes => by(|row| row.rates.bytes_in + row.rates.bytes_out),
        };
        let order = if self.reverse { order.reverse() } else { order };
        order.then_with(names)
    }

    /// Takes in a key.
    pub(super) fn press(&mut self, key: KeyEvent, looks: &Looks) -> Wish {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Wish::Quit;
        }
        if self.typing {
            match key.code {
                KeyCode::Esc => {
                    self.filter.clear();
                    self.typing = false;
                }
                KeyCode::Enter => self.typing = false,
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            return Wish::Nothing;
        }
        if self.inspected.is_some() {
            match key.code {
                KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('q') => {
                    self.inspected = None;
                }
                KeyCode::Down | KeyCode::Char('j') => {
                    self.scrolled = self.scrolled.saturating_add(1)
                }
                KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
                KeyCode::PageDown | KeyCode::Char(' ') => {
                    self.scrolled = self.scrolled.saturating_add(PAGE.into());
                }
                KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(PAGE.into()),
                _ => {}
            }
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Wish::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('t') => self.tasks = !self.tasks,
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('s') | KeyCode::Right => self.sort_by_next(1),
            KeyCode::Left => self.sort_by_next(SORTS.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(looks, 1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(looks, -1),
            KeyCode::PageDown => self.move_by(looks, PAGE.into()),
            KeyCode::PageUp => self.move_by(looks, -isize::from(PAGE)),
            KeyCode::Enter => {
                let (rows, selected) = self.rows(looks);
                if let Some(row) = selected.and_then(|at| rows.get(at)) {
                    let name = row.task.as_ref().unwrap_or(&row.service);
                    self.inspected = Some(name.clone());
                    self.scrolled = 0;
                    return Wish::Look;
                }
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn sort_by_next(&mut self, steps: usize) {
        let at = SORTS.iter().position(|sort| *sort == self.sort);
        let next = (at.unwrap_or(0) + steps) % SORTS.len();
        self.sort = SORTS[next];
    }

    fn move_by(&mut self, looks: &Looks, steps: isize) {
        let (rows, selected) = self.rows(looks);
        let last = rows.len().saturating_sub(1);
        let at = selected.unwrap_or(0).saturating_add_signed(steps).min(last);
        let chosen = rows
            .get(at)
            .map(|row| (row.service.clone(), row.task.clone()));
        self.selected = chosen;
    }
}

/// Lines of a page, about.
const PAGE: u8 = 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::stats::Stats;

    use super::{
        super::rates::tests::{seen, traffic},
        *,
    };

    /// `api` has few connections and `web` many.
    fn looks() -> Looks {
        let mut looks = Looks::default();
        for connections in [0, 10] {
            let services = vec![
                seen("api", &[traffic(connections)]),
                seen("web", &[traffic(connections), traffic(7 * connections)]),
            ];
            looks.take(&Stats { services }, Duration::from_secs(1));
        }
        looks
    }

    fn names(view: &View, looks: &Looks) -> Vec<String> {
        let (rows, _) = view.rows(looks);
        let name = |row: &&Row| row.task.clone().unwrap_or_else(|| row.service.clone());
        rows.iter().map(name).collect()
    }

    fn type_in(view: &mut View, looks: &Looks, keys: &str) -> Wish {
        let press = |letter| {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            view.press(KeyEvent::new(code, KeyModifiers::NONE), looks)
        };
        keys.chars().map(press).last().unwrap()
    }

    #[test]
    fn keys_sort_and_open() {
        let (looks, mut view) = (looks(), View::default());
        assert_eq!(names(&view, &looks), ["api", "web"]);
        type_in(&mut view, &looks, "t");
        assert_eq!(
            names(&view, &looks),
            ["api", "api.1", "web", "web.1", "web.2"]
        );
        type_in(&mut view, &looks, "ss");
        assert_eq!(view.sort, Sort::Connections);
        assert_eq!(
            names(&view, &looks),
            ["web", "web.2", "web.1", "api", "api.1"]
        );
        type_in(&mut view, &looks, "r");
        assert_eq!(
            names(&view, &looks),
            ["api", "api.1", "web", "web.1", "web.2"]
        );
        assert_eq!(type_in(&mut view, &looks, "q"), Wish::Quit);
    }

    #[test]
    fn the_filter_is_typed_and_taken_back() {
        let (looks, mut view) = (looks(), View::default());
        type_in(&mut view, &looks, "/we\n");
        assert_eq!(names(&view, &looks), ["web"]);
        type_in(&mut view, &looks, "t");
        assert_eq!(names(&view, &looks), ["web", "web.1", "web.2"]);
        // letters that mean something elsewhere are letters here
        type_in(&mut view, &looks, "/q");
        assert_eq!(names(&view, &looks), Vec::<String>::new());
        assert_eq!(type_in(&mut view, &looks, "\x1b"), Wish::Nothing);
        assert_eq!(names(&view, &looks).len(), 5);
    }

    #[test]
    fn the_chosen_row_stays_chosen_wherever_it_moves() {
        let (looks, mut view) = (looks(), View::default());
        type_in(&mut view, &looks, "jjjj");
        let chosen = |view: &View| {
            let (rows, selected) = view.rows(&looks);
            rows[selected.unwrap()].service.clone()
        };
        assert_eq!(chosen(&view), "web");
        type_in(&mut view, &looks, "s");
        assert_eq!((chosen(&view).as_str(), view.sort), ("web", Sort::Active));
        assert_eq!(type_in(&mut view, &looks, "\n"), Wish::Look);
        assert_eq!(view.inspected.as_deref(), Some("web"));
        assert_eq!(type_in(&mut view, &looks, "q"), Wish::Nothing);
        assert_eq!(view.inspected, None);
    }
}
