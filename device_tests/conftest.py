"""A bundle on a device, tested once; the tests look at what came out.

pytest device_tests                                    # the only device that adb knows, the example model
pytest device_tests --device-serial SERIAL --bundle model.mbundle
pytest device_tests --lab native --lab arm64           # stand-in devices; needs root, no Android SDK"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mobile_bundle import lab
from mobile_bundle.cli.common import byte_size
from mobile_bundle.device.measuring.cells import Settings
from mobile_bundle.device.report.page import device_page
from mobile_bundle.device.report.results import Report
from mobile_bundle.device.report.verdict import Budgets
from mobile_bundle.device.session import Asked, device_test
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.client import choose_serial
from mobile_bundle.pipeline.build import build_bundle
from mobile_bundle.pipeline.request import BuildRequest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples/models/wiki-6m"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("device")
    group.addoption("--device-serial", action="append", default=[], help="a device, as `adb devices` prints it")
    group.addoption("--lab", action="append", default=[], choices=lab.LAB_NAMES, help="a stand-in device")
    group.addoption("--bundle", type=Path, help="NAME.mbundle (default: one is built from the example model)")
    group.addoption("--device-reps", type=int, default=2, help="processes per repeated cell")
    group.addoption("--device-prompt", type=int, default=64, help="tokens of prefill")
    group.addoption("--device-tokens", type=int, default=32, help="tokens of decode")
    group.addoption("--device-context", type=int, default=0, help="tokens of the long context (default: the bundle's)")
    group.addoption("--device-threads", type=int, default=0)
    group.addoption("--device-pressure", type=byte_size, help="memory that the second process takes")
    group.addoption("--max-peak", type=byte_size, help="resident memory, files included")
    group.addoption("--max-anon", type=byte_size, help="anonymous and swapped memory")
    group.addoption("--apk", type=Path, default=ROOT / "build/apk/mobile-bundle-demo.apk", help="the demo app")
    group.addoption("--report-folder", type=Path, help="keeps each device's report there, NAME.json and NAME.html")


@dataclass(frozen=True)
class Target:
    """A device to test. lab: of which kind of stand-in it is, None for any other device."""

    name: str
    lab: str | None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    targets = [Target(serial, None) for serial in options.device_serial] + [Target(name, name) for name in options.lab]
    targets = targets or [Target("", None)]
    ids = [target.name or "the-only-device" for target in targets]
    metafunc.parametrize("target", targets, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """The device of this round of tests, as it was asked for."""
    wanted: Target = request.param
    return wanted


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """--bundle, or the example model at 4 bits."""
    named: Path | None = request.config.option.bundle
    if named is not None:
        return named
    out = tmp_path_factory.mktemp("bundle") / "wiki-6m.mbundle"
    build_bundle(BuildRequest(EXAMPLE, out))
    return out


@dataclass(frozen=True)
class Reached:
    """A device that answers. label: what to say beside its figures, "" where it tells itself what it is."""

    device: Device
    label: str


@contextmanager
def _reach(target: Target) -> Iterator[Reached]:
    if target.lab is not None:
        if why := lab.obstacle(target.lab):
            pytest.skip(why)
        with lab.start(target.lab) as stand_in:
            yield Reached(Device(stand_in.serial), stand_in.label)
    else:
        yield Reached(Device(target.name or choose_serial()), "")


@pytest.fixture(scope="session")
def reached(target: Target) -> Iterator[Reached]:
    """The device, connected; a stand-in is started, and ended when its tests are over."""
    with _reach(target) as there:
        there.device.connect()
        yield there


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest, bundle: Path, reached: Reached) -> Asked:
    """What the device test is asked for."""
    options = request.config.option
    settings = Settings(
        reps=options.device_reps,
        prompt_tokens=options.device_prompt,
        new_tokens=options.device_tokens,
        context=options.device_context,
        threads=options.device_threads,
        pressure_bytes=options.device_pressure,
        soak_seconds=3,
    )
    budgets = Budgets(max_anon=options.max_anon, max_peak=options.max_peak)
    return Asked(bundle, settings=settings, budgets=budgets, label=reached.label, command="pytest device_tests")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest, asked: Asked, reached: Reached, target: Target) -> Report:
    """Of one whole device test."""
    folder: Path | None = request.config.option.report_folder

    def save(report: Report) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = (target.name or "device").replace(":", "-")
            (folder / f"{name}.json").write_text(report.to_json(), "utf-8")
            (folder / f"{name}.html").write_text(device_page(report), "utf-8")

    return device_test(asked, reached.device, save, print, lambda *_: None)
