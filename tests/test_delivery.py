"""What a tracking server may answer, and what then becomes of a call and of those behind it; how a server is asked."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow import MlflowClient
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from kinemic.config import TrialConfig
from kinemic.errors import KinemicError
from search import runner
from search.folder import differences, dump_tracked
from search.outbox import Outbox, is_away
from search.patience import OutOfPatienceError
from search.registry import Registry, find_run
from search.server import check_reachable, page_of
from search.sitting import sit
from search.tracking import open_tracker
from tests import analytic
from tests.bench import search

LATER = (408, 425, 429, 500, 503)
REFUSED = (400, 401, 403, 404, 413)


NOTHING = b"{}"  # MLflow's own, where there is no experiment


@dataclass
class Proxy:
    """What stands before an MLflow server: answers everything with one status and its own page, and keeps headers.

    What is asked of the path ``broken`` it answers with 500.
    """

    status: int = 200
    page: bytes = b"<html>no</html>"
    broken: str = "nothing"
    port: int = 0
    seen: list[str | None] = field(default_factory=list)  # of each request the Authorization header


@contextmanager
def serving(proxy: Proxy, certificate: Path | None = None) -> Iterator[Proxy]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.seen.append(self.headers.get("Authorization"))
            self.send_response(500 if proxy.broken in self.path else proxy.status)
            self.send_header("Content-Length", str(len(proxy.page)))
            self.end_headers()
            self.wfile.write(proxy.page)

        def log_message(self, *_: object) -> None: ...

    for method in ("GET", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with serving(Proxy()) as started:
        yield started


def certificate(path: Path) -> Path:
    """Write a key and its own certificate of 127.0.0.1 into a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, *form) + made.public_bytes(pem))
    return path


@pytest.mark.parametrize("status", [*LATER, *REFUSED])
def test_an_answer_is_tried_again_or_a_refusal_whatever_was_asked(
    status: int, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy.status = status
    uri = f"http://127.0.0.1:{proxy.port}"
    (tmp_path / "clips.gif").write_bytes(b"GIF89a")
    with pytest.raises(Exception, match=r".") as upload:
        HttpArtifactRepository(uri).log_artifact(str(tmp_path / "clips.gif"))
    with pytest.raises(Exception, match=r".") as call:
        MlflowClient(uri).set_tag("run", "key", "value")
    assert [is_away(upload.value), is_away(call.value)] == [status in LATER] * 2


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError("No module named 'boto3'\nhint")])
def test_an_error_that_no_store_should_raise_is_counted_and_the_next_call_arrives(error: Exception) -> None:
    outbox, arrived = Outbox(retry_after=0.01), list[str]()

    def raises() -> None:
        raise error

    outbox.put(raises)
    outbox.put(lambda: arrived.append("next"))
    assert outbox.close(patience=60.0)
    assert arrived == ["next"]
    assert outbox.refused == [(str(error) or "ZeroDivisionError").splitlines()[0]]


@pytest.mark.parametrize("root", ["http://127.0.0.1:{port}", "s3://bucket"])
def test_where_artifacts_are_refused_a_trial_still_ends_with_its_metrics(
    root: str, proxy: Proxy, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)  # not installed, as on a user's machine
    proxy.status = 413
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_experiment("test", root.format(port=proxy.port))
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "clips.gif").write_bytes(b"GIF89a")

    tracker = open_tracker(uri, "test", "study-1", "study", None, retry_after=0.01)
    tracker.start_trial(0, {"mining.top_k": 8}, TrialConfig())
    tracker.end_trial(0, "FINISHED", tmp_path, None)
    assert tracker.close("FINISHED", 60.0)
    assert len(tracker.refused) == 2  # config.yaml and the clips
    run = client.get_run(find_run(Registry(uri, "test", "m"), "study-1", 0).info.run_id)
    assert (run.info.status, run.data.tags["kinemic.state"]) == ("FINISHED", "complete")
    assert run.data.metrics["steps"] == 0.0
    assert client.get_run(tracker.parent_id).info.status == "FINISHED"


def test_a_server_of_a_private_authority_is_asked_by_the_certificate_that_mlflow_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path / "server.pem")
    with serving(Proxy(page=NOTHING), pem) as proxy:
        uri = f"https://127.0.0.1:{proxy.port}"
        with pytest.raises(KinemicError, match="certificate verify failed") as caught:
            check_reachable(uri)
        assert "\n" not in str(caught.value)
        for variable in ("REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(pem))
                check_reachable(uri)


def test_a_server_is_asked_with_the_credentials_that_mlflow_is_given(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.page = NOTHING
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    check_reachable(f"http://127.0.0.1:{proxy.port}/")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    check_reachable(f"http://u:p@127.0.0.1:{proxy.port}")
    assert proxy.seen == ["Bearer t", "Basic dTpw"]


@pytest.mark.parametrize(
    ("status", "page", "line"),
    [
        (
            200,
            b"<html>log in</html>",
            "with status 200 is no MLflow server; is it a proxy or a login page",
        ),
        (200, b"[]", "with status 200 is no MLflow server"),
        (404, b"<html>no</html>", "with status 404 is no MLflow server"),
        (401, b"", "refuses with status 401; give a user that may write there: MLFLOW_TRACKING_USERNAME and"),
        (403, b"{}", "refuses with status 403; give a user"),
    ],
)
def test_what_is_no_mlflow_or_refuses_is_told_before_anything_is_prepared(
    status: int, page: bytes, line: str, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.status, proxy.page = status, page
    config = search(tracking={"uri": f"http://127.0.0.1:{proxy.port}"})
    with pytest.raises(KinemicError, match=line) as caught:
        runner.start(config, tmp_path / "runs")
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_away_when_the_runs_are_opened_is_waited_for(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy.page = NOTHING
    config = search(storage=None, tracking={"uri": f"http://127.0.0.1:{proxy.port}"}, patience=0.1)
    opened = runner.start(config, tmp_path, prepared=(analytic.inputs(tmp_path), analytic.SOURCE_CLIPS))
    proxy.status = 503  # while the data were prepared, say
    with pytest.raises(OutOfPatienceError, match=r"waited 0\.1 s in vain: MLflow at http://.* cannot be reached"):
        sit(opened, tmp_path, lambda sitting: pytest.fail("it is away"), str, "")


def test_a_database_that_is_none_is_told_before_anything_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(KinemicError, match=r"MLflow at sqlite:///.* (refuses|cannot be reached)") as caught:
        runner.start(search(tracking={"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}), tmp_path / "runs")
    assert caught.value.exit_code == 2
    for storage in (f"sqlite:///{tmp_path / 'mlflow.db'}", f"sqlite:///{tmp_path / 'none' / 'study.db'}"):
        with pytest.raises(KinemicError, match=f"storage {storage}: cannot be opened") as caught:
            runner.start(search(storage=storage), tmp_path / "runs")
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not (tmp_path / "runs").exists()


def tags(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> tuple[Outbox, Callable[[str], None]]:
    """An outbox before a server, and what sets a tag on a run or, where that is broken, on an experiment."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy.page = NOTHING
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    outbox = Outbox(0.01, lambda: client.set_experiment_tag("1", "proof", "1"), set_aside_after=0.1)
    on = {"run": lambda: client.set_tag("1", "a", "b"), "experiment": lambda: client.set_experiment_tag("1", "a", "b")}
    return outbox, lambda what: outbox.put(on[what])


def test_a_call_that_is_refused_for_ever_lets_the_others_pass_and_is_named(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, put = tags(proxy, monkeypatch)
    arrived: list[str] = []
    proxy.broken = "runs/set-tag"
    put("run")
    put("experiment")
    outbox.put(lambda: arrived.append("next"))
    assert outbox.close(patience=60.0)
    assert arrived == ["next"]
    (line,) = outbox.refused
    assert "runs/set-tag" in line
    assert line.endswith("(tried for 0.1 s and at the end)")


def test_a_call_that_was_set_aside_is_delivered_at_the_end_where_it_can_be(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, put = tags(proxy, monkeypatch)
    proxy.broken = "runs/set-tag"
    put("run")
    outbox.put(lambda: setattr(proxy, "broken", "nothing"))
    assert outbox.close(patience=60.0)
    assert outbox.refused == []
    assert len(outbox._aside) == 1


def test_while_the_whole_server_is_away_no_call_is_set_aside(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, put = tags(proxy, monkeypatch)
    proxy.status = 500
    put("run")
    put("experiment")
    assert not outbox.close(patience=0.5)
    assert (outbox.refused, outbox._aside) == ([], [])


def test_a_server_that_answers_with_an_error_is_one_line(proxy: Proxy) -> None:
    proxy.status = 503
    with pytest.raises(KinemicError, match=r"127\.0\.0\.1:\d+ answers with error 503; is it still starting\?"):
        check_reachable(f"http://127.0.0.1:{proxy.port}")


def test_no_message_shows_a_trackers_password(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy.status = 503
    uri = f"http://me:pw-of-me@127.0.0.1:{proxy.port}"
    monkeypatch.setenv("SECRET", "pw-of-me")
    reference = uri.replace("pw-of-me", "${SECRET}")
    said = [page_of(search(tracking={"uri": reference}), Path())]
    with pytest.raises(KinemicError) as unreachable:
        check_reachable(uri)
    with pytest.raises(KinemicError) as unopened:
        open_tracker(uri, "test", "study-1", "study", None)
    with pytest.raises(KinemicError) as closed:
        check_reachable("http://me:${SECRET}@127.0.0.1:1")
    said += [str(caught.value) for caught in (unreachable, unopened, closed)]
    mine, yours = (search(tracking={"uri": each}) for each in (reference, "http://host:5000"))
    said += [dump_tracked(mine), *differences(mine.model_dump(mode="json"), yours.model_dump(mode="json"))]
    assert all(("***@" in line or "me:${SECRET}@" in line) and "pw-of-me" not in line for line in said)
