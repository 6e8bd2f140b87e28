"""A real Slurm cluster of a few virtual nodes on this machine: munged, slurmctld and one slurmd per node.

Every node is a PID namespace, so that killing its first process is the crash of a node, and nothing of it stays.  Ports,
folder and host names belong to one cluster alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

HOSTS = Path("/etc/hosts")

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
# cred_expire: also how long a job that was put back waits before it may start again
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=4
KillWait=10
MinJobAge=300
JobRequeue=1
NodeName={name}[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here, in words; empty if there can.  Installs Debian's packages where that is allowed."""
    if os.geteuid() != 0:
        return "a Slurm cluster of virtual nodes needs root"
    programs = ("slurmctld", "slurmd", "munged", "srun")
    if not all(map(shutil.which, programs)) and shutil.which("apt-get"):
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in ("update -qq", "install -y -qq --no-install-recommends slurm-wlm munge"):
            subprocess.run(["apt-get", *command.split()], env=quiet, capture_output=True, timeout=300)
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        return f"no {', '.join(absent)} here; apt-get install slurm-wlm munge"
    if not Path("/sys/fs/cgroup").exists():
        return "slurmd needs /sys/fs/cgroup"
    own = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return "" if own.returncode == 0 else "no PID namespaces here"


class Cluster:
    """A running cluster; made by `cluster`."""

    def __init__(self, folder: Path, nodes: int, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PMI"))}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        # The nodes share a kernel but not its process numbers, which misleads the shared memory of MPICH's UCX.
        self.environment["MPIR_CVAR_CH4_NETMOD"] = "ofi"
        self._name = f"zodist{os.getpid()}n"
        self.nodes = [f"{self._name}{n + 1}" for n in range(nodes)]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Bring all up and wait until every node is idle."""
        ports = _free_ports(len(self.nodes))
        values = {"folder": self.folder, "host": socket.gethostname().partition(".")[0], "ports": ports}
        values |= {"name": self._name, "nodes": len(self.nodes), "first": ports[1], "last": ports[-1]}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._stack.enter_context(_known_hosts(self.nodes))
        self._stack.callback(self._stop)
        paths = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munged.pid",
        }
        paths |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munged.seed"}
        self._run("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in paths.items()))
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged")
        (self.folder / "state").mkdir()
        self._run("slurmctld", "-D")
        for node in self.nodes:
            self.boot(node)

    def boot(self, node: str) -> None:
        """Start a node, or start it again, and wait until it is idle."""
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        # The first process of a namespace inherits orphans: a shell reaps them, slurmd would keep them as zombies.
        first = ("bash", "-c", f"slurmd -D -N {node} & wait")
        self._run(node, "unshare", "--pid", "--fork", "--mount-proc", *first)
        self._until(lambda: self.ask("sinfo", "-h", "-n", node, "-o", "%t") == "idle", node)

    def crash(self, node: str) -> None:
        """End all processes of a node at once, as a power cut would."""
        namespace = self._daemons.pop(node)
        for first in psutil.Process(namespace.pid).children():
            first.kill()
        namespace.wait()

    def ask(self, *command: object) -> str:
        """What a command of Slurm's prints; empty if it fails."""
        done = subprocess.run(
            [str(part) for part in command], env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def submit(self, *arguments: object, cwd: Path) -> str:
        """The number of a new job."""
        command = ["sbatch", "--parsable", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def _run(self, name: str, *command: str) -> None:
        program = [name, *command] if name in ("munged", "slurmctld") else list(command)
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                program, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def _until(self, condition: Callable[[], bool], name: str) -> None:
        end = time.monotonic() + 60
        while not condition():
            log = self.folder / f"{name}.out"
            assert time.monotonic() < end, (
                f"{name} does not come up: {log.read_text() if log.exists() else ''}"
            )
            time.sleep(0.1)

    def _stop(self) -> None:
        for node in set(self.nodes) & set(self._daemons):
            self.crash(node)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def cluster(nodes: int) -> Iterator[Cluster]:
    """A cluster of some idle nodes; nothing of it remains afterwards."""
    with ExitStack() as stack:
        # Not below pytest's folder: the path of a socket has at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        made = Cluster(folder, nodes, stack)
        made.start()
        yield made


def _free_ports(nodes: int) -> list[int]:
    """One port for the controller and as many in a row for the nodes."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("", 0))
            start = first.getsockname()[1]
            try:
                for port in range(start + 1, start + nodes + 1):
                    stack.enter_context(socket.socket()).bind(("", port))
            except (OSError, OverflowError):
                continue
            return list(range(start, start + nodes + 1))


@contextmanager
def _known_hosts(names: list[str]) -> Iterator[None]:
    """The names as names of this machine."""
    line = f"127.0.0.1 {' '.join(names)}\n"

    def change(remove: bool) -> None:
        with HOSTS.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            kept = [found for found in file.read().splitlines(keepends=True) if found != line]
            file.seek(0)
            file.write("".join(kept) + ("" if remove else line))
            file.truncate()

    change(remove=False)
    try:
        yield
    finally:
        change(remove=True)
