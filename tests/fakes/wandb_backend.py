"""A stand-in for the W&B server: enough of its protocol for the real `wandb` client, its CLI and `wandb.Api()`.

It listens on loopback and keeps what it receives in plain data for tests to assert on:

    with Backend() as backend:
        subprocess.run([sys.executable, "script.py"], env=os.environ | backend.env(tmp_path), check=True)
        assert backend.runs["my-run"].history[-1]["loss"] < 1
        assert backend.artifact("model:best").files["weights.bin"] == b"..."
        assert not backend.unknown

`backend.fault` makes it misbehave while a client runs: None, "refuse" (nothing listens), "500", "hang" (answers only when
the fault is lifted), "drop" (closes the connection without an answer), "full" (refuses metrics and uploads, but neither
runs nor the creation of artifacts).
"""

import base64
import hashlib
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

ENTITY = "tester"  # whom the API key belongs to, and the entity of runs that name none
API_KEY = "0123456789abcdef" * 2 + "testonly"  # 40 characters, as the client demands
FEATURES = (
    "LARGE_FILENAMES",
    "CLIENT_IDS",
    "ARTIFACT_TAGS",
    "MARK_RUN_FILES_UPLOADED",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)
TRANSPORTS = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
FAULTS = (None, "refuse", "500", "hang", "drop", "full")
HISTORY, EVENTS, SUMMARY, CONSOLE = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"

JSON = dict[str, Any]


@dataclass
class Run:
    """A run as the server knows it. `config` is flat: name to value."""

    id: str
    project: str
    entity: str
    display_name: str
    config: JSON = field(default_factory=dict)
    raw_config: JSON = field(default_factory=dict)  # as sent: {name: {"value": …}}, with the client's "_wandb"
    summary: JSON = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)  # file name -> line number -> line
    job_type: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    sweep: str | None = None
    exit_code: int | None = None
    finished: bool = False
    starts: int = 0  # how many times a client opened the run
    created: str = ""

    @property
    def rows(self) -> list[JSON]:
        """The rows as they came: one for each line number of the stream, so a row sent again after a retry counts once."""
        return [json.loads(line) for line in self.lines(HISTORY)]

    @property
    def history(self) -> list[JSON]:
        """The rows by step: those of the same step merged, a later one's values over an earlier one's."""
        merged: dict[int, JSON] = {}
        for row in self.rows:
            merged.setdefault(row["_step"], {}).update(row)
        return [merged[step] for step in sorted(merged)]

    @property
    def resumed(self) -> bool:
        return self.starts > 1

    @property
    def state(self) -> str:
        return "running" if not self.finished else "failed" if self.exit_code else "finished"

    def lines(self, name: str) -> list[str]:
        return [line for _, line in sorted(self.streams.get(name, {}).items())]


@dataclass
class Artifact:
    """A version of an artifact. `files` holds its bytes by path once it is committed."""

    id: str
    name: str  # of the collection, without a version
    type: str
    digest: str
    project: str
    entity: str
    created_by: str | None  # a run's id
    used_by: list[str] = field(default_factory=list)  # ids of runs
    aliases: list[str] = field(default_factory=list)
    metadata: JSON = field(default_factory=dict)
    description: str | None = None
    client_id: str | None = None
    manifest: JSON = field(default_factory=dict)  # path -> {"digest", "size", …}
    raw_manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    index: int | None = None  # 3 for v3; None until committed
    state: str = "PENDING"
    created: str = ""

    @property
    def version(self) -> str | None:
        return None if self.index is None else f"v{self.index}"


@dataclass
class Sweep:
    """A sweep. `config` is its YAML text, as the client sent it."""

    id: str
    project: str
    entity: str
    config: str
    state: str = "RUNNING"
    runs: list[str] = field(default_factory=list)  # ids handed to agents, in order


@dataclass
class Trial:
    """What an agent is handed: flag values and, to stop the run early, the history rows to wait for before."""

    args: JSON
    stop_after_rows: int | None = None
    run_id: str | None = None  # once handed out
    stopped: bool = False  # whether the agent was told to


class _Refused(Exception):
    """What a client asks for is wrong, as the real server would say too."""


class Backend:
    """See the module. Every attribute may be read at any time; `wait_for` waits for a condition on them."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.sweeps: dict[str, Sweep] = {}
        self.trials: list[Trial] = []  # what agents are handed, in order; then they are told to exit
        self.alerts: list[JSON] = []
        self.registry: dict[str, list[Artifact]] = {}  # "project/collection" -> what was linked into it
        self.requests: list[str] = []  # GraphQL operations by name; "file_stream", "upload", "download"
        self.unknown: list[str] = []  # what this server has no answer for, or failed at: assert that it is empty
        self.faults: list[str] = []  # kinds of requests that met a fault: "graphql", "file_stream", "storage"
        self.blobs: dict[str, bytes] = {}  # base64 MD5 -> the bytes of an artifact's file
        self._changed = threading.Condition(threading.RLock())
        self._fault: str | None = None
        self._connections: set[socket.socket] = set()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._listen()

    # -- for tests ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def env(self, home: Path) -> dict[str, str]:
        """The variables for a client: this server, private folders in `home`, retries within seconds.

        The client cuts its settings in seconds to whole ones, and takes its long defaults for 0.
        """
        folders = {f"WANDB_{name.upper()}_DIR": home / name for name in ("config", "cache", "data")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        waits = {"RETRY_WAIT_MIN_SECONDS": "1", "RETRY_WAIT_MAX_SECONDS": "1", "TIMEOUT_SECONDS": "30"}
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            **{name: str(folder) for name, folder in folders.items()},
            **{f"WANDB__{part}_{name}": value for part in TRANSPORTS for name, value in waits.items()},
            "WANDB__GRAPHQL_RETRY_MAX": "1",  # a dead server is given up after 2 seconds, not 100
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "WANDB__DISABLE_STATS": "true",
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @property
    def fault(self) -> str | None:
        return self._fault

    @fault.setter
    def fault(self, fault: str | None) -> None:
        if fault not in FAULTS:
            raise ValueError(f"fault {fault!r} is none of {FAULTS}")
        with self._changed:
            self._fault = fault
            self._changed.notify_all()
        if fault == "refuse":
            self._stop_listening()
        elif self._server is None:
            self._listen()

    def wait_for(self, condition: Callable[[], Any], timeout: float = 120) -> Any:
        """Waits until `condition()` is true, looking after every request; returns its value or raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"still waiting after {timeout} s; last requests: {self.requests[-5:]}")
            return condition()

    def artifact(self, name: str) -> Artifact | None:
        """The committed artifact that "name:alias", "name:v2" or "name" (its latest) means, or None."""
        name, _, alias = name.partition(":")
        for artifact in self.artifacts:
            named = artifact.version == alias or (alias or "latest") in artifact.aliases
            if artifact.name == name and artifact.state == "COMMITTED" and named:
                return artifact
        return None

    def close(self) -> None:
        with self._changed:
            self._fault = "drop"
            self._changed.notify_all()
        self._stop_listening()

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the listening socket ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hangs up is no news."""

        handler = type("Handler", (_Handler,), {"backend": self})
        self._server = Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed by the client

    # -- requests ----------------------------------------------------------------------------------------------------

    def _meets_fault(self, kind: str) -> bool:
        """Whether a request must fail; "hang" holds it until the fault is lifted."""
        with self._changed:
            if self._fault is None or (self._fault == "full" and kind == "graphql"):
                return False
            self.faults.append(kind)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._fault != "hang")
            return self._fault is not None

    def _respond(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """(status, JSON value or bytes) for a request."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        with self._changed:
            try:
                if method == "POST" and path == "/graphql":
                    return 200, self._graphql(json.loads(body))
                if method == "POST" and parts[-1] == "file_stream":
                    self.requests.append("file_stream")
                    return 200, self._file_stream(self.runs[parts[3]], json.loads(body))
                if method == "PUT" and parts[0] == "storage":
                    self.requests.append("upload")
                    self._upload(parts[1], parts[2], parts[3] if len(parts) > 3 else "", body)
                    return 200, b""
                if method == "GET" and parts[0] == "storage":
                    self.requests.append("download")
                    return 200, self._download(parts[1], parts[2], parts[3] if len(parts) > 3 else "")
                if not path.startswith("/sdk/otel/"):  # the client's own telemetry
                    self.unknown.append(f"{method} {path}")
                return 404, {"error": "not found"}
            except _Refused as error:
                return 400, {"errors": [{"message": str(error)}]}
            except Exception:
                self.unknown.append(traceback.format_exc())
                return 400, {"errors": [{"message": "the test server failed: see backend.unknown"}]}
            finally:
                self._changed.notify_all()

    def _url(self, *parts: str) -> str:
        return f"{self.url}/storage/" + "/".join(quote(part, safe="") for part in parts)

    def _upload(self, kind: str, owner: str, name: str, body: bytes) -> None:
        if kind == "run":
            self.runs[owner].files[name] = body
            if name == SUMMARY:
                self.runs[owner].summary = json.loads(body)
        elif kind == "manifest":
            artifact = self._by_id(owner)
            artifact.raw_manifest, artifact.manifest = body, json.loads(body)["contents"]
        else:
            self.blobs[_md5(body)] = body

    def _download(self, kind: str, owner: str, name: str) -> bytes:
        if kind == "run":
            return self.runs[owner].files[name]
        artifact = self._by_id(owner)
        return artifact.raw_manifest if kind == "manifest" else artifact.files[name]

    def _file_stream(self, run: Run, message: JSON) -> JSON:
        for name, chunk in (message.get("files") or {}).items():
            if name == SUMMARY:
                run.summary = json.loads(chunk["content"][-1])
            else:
                stream = run.streams.setdefault(name, {})
                stream.update(enumerate(chunk["content"], start=chunk["offset"]))
        if message.get("complete"):
            run.finished, run.exit_code = True, message.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def _graphql(self, request: JSON) -> JSON:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        name = found.group(1) if found else "?"
        self.requests.append(name)
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            self.unknown.append(name)
            return {"data": {}}
        variables = request.get("variables") or {}
        return {"data": answer(variables | (variables.get("input") or {}))}

    # -- GraphQL: the session ----------------------------------------------------------------------------------------

    def _Viewer(self, _: JSON) -> JSON:
        viewer = {"id": _id("User", ENTITY), "entity": ENTITY, "username": ENTITY, "name": ENTITY, "flags": "{}"}
        viewer |= {"email": "tester@example.com", "admin": False, "deletedAt": None}
        return {"viewer": viewer | {"teams": _edges([]), "apiKeys": _edges([])}}

    _GetDefaultEntity = _Viewer

    def _ServerInfo(self, _: JSON) -> JSON:
        features = [{"name": name, "isEnabled": True} for name in FEATURES]
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": features}}

    _ServerFeaturesQuery = _ServerInfo

    def _OrganizationCoreWeaveOrganizationID(self, _: JSON) -> JSON:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    # -- GraphQL: runs -----------------------------------------------------------------------------------------------

    def _UpsertBucket(self, v: JSON) -> JSON:
        by_id = [run for run in self.runs.values() if _id("Run", run.id) == v.get("id")]
        name = by_id[0].id if by_id else v["name"]
        inserted = name not in self.runs
        if inserted:
            entity, project = v.get("entity") or ENTITY, v.get("project") or "uncategorized"
            self.runs[name] = Run(name, project, entity, v.get("displayName") or name, created=_now())
        run = self.runs[name]
        if v.get("host"):  # a client opens the run; other calls change single fields of it
            run.starts, run.finished, run.exit_code = run.starts + 1, False, None
        if v.get("config") is not None:
            run.raw_config = json.loads(v["config"])
            run.config = {key: _value(item) for key, item in run.raw_config.items() if key != "_wandb"}
        if v.get("summaryMetrics") is not None:
            run.summary = json.loads(v["summaryMetrics"])
        fields = {"displayName": "display_name", "display_name": "display_name", "jobType": "job_type"}
        fields |= {"groupName": "group", "tags": "tags", "sweep": "sweep"}
        for key, attribute in fields.items():
            if v.get(key) is not None:
                setattr(run, attribute, v[key])
        return {"upsertBucket": {"bucket": self._run_node(run), "inserted": inserted}}

    def _RunResumeStatus(self, v: JSON) -> JSON:
        run = self._find_run(v)
        bucket = None
        if run is not None:
            bucket = self._run_node(run) | {
                "logLineCount": len(run.lines(CONSOLE)),
                "eventsLineCount": len(run.lines(EVENTS)),
                "historyTail": json.dumps(run.lines(HISTORY)[-1:]),
                "eventsTail": json.dumps(run.lines(EVENTS)[-1:]),
                "wandbConfig": json.dumps({"t": _value(run.raw_config.get("_wandb", {})).get("t", 1)}),
            }
        return {"model": _project(v.get("entity"), v.get("project")) | {"bucket": bucket}}

    def _Run(self, v: JSON) -> JSON:
        run = self._find_run({"name": v.get("run") or v.get("runId") or v.get("runName"), **v})
        node = run and self._run_node(run)
        return {"project": _project(v.get("entity"), v.get("project")) | {"run": node}}

    _RunStoppedStatus = _RunHistoryKeys = _HistoryPage = _Run

    def _Runs(self, v: JSON) -> JSON:
        runs = [run for run in self.runs.values() if run.project == v["project"]]
        answer = _edges([self._run_node(run) for run in runs]) | {"totalCount": len(runs)}
        return {"project": _project(v.get("entity"), v["project"]) | {"runs": answer, "runCount": len(runs)}}

    def _RunParquetHistory(self, v: JSON) -> JSON:
        answer = self._Run(v)
        history = self._find_run({"name": v["runName"], **v}).history
        answer["project"]["run"]["parquetHistory"] = {"parquetUrls": [], "liveData": history}
        return answer

    def _NotifyScriptableRunAlert(self, v: JSON) -> JSON:
        self.alerts.append(v)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _CreateRunFiles(self, v: JSON) -> JSON:
        files = [{"name": name, "uploadUrl": self._url("run", v["run"], name)} for name in v["files"]]
        return {"createRunFiles": {"runID": _id("Run", v["run"]), "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, _: JSON) -> JSON:
        return {"markRunFilesUploaded": {"success": True}}

    def _RunFiles(self, v: JSON) -> JSON:
        answer = self._Run(v)
        run = self._find_run(v)
        files = {n: data for n, data in run.files.items() if not v.get("fileNames") or n in v["fileNames"]}
        nodes = [_file(name, data, self._url("run", run.id, name)) for name, data in files.items()]
        answer["project"]["run"] |= {"fileCount": len(nodes), "files": _edges(nodes)}
        return answer

    def _find_run(self, v: JSON) -> Run | None:
        run = self.runs.get(v["name"])
        return run if run and v.get("project") in (None, run.project) else None

    def _run_node(self, run: Run) -> JSON:
        project = _project(run.entity, run.project)
        rows = run.lines(HISTORY)
        return {
            "__typename": "Run",
            "id": _id("Run", run.id),
            "name": run.id,
            "displayName": run.display_name,
            "projectId": "1",
            "project": project,
            "state": run.state,
            "sweepName": run.sweep,
            "config": json.dumps(run.raw_config),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "group": run.group,
            "jobType": run.job_type,
            "tags": run.tags,
            "notes": None,
            "description": None,
            "commit": None,
            "readOnly": False,
            "stopped": False,
            "createdAt": run.created,
            "heartbeatAt": run.created,
            "user": {"name": ENTITY, "username": ENTITY},
            "exitcode": run.exit_code,
            "historyLineCount": len(rows),
            "history": rows,
            "events": run.lines(EVENTS),
            "historyKeys": {"lastStep": json.loads(rows[-1])["_step"] if rows else -1, "keys": {}, "sets": []},
            "sampledHistory": [],
        }

    # -- GraphQL: artifacts ------------------------------------------------------------------------------------------

    def _CreateArtifact(self, v: JSON) -> JSON:
        name = (v.get("artifactCollectionNames") or [v["artifactCollectionName"]])[0]
        same = [a for a in self.artifacts if a.name == name and a.digest == v["digest"] and a.state == "COMMITTED"]
        if same:  # the server keeps the same contents once
            artifact = same[-1]
        else:
            entity, project = v.get("entityName") or ENTITY, v.get("projectName")
            new_id = _id("Artifact", str(len(self.artifacts) + 1))
            artifact = Artifact(new_id, name, v["artifactTypeName"], v["digest"], project, entity, v.get("runName"))
            artifact.created = _now()
            artifact.metadata = json.loads(v.get("metadata") or "{}")
            artifact.description = v.get("description")
            self.artifacts.append(artifact)
        artifact.client_id = v.get("clientID")
        self._give_aliases(artifact, [item["alias"] for item in v.get("aliases") or []])
        latest = self.artifact(name)
        node = self._artifact_node(artifact)
        node["artifactSequence"]["latestArtifact"] = latest and {"id": latest.id, "versionIndex": latest.index}
        return {"createArtifact": {"artifact": node}}

    def _CreateArtifactManifest(self, v: JSON) -> JSON:
        file = {"id": _id("File", v["artifactID"]), "uploadUrl": self._url("manifest", v["artifactID"])}
        manifest = {"id": _id("ArtifactManifest", v["artifactID"]), "file": file | {"uploadHeaders": []}}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _CreateArtifactFiles(self, v: JSON) -> JSON:
        nodes = []
        for file in v["artifactFiles"]:
            upload = {"uploadUrl": self._url("artifact", file["artifactID"], file["name"]), "uploadHeaders": []}
            place = {"name": file["name"], "displayName": file["name"], "storagePath": file["name"]}
            nodes.append(upload | place | {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}})
        return {"createArtifactFiles": {"files": _edges(nodes)}}

    def _CommitArtifact(self, v: JSON) -> JSON:
        artifact = self._by_id(v["artifactID"])
        if artifact.state != "COMMITTED":
            stored = {path: entry for path, entry in artifact.manifest.items() if "ref" not in entry}
            if missing := [path for path, entry in stored.items() if entry["digest"] not in self.blobs]:
                raise _Refused(f"{artifact.name}: {missing} did not arrive with the digests that the manifest gives")
            artifact.files = {path: self.blobs[entry["digest"]] for path, entry in stored.items()}
            versions = [a for a in self.artifacts if a.name == artifact.name and a.state == "COMMITTED"]
            artifact.index, artifact.state = len(versions), "COMMITTED"
            self._give_aliases(artifact, [*artifact.aliases, "latest"])
        return {"commitArtifact": {"artifact": self._artifact_node(artifact)}}

    def _ClientIDMapping(self, v: JSON) -> JSON:
        found = [a for a in self.artifacts if a.client_id == v["clientID"]]
        return {"clientIDMapping": {"serverID": found[0].id} if found else None}

    def _FetchOrgInfoFromEntity(self, _: JSON) -> JSON:
        org = {"name": "organization", "orgEntity": {"name": "org-entity"}}
        return {"entity": {"organization": org, "user": None}}

    def _LinkArtifact(self, v: JSON) -> JSON:
        assert v["entityName"] == "org-entity"
        artifact = next(a for a in self.artifacts if v["artifactID"] in (a.id, a.client_id))
        linked = self.registry.setdefault(f"{v['projectName']}/{v['artifactPortfolioName']}", [])
        if artifact not in linked:
            linked.append(artifact)
        node = self._membership_node(artifact) | {"versionIndex": linked.index(artifact)}
        return {"result": {"versionIndex": linked.index(artifact), "artifactMembership": node}}

    def _UseArtifact(self, v: JSON) -> JSON:
        artifact = self._by_id(v["artifactID"])
        if v["runName"] not in artifact.used_by:
            artifact.used_by.append(v["runName"])
        return {"useArtifact": {"artifact": self._artifact_node(artifact)}}

    def _ArtifactByID(self, v: JSON) -> JSON:
        artifact = next((a for a in self.artifacts if a.id in (v.get("id"), v.get("artifact_id"))), None)
        return {"artifact": artifact and self._artifact_node(artifact)}

    _FetchArtifactManifest = _ArtifactUsedBy = _ArtifactCreatedBy = _ArtifactByID

    def _ArtifactType(self, v: JSON) -> JSON:
        artifact = self.artifact(v["name"])
        return {"project": {"artifact": artifact and self._artifact_node(artifact)}}

    def _ArtifactMembershipByName(self, v: JSON) -> JSON:
        artifact = self.artifact(v["name"])
        return {"project": {"artifactCollectionMembership": artifact and self._membership_node(artifact)}}

    def _GetArtifactMembershipFileUrls(self, v: JSON) -> JSON:
        artifact = self.artifact(f"{v['collection']}:{v['alias']}")
        membership = artifact and self._membership_node(artifact)
        if artifact and v.get("fileNames"):
            edges = [edge for edge in membership["files"]["edges"] if edge["node"]["name"] in v["fileNames"]]
            membership["files"] |= {"edges": edges, "totalCount": len(edges)}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": membership}
        return {"project": {"artifactCollection": collection}}

    _ArtifactMembershipFiles = _GetArtifactMembershipFileUrls

    def _RunOutputArtifacts(self, v: JSON) -> JSON:
        return self._run_artifacts([a for a in self.artifacts if a.created_by == v["run"] and a.state == "COMMITTED"])

    def _RunInputArtifacts(self, v: JSON) -> JSON:
        return self._run_artifacts([a for a in self.artifacts if v["run"] in a.used_by])

    def _run_artifacts(self, artifacts: list[Artifact]) -> JSON:
        answer = _edges([self._artifact_node(a) for a in artifacts]) | {"totalCount": len(artifacts)}
        return {"project": {"run": {"artifacts": answer}}}

    def _AddAliases(self, v: JSON) -> JSON:
        self._give_aliases(self._by_id(v["artifactID"]), [item["alias"] for item in v["aliases"]])
        return {"result": {"success": True}}

    def _UpdateArtifact(self, v: JSON) -> JSON:
        artifact = self._by_id(v["artifactID"])
        if v.get("metadata") is not None:
            artifact.metadata = json.loads(v["metadata"])
        if v.get("description") is not None:
            artifact.description = v["description"]
        node = {"artifact": self._artifact_node(artifact)}
        return {"updateArtifact": node, "result": node}

    def _give_aliases(self, artifact: Artifact, aliases: list[str]) -> None:
        """An alias means one version: it leaves the others, once this one is committed."""
        artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))
        if artifact.state == "COMMITTED":
            for other in self.artifacts:
                if other is not artifact and other.name == artifact.name and other.state == "COMMITTED":
                    other.aliases = [alias for alias in other.aliases if alias not in artifact.aliases]

    def _by_id(self, artifact_id: str) -> Artifact:
        return next(a for a in self.artifacts if a.id == artifact_id)

    def _artifact_node(self, artifact: Artifact) -> JSON:
        project = _project(artifact.entity, artifact.project)
        names = {"__typename": "ArtifactSequence", "id": _id("ArtifactSequence", artifact.name), "name": artifact.name}
        collection = names | {"project": project}
        aliases = [
            {"__typename": "ArtifactAlias", "id": _id("ArtifactAlias", alias), "alias": alias}
            | {"artifactCollection": collection}
            for alias in artifact.aliases
        ]
        used_by = [self._run_node(self.runs[run_id]) for run_id in artifact.used_by]
        maker = self.runs.get(artifact.created_by or "")
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": dict(collection),
            "versionIndex": artifact.index,
            "artifactType": {"name": artifact.type},
            "description": artifact.description,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(len(data) for data in artifact.files.values()),
            "digest": artifact.digest,
            "commitHash": None,
            "fileCount": len(artifact.files),
            "createdAt": artifact.created,
            "updatedAt": artifact.created,
            "aliases": aliases,
            "currentManifest": {"file": {"directUrl": self._url("manifest", artifact.id)}},
            "usedBy": _edges(used_by),
            "createdBy": maker and self._run_node(maker),
            "artifactMemberships": _edges([]),
        }

    def _membership_node(self, artifact: Artifact) -> JSON:
        node = self._artifact_node(artifact)
        files = [_file(name, data, self._url("artifact", artifact.id, name)) for name, data in artifact.files.items()]
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": _id("ArtifactCollectionMembership", artifact.id),
            "versionIndex": artifact.index,
            "createdAt": artifact.created,
            "aliases": node["aliases"],
            "artifactCollection": node["artifactSequence"],
            "artifact": node,
            "files": _edges(files) | {"totalCount": len(files)},
        }

    # -- GraphQL: sweeps ---------------------------------------------------------------------------------------------

    def _UpsertSweep(self, v: JSON) -> JSON:
        found = [sweep for sweep in self.sweeps.values() if _id("Sweep", sweep.id) == v.get("id")]
        if found:
            sweep = found[0]
            sweep.config, sweep.state = v.get("config") or sweep.config, v.get("state") or sweep.state
        else:
            entity, project = v.get("entityName") or ENTITY, v.get("projectName") or "uncategorized"
            sweep = Sweep(f"sweep{len(self.sweeps) + 1}", project, entity, v["config"])
            self.sweeps[sweep.id] = sweep
        return {"upsertSweep": {"sweep": self._sweep_node(sweep), "configValidationWarnings": []}}

    def _SweepWithRuns(self, v: JSON) -> JSON:
        sweep = self.sweeps.get(v.get("sweep") or v.get("name") or "")
        return {"project": _project(v.get("entity"), v.get("project")) | {"sweep": sweep and self._sweep_node(sweep)}}

    def _CreateAgent(self, v: JSON) -> JSON:
        return {"createAgent": {"agent": {"id": v["sweep"]}}}  # an agent is known by its sweep

    def _Heartbeat(self, v: JSON) -> JSON:
        sweep = self.sweeps[v["id"]]
        running = json.loads(v.get("runState") or "{}")
        commands = [{"type": "stop", "run_id": run_id} for run_id in running if self._must_stop(run_id)]
        waiting = [trial for trial in self.trials if trial.run_id is None]
        if not running and waiting:
            trial = waiting[0]
            trial.run_id = f"{sweep.id}-run{len(sweep.runs) + 1}"
            sweep.runs.append(trial.run_id)
            program = re.search(r"^program: *(.+)$", sweep.config, re.MULTILINE)
            args = {name: {"value": value} for name, value in trial.args.items()}
            run = {"type": "run", "run_id": trial.run_id, "args": args}
            commands = [run | {"program": program.group(1).strip("'\"") if program else None}]
        elif not running:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def _must_stop(self, run_id: str) -> bool:
        """Whether to tell the agent now, which is done once."""
        trial = next(trial for trial in self.trials if trial.run_id == run_id)
        if trial.stopped or trial.stop_after_rows is None or run_id not in self.runs:
            return False
        trial.stopped = len(self.runs[run_id].rows) >= trial.stop_after_rows
        return trial.stopped

    def _sweep_node(self, sweep: Sweep) -> JSON:
        runs = [self._run_node(self.runs[run_id]) for run_id in sweep.runs if run_id in self.runs]
        nothing = dict.fromkeys(("description", "displayName", "heartbeatAt", "bestLoss", "controller", "scheduler"))
        return nothing | {
            "__typename": "Sweep",
            "id": _id("Sweep", sweep.id),
            "name": sweep.id,
            "state": sweep.state,
            "method": "random",
            "config": sweep.config,
            "createdAt": _now(),
            "updatedAt": _now(),
            "runCount": len(runs),
            "runCountExpected": len(self.trials),
            "earlyStopJobRunning": False,
            "project": _project(sweep.entity, sweep.project),
            "runs": _edges(runs),
        }


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, misbehaves if told to, else answers with what the backend says."""

    backend: Backend
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.backend._connections.add(self.connection)

    def finish(self) -> None:
        self.backend._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        kind = "storage" if path.startswith("/storage/") else path.rpartition("/")[2]
        if self.backend._meets_fault(kind):
            if self.backend.fault == "500":
                self._send(500, {"error": "told to fail"})
            elif self.backend.fault == "full":
                self._send(413 if kind == "file_stream" else 403, {"error": "storage limit exceeded"})
            else:
                self.close_connection = True
        elif kind != "storage" and not self._is_authorized():
            self._send(401, {"errors": [{"message": "user is not logged in"}]})
        else:
            self._send(*self.backend._respond(self.command, path, body))

    do_GET = do_POST = do_PUT = _handle

    def _is_authorized(self) -> bool:
        """W&B wants the key with every call, except at the signed addresses that it hands out itself."""
        expected = "Basic " + base64.b64encode(f"api:{API_KEY}".encode()).decode()
        return self.headers.get("Authorization") == expected or self.path.startswith("/sdk/otel/")

    def _send(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id(kind: str, name: str) -> str:
    """An id as W&B makes them: base64 of "Kind:name"."""
    return base64.b64encode(f"{kind}:{name}".encode()).decode()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def _value(item: Any) -> Any:
    return item["value"] if isinstance(item, dict) and "value" in item else item


def _edges(nodes: list[JSON]) -> JSON:
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"pageInfo": page, "edges": [{"node": node, "cursor": ""} for node in nodes]}


def _project(entity: str | None, name: str | None) -> JSON:
    owner = {"id": _id("Entity", entity or ENTITY), "name": entity or ENTITY}
    internal = {"id": _id("Project", name or ""), "internalId": _id("ProjectInternalId", "1")}
    return internal | {"name": name, "entity": owner}


def _file(name: str, data: bytes, url: str) -> JSON:
    sizes = {"sizeBytes": len(data), "digest": _md5(data), "md5": _md5(data), "mimetype": None}
    places = {"url": url, "directUrl": url, "storagePath": name, "updatedAt": _now(), "displayName": name}
    return {"__typename": "File", "id": _id("File", name), "name": name} | sizes | places
