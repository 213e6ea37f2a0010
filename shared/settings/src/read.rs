//! The settings' file and variables, read: each on its own, so that what is wrong is said of the one that is wrong.

use std::io;
use std::path::Path;

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, ConfigError, File, FileFormat, Value, ValueKind};

use crate::{Settings, SettingsError};

/// The variables that name a control plane on their own.
const URL_VARIABLES: [&str; 2] = ["MIDRUN_CONTROL_PLANE_URL", "ARKOR_CLOUD_API_URL"];
/// The variable that names the file with the services' secret.
const TOKEN_FILE_VARIABLE: &str = "MIDRUN_PEER_TOKEN_FILE";

/// What is known of the settings so far.
type Layers = ConfigBuilder<DefaultState>;

/// Reads the settings of the project in `dir` from `midrun.toml` and `variables`.
///
/// # Errors
/// When the file is there and cannot be read, when the file or a variable names no setting, or when a value is not of
/// its setting's kind.
pub fn load(
    dir: &Path,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    load_file(&dir.join("midrun.toml"), false, variables)
}

/// Reads the settings from `file`, which must be there if it is `required`, and `variables`.
///
/// # Errors
/// As for [`load`]; and when a required file is not there.
pub fn load_file(
    file: &Path,
    required: bool,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let mut layers = Config::builder();
    if let Some(text) = text_of(file, required)? {
        layers = layers.add_source(File::from_str(&text, FileFormat::Toml));
    }
    for variable in named(variables) {
        layers = variable.lay_on(layers).map_err(|error| variable.wrong(&error))?;
    }
    // Each variable is well by itself.
    layers
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| SettingsError { what: format!("{}: {error}", file.display()) })
}

/// What stands in `file`; nothing when there is no such file and none is `required`.
fn text_of(file: &Path, required: bool) -> Result<Option<String>, SettingsError> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    // The link itself, if it is one: a link that leads nowhere was meant to lead somewhere.
    let is_there = !std::fs::symlink_metadata(file).is_err_and(|error| missing(&error));
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim_start_matches('\u{feff}').to_owned())),
        Err(_) if !is_there && !required => Ok(None),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound if is_there => "it is a link to nothing: mend it, or take it away",
                io::ErrorKind::NotFound => "name a file that is there",
                io::ErrorKind::IsADirectory => "it has to be a file: move the folder away",
                io::ErrorKind::InvalidData => "save it as UTF-8",
                io::ErrorKind::PermissionDenied => "give yourself the right to read it",
                _ => "make it readable, or move it away",
            };
            Err(SettingsError { what: format!("{} cannot be read: {error}; {advice}", file.display()) })
        }
    }
}

/// A variable that says what a setting is.
struct Variable {
    name: String,
    /// The setting's path.
    path: String,
    text: String,
}

/// Those of `variables` that say what a setting is.
fn named(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Variable> {
    let mut named = Vec::new();
    let mut url: Option<(usize, Variable)> = None;
    for (name, text) in variables {
        if let Some(rank) = URL_VARIABLES.iter().position(|known| *known == name) {
            if url.as_ref().is_none_or(|(best, _)| rank < *best) && !text.is_empty() {
                url = Some((rank, Variable { name, path: "controlPlane.url".to_owned(), text }));
            }
        } else if name == TOKEN_FILE_VARIABLE {
            named.push(Variable { name, path: "peers.tokenFile".to_owned(), text });
        } else if let Some(path) = setting_of(&name) {
            named.push(Variable { name, path, text });
        }
    }
    // Before the others: what names the setting itself counts more.
    url.into_iter().map(|(_, url)| url).chain(named).collect()
}

/// Why a variable is not understood.
enum Misread {
    /// It is written like no setting's variable.
    Name,
    /// Its text is not what this says.
    Text(&'static str),
    /// What the settings make of it.
    Settings(ConfigError),
}

impl From<ConfigError> for Misread {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Type { expected, .. } => Self::Text(plain(expected)),
            error => Self::Settings(error),
        }
    }
}

impl Variable {
    /// Lays it on `layers`, if the settings understand it.
    fn lay_on(&self, layers: Layers) -> Result<Layers, Misread> {
        let is_name = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !self.path.split('.').all(is_name) {
            return Err(Misread::Name);
        }
        let value = Value::new(Some(&self.name), self.value()?);
        // Alone, so that what is wrong is wrong with this one.
        let alone = Config::builder().set_override(&self.path, value.clone())?.build()?;
        alone.try_deserialize::<Settings>()?;
        Ok(layers.set_override(&self.path, value)?)
    }

    fn value(&self) -> Result<ValueKind, Misread> {
        let text = self.text.as_str();
        match (self.path.as_str(), kind_of(text)) {
            (_, kind @ ValueKind::Array(_)) => Ok(kind),
            ("controlPlane.executor", _) if !text.is_empty() => Err(Misread::Text(
                r#"a JSON list of a program and its arguments, such as ["python", "train.py"],"#,
            )),
            ("controlPlane.executor", _) => Ok(ValueKind::Array(Vec::new())),
            ("gateway.allowedHosts" | "controlPlane.allowedHosts", _) if text.contains('"') => {
                Err(Misread::Text(r#"a list such as a.example,b.example or ["a.example", "b.example"]"#))
            }
            ("gateway.allowedHosts" | "controlPlane.allowedHosts", _) => {
                Ok(list(text.split(',').map(str::trim).filter(|name| !name.is_empty())))
            }
            (_, kind) => Ok(kind),
        }
    }

    fn wrong(&self, why: &Misread) -> SettingsError {
        let Self { name, text, .. } = self;
        let what = match why {
            Misread::Name => format!(
                "the variable {name} names no setting; {MODEL} is one that does, for the setting gateway.port"
            ),
            Misread::Text(expected) => format!("the variable {name} is {text:?}; {expected} is expected"),
            Misread::Settings(error) => format!("the variable {name} cannot be used: {error}"),
        };
        SettingsError { what }
    }
}

/// How a setting's variable is written.
const MODEL: &str = "MIDRUN_GATEWAY__PORT";

/// What is expected, in words for people.
fn plain(expected: &'static str) -> &'static str {
    match expected {
        "an integer" => "a whole number",
        "an unsigned 16 bit integer" => "a whole number from 0 to 65535",
        "an unsigned 32 bit integer" => "a whole number from 0 to 4294967295",
        "an unsigned 64 bit or less integer" => "a whole number that is not negative",
        "a boolean" => "true or false",
        other => other,
    }
}

/// `MIDRUN_RUN__HOT_SWAP_SIGNAL` is `run.hotSwapSignal`; a variable without two underscores is no setting.
fn setting_of(variable: &str) -> Option<String> {
    let path = variable.strip_prefix("MIDRUN_")?;
    path.contains("__").then(|| path.split("__").map(camel).collect::<Vec<_>>().join("."))
}

fn camel(part: &str) -> String {
    let mut words = part.split('_').map(str::to_ascii_lowercase);
    let mut name = words.next().unwrap_or_default();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// A variable's text as the value it looks like, so that lists and numbers can be given.
fn kind_of(text: &str) -> ValueKind {
    match text.parse::<toml::Value>() {
        Ok(toml::Value::Integer(number)) => ValueKind::I64(number),
        Ok(toml::Value::Boolean(flag)) => ValueKind::Boolean(flag),
        Ok(toml::Value::Array(items)) => {
            list(items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)))
        }
        _ => ValueKind::String(text.to_owned()),
    }
}

fn list(texts: impl Iterator<Item = impl Into<String>>) -> ValueKind {
    ValueKind::Array(texts.map(|text| Value::new(None, ValueKind::String(text.into()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Build, RestartFrom};

    fn load_with(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(dir.path().join("midrun.toml"), text).unwrap();
        }
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(dir.path(), variables)
    }

    #[test]
    fn nothing_said_is_the_defaults() {
        assert_eq!(load_with(None, &[("MIDRUN_RUN_ID", "r1"), ("HOME", "/h")]).unwrap(), Settings::default());
    }

    #[test]
    fn a_variable_overrides_the_file_which_overrides_the_default() {
        let file = "[gateway]\nport = 5000\nhost = \"::1\"\n[run]\nhotSwapSignal = \"SIGUSR1\"\n";
        let settings = load_with(
            Some(file),
            &[
                ("MIDRUN_GATEWAY__PORT", "6000"),
                ("MIDRUN_GATEWAY__ALLOWED_HOSTS", "[\"a.lan\", \"b.lan\"]"),
                ("MIDRUN_RUN__HOT_ONLY", "true"),
                ("MIDRUN_RUN__LOG_CAP_MB", "3"),
                ("MIDRUN_RESTART__FROM", "scratch"),
            ],
        )
        .unwrap();
        assert_eq!(settings.gateway.port, 6000);
        assert_eq!(settings.gateway.host, "::1");
        assert_eq!(settings.gateway.allowed_hosts, ["a.lan", "b.lan"]);
        assert!(settings.run.hot_only);
        assert_eq!(settings.run.log_cap(), 3 << 20);
        assert_eq!(settings.restart.from, RestartFrom::Scratch);
        assert_eq!(settings.run.hot_swap_signal_number().unwrap(), 10);
        assert_eq!(settings.build, Build::default());
    }

    #[test]
    fn the_control_plane_has_a_variable_of_its_own() {
        let ours = ("MIDRUN_CONTROL_PLANE_URL", "https://ours");
        let theirs = ("ARKOR_CLOUD_API_URL", "https://theirs");
        for (variables, want) in [
            (vec![theirs], "https://theirs"),
            (vec![ours, theirs], "https://ours"),
            (vec![theirs, ours], "https://ours"),
        ] {
            let settings = load_with(Some("[controlPlane]\nurl = \"https://file\"\n"), &variables).unwrap();
            assert_eq!(settings.control_plane.url.as_deref(), Some(want));
        }
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named_with_what_is_expected() {
        for (name, text, expected) in [
            ("MIDRUN_GATEWAY__PORT", "many", "a whole number"),
            ("MIDRUN_GATEWAY__PORT", "70000", "from 0 to 65535"),
            ("MIDRUN_GATEWAY__PORT__X", "1", "a whole number"),
            ("MIDRUN_GATEWAY__WORKERS", "-1", "not negative"),
            ("MIDRUN_RUN__HOT_ONLY", "perhaps", "true or false"),
            ("MIDRUN_RUN__LOG_CAP_MB", "0", "nonzero"),
            ("MIDRUN_RESTART__FROM", "nowhere", "checkpoint"),
            ("MIDRUN_NOPE__X", "1", "gateway"),
            ("MIDRUN_BUILD__", "1", "MIDRUN_GATEWAY__PORT"),
            ("MIDRUN___KEEP", "1", "MIDRUN_GATEWAY__PORT"),
            ("MIDRUN_BUILD__KEEP[0]", "1", "MIDRUN_GATEWAY__PORT"),
            ("MIDRUN_GATEWAY__ALLOWED_HOSTS", "[\"a\", \"b\"", "a.example,b.example"),
            ("MIDRUN_CONTROL_PLANE__EXECUTOR", "python train.py", "[\"python\", \"train.py\"]"),
        ] {
            let well = ("MIDRUN_GATEWAY__HOST", "::1");
            let error =
                load_with(Some("[build]\nkeep = 3\n"), &[well, (name, text)]).unwrap_err().to_string();
            assert!(error.contains(&format!("the variable {name} ")) && error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_variable_can_be_a_list() {
        let hosts = |text: &str| {
            load_with(None, &[("MIDRUN_GATEWAY__ALLOWED_HOSTS", text)]).unwrap().gateway.allowed_hosts
        };
        assert_eq!(hosts("midrun.example.org"), ["midrun.example.org"]);
        assert_eq!(hosts("a.lan, b.lan:80,"), ["a.lan", "b.lan:80"]);
        assert_eq!(hosts("[\"a.lan\",\"b.lan\"]"), ["a.lan", "b.lan"]);
        assert_eq!(hosts("[::1]:80,[2001:db8::1]"), ["[::1]:80", "[2001:db8::1]"]);
        assert_eq!(hosts("10"), ["10"]);
        assert!(hosts("").is_empty());
        let executor = |text: &str| {
            load_with(None, &[("MIDRUN_CONTROL_PLANE__EXECUTOR", text)]).unwrap().control_plane.executor
        };
        assert_eq!(executor("[\"sh\", \"-c\", \"a, b\"]"), ["sh", "-c", "a, b"]);
        assert!(executor("").is_empty());
    }

    #[test]
    fn a_file_that_is_there_and_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("midrun.toml");
        let told = |advice: &str| {
            let error = load(dir.path(), []).unwrap_err().to_string();
            assert!(error.contains(&*file.to_string_lossy()) && error.contains(advice), "{error}");
        };
        assert_eq!(load(dir.path(), []).unwrap(), Settings::default());
        assert!(load_file(&file, true, []).unwrap_err().to_string().contains("name a file that is there"));
        std::fs::create_dir(&file).unwrap();
        told("it has to be a file");
        std::fs::remove_dir(&file).unwrap();
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        told("a link to nothing");
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, b"# \xff\n").unwrap();
        told("save it as UTF-8");
        std::fs::write(&file, "\u{feff}[build]\nkeep = 3\n").unwrap();
        assert_eq!(load(dir.path(), []).unwrap().build.keep, 3);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let cases = [
            (Some("[gateway]\nprot = 1\n"), vec![], "prot"),
            (Some("[gateway]\nport = \"many\"\n"), vec![], "port"),
            (Some("[gateway\n"), vec![], "midrun.toml"),
            (None, vec![("MIDRUN_GATEWAY__PROT", "1")], "prot"),
            (None, vec![("MIDRUN_RUN__LOG_CAP_MB", "0")], "zero"),
            (Some("[gateway]\nport = \"many\"\n"), vec![("MIDRUN_GATEWAY__WORKERS", "3")], "midrun.toml"),
            (Some("[restart]\nfrom = \"nowhere\"\n"), vec![], "checkpoint"),
        ];
        for (file, variables, word) in cases {
            let error = load_with(file, &variables).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
