"""What `sidework run` is given in the benchmarks: a service on the database that the environment names."""

from __future__ import annotations

import logging
import os

from sidework.cli.bench.handlers import build_service

logging.basicConfig(level=logging.WARNING)  # only what is wrong belongs among the figures
service = build_service(os.environ["SIDEWORK_BENCH_DATABASE"])
