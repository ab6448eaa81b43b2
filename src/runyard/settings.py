"""What can be set: the sections of the configuration, their keys and their defaults (`runyard.config` reads them).

Durations are seconds or a text such as `"30d"`; sizes are bytes or a text such as `"8M"`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from runyard.model.framework import Service
from runyard.model.hook import Hook
from runyard.model.quantity import Duration, Size

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
_DAY = 86400.0


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration file."""


class Server(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 7070
    """0 takes any free port."""
    max_body: Size = 8 * 1024 * 1024
    """Of one request."""
    max_streams: Positive = 1000
    """Open log and event streams at once."""
    allowed_hosts: list[str] = []
    """`Host` headers that are taken, beside this host's own."""
    allowed_origins: list[str] = []
    """Origins of browser pages that may call the API, beside the server's own."""


class Log(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error", "critical", "off"] = "warning"
    path: str = ""
    """A file; empty means stderr."""
    screen: bool = False
    """Write to stderr as well as to the file."""
    max_size: Size = 64 * 1024 * 1024
    """Of the file; then it is put aside, and a new one begun. 0 means no bound."""
    keep: Count = 64
    """Files put aside that are kept."""


class Store(Section, frozen=True):
    url: str = ""
    """Of a database; empty means SQLite in `data_dir`."""


class Agent(Section, frozen=True):
    idle_exit: Duration = 60.0
    """An agent without runs and without a server ends after so long."""
    pass_env: list[str] = []
    """Names of environment variables that the agent hands on to jobs."""


class Scheduler(Section, frozen=True):
    max_running: Positive = 4096
    """Processes at once on one node."""
    backfill_depth: Count = 100
    """Waiting jobs that are planned ahead."""
    assumed_time: Duration = _DAY
    """How long a job without `time_limit` is planned to last."""
    default_cores: Count = 0
    """Cores for a job that asks for none."""
    gpus: list[Count] = []
    """Indices of this node's GPUs that may be handed out."""


class Retention(Section, frozen=True):
    finished_jobs_max_age: Duration = 30 * _DAY
    finished_jobs_max: Count = 1_000_000
    events_max_age: Duration = 30 * _DAY
    runs_per_job_max: Positive = 1000
    interval: Duration = 60.0
    """Between two sweeps."""


class Messages(Section, frozen=True):
    """What the jobs' programs say: metrics, errors, logs."""

    max_rate: Positive = 25_000
    """Of one job, in a second; a message costs one for each KiB. What is more is sampled."""
    max_per_job: Positive = 500_000
    """Then metrics are thinned out, and others go, oldest first."""
    max_size_per_job: Size = 256 * 1024 * 1024
    max_age: Duration = 30 * _DAY


class Limits(Section, frozen=True):
    max_replicas: Positive = 10_000
    max_jobs: Positive = 1_000_000
    """Live jobs, each replica counted."""
    max_batch: Positive = 10_000
    """Jobs in one bulk request."""


class Meproc(Section, frozen=True):
    """The Meproc door, at `/proc`."""

    port: Port | None = None
    """A port of its own, beside the main one; Meproc's is 8606."""
    max_replica: Positive = 1000
    interval_unit: Literal["seconds", "milliseconds"] = "seconds"
    """What a number in `interval` means: the document's seconds, or the milliseconds of Meproc since November 2023."""
    timezone: str = "UTC"
    """For the schedules of cron tasks."""
    cron_catchup: bool = False
    """Make up for cron times that passed while no server was there, once."""
    script_dir: str = ""
    """Where relative paths of script tasks start; empty means the folder in which the server was started."""
    stop_grace: Duration = 10.0
    """Between SIGTERM and SIGKILL."""
    output_max: Size = 64 * 1024 * 1024
    """Kept of the output of each run; the oldest goes first."""
    strict: bool = False
    """Refuse what the original refuses, where the document is more generous."""


class Flux(Section, frozen=True):
    """The Flux door, at `/v1` and the unversioned paths of its document."""

    port: Port | None = None
    """A port of its own, beside the main one; Flux RESTful's is 5000."""
    option_flags: str = ""
    """Shell options of every job, such as `-ompi=none`; a job's own win."""
    launchers: list[str] = msgspec.field(default_factory=lambda: ["nextflow", "snakemake"])
    """Programs that may run beside the queue, for they submit jobs themselves."""
    strict: bool = False
    """A job whose working folder is missing fails, instead of running in `/tmp` as in Flux."""
    on_stop: Literal["keep", "cancel"] = "keep"
    """What becomes of the jobs when the service is stopped by request: they live on under the agent, or end."""
    stop_command: list[str] = []
    """A program and its arguments, run when the service is stopped by request: it may bring a cluster down."""


class Modelbox(Section, frozen=True):
    """The ModelBox door, at `/v1/modelbox/job`."""

    port: Port | None = None
    """A port of its own, beside the main one; ModelBox's is 1104."""
    host: str = ""
    """Address of that port; empty means the main one's."""
    enabled: bool = True
    allow: list[str] = []
    """Who may use the door: IPv4 addresses, networks, names of hosts; empty means everybody."""
    flow_path: str = ""
    """A folder of graphs, or one graph, loaded at the start; copies of those that come by REST go to its `oneshot`."""
    application_root: str = ""
    """A folder of projects; the graphs in the folder `graph` of each are loaded at the start."""
    create_timeout: Duration = 60.0
    """How long a create waits for the flow to run."""


class Tango(Section, frozen=True):
    """The TANGO door: the project manager's `/status_report`."""

    port: Port | None = None
    """A port of its own, beside the main one; TANGO's project manager has 8085."""
    heartbeat: Duration = 2.0
    """Between two questions to a member that is at work."""
    max_missed_beats: Count = 30
    """After so many in a row without an answer its step has failed; 0 means never."""
    connect_timeout: Duration = 2.0
    read_timeout: Duration = 5.0
    """For one call to a member."""
    stop_grace: Duration = 30.0
    """A member that was told to stop counts as stopped after so long, whatever it says."""
    members: list[str] = []
    """Addresses, such as `code_gen=http://10.0.0.5:8888`; `TANGO_CODE_GEN_URL` says the same."""
    docker_host: str = ""
    """The host on which all members listen, each on the port of its container; empty means a host for each."""
    shared: str = ""
    """The folder that members share; empty means `tango` in `data_dir`."""
    compat_errors_200: bool = False
    """Reports that can't be used are answered with 200, as TANGO does, and the error in the body."""
    allow: list[str] = []
    """Addresses and networks that may report; empty means everybody."""


class K12ai(Section, frozen=True):
    """The K12AI door, at `/k12ai`."""

    port: Port | None = None
    """A port of its own, beside the main one; K12AI's is 8119."""
    app_id: str = "talentai"
    """Prefix of the queues of requests for tasks without `appId`."""
    platform_app_id: str = "k12ai"
    """The same of requests for figures of the platform."""
    cache_dir: str = ""
    """Folder of the projects' files; empty means `k12ai` in `data_dir`."""
    max_tasks: Count = 7
    """Tasks at once; 0 means no bound."""
    scope: Literal["project", "phase"] = "project"
    """One live task for each user and `service_uuid`, or one for each of their phases."""
    stop_grace: Duration = 3.0
    """Between SIGTERM and SIGKILL."""
    output_max: Size = 64 * 1024 * 1024
    """Kept of the output of each task; the oldest goes first."""
    queue_expiry: Duration = 432_000.0
    """Messages older than this are no longer popped."""
    key: str = ""
    """Who pushes or pops must send it, as `X-K12AI-Key`; empty means anybody may."""
    message_form: Literal["both", "text"] = "both"
    """`message` of an answer: in two languages, or one text as in the first releases."""
    datetime_format: str = "%Y%m%d%H%M%S"
    """Of `datetime` in messages (strftime, local time)."""
    stats_always_push: bool = False
    """Answers of `stats` go into the queue as well, as in 2019."""
    stats_interval: Duration = 0.0
    """Between two `resource` messages that nobody has asked for, with the host's figures; 0 means there are none."""
    single_gpu_as_object: bool = False
    """`gpus` of a host with one is that GPU, as in 2020, and not a list."""
    emit_status: bool = False
    """Messages of type `status` besides, as in 2019."""
    finish_after_error: bool = False
    """A `runcode` task that has failed says 100003 after its error, as the original does."""
    callbacks: list[str] = []
    """Who gets all messages of an application by POST, such as `talentai=https://example.org/k12ai`."""
    callback_secret: str = ""
    """Key of the signature of those, and of the ones that requests ask for; empty means that they are not signed."""
    redis_url: str = ""
    """Messages are put into lists there as well, such as `redis://127.0.0.1:6379/0`."""


class Doors(Section, frozen=True):
    meproc: Meproc = Meproc()
    flux: Flux = Flux()
    modelbox: Modelbox = Modelbox()
    tango: Tango = Tango()
    k12ai: K12ai = K12ai()


class Flows(Section, frozen=True):
    unit_dirs: list[str] = []
    """Folders in and below which the units of flows may lie; empty means anywhere."""


class Auth(Section, frozen=True):
    """Accounts; `runyard user` and `runyard token` look after them."""

    enabled: bool = False
    """Whether requests need credentials."""
    run_as: bool = False
    """Jobs run as the operating system's account of whoever submits them. The server must be root."""
    min_uid: Count = 1000
    """Lowest number of an account that jobs of others than admins may run as."""
    access_token_lifetime: Duration = 36_000.0
    """Of the tokens that are given out for name and password."""
    max_failures: Positive = 10
    """Failed logins of one account within `failure_window`; ten times as many of one address."""
    failure_window: Duration = 300.0


class Telemetry(Section, frozen=True):
    """What is measured of this host, its GPUs, containers and runs, and when."""

    interval: Duration = 1.0
    """Between two samples, while somebody asks."""
    linger: Duration = 30.0
    """For so long after the last question sampling goes on."""
    background: Duration = 15.0
    """Between two samples of what runs use while nobody asks, for the jobs' histories; 0 means none then."""
    points: Positive = 240
    """Kept of each job's history, at least, and at most twice as many: it gets coarser as it gets longer."""
    gpus: bool = True
    """Ask NVIDIA's driver, where there is one."""
    docker: str = ""
    """Address of a Docker Engine: `unix:///path`, `tcp://host:port` or `none`; empty means `DOCKER_HOST`, else the
    usual socket."""
    metrics_jobs: Count = 100
    """Jobs with figures of their own in `/metrics`: those that use most."""


class Config(Section, frozen=True):
    """Everything that can be set. `data_dir` is absolute."""

    data_dir: str = ""
    """Folder of the store, the output files and the agent; empty means the platform's state folder."""
    server: Server = Server()
    log: Log = Log()
    store: Store = Store()
    agent: Agent = Agent()
    scheduler: Scheduler = Scheduler()
    retention: Retention = Retention()
    messages: Messages = Messages()
    limits: Limits = Limits()
    doors: Doors = Doors()
    flows: Flows = Flows()
    auth: Auth = Auth()
    telemetry: Telemetry = Telemetry()
    hooks: list[Hook] = []
    services: dict[str, Service] = {}
    """The frameworks of the K12AI door, by name."""
