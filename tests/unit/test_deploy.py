"""The container files, read as a builder would: what they copy exists, and what they take and set is used and known."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from runyard.config import KEYS
from runyard.settings import Config

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["deploy/Dockerfile", ".devcontainer/Dockerfile"]
#: Of the document (seeds/flux-restful-readme.txt).
ARGUMENTS = {"user", "token", "use_auth", "port", "host"}


def instructions(path: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / path).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_every_argument_is_used_and_every_variable_is_known(path: str) -> None:
    found = instructions(path)
    declared = {rest.partition("=")[0] for word, rest in found if word == "ARG"}
    used = {name for word, rest in found if word != "ARG" for name in re.findall(r"\$\{(\w+)\}", rest)}
    assert declared >= ARGUMENTS and declared == used
    for word, rest in found:
        for name in re.findall(r"(\w+)=", rest) if word == "ENV" else ():
            key = name.removeprefix("RUNYARD_").lower().replace("__", ".")
            assert key in KEYS or name in ("FLUX_USER", "FLUX_TOKEN", "FLUX_REQUIRE_AUTH", "PATH"), name


@pytest.mark.parametrize("path", DOCKERFILES)
def test_what_is_copied_exists_and_stages_are_named_before(path: str) -> None:
    stages: set[str] = set()
    for word, rest in instructions(path):
        if word == "FROM" and " AS " in rest:
            stages.add(rest.rpartition(" ")[2])
        if word != "COPY":
            continue
        options = [part for part in rest.split() if part.startswith("--")]
        sources = [part for part in rest.split() if not part.startswith("--")][:-1]
        stage = next((option.partition("=")[2] for option in options if option.startswith("--from=")), None)
        assert stage is None or stage in stages
        assert stage is not None or all((ROOT / source).exists() for source in sources), sources


def test_what_is_installed_is_there_to_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "deploy/Dockerfile").read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    copied = " ".join(rest for word, rest in instructions("deploy/Dockerfile") if word == "COPY").split()
    needed = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"]
    assert set(needed) <= set(copied)
    assert all(
        package.startswith("src/") for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )
    (default,) = re.findall(r"^ARG python=(\S+)", text, re.M)
    assert project["project"]["requires-python"] == f">={default}"


def test_the_development_container_passes_the_arguments_on() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    build = container["build"]
    assert set(build["args"]) == ARGUMENTS
    assert (ROOT / ".devcontainer" / build["dockerfile"]).is_file()
    assert (ROOT / ".devcontainer" / build["context"]).resolve() == ROOT
    assert container["forwardPorts"] == [int(build["args"]["port"]), Config().server.port]
