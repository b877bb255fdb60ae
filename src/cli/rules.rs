//! `enlight rules`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use introspection::RuleFile;
use introspection::rules::suricata::{self, Refused, Variables};

use super::{say, to_json};
use crate::config::{load_rules, parse_rules, read};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Take over rules of Suricata that use content, nocase, pcre and flow
    #[command(after_help = "Examples:
  enlight rules import local.rules -o rules.toml
      Write what can be taken over, and tell of each other rule why not.
  enlight rules import local.rules --var HOME_NET=192.0.2.0/24 --var HTTP_PORTS=80,8080")]
    Import(ImportArgs),
    /// Say whether a rules file is right
    #[command(after_help = "Example:\n  enlight rules check rules.toml")]
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A file of Suricata's rules
    #[arg(value_name = "FILE.rules")]
    file: PathBuf,
    /// The rules file to write; standard output without
    #[arg(short, long, value_name = "FILE.toml")]
    output: Option<PathBuf>,
    /// What a variable stands for, without its $; HOME_NET and EXTERNAL_NET are any address otherwise
    #[arg(long = "var", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// Print as JSON what was taken and what was not
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The rules file
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Import(args) => import(&args),
        Command::Check(args) => {
            let rules = load_rules(&args.file)?;
            if args.json {
                return say(&to_json(&rules)?);
            }
            let count = rules.rule.len();
            say(&format!("{}: {count} rules, all right", args.file.display()))
        }
    }
}

fn import(args: &ImportArgs) -> Result<()> {
    let mut variables = Variables::default();
    for variable in &args.variables {
        let Some((name, value)) = variable.split_once('=') else {
            bail!("--var {variable:?} has no value; write NAME=VALUE");
        };
        variables.set(name.trim_start_matches('$'), value);
    }
    let imported = suricata::import(&read(&args.file)?, &variables);
    let (taken, left) = (imported.rules.len(), imported.refused.len());
    if !args.json {
        tell(&args.file, &imported.refused);
        eprintln!("{taken} rules taken, {left} not");
    }
    let json = args.json.then(|| to_json(&imported)).transpose()?;
    let file = RuleFile { rule: imported.rules };
    let text = toml::to_string(&file).context("writing TOML")?;
    // The rules may be right one by one and still too many together.
    let output = args.output.as_deref();
    parse_rules(&text, output.unwrap_or(Path::new("rules.toml")))?;
    if taken == 0 && left > 0 && !args.json {
        bail!("{}: no rule could be taken", args.file.display());
    }
    if let Some(path) = output {
        std::fs::write(path, &text).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    match json {
        Some(json) => say(&json),
        None if output.is_none() => say(&text),
        None => Ok(()),
    }
}

/// Says of each rule that was not taken why, one a line.
fn tell(file: &Path, refused: &[Refused]) {
    for refusal in refused {
        let sid = refusal
            .sid
            .as_ref()
            .map_or_else(String::new, |sid| format!("sid {sid}: "));
        let reason = refusal.reason.replace('\n', " ");
        eprintln!("{}:{}: {sid}not taken: {reason}", file.display(), refusal.line);
    }
}
