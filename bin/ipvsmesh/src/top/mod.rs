//! `ipvsmesh top`: what passes through services now.

mod draw;
mod rates;
mod view;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use api::{client::Client, stats::Stats};
use clap::Args;
use draw::Around;
use jiff::Zoned;
use ratatui::crossterm::event::{self, Event};
use rates::Looks;
use view::{Sort, View, Wish};

use crate::{
    inspect,
    output::{self, Format, Listing},
    wait, words,
};

/// `top`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh top
  ipvsmesh top --tasks --sort bytes vote
  ipvsmesh top --no-stream --format '{{.Name}} {{.Connections}}'")]
pub(crate) struct Top {
    /// How often to look
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = words::duration, default_value = "1s")]
    interval: Duration,
    /// By what to sort
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// Show tasks below their services
    #[arg(short, long)]
    tasks: bool,
    /// Print a table of one interval and end, as it is done where there is no terminal
    #[arg(long)]
    no_stream: bool,
    /// How to print that table
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
    /// Only services and tasks with this in their name
    #[arg(value_name = "SERVICE|TASK")]
    name: Option<String>,
}

/// Shows it until `q` is pressed, or once.
pub(crate) fn run(client: &Client, top: &Top) -> anyhow::Result<()> {
    let mut view = View {
        sort: top.sort,
        tasks: top.tasks,
        filter: top.name.clone().unwrap_or_default(),
        ..View::default()
    };
    let mut looks = Looks::default();
    // before the screen is taken, so that why not is seen
    let first = look(client)?;
    looks.take(&first, Duration::ZERO);
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if top.no_stream || !terminal {
        std::thread::sleep(top.interval);
        looks.take(&look(client)?, top.interval);
        return output::print(listing(&view, &looks).render(false, &top.format)?);
    }
    let screen = ratatui::try_init().context("cannot use this terminal")?;
    let ended = show(screen, client, top.interval, &mut view, &mut looks);
    ratatui::restore();
    ended
}

fn look(client: &Client) -> anyhow::Result<Stats> {
    wait(async { Ok(client.stats().await?) })
}

fn show(
    mut screen: ratatui::DefaultTerminal,
    client: &Client,
    interval: Duration,
    view: &mut View,
    looks: &mut Looks,
) -> anyhow::Result<()> {
    let colour = output::colours(&std::io::stdout());
    let (mut looked, mut trouble, mut inspection) = (Instant::now(), None, String::new());
    loop {
        let title = format!(
            "ipvsmesh top   {}   {}",
            client.socket().display(),
            Zoned::now().strftime("%H:%M:%S")
        );
        let around = Around {
            title: &title,
            trouble: trouble.as_deref(),
            inspection: &inspection,
            colour,
        };
        let drawn = screen.draw(|frame| draw::draw(frame, view, looks, &around));
        drawn.context("cannot draw on this terminal")?;
        let left = interval.saturating_sub(looked.elapsed());
        let mut wish = Wish::Look;
        if event::poll(left).context("cannot wait for keys")? {
            wish = match event::read().context("cannot read keys")? {
                Event::Key(key) if key.is_press() => view.press(key, looks),
                _ => Wish::Nothing,
            };
        }
        match wish {
            Wish::Nothing => continue,
            Wish::Quit => return Ok(()),
            Wish::Look => {}
        }
        // the daemon may be on its way back
        let seen = match &view.inspected {
            Some(name) => wait(inspect::screen(client, name)).map(|text| inspection = text),
            None => look(client).map(|seen| looks.take(&seen, looked.elapsed())),
        };
        looked = Instant::now();
        trouble = seen.err().map(|error| error.to_string());
    }
}

/// The table for who does not watch.
fn listing(view: &View, looks: &Looks) -> Listing {
    let (rows, _) = view.rows(looks);
    Listing {
        columns: &[
            ("NAME", "Name"),
            ("TASKS", "Tasks"),
            ("ACTIVE", "Active"),
            ("INACTIVE", "Inactive"),
            ("CONN/S", "Connections"),
            ("PACKETS/S", "Packets"),
            ("IN", "In"),
            ("OUT", "Out"),
        ],
        rows: rows
            .into_iter()
            .map(|row| draw::cells(row).into_iter().take(8).collect())
            .collect(),
    }
}
