//! Images: those of tasks come from registries, the sandbox's is made here.

use bollard::{
    Docker as Client,
    auth::DockerCredentials,
    body_full,
    errors::Error,
    query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions},
};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{PullPolicy, RegistryAuth};

use super::{
    engine::{Engine, is_missing, refusal},
    pause,
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

/// Makes sure that the node has a task's image; `auth` is what its registry asks for.
pub(crate) async fn ensure(
    engine: &Engine,
    client: &Client,
    image: &str,
    policy: PullPolicy,
    auth: Option<&RegistryAuth>,
) -> Result<(), RuntimeError> {
    if policy != PullPolicy::Always {
        match client.inspect_image(image).await {
            Ok(_) => return Ok(()),
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
    })
}

/// Makes sure that the node has the sandbox's image.
pub(crate) async fn ensure_pause(engine: &Engine, client: &Client) -> Result<(), RuntimeError> {
    let name = format!("{}:{}", pause::IMAGE, pause::TAG);
    match client.inspect_image(&name).await {
        Ok(_) => return Ok(()),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(engine.failed("look for image", &name, &error)),
    }
    let archive = pause::archive().map_err(|error| Engine::refused("make", &name, &error))?;
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(pause::IMAGE)
        .tag(pause::TAG)
        .build();
    let mut made = client
        .create_image(Some(options), Some(body_full(archive.into())), None)
        .boxed();
    while let Some(step) = made.next().await {
        step.map_err(|error| engine.failed("import image", &name, &error))?;
    }
    Ok(())
}

/// Removes the sandbox's image, unless containers of others use it.
pub(crate) async fn remove_pause(engine: &Engine, client: &Client) -> Result<(), RuntimeError> {
    let name = format!("{}:{}", pause::IMAGE, pause::TAG);
    match client
        .remove_image(&name, None::<RemoveImageOptions>, None)
        .await
    {
        Err(error) if !refusal(&error).is_some_and(|(code, _)| [404, 409].contains(&code)) => {
            Err(engine.failed("remove image", &name, &error))
        }
        _ => Ok(()),
    }
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
