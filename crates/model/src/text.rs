//! Types that are in JSON what they are as text.

/// The conversions that `#[serde(try_from = "String", into = "String")]` asks for, by a
/// type's own `FromStr` and `Display`.
macro_rules! serde_by_text {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = <Self as std::str::FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

pub(crate) use serde_by_text;
