//! `--format` with a Go template, and docker's functions in it
//! (<https://docs.docker.com/engine/cli/formatting/>).

use std::collections::HashMap;

use gtmpl::{Context, Func, FuncError, Value};
use serde_json::Value as Json;

use crate::output::capital;

/// Where an object keeps its own JSON, for `{{json .}}`: no field has such a name.
const OWN: &str = "\0";
/// What is in these is a map by keys of anybody's.
const MAPS: [&str; 2] = ["Attributes", "Labels"];

/// A template that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(String);

/// docker's, besides Go's own.
const FUNCTIONS: [(&str, Func); 8] = [
    ("json", json),
    ("lower", |arguments| on_text(arguments, str::to_lowercase)),
    ("upper", |arguments| on_text(arguments, str::to_uppercase)),
    ("title", |arguments| on_text(arguments, capital)),
    ("split", split),
    ("join", join),
    ("pad", pad),
    ("truncate", truncate),
];

impl Template {
    /// Reads a template, with `\t` and `\n` as docker takes them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        parse(&text)?;
        Ok(Self(text))
    }

    /// Fills it with a value.
    ///
    /// # Errors
    /// It asks for a field that is not there, or calls a function with what it does not
    /// take.
    pub(crate) fn fill(&self, value: &Json) -> anyhow::Result<String> {
        let filled = parse(&self.0).and_then(|template| {
            let filled = template.render(&Context::from(of_json(value, false)));
            filled.map_err(|error| error.to_string())
        });
        filled.map_err(|why| anyhow::anyhow!("cannot fill the template {:?}: {why}", self.0))
    }
}

fn parse(text: &str) -> Result<gtmpl::Template, String> {
    let mut template = gtmpl::Template::default();
    template.add_funcs(&FUNCTIONS);
    match template.parse(text) {
        Ok(()) => Ok(template),
        Err(error) => Err(error.to_string()),
    }
}

/// A name as Go's structs have it: `timeNano` is `TimeNano`, `exit_code` is `ExitCode`.
fn field(key: &str) -> String {
    key.split('_').map(capital).collect()
}

/// `map`: the keys of an object are anybody's, and one that is not there is no mistake.
fn of_json(value: &Json, map: bool) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => Value::Array(list.iter().map(|one| of_json(one, false)).collect()),
        Json::Object(entries) if map => {
            let entries = entries.iter();
            Value::Map(
                entries
                    .map(|(key, one)| (key.clone(), of_json(one, false)))
                    .collect(),
            )
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(key, one)| {
                let field = field(key);
                let map = MAPS.contains(&field.as_str());
                (field, of_json(one, map))
            });
            let mut fields: HashMap<_, _> = fields.collect();
            fields.insert(OWN.to_owned(), value.to_string().into());
            Value::Object(fields)
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::NoValue | Value::Nil | Value::Function(_) => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::String(text) => Json::String(text.clone()),
        // as it is written in JSON
        Value::Number(number) => serde_json::from_str(&number.to_string()).unwrap_or_default(),
        Value::Array(list) => list.iter().map(to_json).collect(),
        Value::Object(fields) => {
            let own = fields.get(OWN).map(ToString::to_string);
            serde_json::from_str(&own.unwrap_or_default()).unwrap_or_default()
        }
        Value::Map(entries) => {
            let entries = entries.iter();
            entries
                .map(|(key, value)| (key.clone(), to_json(value)))
                .collect()
        }
    }
}

fn wrong(what: &str) -> FuncError {
    FuncError::Generic(what.to_owned())
}

fn json(arguments: &[Value]) -> Result<Value, FuncError> {
    let [value] = arguments else {
        return Err(FuncError::ExactlyXArgs("json".to_owned(), 1));
    };
    Ok(Value::String(to_json(value).to_string()))
}

fn on_text(arguments: &[Value], change: impl Fn(&str) -> String) -> Result<Value, FuncError> {
    let [value] = arguments else {
        return Err(wrong("one text is wanted"));
    };
    Ok(Value::String(change(&value.to_string())))
}

fn split(arguments: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(text), Value::String(by)] = arguments else {
        return Err(wrong("split takes a text and what divides it"));
    };
    Ok(Value::Array(
        text.split(by.as_str()).map(Value::from).collect(),
    ))
}

fn join(arguments: &[Value]) -> Result<Value, FuncError> {
    let [Value::Array(list), Value::String(by)] = arguments else {
        return Err(wrong("join takes a list and what goes between"));
    };
    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
    Ok(Value::String(list.join(by)))
}

/// How many, as templates write numbers.
fn count(value: &Value) -> Result<usize, FuncError> {
    let count = value.to_string().parse();
    count.map_err(|_| wrong("a whole number is wanted"))
}

fn pad(arguments: &[Value]) -> Result<Value, FuncError> {
    let [text, before, after] = arguments else {
        return Err(wrong(
            "pad takes a text and how many spaces go before and after it",
        ));
    };
    let (before, after) = (count(before)?, count(after)?);
    Ok(Value::String(format!("{:before$}{text}{:after$}", "", "")))
}

fn truncate(arguments: &[Value]) -> Result<Value, FuncError> {
    let [text, length] = arguments else {
        return Err(wrong("truncate takes a text and a length"));
    };
    let text = text.to_string();
    Ok(Value::String(text.chars().take(count(length)?).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str) -> String {
        let value = json!({
            "Name": "vote",
            "Spec": {"Labels": {"a": "1"}, "Replicas": 3, "Ratio": 0.5, "Minus": -1},
            "Ports": ["80/tcp", "53/udp"],
            "exit_code": 7,
        });
        let template = Template::new(template).unwrap();
        template
            .fill(&value)
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn fields_and_functions_are_dockers() {
        for (template, expected) in [
            ("{{.Name}}\\t{{.Spec.Replicas}}", "vote\t3"),
            (
                "{{json .Spec}}",
                r#"{"Labels":{"a":"1"},"Minus":-1,"Ratio":0.5,"Replicas":3}"#,
            ),
            (
                "{{json .}}",
                r#"{"Name":"vote","Ports":["80/tcp","53/udp"],"Spec":{"Labels":{"a":"1"},"Minus":-1,"Ratio":0.5,"Replicas":3},"exit_code":7}"#,
            ),
            (
                "{{upper .Name}} {{title .Name}} {{.Name | lower}}",
                "VOTE Vote vote",
            ),
            ("{{range .Ports}}<{{.}}>{{end}}", "<80/tcp><53/udp>"),
            ("{{join .Ports \", \"}}", "80/tcp, 53/udp"),
            ("{{index (split .Name \"o\") 1}}", "te"),
            (
                "{{index .Spec.Labels \"a\"}} {{.Spec.Labels.b}}",
                "1 <no value>",
            ),
            ("{{.ExitCode}}", "7"),
            ("{{pad .Name 1 2}}|{{truncate .Name 2}}", " vote  |vo"),
            ("{{if eq .Name \"vote\"}}yes{{else}}no{{end}}", "yes"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(
            filled("{{.Nmae}}").contains("Nmae"),
            "{}",
            filled("{{.Nmae}}")
        );
        assert!(filled("{{truncate .Name \"x\"}}").contains("whole number"));
        for unreadable in ["{{.Name", "{{nosuch .Name}}", "{{if}}"] {
            assert!(Template::new(unreadable).is_err(), "{unreadable}");
        }
    }
}
