"""Downloads of the recipes. What is there already is kept; a file appears whole and with the right checksum, or not.

    python -m recipes.fetch file FILE URL [SHA256]
    python -m recipes.fetch archive FOLDER ENTRY URL [SHA256]    an archive that brings ENTRY, unpacked in FOLDER
    python -m recipes.fetch published PRETRAINED NAME...         gpt2_bpe, bart.base, bart.large, t5-small, ...
    python -m recipes.fetch by-hand FILE URL                     FILE must be there already

A download that was cut off is continued.
"""

import contextlib
import fcntl
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from data_prep import gpt2_bpe
from data_prep.errors import UserError, command
from data_prep.provenance import sha256_of

TRIES, PAUSE = 4, 2  # seconds
FAIRSEQ = "https://dl.fbaipublicfiles.com/fairseq"
HUGGING_FACE = "https://huggingface.co/google-t5"
GPT2_DICTIONARY = "2c31c5b236661067fe8626775eb995ef5fe808ac87d2ad4a6ddbef68550f5cc6"


class FetchError(UserError):
    """A file that cannot be fetched, or is not the published one. The message says what to do."""


def say(text):
    print(text, flush=True)


def fetch(path, url, sha256=""):
    """Download ``url`` to ``path``, if that is not there.

    Raises:
        FetchError: there is no way to the file, or it has another checksum; that one is removed.
    """
    if path.exists():
        say(f"{path} is there")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with _only_one(partial):
        try:
            _download(url, partial)
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = f"{path} is missing and cannot be fetched ({error})."
            raise FetchError(f"{what}\n{by_hand(path, url, sha256)}") from error
        found = sha256 and sha256_of(partial)
        if found != sha256:
            partial.unlink()
            raise FetchError(
                f"{path} is not the published file: its sha256 is {found}, not {sha256}; "
                "run this again to fetch it anew"
            )
        os.replace(partial, path)
    say(f"{path} fetched")


def by_hand(path, url, sha256=""):
    """What the user can do."""
    lines = [f"  fetch   {url}", f"  put it  {path}", *([f"  sha256  {sha256}"] if sha256 else [])]
    return "\n".join([*lines, "then run this again; nothing after the download needs the network"])


@contextlib.contextmanager
def _only_one(partial):
    """Two recipes may want the same file at the same time."""
    with open(partial, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FetchError(f"{partial} is being fetched by another run: wait for it") from error
        try:
            yield
        finally:
            if partial.exists() and partial.stat().st_size == 0:
                partial.unlink()


def _download(url, partial):
    """Complete ``partial``; it keeps what came if the connection ends."""
    for last in range(TRIES - 1, -1, -1):
        try:
            if _continue(url, partial):
                return
            problem = ConnectionError("the connection ended early")
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            problem = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        if not last:
            raise problem
        time.sleep(PAUSE)


def _continue(url, partial):
    """Ask for what lacks and append it; returns whether the file is complete."""
    have = partial.stat().st_size
    request = urllib.request.Request(url, headers={"User-Agent": "srformer-plugin"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # nothing lacks, or the file on the server is another one
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):
            return True
        os.truncate(partial, 0)
        return False
    with response:
        if have and response.status != 206:  # a server that sends the whole
            os.truncate(partial, 0)
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with (
            open(partial, "ab") as file,
            tqdm(total=total, initial=have, desc=partial.stem, unit="B", unit_scale=True, mininterval=1) as bar,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    return total is None or partial.stat().st_size == total


def fetch_archive(folder, entry, url, sha256=""):
    """Download an archive and unpack it in ``folder``, where it brings ``entry``."""
    if (folder / entry).exists():
        say(f"{folder / entry} is there")
        return
    archive = folder / url.rpartition("/")[2]
    fetch(archive, url, sha256)
    unpack(archive, folder, entry)
    archive.unlink()


def unpack(archive, folder, entry):
    """Unpack ``archive`` by way of another folder, so that ``folder/entry`` is whole.

    Raises:
        FetchError: it is no archive, or has no such entry.
    """
    say(f"unpacking {archive}")
    unpacking = folder / "unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(unpacking)
        else:
            with tarfile.open(archive) as file:
                file.extractall(unpacking, filter="data")
        os.replace(unpacking / entry, folder / entry)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, FileNotFoundError) as error:
        raise FetchError(f"{archive} does not bring {entry} ({error}): remove it, and run this again") from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def fetch_published(folder, name):
    """Fetch BPE files or weights that were published, into ``folder/name``."""
    if name == "gpt2_bpe":
        for file in (gpt2_bpe.ENCODER, gpt2_bpe.MERGES):
            fetch(folder / name / file, f"{FAIRSEQ}/gpt2_bpe/{file}", gpt2_bpe.SHA256[file])
        fetch(folder / name / "dict.txt", f"{FAIRSEQ}/gpt2_bpe/dict.txt", GPT2_DICTIONARY)
    elif name.startswith("bart."):
        fetch_archive(folder, name, f"{FAIRSEQ}/models/{name}.tar.gz")
    elif (folder / name).exists():
        say(f"{folder / name} is there")
    else:  # T5, from Hugging Face, and converted
        source = folder / f"{name}-hf"
        for file in ("config.json", "generation_config.json", "spiece.model", "model.safetensors"):
            fetch(source / file, f"{HUGGING_FACE}/{name}/resolve/main/{file}")
        if subprocess.run(["srformer-convert", "hf-to-fairseq", source, folder / name]).returncode:
            raise FetchError(f"{source} could not be converted")


def require(path, url):
    """Raises FetchError, which says how to get it, if ``path`` is not there."""
    if not path.exists():
        raise FetchError(f"{path} is missing and cannot be fetched from here.\n{by_hand(path, url)}")
    say(f"{path} is there")


@command
def main(argv=None):
    """Command line."""
    what, path, *rest = sys.argv[1:] if argv is None else argv
    if what == "file":
        fetch(Path(path), *rest)
    elif what == "archive":
        fetch_archive(Path(path), *rest)
    elif what == "by-hand":
        require(Path(path), *rest)
    elif what == "published":
        for name in rest:
            fetch_published(Path(path), name)
    else:
        raise FetchError(f"{what}: choose file, archive, published or by-hand")


if __name__ == "__main__":
    sys.exit(main())
