//! Processes in containers, over one stream a client: it starts them, writes to them, tells them sizes and signals; it is
//! sent what they write and how they ended. They end when the client is gone.

use std::collections::HashMap;
use std::sync::Arc;

use builder::Error;
use builder::containers::stdio::{self, Ends, Output, Terminal, Wanted};
use builder::containers::{Container, Start};
use futures_util::future::join_all;
use futures_util::stream::{BoxStream, StreamExt};
use proto::bridge::exec_message::Input;
use proto::bridge::{DoneMessage, ExecMessage, ExitMessage, FdMessage, InitMessage, StartedMessage};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Caller;
use super::containers::{process, translate};
use crate::refusal;

/// Messages that wait for the client.
const WAITING: usize = 16;
/// Most bytes of a process' output in one message.
const PIECE: usize = 32 << 10;
/// BuildKit's code of a process that never ran, or of which nobody knows how it ended.
const UNKNOWN: u32 = 255;

type Out = mpsc::Sender<Result<ExecMessage, Status>>;

/// What a running process is told, beside its input.
enum Told {
    Size(u16, u16),
    Signal(i32),
}

/// The client's hold on a process.
struct Hold {
    /// Bytes for its input; `None` once it has all.
    input: Option<mpsc::Sender<Vec<u8>>>,
    told: mpsc::UnboundedSender<Told>,
}

/// Serves one client's stream.
pub fn serve(caller: Caller, incoming: Streaming<ExecMessage>) -> BoxStream<'static, Result<ExecMessage, Status>> {
    let (out, messages) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let refused = tokio::select! {
            refused = hear(&caller, incoming, &out) => refused.err(),
            () = out.closed() => None,
        };
        if let Some(status) = refused {
            let _ = out.send(Err(status)).await; // a client that is gone needs no answer
        }
    });
    ReceiverStream::new(messages).boxed()
}

/// Does what the client says until it has nothing more to say. Processes that it started go on.
async fn hear(caller: &Caller, mut incoming: Streaming<ExecMessage>, out: &Out) -> Result<(), Status> {
    let mut holds: HashMap<String, Hold> = HashMap::new();
    while let Some(ExecMessage { process_id, input }) = incoming.message().await? {
        if process_id.is_empty() {
            return Err(Status::invalid_argument("a message for a process without its id"));
        }
        let Some(input) = input else { continue };
        if let Input::Init(init) = input {
            if holds.contains_key(&process_id) {
                return Err(Status::already_exists(format!("there is a process {process_id} already")));
            }
            let container = caller.containers().get(&init.container_id)?;
            holds.insert(process_id.clone(), start(container, process_id, init, out)?);
            continue;
        }
        let hold = holds.get_mut(&process_id);
        let hold = hold.ok_or_else(|| Status::not_found(format!("there is no process {process_id}")))?;
        // A process that has ended hears nothing any more, and that is nobody's mistake.
        match input {
            Input::File(FdMessage { fd: 0, eof, data }) => {
                if let Some(input) = hold.input.as_ref().filter(|_| !data.is_empty()) {
                    let _ = input.send(data).await;
                }
                if eof {
                    hold.input = None;
                }
            }
            Input::File(file) => {
                return Err(Status::out_of_range(format!("descriptor {} of a process can't be written", file.fd)));
            }
            Input::Resize(size) => {
                let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                let _ = hold.told.send(Told::Size(number(size.rows), number(size.cols)));
            }
            Input::Signal(signal) => {
                let number = signal_number(&signal.name);
                let number =
                    number.ok_or_else(|| Status::invalid_argument(format!("there is no signal {}", signal.name)))?;
                let _ = hold.told.send(Told::Signal(number));
            }
            _ => return Err(Status::invalid_argument("a message that only the daemon sends")),
        }
    }
    Ok(())
}

/// Starts a process, and tells the client all about it.
fn start(container: Arc<Container>, id: String, init: InitMessage, out: &Out) -> Result<Hold, Status> {
    let has = |fd: u32| init.fds.contains(&fd);
    let wanted = Wanted { input: has(0), output: has(1), errors: has(2) };
    let made = if init.tty { stdio::terminal(wanted) } else { stdio::pipes(wanted) };
    let (theirs, ends) = made.map_err(|e| Status::internal(format!("can't make pipes for a process: {e}")))?;
    let start = Start {
        meta: process(init.meta.as_ref().ok_or_else(|| Status::invalid_argument("a process without a program"))?)?,
        secrets: init.secretenv.iter().map(translate).collect::<Result<_, _>>()?,
        security: init.security,
        terminal: init.tty,
    };
    let Ends { input, outputs, terminal } = ends;
    let (told, hears) = mpsc::unbounded_channel();
    let (bytes, waiting) = mpsc::channel(WAITING);
    if let Some(input) = input {
        tokio::spawn(feed(input, waiting));
    }
    let to = To { id, out: out.clone() };
    tokio::spawn(async move {
        let ended = run(&to, &container, start, theirs, outputs, terminal, hears).await;
        to.tell_end(ended).await;
    });
    Ok(Hold { input: Some(bytes), told })
}

/// Runs a process to its end.
async fn run(
    to: &To,
    container: &Container,
    start: Start,
    theirs: sandbox::Stdio,
    outputs: Vec<(u32, Output)>,
    terminal: Option<Terminal>,
    mut hears: mpsc::UnboundedReceiver<Told>,
) -> Result<(), Error> {
    // A client that pipes one process into the next must hear that the second one starts before the first one's output:
    // it takes one message after the other.
    let told = container.begun();
    if told {
        to.tell(Input::Started(StartedMessage {})).await;
    }
    let started = container.start(start, theirs).await;
    if !told {
        to.tell(Input::Started(StartedMessage {})).await;
    }
    let mut process = started?;
    let (over, end) = watch::channel(false);
    let shown = join_all(outputs.into_iter().map(|(fd, output)| show(to, fd, output, end.clone())));
    let inside = process.inside();
    let ended = async {
        loop {
            tokio::select! {
                ended = process.end() => {
                    over.send_replace(true);
                    return ended;
                }
                () = to.out.closed() => inside.signal(rustix::process::Signal::KILL.as_raw()).map_err(sandboxed)?,
                Some(told) = hears.recv() => match (told, &terminal) {
                    (Told::Signal(number), _) => inside.signal(number).map_err(sandboxed)?,
                    // A terminal that nobody sits at any more needs no size.
                    (Told::Size(rows, columns), Some(terminal)) => drop(terminal.resize(rows, columns)),
                    (Told::Size(..), None) => {}
                },
            }
        }
    };
    let (ended, _) = tokio::join!(ended, shown);
    ended
}

fn sandboxed(error: sandbox::Error) -> Error {
    builder::ops::Error::from(error).into()
}

/// Writes the client's bytes into a process' input, and closes it after the last one.
async fn feed(mut input: pipe::Sender, mut bytes: mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = bytes.recv().await {
        if input.write_all(&piece).await.is_err() {
            return; // it reads no more
        }
    }
}

/// Sends what a process writes until it is closed; once the process is over, what was written by then.
async fn show(to: &To, fd: u32, mut output: Output, mut over: watch::Receiver<bool>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            biased;
            read = output.read(&mut buffer) => read.map(Some),
            _ = over.wait_for(|over| *over) => output.read_now(&mut buffer),
        };
        match read {
            Ok(Some(count @ 1..)) => to.tell_file(fd, false, buffer[..count].to_vec()).await,
            // Others may hold it open; nobody waits for them.
            Ok(_) | Err(_) => break,
        }
    }
    to.tell_file(fd, true, Vec::new()).await;
}

/// Where messages about one process go.
struct To {
    id: String,
    out: Out,
}

impl To {
    /// A client that is gone hears nothing.
    async fn tell(&self, input: Input) {
        let message = ExecMessage { process_id: self.id.clone(), input: Some(input) };
        let _ = self.out.send(Ok(message)).await;
    }

    async fn tell_file(&self, fd: u32, eof: bool, data: Vec<u8>) {
        self.tell(Input::File(FdMessage { fd, eof, data })).await;
    }

    async fn tell_end(&self, ended: Result<(), Error>) {
        let exit = match ended {
            Ok(()) => ExitMessage { code: 0, error: None },
            Err(error) => {
                let code = match &error {
                    Error::Operation(builder::ops::Error::Exit { code, .. }) => u32::try_from(*code).unwrap_or(UNKNOWN),
                    _ => UNKNOWN,
                };
                ExitMessage { code, error: Some(proto::refusal::whole(&refusal::of(&error))) }
            }
        };
        self.tell(Input::Exit(exit)).await;
        self.tell(Input::Done(DoneMessage {})).await;
    }
}

/// The number of a signal by its name, without `SIG`.
fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 33] = [
        ("ABRT", libc::SIGABRT),
        ("ALRM", libc::SIGALRM),
        ("BUS", libc::SIGBUS),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("FPE", libc::SIGFPE),
        ("HUP", libc::SIGHUP),
        ("ILL", libc::SIGILL),
        ("INT", libc::SIGINT),
        ("IO", libc::SIGIO),
        ("IOT", libc::SIGIOT),
        ("KILL", libc::SIGKILL),
        ("PIPE", libc::SIGPIPE),
        ("POLL", libc::SIGPOLL),
        ("PROF", libc::SIGPROF),
        ("PWR", libc::SIGPWR),
        ("QUIT", libc::SIGQUIT),
        ("SEGV", libc::SIGSEGV),
        ("STKFLT", libc::SIGSTKFLT),
        ("STOP", libc::SIGSTOP),
        ("SYS", libc::SIGSYS),
        ("TERM", libc::SIGTERM),
        ("TRAP", libc::SIGTRAP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("VTALRM", libc::SIGVTALRM),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
    ];
    let name = name.strip_prefix("SIG").unwrap_or(name);
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
