"""Downloads: whole and with the right checksum or not at all, and continued where they were cut off."""

import fcntl
import hashlib
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recipes import fetch
from recipes.fetch import FetchError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A server of one file at every address, with what it was asked for; ``cut``: bytes until the connection ends."""
    monkeypatch.setattr(fetch, "PAUSE", 0)

    class Handler(BaseHTTPRequestHandler):
        content, ranges, cut, asked, status = CONTENT, True, None, [], None

        def do_GET(self):
            begin = 0
            wanted = self.headers.get("Range")
            Handler.asked.append(wanted)
            if Handler.status:
                self.send_error(Handler.status)
                return
            if wanted and Handler.ranges:
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
                if begin >= len(Handler.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(Handler.content)}")
                    self.end_headers()
                    return
            body = Handler.content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: Handler.cut])

        def log_message(self, *_):
            pass

    Handler.asked = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{httpd.server_port}/file.zip"
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def test_a_file_appears_whole_and_is_not_fetched_again(server, tmp_path):
    path = tmp_path / "deep/file"
    for _ in range(2):
        fetch.fetch(path, server.url, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_a_download_that_is_cut_off_is_continued(server, tmp_path):
    server.cut = 4000
    fetch.fetch(tmp_path / "file", server.url, SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=4000-", "bytes=8000-"]


def test_a_download_that_was_complete_but_not_renamed_is_finished(server, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT)
    fetch.fetch(tmp_path / "file", server.url, SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "file.partial").write_bytes(CONTENT + b"more")
    fetch.fetch(tmp_path / "file", server.url, SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_sends_the_whole_again_does_not_double_it(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.partial").write_bytes(CONTENT[:100])
    fetch.fetch(tmp_path / "file", server.url, SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_removed(server, tmp_path):
    with pytest.raises(FetchError, match=f"file is not the published file: its sha256 is {SHA256}, not 00"):
        fetch.fetch(tmp_path / "file", server.url, "00")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 503])
def test_what_cannot_be_fetched_is_said_with_where_to_put_it(server, tmp_path, status, capsys):
    server.status = status
    assert fetch.main(["file", str(tmp_path / "file"), server.url, SHA256]) == 2
    shown = capsys.readouterr().err
    assert f"{tmp_path}/file is missing and cannot be fetched (HTTP Error {status}" in shown
    assert f"  fetch   {server.url}\n  put it  {tmp_path}/file\n  sha256  {SHA256}\n" in shown
    assert list(tmp_path.iterdir()) == []
    assert len(server.asked) == (1 if status == 404 else fetch.TRIES)


def test_without_a_network_a_part_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0)
    (tmp_path / "file.partial").write_bytes(b"part")
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetch.fetch(tmp_path / "file", "http://127.0.0.1:1/file")
    assert (tmp_path / "file.partial").read_bytes() == b"part"


def test_two_runs_do_not_write_one_file(server, tmp_path):
    with open(tmp_path / "file.partial", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="is being fetched by another run"):
            fetch.fetch(tmp_path / "file", server.url, SHA256)
    assert server.asked == []


def zipped(tmp_path, entry):
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for name in ("train.txt", "val.txt"):
            archive.writestr(f"{entry}/{name}", name)
    return (tmp_path / "made.zip").read_bytes()


def test_an_archive_is_unpacked_whole_and_goes(server, tmp_path):
    server.content = zipped(tmp_path, "entry")
    checksum = hashlib.sha256(server.content).hexdigest()
    for _ in range(2):
        fetch.main(["archive", str(tmp_path / "raw"), "entry", server.url, checksum])
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["entry"]
    assert (tmp_path / "raw/entry/val.txt").read_text() == "val.txt"
    assert len(server.asked) == 1


def test_an_archive_that_lacks_its_entry_or_is_none_is_one_error(server, tmp_path, capsys):
    for content in (zipped(tmp_path, "other"), b"no archive"):
        server.content = content
        assert fetch.main(["archive", str(tmp_path / "raw"), "entry", server.url]) == 2
        assert "file.zip does not bring entry" in capsys.readouterr().err
        assert not (tmp_path / "raw/unpacking").exists()
        (tmp_path / "raw/file.zip").unlink()


def test_published_files_that_are_there_are_kept(tmp_path, capsys):
    bpe = [f"gpt2_bpe/{name}" for name in ("encoder.json", "vocab.bpe", "dict.txt")]
    for name in (*bpe, "bart.base/model.pt", "t5-small/model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert fetch.main(["published", str(tmp_path), "gpt2_bpe", "bart.base", "t5-small"]) == 0
    assert capsys.readouterr().out.count("is there") == 5


def test_t5_is_fetched_and_converted(server, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(fetch, "HUGGING_FACE", server.url)

    def run(words):
        ran.append([str(word) for word in words])
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    fetch.main(["published", str(tmp_path), "t5-small"])
    assert len(server.asked) == 4
    assert ran == [["srformer-convert", "hf-to-fairseq", f"{tmp_path}/t5-small-hf", f"{tmp_path}/t5-small"]]


def test_what_has_to_be_fetched_by_hand_says_so(tmp_path, capsys):
    assert fetch.main(["by-hand", str(tmp_path / "it"), "an address"]) == 2
    assert f"fetch   an address\n  put it  {tmp_path}/it" in capsys.readouterr().err
    (tmp_path / "it").touch()
    assert fetch.main(["by-hand", str(tmp_path / "it"), "an address"]) == 0
