"""Fixtures of raw corpora."""

import pytest
from raw_corpora import DOCUMENTS, WRITERS, real_files, write_corpus


@pytest.fixture(scope="session", name="write_corpus")
def write_corpus_fixture():
    """:func:`write_corpus`, for test files, which cannot import this one."""
    return write_corpus


@pytest.fixture(params=sorted(WRITERS))
def any_format(request):
    """The name of every format that `write_corpus` knows."""
    return request.param


@pytest.fixture(scope="session")
def documents():
    """What `write_corpus` writes."""
    return DOCUMENTS


@pytest.fixture(scope="session")
def formats():
    """The folder with real files in the official formats; they are not ours to distribute."""
    folder = real_files()
    if folder is None:
        pytest.skip("no folder of real raw files: name it with SRFORMER_FORMATS")
    return folder
