use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    lists: Lists,
}

#[derive(Debug, Parser)]
struct Change {
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    changes: Changes,
}

fn created(line: &str) -> Value {
    let words = std::iter::once("create".to_owned()).chain(shlex::split(line).unwrap());
    let line = Line::try_parse_from(words).unwrap();
    let mut template = json!({"ContainerSpec": {"Image": "web"}});
    line.lists.apply(&mut template["ContainerSpec"]);
    line.container.apply(&mut template);
    template
}

fn changed(line: &str, container: &Value) -> Value {
    let words = std::iter::once("update".to_owned()).chain(shlex::split(line).unwrap());
    let line = Change::try_parse_from(words).unwrap();
    let mut template = json!({"ContainerSpec": container});
    line.container.apply(&mut template);
    line.changes.apply(&mut template["ContainerSpec"]);
    template
}

#[test]
fn what_is_not_said_is_not_sent() {
    assert_eq!(created(""), json!({"ContainerSpec": {"Image": "web"}}));
    assert_eq!(changed("", &json!({"Image": "web"})), created(""));
}

#[test]
fn flags_become_dockers_spec() {
    let template = created(
        "--entrypoint 'sh -c' --hostname h --init --read-only -t \
         --limit-cpu 0.5 --limit-memory 64m --limit-pids 10 --reserve-cpu 0.1 --reserve-memory 8m \
         --cap-add NET_ADMIN --cap-drop ALL --group wheel \
         --health-cmd 'wget -q localhost' --health-interval 5s --health-retries 2 \
         --health-timeout 1s --health-start-period 3s \
         --log-driver json-file --log-opt max-size=1m \
         --mount type=tmpfs,target=/t --container-label a=b \
         --host db:10.0.0.1 --dns 1.1.1.1 --dns-search example.org --dns-option ndots:1 \
         --sysctl net.core.somaxconn=10 --ulimit nofile=10:20",
    );
    let expected = json!({
        "ContainerSpec": {
            "Image": "web", "Command": ["sh", "-c"], "Hostname": "h", "Init": true,
            "ReadOnly": true, "TTY": true, "CapabilityAdd": ["NET_ADMIN"],
            "CapabilityDrop": ["ALL"], "Groups": ["wheel"],
            "Healthcheck": {
                "Test": ["CMD-SHELL", "wget -q localhost"], "Interval": 5_000_000_000_u64,
                "Retries": 2, "Timeout": 1_000_000_000, "StartPeriod": 3_000_000_000_u64,
            },
            "Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Labels": {"a": "b"},
            "Hosts": ["10.0.0.1 db"],
            "DNSConfig": {
                "Nameservers": ["1.1.1.1"], "Search": ["example.org"], "Options": ["ndots:1"],
            },
            "Sysctls": {"net.core.somaxconn": "10"},
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        },
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 10},
            "Reservations": {"NanoCPUs": 100_000_000, "MemoryBytes": 8 << 20},
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    });
    assert_eq!(template, expected);
}

#[test]
fn lists_are_changed_item_by_item() {
    let before = json!({
        "Image": "web:1", "Labels": {"a": "1", "b": "2"}, "Hosts": ["10.0.0.1 db"],
        "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "tmpfs", "Target": "/u"}],
        "DNSConfig": {"Nameservers": ["1.1.1.1"]}, "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    });
    let template = changed(
        "--image web:2 --user nobody --container-label-rm a --container-label-add b=3 \
         --host-rm db:10.0.0.1 --host-add db:10.0.0.2 \
         --mount-rm /t --mount-add type=volume,source=v,target=/u \
         --dns-rm 1.1.1.1 --dns-add 8.8.8.8 --sysctl-add net.x=1 --ulimit-rm core \
         --no-healthcheck --tty=false",
        &before,
    );
    let expected = json!({
        "Image": "web:2", "User": "nobody", "Labels": {"b": "3"}, "Hosts": ["10.0.0.2 db"],
        "Mounts": [{"Type": "volume", "Source": "v", "Target": "/u"}],
        "DNSConfig": {"Nameservers": ["8.8.8.8"]}, "Sysctls": {"net.x": "1"}, "Ulimits": [],
        "Healthcheck": {"Test": ["NONE"]}, "TTY": false,
    });
    assert_eq!(template["ContainerSpec"], expected);
}

#[test]
fn wrong_values_are_said() {
    for (line, word) in [
        ("--host db", "NAME:ADDRESS"),
        ("--ulimit nofile", "SOFT"),
        ("--mount x", "not known"),
        ("--limit-memory much", "64m"),
        ("--env-file /no/such/file", "No such file"),
        ("--pull sometimes", "always"),
        ("--no-healthcheck --health-cmd x", "--no-healthcheck"),
    ] {
        let words = std::iter::once("create".to_owned()).chain(shlex::split(line).unwrap());
        let error = Line::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn environment_files_are_as_dockers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env");
    std::fs::write(&path, "# a comment\n\nA=1\n  B=2 3\nNOT_SET_ANYWHERE\n").unwrap();
    let read = env_file(path.to_str().unwrap()).unwrap();
    assert_eq!(read.0, ["A=1", "B=2 3"]);
}
