"""`android_demo/gradlew`: it has the Gradle downloaded that the properties name, once, and hands its arguments over.

The distribution is made here: a program of the same name that writes what it is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

PROJECT = ROOT / "android_demo"
PROGRAM = '#!/bin/sh\nprintf "%s\\n" "$@"\n'


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with the script, whose Gradle comes from a file."""
    for program in ("curl", "unzip"):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing")
    folder = tmp_path / "a project"
    (folder / "gradle/wrapper").mkdir(parents=True)
    shutil.copy(PROJECT / "gradlew", folder)
    distribution = tmp_path / "gradle-9.9-bin.zip"
    with zipfile.ZipFile(distribution, "w") as file:
        program = zipfile.ZipInfo("gradle-9.9/bin/gradle")
        program.external_attr = 0o755 << 16
        file.writestr(program, PROGRAM)
    url = distribution.as_uri().replace(":", "\\:")
    (folder / "gradle/wrapper/gradle-wrapper.properties").write_text(f"distributionUrl={url}\n")
    return folder


def gradlew(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GRADLE_USER_HOME": str(project.parent / "home")}
    return subprocess.run(
        [project / "gradlew", *arguments],
        cwd=project.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def left(project: Path) -> list[str]:
    return sorted(path.name for path in (project.parent / "home/mobile-bundle").iterdir())


def test_it_is_downloaded_once_and_gets_the_arguments(project):
    first = gradlew(project, "assembleDebug", "-Pname=a value")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == ["--project-dir", str(project), "assembleDebug", "-Pname=a value"]
    (project.parent / "gradle-9.9-bin.zip").unlink()
    again = gradlew(project, "tasks")
    assert again.returncode == 0, again.stderr
    assert left(project) == ["gradle-9.9-bin"]


def test_what_cannot_be_downloaded_is_said_and_leaves_nothing(project):
    (project.parent / "gradle-9.9-bin.zip").unlink()
    refused = gradlew(project, "assembleDebug")
    assert refused.returncode == 1
    assert "gradlew: Gradle cannot be downloaded from file://" in refused.stderr
    assert left(project) == []


def test_a_damaged_download_leaves_nothing(project):
    (project.parent / "gradle-9.9-bin.zip").write_bytes(b"no ZIP")
    assert gradlew(project, "assembleDebug").returncode != 0
    assert left(project) == []


def test_the_project_names_a_distribution_and_has_androidx():
    properties = (PROJECT / "gradle/wrapper/gradle-wrapper.properties").read_text()
    assert "distributionUrl=https\\://services.gradle.org/distributions/gradle-" in properties
    assert os.access(PROJECT / "gradlew", os.X_OK)
    assert "android.useAndroidX=true" in (PROJECT / "gradle.properties").read_text()
