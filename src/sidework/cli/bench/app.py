"""What `sidework run` is given in the benchmarks: a service on the database that the environment names."""

from __future__ import annotations

import os

from sidework.cli.bench.handlers import build_service

service = build_service(os.environ["SIDEWORK_BENCH_DATABASE"])
