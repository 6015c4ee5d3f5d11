"""The Android library as it is published (`make aar`): what the AAR carries, and what its POMs ask for."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.full

VERSION = "0.1.0"
PUBLISHED = ROOT / "build/maven/dev/mobilebundle"
ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64")
ANDROID = "{http://schemas.android.com/apk/res/android}"
POM = "{http://maven.apache.org/POM/4.0.0}"


@pytest.fixture(scope="module")
def aar() -> zipfile.ZipFile:
    path = PUBLISHED / f"lm/{VERSION}/lm-{VERSION}.aar"
    if not path.exists():
        pytest.fail("there is no AAR: run make aar")
    return zipfile.ZipFile(path)


def classes(data: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as jar:
        return {name.removesuffix(".class") for name in jar.namelist() if name.endswith(".class")}


def test_it_carries_classes_manifest_runners_and_rules(aar):
    names = {name for name in aar.namelist() if not name.endswith("/")}
    programs = {f"jni/{abi}/libmobile_run.so" for abi in ABIS}
    metadata = "META-INF/com/android/build/gradle/aar-metadata.properties"
    assert names == {"AndroidManifest.xml", "R.txt", "classes.jar", "proguard.txt", metadata} | programs
    assert "-dontwarn org.jetbrains.annotations.**" in aar.read("proguard.txt").decode()
    assert "aarFormatVersion=1.0" in aar.read(metadata).decode()


def test_its_runners_are_those_of_the_app(aar):
    for abi in ABIS:
        built = ROOT / f"build/apk/jniLibs/{abi}/libmobile_run.so"
        assert aar.read(f"jni/{abi}/libmobile_run.so") == built.read_bytes()
        assert aar.getinfo(f"jni/{abi}/libmobile_run.so").external_attr >> 16 & 0o111


def test_its_manifest_has_the_runner_unpacked_and_asks_for_nothing(aar):
    manifest = ElementTree.fromstring(aar.read("AndroidManifest.xml"))
    assert manifest.attrib["package"] == "dev.mobilebundle.lm"
    assert [child.tag for child in manifest] == ["uses-sdk", "application"]
    assert manifest[0].attrib[f"{ANDROID}minSdkVersion"] == "26"
    assert manifest[1].attrib == {f"{ANDROID}extractNativeLibs": "true"}


def test_it_has_the_library_and_nothing_of_the_app(aar):
    inside = classes(aar.read("classes.jar"))
    assert {"dev/mobilebundle/lm/RunnerLanguageModel", "dev/mobilebundle/lm/BundleImporter"} <= inside
    assert all(name.startswith("dev/mobilebundle/lm/") for name in inside)
    more = classes((PUBLISHED / f"lm-ktx/{VERSION}/lm-ktx-{VERSION}.jar").read_bytes())
    assert "dev/mobilebundle/lm/ktx/CoroutinesKt" in more
    assert all(name.startswith("dev/mobilebundle/lm/ktx/") for name in more)


@pytest.mark.parametrize(
    ("name", "packaging", "needs"),
    [("lm", "aar", {"kotlin-stdlib"}), ("lm-ktx", "jar", {"lm", "kotlin-stdlib", "kotlinx-coroutines-core"})],
)
def test_what_is_published(name, packaging, needs):
    folder = PUBLISHED / name / VERSION
    pom = ElementTree.parse(folder / f"{name}-{VERSION}.pom").getroot()
    assert pom.findtext(f"{POM}packaging") == packaging
    found = {d.findtext(f"{POM}artifactId"): d for d in pom.iter(f"{POM}dependency")}
    assert set(found) == needs
    assert all("@" not in (d.findtext(f"{POM}version") or "@") for d in found.values())
    if "lm" in needs:
        assert found["lm"].findtext(f"{POM}type") == "aar"
    files: list[Path] = [path for path in folder.iterdir() if path.suffix in (".aar", ".jar", ".pom")]
    assert {path.name for path in files} == {
        f"{name}-{VERSION}{end}" for end in (f".{packaging}", ".pom", "-sources.jar")
    }
    for path in files:
        assert Path(f"{path}.sha1").read_text().strip() == hashlib.sha1(path.read_bytes()).hexdigest()
