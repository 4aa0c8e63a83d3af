//! `--format` with a Go template, as docker's: `{{.Type}} {{json .Actor}}`.

use std::collections::HashMap;

use gtmpl::{Context, FuncError, Template, Value};
use serde_json::Value as Json;

/// Where an object keeps its own JSON, for `{{json .}}`: no field has such a name.
const OWN: &str = "\0";
/// What is in these is a map by keys of anybody's.
const MAPS: [&str; 2] = ["Attributes", "Labels"];

/// How something is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// As JSON.
    Json,
    /// By this template.
    Template(String),
}

/// `json`, or a template that can be read.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    if text == "json" {
        return Ok(Format::Json);
    }
    if !text.contains("{{") {
        return Err("use json, or a template such as '{{json .}}'".to_owned());
    }
    parse(text).map_err(|why| format!("the template cannot be read: {why}"))?;
    Ok(Format::Template(text.to_owned()))
}

fn parse(text: &str) -> Result<Template, String> {
    let mut template = Template::default();
    template.add_func("json", json);
    template.parse(text).map_err(|error| error.to_string())?;
    Ok(template)
}

/// The text for one object, without a line feed.
///
/// # Errors
/// The template asks for what is not there.
pub(crate) fn render(format: &Format, object: &Json) -> anyhow::Result<String> {
    let Format::Template(text) = format else {
        return Ok(object.to_string());
    };
    let wrong = |why: String| anyhow::anyhow!("template {text:?} cannot be filled in: {why}");
    let template = parse(text).map_err(wrong)?;
    let rendered = template.render(&Context::from(value(object, false)));
    // a shell's quotes leave backslashes as they are
    let rendered = rendered.map_err(|error| wrong(error.to_string()))?;
    Ok(rendered.replace("\\t", "\t").replace("\\n", "\n"))
}

/// A name as Go's structs have it: `timeNano` is `TimeNano`, `exit_code` is `ExitCode`.
fn field(key: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    };
    key.split('_').map(capital).collect()
}

fn value(json: &Json, map: bool) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(yes) => (*yes).into(),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => number.into(),
            (_, Some(number), _) => number.into(),
            (.., number) => number.unwrap_or_default().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => Value::Array(list.iter().map(|one| value(one, false)).collect()),
        Json::Object(object) if map => {
            let entries = object.iter();
            Value::Map(
                entries
                    .map(|(key, one)| (key.clone(), value(one, false)))
                    .collect(),
            )
        }
        Json::Object(object) => {
            let fields = object.iter().map(|(key, one)| {
                let field = field(key);
                let map = MAPS.contains(&field.as_str());
                (field, value(one, map))
            });
            let mut fields: HashMap<_, _> = fields.collect();
            fields.insert(OWN.to_owned(), json.to_string().into());
            Value::Object(fields)
        }
    }
}

/// `{{json .}}`
fn json(arguments: &[Value]) -> Result<Value, FuncError> {
    fn back(value: &Value) -> Json {
        match value {
            Value::NoValue | Value::Nil | Value::Function(_) => Json::Null,
            Value::Bool(yes) => (*yes).into(),
            Value::String(text) => text.as_str().into(),
            Value::Number(number) => serde_json::from_str(&number.to_string()).unwrap_or_default(),
            Value::Array(list) => list.iter().map(back).collect(),
            Value::Object(fields) => {
                let own = fields.get(OWN).map(ToString::to_string);
                serde_json::from_str(&own.unwrap_or_default()).unwrap_or_default()
            }
            Value::Map(map) => {
                let entries = map.iter().map(|(key, one)| (key.clone(), back(one)));
                Json::Object(entries.collect())
            }
        }
    }
    match arguments {
        [one] => Ok(back(one).to_string().into()),
        _ => Err(FuncError::ExactlyXArgs("json".to_owned(), 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(text: &str) -> String {
        let object = json!({
            "Type": "task", "timeNano": 1_767_225_600_500_000_000_u64, "rates": [1, 2.5],
            "exit_code": null,
            "Actor": {"ID": "abc", "Attributes": {"name": "vote.1", "replicas.old": "2"}},
        });
        render(&format(text).unwrap(), &object).unwrap()
    }

    #[test]
    fn fields_have_gos_names_and_maps_keep_theirs() {
        assert_eq!(
            rendered("{{.Type}} {{.TimeNano}}"),
            "task 1767225600500000000"
        );
        assert_eq!(rendered("{{.Actor.Attributes.name}}"), "vote.1");
        assert_eq!(
            rendered(r#"{{index .Actor.Attributes "replicas.old"}}"#),
            "2"
        );
        assert_eq!(rendered("{{range .Rates}}{{.}};{{end}}"), "1;2.5;");
        assert_eq!(rendered(r"{{.Type}}\t{{.Actor.ID}}"), "task\tabc");
    }

    #[test]
    fn json_is_as_it_was() {
        let whole: Json = serde_json::from_str(&rendered("{{json .}}")).unwrap();
        assert_eq!(whole.to_string(), rendered("json"));
        assert_eq!(
            rendered("{{json .Actor}}"),
            r#"{"Attributes":{"name":"vote.1","replicas.old":"2"},"ID":"abc"}"#
        );
        assert_eq!(rendered("{{json .Type}}"), r#""task""#);
    }

    #[test]
    fn wrong_templates_are_said_to_be_wrong() {
        assert!(format("table").unwrap_err().contains("json"));
        assert!(format("{{.Type").is_err());
        let missing = render(&format("{{.Color}}").unwrap(), &json!({}));
        assert!(missing.unwrap_err().to_string().contains("Color"));
    }
}
