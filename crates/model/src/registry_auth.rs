use std::fmt;

use serde::{Deserialize, Serialize};

/// Who asks a registry for a service's image: the fields of Docker's `X-Registry-Auth`
/// (<https://docs.docker.com/reference/api/engine/> "Authentication"); what is empty is
/// not said. It is a secret: neither logs nor the API show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct RegistryAuth {
    /// Who.
    pub username: String,
    /// With which password.
    pub password: String,
    /// Both in one, as older clients say it.
    pub auth: String,
    /// Not used by registries any more.
    pub email: String,
    /// Of which registry.
    pub serveraddress: String,
    /// In the place of a password.
    pub identitytoken: String,
    /// Passed on to the registry as it is.
    pub registrytoken: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryAuth(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown() {
        let auth = RegistryAuth {
            username: "user".to_owned(),
            password: "secret".to_owned(),
            ..RegistryAuth::default()
        };
        assert_eq!(format!("{auth:?}"), "RegistryAuth(..)");
    }
}
