"""The programs of docs/frameworks.md, saved and run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text(encoding="utf-8")
CLIENT = {
    "FastAPI": """
from fastapi.testclient import TestClient
from main import app, service
with TestClient(app) as client:
    job = client.post("/users/ada").json()["job"]
    service.wait(job, 60)
    print(client.get(f"/jobs/{job}").json())
""",
    "Django": """
import worker
from django.test import Client
print(Client(headers={"host": "localhost"}).get("/buy").json())
""",
}
MAILED = "import worker; from shop.models import Order; print(list(Order.objects.values_list('pk', 'mailed')))"
COMPLETED = "import worker; print(worker.service.jobs.get(1).status)"


def save(framework: str, folder: Path) -> None:
    """Save the files of a framework's section where they say."""
    section = PAGE.partition(f"\n## {framework}\n")[2].partition("\n## ")[0]
    for name, text in re.findall(r"```py\n# (\S+)\n(.*?)```", section, flags=re.DOTALL):
        (folder / name).write_text(text)


def run(folder: Path, *words: str) -> str:
    ended = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_fastapi(tmp_path: Path) -> None:
    save("FastAPI", tmp_path)
    assert run(tmp_path, "-c", CLIENT["FastAPI"]) == "{'status': 'COMPLETED', 'result': 'welcomed ada'}"


def test_django(tmp_path: Path) -> None:
    run(tmp_path, "-m", "django", "startproject", "mysite", ".")
    run(tmp_path, "manage.py", "startapp", "shop")
    settings = tmp_path / "mysite" / "settings.py"
    settings.write_text(settings.read_text().replace("INSTALLED_APPS = [", 'INSTALLED_APPS = ["shop",'))
    save("Django", tmp_path)
    run(tmp_path, "manage.py", "makemigrations", "shop")
    run(tmp_path, "manage.py", "migrate")
    run(tmp_path, "-m", "sidework", "migrate", "--app", "worker")
    assert run(tmp_path, "-c", CLIENT["Django"]) == "{'order': 1, 'job': 1}"
    run(tmp_path, "-m", "sidework", "run", "worker", "--until-idle")
    assert run(tmp_path, "-c", MAILED) == "[(1, True)]"
    assert run(tmp_path, "-c", COMPLETED) == "COMPLETED"
