"""The way onto a cluster, against a real Ray head on loopback with token authentication."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from cluster import connection, package
from cluster.errors import ClusterError
from cluster.jobs import failure
from cluster.preflight import check_paths, check_resources
from cluster.submit import search_command
from kinemic import cli
from kinemic.cli import find_groups
from search.config import load
from search.shares import Resources

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "examples" / "demo.yaml"
TINY = (
    "data.source.clips=40",
    "data.target.clips=24",
    "data.split={shots: 2, classes: [wave, kick], train_subjects: [s01, s02], dev_subjects: [s04]}",
    "prior.pretrain.steps=2",
    "trial.adapt.rungs=[1,2]",
    "trial.synthesis={clips_per_class: 1, sampling_steps: 2}",
    "trial.judge.profile=smoke",
    "space={loss.temperature: {type: float, low: 0.05, high: 0.1}}",
    "seeds.judge=[0]",
    "contenders={seeds: 2, rows: [published]}",
    "budget.trials=2",
)
CANARY, TOKEN = "c4nary-of-the-study", "0123456789abcdef" * 4
START_S = 60  # a job starts in 5 to 9 s; a busy machine takes longer


# --- what needs no cluster --------------------------------------------------------------------------------------


def test_the_upload_is_code_and_the_search_file() -> None:
    targets = {str(upload.target) for upload in package.files_to_upload(DEMO, None)[0]}
    assert {"demo.yaml", "kinemic/cli.py", "search/config.py", "cluster/cli.py"} <= targets
    assert not [target for target in targets if "__pycache__" in target or target.startswith(("tests", "runs"))]


def test_own_files_are_uploaded_but_never_over_ours(tmp_path: Path) -> None:
    for name in ("own.yaml", "kinemic/cli.py", "runs/big", ".venv/x", "__pycache__/own.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("theirs")
    sources = {str(upload.target): upload.source for upload in package.files_to_upload(DEMO, tmp_path)[0]}
    assert sources["own.yaml"] == tmp_path / "own.yaml"
    assert sources["kinemic/cli.py"] == ROOT / "kinemic" / "cli.py"
    assert sources.keys().isdisjoint({"runs/big", ".venv/x", "__pycache__/own.pyc"})


KEYS = (
    *(".env", ".env.local", "prod.env", "lab.pem", "Server.KEY", "id_rsa", "id_ed25519.pub", ".netrc", ".pgpass"),
    *(
        ".aws/config",
        ".ssh/known",
        ".kube/config",
        "credentials.json",
        "ray-token",
        "my_token.txt",
        "conf/secrets.yaml",
        "openai-API-key.txt",
        ".s3cfg",
    ),
)
CODE = ("own.yaml", "tokenizer.py", "keys.py", "lists/train.txt", "environment.yaml")


def test_keys_tokens_and_what_links_lead_to_are_in_no_upload(
    tmp_path: Path,
) -> None:
    own, elsewhere, staged = tmp_path / "own $(x)", tmp_path / "elsewhere", tmp_path / "staged"
    for name in (*KEYS, *CODE):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(f"c4nary of {name}")
    elsewhere.mkdir()
    (elsewhere / "plain.txt").write_text("c4nary of a target")
    (own / "linked").symlink_to(elsewhere)
    (own / "linked.txt").symlink_to(elsewhere / "plain.txt")
    (own / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(own / "pipe")
    uploads, left_out = package.files_to_upload(DEMO, own)
    package.stage(uploads, staged)
    create_package(str(staged), tmp_path / "job.zip", include_gitignore=True)  # as Ray uploads it
    with zipfile.ZipFile(tmp_path / "job.zip") as zipped:
        inside = {name: zipped.read(name) for name in zipped.namelist() if not name.endswith("/")}
    assert set(CODE) == {name for name, content in inside.items() if content.startswith(b"c4nary")}
    folders = {".aws", ".ssh", ".kube"}
    expected = {*folders, *(key for key in KEYS if key.partition("/")[0] not in folders)}
    assert set(map(str, left_out)) == expected | {"linked", "linked.txt", "gone.txt", "pipe"}


def test_over_50_mb_is_refused_naming_the_largest_files(tmp_path: Path) -> None:
    for name, size in [("weights.bin", 40_000_000), ("clips.npy", 30_000_000), ("small.txt", 10)]:
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(ClusterError, match=r"at most 50 MB.*weights\.bin \(40\.0 MB\), clips\.npy \(30\.0 MB\)"):
        package.files_to_upload(DEMO, tmp_path)


def test_a_staged_copy_finds_its_groups_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package.stage(package.files_to_upload(DEMO, None)[0], tmp_path)
    here = find_groups()
    monkeypatch.setattr(cli, "entry_points", lambda group: [])  # nothing is installed from a job's folder
    assert find_groups(tmp_path) == here
    done = subprocess.run(
        [sys.executable, "-m", "kinemic.cli", "cluster", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "Submit a search" in done.stdout, done.stderr


def test_the_command_of_a_job_survives_the_shell() -> None:
    command = search_command("a b.yaml", ("name=x y", "budget.trials=2"), "~/my runs")
    printed = subprocess.run(
        ["bash", "-c", f'python() {{ printf "%s\\n" "$@"; }}; {command.removeprefix("exec ")}'],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/home/me", "PATH": os.environ["PATH"]},
    ).stdout.splitlines()
    start = ["-m", "kinemic.cli", "search", "run", "a b.yaml", "--resume", "--set", "name=x y"]
    assert printed == [
        *start,
        "--set",
        "budget.trials=2",
        "--set",
        "resources.address=auto",
        "--runs",
        "/home/me/my runs",
    ]


def test_a_path_that_only_this_machine_has_is_refused() -> None:
    config = load(DEMO, ["data.source={format: humanml3d, path: data/HumanML3D}"])
    with pytest.raises(ClusterError, match=r"data\.source\.path: data/HumanML3D is relative"):
        check_paths(config, set())
    check_paths(config, {Path("data/HumanML3D/Mean.npy")})
    check_paths(load(DEMO, ["data.source={format: humanml3d, path: /data/HumanML3D}"]), set())
    for key, setting in {
        "confirm.test.file": "confirm={test: {file: lists/test.txt}}",
        "text.pretrained": "text={encoder: open_clip, pretrained: weights/ViT-B-32.pt}",
        "text.model": "text={encoder: sentence, model: weights/minilm}",
    }.items():
        with pytest.raises(ClusterError, match=rf"{key}: (lists|weights)/\S+ is relative"):
            check_paths(load(DEMO, [setting]), set())
    check_paths(load(DEMO, ["text={encoder: open_clip, pretrained: openai}"]), set())
    check_paths(load(DEMO, ["text={encoder: sentence, model: minilm}"]), set())


NOBODY = Resources()


def test_a_trial_that_no_node_can_hold_is_refused_with_both_values() -> None:
    nodes = [Resources(8, 0), Resources(4, 1), Resources(4, 1)]
    with pytest.raises(ClusterError, match=r"6 CPUs and 0\.5 GPUs .* 1 x 8 CPUs and 0 GPUs, 2 x 4 CPUs and 1 GPUs"):
        check_resources(nodes, Resources(6, 0.5), NOBODY)
    check_resources(nodes, Resources(4, 0.5), NOBODY)
    with pytest.raises(ClusterError, match="no live node"):
        check_resources([], Resources(1, 0), NOBODY)


def test_a_trial_must_fit_beside_the_search_itself() -> None:
    lonely = [Resources(8, 1)]
    with pytest.raises(ClusterError, match=r"a trial beside 0 CPUs and 1 GPUs for the search itself asks for .*8 CPUs"):
        check_resources(lonely, Resources(1, 0.25), Resources(0, 1))
    check_resources(lonely, Resources(1, 0.25), Resources(0, 0.5))
    check_resources([*lonely, Resources(1, 0.25)], Resources(1, 0.25), Resources(0, 1))
    with pytest.raises(ClusterError, match="the search itself asks for 0 CPUs and 2 GPUs"):
        check_resources(lonely, Resources(1, 0.25), Resources(0, 2))


def test_a_failed_job_says_its_own_last_error() -> None:
    class Details:
        message = "exit code 2, last logs:\nTrial 3\nerror: data: missing\nwarning: late\n"

    assert failure(Details()) == "data: missing"


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://head", "http://", "head:port", "http://[::1:8265"])
def test_an_address_that_is_no_dashboard_is_explained(address: str) -> None:
    with pytest.raises(ClusterError, match="expected the HTTP address"):
        connection.connect(address)


def test_a_closed_port_is_reported_at_once() -> None:
    with pytest.raises(ClusterError, match=r"can't be reached \(.*refused\)"):
        connection.connect(f"http://127.0.0.1:{free_ports(1)[0]}")


def test_a_name_that_no_host_can_have_is_one_line() -> None:
    with pytest.raises(ClusterError, match="can't be reached"):
        connection.connect("http://a b:8265")


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ClusterError, match="timed out"):
        connection.connect(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(("status", "message"), [(404, "HTTP 404"), (200, "no Ray dashboard")])
def test_another_web_server_is_told_from_ray(status: int, message: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ClusterError, match=message):
            connection.connect(f"http://127.0.0.1:{server.server_port}")


# --- a real cluster ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A running Ray head: its dashboard, and an environment whose commands are let in."""

    address: str
    env: dict[str, str]
    folder: Path

    def kinemic(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run ``kinemic cluster ...`` as a user does, against this cluster."""
        return self.python("-m", "kinemic.cli", "cluster", *arguments, "--address", self.address, **changed)

    def python(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **changed}
        return subprocess.run(
            [sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
        )

    def job(self, code: str) -> str:
        """Run code in an own interpreter (Ray reads the authentication mode once) with a ``client`` of this cluster."""
        script = (
            "from cluster.connection import connect; from cluster.jobs import *\n"
            "from search.shares import Resources\n"
            f"client = connect({self.address!r})\n{code}"
        )
        done = self.python("-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Start a Ray head with 2 CPUs, no GPU and a token, in a session of its own, and end that session alone."""
    # Not pytest's folder: Ray's sockets lie below it, and their paths may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="kin-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        env |= {"STUDY": f"sqlite:///{folder / CANARY}.db"}  # known where Ray was started, and nowhere else
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "HOME": name}
        # The entrypoint's python is the one of the shell that starts Ray.
        env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        port, dashboard, client, agent = free_ports(4)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-agent-listen-port={agent}", "--dashboard-host=127.0.0.1", f"--temp-dir={name}/ray"]
        command += ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for_dashboard(address, process, folder / "log")
            yield Head(address, {name: value for name, value in env.items() if name != "STUDY"}, folder)
        finally:
            end_session(process)


def wait_for_dashboard(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except urllib.error.HTTPError:
            return  # 401: it is there, and wants the token
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"ray start did not come up:\n{log.read_text()[-3000:]}")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End Ray's processes of this session and no others: `ray stop` would end every Ray on the machine."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == process.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in ("error: ", *parts):
        assert part in lines[0]


def test_a_missing_or_wrong_token_is_one_line(head: Head) -> None:
    wrong = head.folder / "wrong"
    wrong.write_text("f" * 64)
    assert_one_line(
        head.kinemic("list", RAY_AUTH_MODE="", RAY_AUTH_TOKEN_PATH=""), "Missing", "RAY_AUTH_TOKEN_PATH=FILE"
    )
    assert_one_line(head.kinemic("list", RAY_AUTH_TOKEN_PATH=str(wrong)), "Invalid", "RAY_AUTH_TOKEN_PATH=FILE")
    assert_one_line(head.kinemic("list", RAY_AUTH_TOKEN_PATH="/no/such/file"), "/no/such/file")


def test_a_named_token_is_used_without_naming_the_mode_too(head: Head) -> None:
    env = {key: value for key, value in head.env.items() if key != "RAY_AUTH_MODE"}
    done = Head(head.address, env, head.folder).kinemic("list")
    assert done.returncode == 0, done.stderr


def test_an_address_given_beats_the_one_in_the_environment(head: Head) -> None:
    done = head.kinemic("list", RAY_ADDRESS="http://127.0.0.1:1", RAY_API_SERVER_ADDRESS="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr


def test_a_job_is_submitted_listed_followed_and_stopped(head: Head) -> None:
    first, second = head.job(
        "quick = Job('tale', 'printf \"once upon a time \\\\033[2J http://me:c4nary@host\\\\n\"; exit 3')\n"
        "endless = Job('tale', 'echo and then; sleep 300')\n"
        "print(submit(client, quick), submit(client, endless))\n"
        f"wait_started(client, 'tale-2', Resources(), {START_S}, 0)"
    ).split()
    assert (first, second) == ("tale-1", "tale-2")

    followed = head.kinemic("logs", "-f", first)
    assert followed.returncode == 1
    for shown in (followed.stdout, head.kinemic("logs", first).stdout):
        assert r"once upon a time \x1b[2J http://***@host" in shown
    assert "tale-1: FAILED" in followed.stderr

    listed = head.kinemic("list").stdout
    assert listed.index("tale-2") < listed.index("tale-1")
    assert "RUNNING" in listed

    assert "and then" in head.kinemic("logs", second).stdout
    assert "tale-2: STOPPED" in head.kinemic("stop", second).stdout
    assert "STOPPED" in head.kinemic("status", second).stdout
    assert "already ended: STOPPED" in head.kinemic("stop", second).stdout
    assert_one_line(head.kinemic("status", "no-such"), "no-such", "tale-1", "tale-2")


def test_a_job_that_fails_at_once_is_reported_with_its_own_reason(head: Head) -> None:
    said = head.job(
        "from cluster.errors import ClusterError\n"
        "job = submit(client, Job('ill', 'echo error: data: no folder /data; exit 2'))\n"
        "try:\n"
        f"    wait_started(client, job, Resources(), {START_S}, 30)\n"
        "except ClusterError as error:\n"
        "    print(error)"
    )
    assert "job ill-1 failed: data: no folder /data" in said


def test_a_job_that_waits_for_a_gpu_nobody_has_is_given_up_with_the_reason(head: Head) -> None:
    said = head.job(
        "from cluster.errors import ClusterError\n"
        "gpu = Resources(0, 1)\n"
        "job = submit(client, Job('greedy', 'echo ran', reserved=gpu))\n"
        "try:\n"
        "    wait_started(client, job, gpu, 3, 0)\n"
        "except ClusterError as error:\n"
        "    print(error)"
    )
    assert "greedy-1 had not started after 3 s: it asks for 0 CPUs and 1 GPUs" in said
    assert "the cluster has 1 x 2 CPUs and 0 GPUs" in said


def test_trials_share_what_a_job_leaves_beside_itself(head: Head) -> None:
    folder = head.folder / "beside"
    folder.mkdir()
    (folder / "shares.py").write_text(
        "from search.config import ResourcesConfig\n"
        "from search.resources import connected, share\n"
        "with connected('auto'):\n"
        "    print(share(ResourcesConfig()))\n"
        "    share(ResourcesConfig(cpus=2))\n"
    )
    said = head.job(
        "import time; from pathlib import Path\n"
        f"job = submit(client, Job('beside', 'python shares.py', Path({str(folder)!r}), Resources(1, 0)))\n"
        "while details(client, job).status in ('PENDING', 'RUNNING'):\n"
        "    time.sleep(0.5)\n"
        "print(client.get_job_logs(job))"
    )
    assert "Share(cpus=1.0, gpus=0.0, max_concurrent=1, larger=None)" in said
    assert "a trial takes 2 CPUs and 0 GPUs and no node of Ray has that much free: there are 1 x 1 CPUs" in said


def test_a_search_that_wants_an_absent_gpu_is_refused_before_anything_is_uploaded(head: Head) -> None:
    done = head.kinemic("submit", str(DEMO), "--set", "resources.gpus=1", "--set", "name=wants-gpu")
    assert_one_line(done, "a trial asks for 1 CPUs and 1 GPUs", "1 x 2 CPUs and 0 GPUs")
    assert "wants-gpu" not in head.kinemic("list").stdout


@pytest.mark.timeout(900)  # two drivers and a dozen tiny trainings; a minute on an idle machine
def test_the_demo_search_is_submitted_stopped_and_submitted_again_where_it_was(head: Head) -> None:
    runs = head.folder / "runs"
    command = ["submit", str(DEMO), "--runs", str(runs), "--start-timeout", "50"]
    for setting in (*TINY, "storage=${STUDY}"):
        command += ["--set", setting]
    begun = head.kinemic(*command)
    assert begun.returncode == 0, begun.stderr
    assert "cluster logs -f demo-1" in begun.stdout

    again = head.kinemic(*command)
    assert_one_line(again, "runs there already as demo-1")

    first_rung = runs / "demo" / "trials" / "0000" / "rung-1" / "report.json"
    while not first_rung.exists():
        assert "RUNNING" in head.kinemic("status", "demo-1").stdout, head.kinemic("logs", "demo-1").stdout
        time.sleep(1)
    assert "demo-1: STOPPED" in head.kinemic("stop", "demo-1").stdout
    report, written = first_rung.read_text(), first_rung.stat().st_mtime_ns

    ended = head.kinemic(*command, "--follow")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "demo-2: SUCCEEDED" in ended.stdout
    assert "published" in ended.stdout  # the contenders' table
    assert (first_rung.read_text(), first_rung.stat().st_mtime_ns) == (report, written)

    assert (head.folder / f"{CANARY}.db").is_file()
    jobs = head.job("print(client.list_jobs())")  # entrypoints, metadata, environments
    assert "storage=${STUDY}" in jobs
    processes = b"".join(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
    for secret in (CANARY, TOKEN):
        assert secret not in jobs + ended.stdout + begun.stdout
        assert secret.encode() not in processes
        assert holding(head.folder, secret) <= {"token"}


def holding(folder: Path, secret: str) -> set[str]:
    """Return the files, Ray's logs and uploads among them, that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if secret.encode() in path.read_bytes()}


def test_a_password_in_the_file_or_in_a_setting_is_not_submitted(tmp_path: Path) -> None:
    nowhere = Head("http://127.0.0.1:1", dict(os.environ), Path())
    literal = "storage=postgresql://me:c4nary@host/db"
    file = tmp_path / "noted.yaml"
    file.write_text(f"{DEMO.read_text()}\n# storage: postgresql://me:c4nary@host/db\n")
    for command in ([str(DEMO), "--set", literal, "--set", "storage=null"], [str(file)]):
        done = nowhere.kinemic("submit", *command)
        assert_one_line(done, "holds a password or token", "${file:PATH}")
        assert "c4nary" not in done.stderr


def test_bad_input_is_refused_without_asking_the_cluster() -> None:
    nowhere = Head("http://127.0.0.1:1", dict(os.environ), Path())
    assert_one_line(nowhere.kinemic("submit", "no-such.yaml"), "no-such.yaml")
    assert_one_line(nowhere.kinemic("submit", str(DEMO), "--set", "bugdet.trials=3"), "bugdet", "budget")
