//! `ipvsmesh top` on a real terminal, which tmux is.

use e2e::{HOST_IP, Load, Node, until};

/// A terminal with `top` in it, ended with the test.
struct Screen<'a> {
    node: &'a Node,
}

impl<'a> Screen<'a> {
    fn open(node: &'a Node, arguments: &str) -> Self {
        let screen = Self { node };
        screen.tmux(&format!(
            "new-session -d -x 110 -y 24 'TERM=xterm-256color ipvsmesh --instance {} top {arguments}'",
            node.instance
        ));
        screen
    }

    fn tmux(&self, command: &str) -> String {
        let line = format!("tmux -L {} -f /dev/null {command}", self.node.instance);
        self.node.on_host(&line).out
    }

    /// Presses keys, by tmux's names.
    fn press(&self, keys: &str) {
        self.tmux(&format!("send-keys {keys}"));
    }

    /// Waits until it shows what is looked for.
    fn shows(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        until(what, 30, || {
            let text = self.tmux("capture-pane -p");
            fits(&text).then_some(text)
        })
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.tmux("kill-server");
    }
}

/// The cell of a column in the row of a name.
fn cell(screen: &str, name: &str, column: usize) -> Option<String> {
    let mut lines = screen.lines();
    let row = lines.find(|line| line.split_whitespace().next() == Some(name))?;
    row.split_whitespace().nth(column).map(str::to_owned)
}

#[test]
fn services_and_tasks_are_seen_as_they_work() {
    let node = Node::started();
    node.whoami("busy", "--replicas 2 --publish 8080:80");
    node.whoami("idle", "");
    let outside = format!("nsenter --net=/run/netns/{}", node.outside);
    let mut load = Load::start("port", &outside, 2, &format!("{HOST_IP}:8080"));

    let screen = Screen::open(&node, "--interval 500ms");
    let text = screen.shows("connections a second", |text| {
        cell(text, "busy", 4).is_some_and(|rate| rate.parse().is_ok_and(|rate: f64| rate > 0.0))
    });
    assert_eq!(cell(&text, "busy", 1).as_deref(), Some("2/2"), "{text}");
    assert_eq!(cell(&text, "idle", 4).as_deref(), Some("0"), "{text}");
    screen.press("t");
    screen.shows("tasks", |text| {
        cell(text, "busy.1", 1).as_deref() == Some("running") && cell(text, "idle.1", 1).is_some()
    });
    // names, then open connections: the highest first, which is the same here
    screen.press("/ i d l e Enter");
    screen.shows("what fits the filter only", |text| {
        cell(text, "idle", 1).is_some() && cell(text, "busy", 1).is_none()
    });
    screen.press("Escape");
    screen.shows("all again", |text| cell(text, "busy", 1).is_some());
    screen.press("r");
    let at = |text: &str, name: &str| text.lines().position(|line| line.starts_with(name));
    screen.shows("the other way round", |text| {
        at(text, "idle") < at(text, "busy")
    });
    screen.press("Enter");
    screen.shows("the whole way", |text| {
        text.contains("NAMES") && text.contains("idle")
    });
    screen.press("Escape");
    screen.shows("the table again", |text| text.contains("PACKETS/S"));
    screen.press("q");
    until("the end of it", 10, || {
        screen.tmux("list-sessions").is_empty().then_some(())
    });
    load.report("while it was watched");

    // into a pipe it is one table
    let once = node.cli("top --interval 500ms --tasks --format '{{.Name}} {{.Tasks}}' busy");
    assert_eq!(once.ok(), "busy 2/2\n  busy.1 running\n  busy.2 running");
    node.cli("top --interval nonsense")
        .fails(2, &["--interval"]);
}
