use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Files by their absolute paths.
fn compiled_with(texts: &[&str], files: &[(&str, &str)]) -> Result<Stack, Problems> {
    let sources: Vec<_> = (1..)
        .zip(texts)
        .map(|(n, text)| Source {
            name: format!("{n}.yml"),
            text: (*text).to_owned(),
        })
        .collect();
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let read = |path: &Path| {
        let text = files.get(path.to_str().unwrap_or_default());
        text.map(|text| text.as_bytes().to_vec())
            .ok_or_else(|| "no such file".to_owned())
    };
    let variable = |name: &str| match name {
        "TAG" => Some("1.2".to_owned()),
        "HOME" => Some("/home/me".to_owned()),
        _ => None,
    };
    compile(&Input {
        stack: "app",
        sources: &sources,
        directory: "/srv/app".as_ref(),
        variable: &variable,
        read: &read,
    })
}

fn compiled(text: &str) -> Result<Stack, Problems> {
    compiled_with(&[text], &[])
}

fn spec(stack: &Stack, name: &str) -> Value {
    let service = stack.services.iter().find(|service| service.name == name);
    service.unwrap().spec.clone()
}

/// What is wrong with a service, or what is said of it.
fn refused(service: &str) -> String {
    let text = format!("services:\n  web: {service}\n");
    compiled(&text).unwrap_err().to_string()
}

#[test]
fn a_voting_app_becomes_what_docker_sends() {
    let stack = compiled(include_str!("../../../tests/data/compose/vote.yml")).unwrap();
    let names: Vec<_> = stack.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["redis", "db", "vote", "result", "worker"]);
    let made: Vec<_> = stack.networks.iter().map(|n| n["Name"].clone()).collect();
    assert_eq!(made, ["app_backend", "app_frontend"]);
    let expected = json!({
        "Name": "app_vote",
        "Labels": {
            "com.docker.stack.namespace": "app",
            "com.docker.stack.image": "dockersamples/examplevotingapp_vote:before",
        },
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "dockersamples/examplevotingapp_vote:before",
                "Labels": {"com.docker.stack.namespace": "app"},
            },
            "Networks": [{"Target": "app_frontend", "Aliases": ["vote"]}],
            "RestartPolicy": {"Condition": "on-failure"},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Mode": "vip", "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress", "PublishedPort": 5000},
        ]},
        "UpdateConfig": {"Parallelism": 2},
    });
    assert_eq!(spec(&stack, "vote"), expected);
    let db = spec(&stack, "db");
    let mount = &db["TaskTemplate"]["ContainerSpec"]["Mounts"][0];
    assert_eq!(
        (&mount["Type"], &mount["Source"]),
        (&json!("volume"), &json!("app_db-data"))
    );
}

#[test]
fn all_that_a_service_may_say_is_sent() {
    let text = include_str!("../../../tests/data/compose/all.yml");
    let files = [
        ("/srv/app/web.env", "A=1\nB=${TAG}\n"),
        ("/srv/app/shop.conf", "colour=red\n"),
    ];
    let stack = compiled_with(&[text], &files).unwrap();
    let web = spec(&stack, "web");
    let container = &web["TaskTemplate"]["ContainerSpec"];
    for (key, value) in [
        ("Image", json!("registry.example:5000/web:1.2")),
        ("Command", json!(["/entry", "two words"])),
        ("Args", json!(["serve", "--port", "80"])),
        ("Env", json!(["A=2", "B=1.2", "C=", "D", "TAG=1.2"])),
        ("Hostname", json!("web")),
        ("User", json!("1000:1000")),
        ("Dir", json!("/srv")),
        ("Init", json!(true)),
        ("ReadOnly", json!(true)),
        ("StopSignal", json!("SIGINT")),
        ("StopGracePeriod", json!(90_000_000_000_u64)),
        ("CapabilityAdd", json!(["NET_ADMIN"])),
        ("CapabilityDrop", json!(["ALL"])),
        ("Sysctls", json!({"net.core.somaxconn": "1024"})),
        (
            "Ulimits",
            json!([{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "nproc", "Soft": 50, "Hard": 50}]),
        ),
        ("Hosts", json!(["192.0.2.7 db", "2001:db8::1 six"])),
        (
            "DNSConfig",
            json!({"Nameservers": ["192.0.2.53"], "Search": ["example.org"], "Options": ["ndots:1"]}),
        ),
        (
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "wget -q localhost"], "Interval": 5_000_000_000_u64, "Timeout": 500_000_000, "Retries": 2, "StartPeriod": 60_000_000_000_u64}),
        ),
        (
            "Configs",
            json!([
                {"File": {"Name": "/etc/shop.conf", "UID": "7", "GID": "8", "Mode": 0o440}, "ConfigName": "app_shop"},
                {"File": {"Name": "inline", "UID": "0", "GID": "0", "Mode": 0o444}, "ConfigName": "app_inline"},
            ]),
        ),
        (
            "Secrets",
            json!([
                {"File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o444}, "SecretName": "key"},
                {"File": {"Name": "tag", "UID": "0", "GID": "0", "Mode": 0o400}, "SecretName": "app_tag"},
            ]),
        ),
    ] {
        assert_eq!(container[key], value, "{key}");
    }
    let mounts = container["Mounts"].as_array().unwrap();
    let seen: Vec<_> = mounts
        .iter()
        .map(|m| {
            format!(
                "{} {} {} {}",
                m["Type"], m["Source"], m["Target"], m["ReadOnly"]
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            r#""bind" "/srv/data" "/data" true"#,
            r#""bind" "/home/me/x" "/x" null"#,
            r#""volume" "app_cache" "/cache" null"#,
            r#""volume" "theirs" "/theirs" null"#,
            r#""volume" null "/anonymous" null"#,
            r#""tmpfs" null "/scratch" null"#,
            r#""tmpfs" null "/run/x" null"#,
        ]
    );
    assert_eq!(
        mounts[5]["TmpfsOptions"],
        json!({"SizeBytes": 64 << 20, "Mode": 0o1777})
    );
    let networks = json!([
        {"Target": "theirs", "Aliases": ["web"]},
        {"Target": "app_front", "Aliases": ["shop", "web"]},
    ]);
    assert_eq!(web["TaskTemplate"]["Networks"], networks);
    let ports = web["EndpointSpec"]["Ports"].as_array().unwrap();
    let ports: Vec<_> = ports
        .iter()
        .map(|p| {
            format!(
                "{} {} {} {} {}",
                p["HostIP"], p["PublishedPort"], p["TargetPort"], p["Protocol"], p["PublishMode"]
            )
        })
        .collect();
    assert_eq!(
        ports,
        [
            r#"null 8080 80 "tcp" "ingress""#,
            r#"null 9000 9000 "udp" "ingress""#,
            r#"null 9001 9001 "udp" "ingress""#,
            r#""127.0.0.1" 8443 443 "tcp" "ingress""#,
            r#"null null 81 "tcp" "ingress""#,
            r#"null 8082 82 "tcp" "host""#,
        ]
    );
    for (key, value) in [
        ("ipvsmesh.scheduler", "wlc"),
        ("ipvsmesh.weight", "1=3,2=1"),
        ("ipvsmesh.drain-timeout", "1m"),
        ("ipvsmesh.pull", "always"),
        ("tier", "front"),
    ] {
        assert_eq!(web["Labels"][key], value, "{key}");
    }
    assert_eq!(
        web["TaskTemplate"]["Resources"],
        json!({
            "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 100},
            "Reservations": {"NanoCPUs": 250_000_000, "MemoryBytes": 32 << 20},
        })
    );
    assert_eq!(
        web["TaskTemplate"]["LogDriver"],
        json!({"Name": "json-file", "Options": {"max-size": "1m"}})
    );
    assert_eq!(web["RollbackConfig"]["Parallelism"], 1);
    assert_eq!(web["UpdateConfig"]["MaxFailureRatio"], 0.3);
    assert_eq!(spec(&stack, "every")["Mode"], json!({"Global": {}}));
    let every = spec(&stack, "every");
    assert_eq!(
        every["TaskTemplate"]["ContainerSpec"]["Command"],
        json!(["whoami"])
    );
    assert_eq!(every["Labels"]["ipvsmesh.runtime"], "process");
    assert_eq!(every["Labels"][IMAGE], "whoami");
    assert_eq!(stack.external_secrets, ["key"]);
    assert_eq!(stack.external_networks, ["theirs"]);
    assert_eq!(
        stack.networks[1]["IPAM"],
        json!({"Config": [{"Subnet": "10.100.32.0/24"}]})
    );
    assert_eq!(stack.networks[1]["Internal"], true);
    assert_eq!(stack.configs[1]["Data"], "Y29sb3VyPXJlZAo=");
    let warnings: Vec<_> = stack.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings[0].contains("\"NONE\" variable is not set"),
        "{warnings:?}"
    );
    assert!(
        warnings
            .iter()
            .any(|w| w.ends_with("Ignoring unsupported options: build, links"))
    );
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("container name is not supported"))
    );
}

#[test]
fn servers_of_others_are_a_service() {
    let text = "services: {old: {ports: [\"80:80\"], x-ipvsmesh: \
                {runtime: static, endpoints: [192.0.2.1, \"[2001:db8::1]:80\"]}}}";
    let old = spec(&compiled(text).unwrap(), "old");
    assert_eq!(old["Labels"]["ipvsmesh.runtime"], "static");
    assert_eq!(
        old["Labels"]["ipvsmesh.endpoints"],
        "192.0.2.1,[2001:db8::1]:80"
    );
    // what is shown of it later, so that it is no difference
    assert_eq!(old["Mode"], json!({"Replicated": {"Replicas": 2}}));
    assert_eq!(
        old["TaskTemplate"]["ContainerSpec"],
        json!({"Image": "static"})
    );
    assert_eq!(old["EndpointSpec"]["Ports"][0]["PublishedPort"], 80);
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_key() {
    let text = "services:\n  web:\n    image: web\n    colour: red\n    ports:\n      - \"99999:80\"\n    networks: [back]\n    deploy:\n      replicas: many\n";
    let problems = compiled(text).unwrap_err().to_string();
    for part in [
        "1.yml:4: services.web.colour: this option is not known",
        "1.yml:6: services.web.ports[0]: ",
        "services.web.networks: undefined network \"back\"",
        "1.yml:9: services.web.deploy.replicas: \"many\" is not valid: use a number",
    ] {
        assert!(problems.contains(part), "no {part:?} in\n{problems}");
    }
    for (service, part) in [
        ("{}", "no image specified"),
        ("{image: a, mem_limit: 1g}", "deploy.resources"),
        ("{image: a, extends: b}", "extends is not available"),
        ("{image: a, depends_on: [b]}", "undefined service \"b\""),
        ("{image: a, depends_on: [web]}", "dependency cycle"),
        (
            "{image: a, volumes: [\"data:/x\"]}",
            "undefined volume \"data\"",
        ),
        ("{image: a, secrets: [key]}", "undefined secret \"key\""),
        (
            "{image: a, env_file: no.env}",
            "cannot read /srv/app/no.env: no such file",
        ),
        (
            "{image: a, deploy: {mode: global, replicas: 2}}",
            "replicated mode",
        ),
        ("{image: \"a:${\"}", "escape any $"),
        ("{image: [a]}", "it is a list, and should be a text"),
        ("[a]", "should be a mapping"),
        ("{image: a, healthcheck: {test: [curl]}}", "CMD"),
        ("{image: a, command: \"'open\"}", "left open"),
        ("{image: a, stop_grace_period: 10}", "unit"),
        (
            "{x-ipvsmesh: {runtime: process}, image: a, command: b}",
            "no image",
        ),
        (
            "{x-ipvsmesh: {runtime: jail}, image: a}",
            "web.x-ipvsmesh.runtime: use docker, process or static",
        ),
        ("{x-ipvsmesh: {runtime: static}}", "needs an endpoint"),
        (
            "{x-ipvsmesh: {runtime: static, endpoints: web}}",
            "endpoints: endpoint \"web\" is not valid",
        ),
        (
            "{x-ipvsmesh: {runtime: static, endpoints: 192.0.2.1}, user: web}",
            "runs nothing",
        ),
        (
            "{x-ipvsmesh: {runtime: static, endpoints: 192.0.2.1}, scale: 3}",
            "one task for each endpoint",
        ),
    ] {
        let problem = refused(service);
        assert!(problem.contains(part), "{service}: {problem}");
    }
    for (text, part) in [
        ("", "no services"),
        ("services: {}", "no services"),
        ("service: {}", "service: this option is not known"),
        ("services: {web: {image: a}}\nconfigs: {a: {}}", "say once"),
        (
            "services: {web: {image: a}}\nsecrets: {a: {file: f, external: false}}",
            "cannot read /srv/app/f",
        ),
        (
            "services: {web: {image: a}}\nconfigs: {a: {content: x, template_driver: golang}}",
            "not available",
        ),
    ] {
        let problem = compiled(text).unwrap_err().to_string();
        assert!(problem.contains(part), "{text}: {problem}");
    }
}

#[test]
fn files_are_laid_over_each_other() {
    let base = "services:\n  web:\n    image: web\n    environment: {A: 1, B: 2}\n    ports: [\"8080:80\"]\n";
    let over =
        "services:\n  web:\n    environment: [B=3]\n    deploy: {replicas: 3}\n  db: {image: db}\n";
    let stack = compiled_with(&[base, over], &[]).unwrap();
    let web = spec(&stack, "web");
    assert_eq!(
        web["TaskTemplate"]["ContainerSpec"]["Env"],
        json!(["A=1", "B=3"])
    );
    assert_eq!(web["Mode"], json!({"Replicated": {"Replicas": 3}}));
    let problems = compiled_with(&[base, "services:\n  web:\n    x: 1\n"], &[]);
    let problems = problems.unwrap_err().to_string();
    assert!(
        problems.starts_with("2.yml:3: services.web.x"),
        "{problems}"
    );
}

#[test]
fn the_whole_is_written_as_yaml() {
    let base = "services: {web: {image: \"web:$TAG\", ports: [\"8080:80\"]}}\n";
    let source = |text: &str| Source {
        name: "c.yml".to_owned(),
        text: text.to_owned(),
    };
    let config = |sources: &[Source]| {
        super::config(&Input {
            stack: "app",
            sources,
            directory: "/".as_ref(),
            variable: &|_| Some("1".to_owned()),
            read: &|_| Err(String::new()),
        })
    };
    let over = source("services: {web: {ports: [81]}}");
    let text = config(&[source(base), over]).unwrap();
    let again = config(&[source(&text)]).unwrap();
    assert!(
        text.contains("image: web:1") && text.contains("8080:80"),
        "{text}"
    );
    assert_eq!(text, again);
}

#[test]
fn who_is_waited_for_comes_first() {
    let text = "services:\n  c: {image: i, depends_on: {b: {condition: service_completed_successfully}, gone: {condition: service_started, required: false}}}\n  b: {image: i, depends_on: [a]}\n  a: {image: i}\n";
    let stack = compiled(text).unwrap();
    let names: Vec<_> = stack.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let expected = After {
        service: "b".to_owned(),
        until: Until::Completed,
    };
    assert_eq!(stack.services[2].after, [expected]);
}

/// A piece of YAML that is not far from a compose file.
fn near_compose() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "services",
        "web",
        "image",
        "a",
        "ports",
        "80",
        "8080-8090:80",
        "deploy",
        "replicas",
        "-1",
        "networks",
        "default",
        "configs",
        "x",
        "file",
        "external",
        "true",
        "${A:-",
        "}",
        "$",
        "[",
        "]",
        "{",
        ",",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "&a",
        "*a",
        "<<",
        "\"",
        "#",
        "environment",
        "volumes",
        "./a:/b",
        "healthcheck",
        "test",
        "1s",
        "depends_on",
        "~",
        "é",
    ]);
    proptest::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_breaks_it(text in near_compose()) {
        let _ = compiled(&text);
        let _ = compiled_with(&["services: {web: {image: a, ports: [80]}}", &text], &[]);
    }

    #[test]
    fn nor_does_any_other(text in "\\PC{0,60}") {
        let _ = compiled(&text);
    }
}
