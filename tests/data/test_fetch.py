"""Downloads against a server on this machine: resumed, checked, explained."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lengthwise.data.fetch import Mirror, fetch
from lengthwise.errors import InputError, RunFailure

BODY = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves BODY; how well is up to the test."""

    ranges: ClassVar[bool] = True
    break_after: ClassVar[list[int]] = []
    etag: ClassVar[str] = '"one"'
    seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).seen.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        begin = 0
        if asked and self.ranges and self.headers.get("If-Range", self.etag) == self.etag:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(BODY):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(BODY) - begin))
        self.end_headers()
        body = BODY[begin:]
        self.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.ranges, Handler.break_after, Handler.etag, Handler.seen = True, [], '"one"', []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server: str, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = tmp_path / "deep" / "file"
    mirror = Mirror(f"{server}/file", DIGEST)
    assert fetch((mirror,), path, lambda have, total: told.append((have, total))) == mirror
    assert path.read_bytes() == BODY
    assert [file.name for file in path.parent.iterdir()] == ["file"]
    assert told[-1] == (len(BODY), len(BODY))
    assert Handler.seen == [None]


def test_a_broken_connection_is_taken_up_where_it_broke(server: str, tmp_path: Path) -> None:
    Handler.break_after = [300_000, 100_000]
    fetch((Mirror(f"{server}/file", DIGEST),), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert Handler.seen == [None, "bytes=300000-", "bytes=400000-"]


def test_a_later_call_goes_on(server: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "file.part").write_bytes(BODY[:777_777])
    (tmp_path / "file.part.json").write_text(json.dumps({"url": f"{server}/file", "validator": '"one"'}))
    fetch((Mirror(f"{server}/file", DIGEST),), path)
    assert path.read_bytes() == BODY
    assert Handler.seen == ["bytes=777777-"]


def test_a_complete_part_is_not_fetched_again(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    (tmp_path / "file.part.json").write_text(json.dumps({"url": f"{server}/file", "validator": '"one"'}))
    fetch((Mirror(f"{server}/file", DIGEST),), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("change", ["etag", "no ranges", "other address"])
def test_what_cannot_be_continued_starts_again(server: str, tmp_path: Path, change: str) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    url = "http://elsewhere/file" if change == "other address" else f"{server}/file"
    (tmp_path / "file.part.json").write_text(json.dumps({"url": url, "validator": '"one"'}))
    Handler.etag = '"two"' if change == "etag" else '"one"'
    Handler.ranges = change != "no ranges"
    fetch((Mirror(f"{server}/file", DIGEST),), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch((Mirror(f"{server}/file", "0" * 64),), tmp_path / "file")
    assert f"expected a file with sha256 {'0' * 64}; got one with sha256 {DIGEST}" in str(caught.value)
    assert "was not kept" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_the_next_address_is_tried(server: str, tmp_path: Path) -> None:
    second = Mirror(f"{server}/file", DIGEST)
    assert fetch((Mirror(f"{server}/gone", "0" * 64), second), tmp_path / "file") == second
    assert (tmp_path / "file").read_bytes() == BODY


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RunFailure) as caught:
        fetch((Mirror("http://127.0.0.1:9/file", DIGEST),), path)
    assert "http://127.0.0.1:9/file: no connection" in caught.value.got
    assert caught.value.fix.startswith("on a machine with a network, download http://127.0.0.1:9/file, put it at")
    assert str(path) in caught.value.fix


def test_a_missing_file_gives_the_servers_reason(server: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match="HTTP 404"):
        fetch((Mirror(f"{server}/gone"),), tmp_path / "file")


def test_a_connection_that_never_gets_further_ends(server: str, tmp_path: Path) -> None:
    Handler.break_after = [1000, 0, 0, 0]
    with pytest.raises(RunFailure, match="the connection broke off at 1,000 of"):
        fetch((Mirror(f"{server}/file", DIGEST),), tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == BODY[:1000]
