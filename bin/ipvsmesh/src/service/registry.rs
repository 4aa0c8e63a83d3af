//! `--with-registry-auth`: what `docker login` left for the registry of an image.

use std::path::PathBuf;

use anyhow::Context as _;
use docker_credential::DockerCredential;
use model::RegistryAuth;
use serde_json::Value;

/// What this user is logged in with at the registry of an image.
///
/// # Errors
/// Not logged in there, or the login cannot be read.
pub(crate) fn auth(image: &str) -> anyhow::Result<RegistryAuth> {
    let server = match host(image) {
        Some(host) => host.to_owned(),
        None => default_registry()?,
    };
    let found = docker_credential::get_credential(&server).with_context(|| {
        format!(
            "no login for the registry of image {image} was found: run docker login {}",
            host(image).unwrap_or_default()
        )
    })?;
    Ok(match found {
        DockerCredential::IdentityToken(identitytoken) => RegistryAuth {
            identitytoken,
            serveraddress: server,
            ..RegistryAuth::default()
        },
        DockerCredential::UsernamePassword(username, password) => RegistryAuth {
            username,
            password,
            serveraddress: server,
            ..RegistryAuth::default()
        },
    })
}

/// The registry that an image's name says: a first part like a host's.
fn host(image: &str) -> Option<&str> {
    let (first, _) = image.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some(first)
}

/// Docker's own registry is known by a URL that has the version of its protocol.
fn default_registry() -> anyhow::Result<String> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    let path = dir.unwrap_or_default().join("config.json");
    let on = || path.display().to_string();
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", on()))?;
    let config: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", on()))?;
    let servers = config["auths"].as_object().into_iter().flatten();
    let mut servers = servers.map(|(server, _)| server.clone());
    servers
        .find(|server| server.ends_with("/v1/"))
        .with_context(|| format!("{} has no login: run docker login", on()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_looks_like_a_host() {
        for (image, expected) in [
            ("web", None),
            ("shop/web:1.2", None),
            ("registry:5000/web", Some("registry:5000")),
            ("registry.example/shop/web:1", Some("registry.example")),
            ("localhost/web", Some("localhost")),
        ] {
            assert_eq!(host(image), expected);
        }
    }
}
