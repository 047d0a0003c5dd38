//! PID 1 of the virtual machine, or what PID 1 starts.

use std::process::ExitCode;

use tunless_vm::{command_line::Job, init, runner, shell};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        // Comes back only where the machine cannot be switched off.
        init::run();
        return ExitCode::FAILURE;
    }
    match Job::from_kernel() {
        Ok(Job { kernel, suite: Some(suite) }) => runner::run(kernel, &suite),
        Ok(Job { kernel, suite: None }) => shell::run(kernel),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
