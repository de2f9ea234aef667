//! Manual pages and completions, which packages bring: written by a build that nobody ships, in place of its work.

use std::{io, path::Path, process::ExitCode};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

use super::Cli;

/// The environment variable that names the folder: a command would be in what is written.
pub(super) const FOLDER_VARIABLE: &str = "NIMBERT_MANUAL";

/// Writes them into a folder that is there.
pub(super) fn write(folder: &Path) -> ExitCode {
    let written = (|| {
        clap_mangen::generate_to(Cli::command(), folder)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            generate_to(shell, &mut Cli::command(), "nimbert", folder)?;
        }
        io::Result::Ok(())
    })();
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::message(&format!("error: {}: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}
