//! The flags of all settings, made from their table.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use synod::settings::{FILE_VARIABLE, KEYS, Key, LoadError, Loaded, Options, Shape, Sources};

const FILE: &str = "config";

/// What the command line says about settings.
#[derive(Debug)]
pub(crate) struct SettingsArguments {
    file: Option<PathBuf>,
    given: Vec<(&'static Key, String)>,
}

impl SettingsArguments {
    /// Reads all sources: the file, the environment, the flags.
    pub(crate) fn load(&self) -> Result<Loaded, LoadError> {
        self.sources()?.resolve()
    }

    /// Reads all sources, of which some may not say where the node is.
    pub(crate) fn bounds(&self) -> Result<Options, LoadError> {
        self.sources()?.bounds()
    }

    fn sources(&self) -> Result<Sources, LoadError> {
        let mut sources = Sources::new();
        let file = self.file.clone().or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
        if let Some(file) = file {
            sources.file(&file)?;
        }
        sources.environment(std::env::vars_os())?;
        for (key, value) in &self.given {
            sources.flag(key, value);
        }
        Ok(sources)
    }
}

impl clap::Args for SettingsArguments {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!("Read settings from this TOML file (or the one that {FILE_VARIABLE} names)"));
        command.arg(file).args(KEYS.iter().map(argument)).after_long_help(
            "Each setting is also a key of the file of --config (with _ for -, and a dot for a table: retention.bytes), and a \
             variable of the environment (SYNOD_RETENTION_BYTES). A flag wins over a variable, a variable over the file.",
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingsArguments::augment_args(command)
    }
}

fn argument(key: &'static Key) -> Arg {
    let argument = Arg::new(key.name).long(key.flag()).value_name(key.value).help(key.meaning);
    match key.shape {
        Shape::Text | Shape::Number => argument,
        Shape::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::Peers => argument.action(ArgAction::Append),
    }
}

impl FromArgMatches for SettingsArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingsArguments, clap::Error> {
        let values = |key: &'static Key| {
            let values = matches.get_many::<String>(key.name).unwrap_or_default();
            values.map(move |value| (key, value.clone()))
        };
        Ok(SettingsArguments {
            file: matches.get_one::<PathBuf>(FILE).cloned(),
            given: KEYS.iter().flat_map(values).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingsArguments::from_arg_matches(matches)?;
        Ok(())
    }
}
