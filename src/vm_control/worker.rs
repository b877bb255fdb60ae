//! Asks the machine, which may take its time, so that the thread that serves clients need not.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use vmm::{RequestError, VmHandle};

use super::api::{Done, Info};
use super::connection::{Answer, CONSOLE_GREETING};
use super::server::Shared;

/// How long a question may wait for those before it; who asked has lost patience then.
const STALE: Duration = Duration::from_secs(20);

/// Something to ask for a client.
pub(super) struct Job {
    /// The client.
    pub(super) client: u64,
    pub(super) question: Question,
    pub(super) since: Instant,
}

pub(super) enum Question {
    Info,
    State,
    Pause,
    Resume,
    PowerButton,
    /// Press the power button of a machine that shall end.
    End,
    Console(UnixStream),
}

/// What came of it.
pub(super) enum Outcome {
    Answer(Answer),
    /// The connection is the machine's console now.
    Handed,
    /// Whether the guest was asked to end, and if not, why.
    Asked(Result<(), String>),
}

/// Asks everything until nobody can ask any more.
pub(super) fn run(jobs: &Receiver<Job>, name: &str, machine: &VmHandle, shared: &Arc<Shared>) {
    while let Ok(job) = jobs.recv() {
        let outcome = if job.since.elapsed() > STALE {
            Outcome::Answer(Answer::failure(
                503,
                "the machine was busy for too long; try again".to_owned(),
            ))
        } else {
            ask(job.question, name, machine)
        };
        shared.tell(job.client, outcome);
    }
}

fn ask(question: Question, name: &str, machine: &VmHandle) -> Outcome {
    let answer = match question {
        Question::Info => machine.info().map(|machine| {
            Answer::good(&Info {
                name: name.to_owned(),
                machine,
            })
        }),
        Question::State => machine.export().map(|state| Answer::good(&state)),
        Question::Pause => machine.pause().map(|()| Answer::good(&Done {})),
        Question::Resume => machine.resume().map(|()| Answer::good(&Done {})),
        Question::PowerButton => machine.press_power_button().map(|()| Answer::good(&Done {})),
        Question::End => {
            // A guest that stands still cannot end.
            let asked = machine.resume().and_then(|()| machine.press_power_button());
            return Outcome::Asked(asked.map_err(|error| error.to_string()));
        }
        Question::Console(stream) => match machine.attach_console(stream, CONSOLE_GREETING) {
            Ok(()) => return Outcome::Handed,
            Err(error) => Err(error),
        },
    };
    Outcome::Answer(answer.unwrap_or_else(|error| refusal(&error)))
}

fn refusal(error: &RequestError) -> Answer {
    let status = match error {
        RequestError::Stopped | RequestError::Unready(_) | RequestError::Export(_) => 409,
        RequestError::Crowded | RequestError::Console(_) => 503,
        RequestError::NoAnswer => 504,
        RequestError::Vcpu(_) => 500,
    };
    Answer::failure(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_statuses() {
        assert_eq!(refusal(&RequestError::Stopped).status, 409);
        assert_eq!(refusal(&RequestError::NoAnswer).status, 504);
        let answer = refusal(&RequestError::Unready("no button"));
        assert_eq!(answer.body, br#"{"error":"no button"}"#);
    }
}
