//! Images, which come from registries.

use bollard::{
    Docker as Client, auth::DockerCredentials, errors::Error, models::ImageInspect,
    query_parameters::CreateImageOptionsBuilder,
};
use futures::TryStreamExt as _;
use model::{PullPolicy, RegistryAuth};

use super::{
    container::ImageProgram,
    engine::{Engine, is_missing, refusal},
};
use crate::RuntimeError;

/// An image's name as the registry is asked for it: a name alone would be all of
/// its tags.
fn tagged(image: &str) -> String {
    // a colon before the last slash is of the registry's port
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

fn credentials(auth: &RegistryAuth) -> DockerCredentials {
    let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    DockerCredentials {
        username: said(&auth.username),
        password: said(&auth.password),
        auth: said(&auth.auth),
        email: said(&auth.email),
        serveraddress: said(&auth.serveraddress),
        identitytoken: said(&auth.identitytoken),
        registrytoken: said(&auth.registrytoken),
    }
}

/// What an image says of its program.
fn program(image: ImageInspect) -> ImageProgram {
    let config = image.config.unwrap_or_default();
    ImageProgram {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
    }
}

/// Makes sure that the node has a task's image; `auth` is what its registry asks for.
pub(crate) async fn ensure(
    engine: &Engine,
    client: &Client,
    image: &str,
    policy: PullPolicy,
    auth: Option<&RegistryAuth>,
) -> Result<ImageProgram, RuntimeError> {
    if policy != PullPolicy::Always {
        match client.inspect_image(image).await {
            Ok(found) => return Ok(program(found)),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(engine.failed("look for image", image, &error)),
        }
    }
    let missing = |why: String| RuntimeError::Image {
        image: image.to_owned(),
        why,
    };
    if policy == PullPolicy::Never {
        return Err(missing(
            "this node does not have it, and --pull never forbids to fetch it".to_owned(),
        ));
    }
    tracing::info!(image, "pulling");
    let options = CreateImageOptionsBuilder::default()
        .from_image(&tagged(image))
        .build();
    let pulled = client
        .create_image(Some(options), None, auth.map(credentials))
        .try_for_each(|_| async { Ok(()) })
        .await;
    pulled.map_err(|error| match (&error, refusal(&error)) {
        (_, Some((_, why))) => missing(format!("it cannot be pulled: {why}")),
        (Error::DockerStreamError { error }, _) => missing(format!("it cannot be pulled: {error}")),
        _ => engine.failed("pull", image, &error),
    })?;
    let found = client.inspect_image(image).await;
    let found = found.map_err(|error| engine.failed("look for image", image, &error))?;
    Ok(program(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_asked_for() {
        for (image, asked) in [
            ("web", "web:latest"),
            ("web:1", "web:1"),
            ("registry:5000/shop/web", "registry:5000/shop/web:latest"),
            ("registry:5000/web:2", "registry:5000/web:2"),
            ("web@sha256:0", "web@sha256:0"),
        ] {
            assert_eq!(tagged(image), asked);
        }
    }
}
