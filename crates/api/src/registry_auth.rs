//! The header by which docker's clients say who asks a registry for an image: base64
//! (RFC 4648 §5) of JSON.

use axum::http::HeaderMap;
use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use model::RegistryAuth;

use crate::ApiError;

/// Its name.
pub(crate) const HEADER: &str = "X-Registry-Auth";

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request says; `None`: nothing, or nothing in it.
///
/// # Errors
/// It is not base64 of such JSON. The text is not repeated: it may hold a password.
pub(crate) fn of(headers: &HeaderMap) -> Result<Option<RegistryAuth>, ApiError> {
    let Some(text) = headers.get(HEADER).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let invalid = || ApiError::invalid(format!("{HEADER}: it is not base64 of JSON"));
    let json = BASE64.decode(text).map_err(|_| invalid())?;
    let auth: RegistryAuth = serde_json::from_slice(&json).map_err(|_| invalid())?;
    Ok(Some(auth).filter(|auth| *auth != RegistryAuth::default()))
}

/// The header's text.
pub(crate) fn header(auth: &RegistryAuth) -> String {
    BASE64.encode(serde_json::json!(auth).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<RegistryAuth>, ApiError> {
        of(&HeaderMap::from_iter([(
            HEADER.parse().unwrap(),
            text.parse().unwrap(),
        )]))
    }

    #[test]
    fn what_is_written_is_read() {
        let auth = RegistryAuth {
            username: "us?er".to_owned(),
            password: "sec>ret~".to_owned(),
            ..RegistryAuth::default()
        };
        let text = header(&auth);
        assert_eq!(read(&text).unwrap(), Some(auth.clone()));
        assert_eq!(read(text.trim_end_matches('=')).unwrap(), Some(auth));
        assert_eq!(of(&HeaderMap::new()).unwrap(), None);
        // docker's client without a login: {}
        assert_eq!(read("e30=").unwrap(), None);
        assert_eq!(read("").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_repeated() {
        for text in ["%%%", "c2VjcmV0"] {
            let error = read(text).unwrap_err();
            assert!(!error.message.contains(text), "{}", error.message);
        }
    }
}
