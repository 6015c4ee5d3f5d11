"""What is made of a run's figures, without a device: facts, outcomes, verdict, baseline, table and page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.device.measuring.cells import Settings, in_turns, plan_cells
from mobile_bundle.device.measuring.fit import choose_abi, manifest_with, reasons_against
from mobile_bundle.device.measuring.outcome import NO_RESULT, OK, Outcome, classify
from mobile_bundle.device.measuring.process_record import ProcessRecord
from mobile_bundle.device.measuring.result import Peak, Run, take_runner_lines
from mobile_bundle.device.measuring.state import parse_state
from mobile_bundle.device.report.baseline import compare, read_baseline, report_schema
from mobile_bundle.device.report.page import device_page
from mobile_bundle.device.report.results import Report
from mobile_bundle.device.report.table import report_lines
from mobile_bundle.device.report.verdict import Budgets, Tolerances, judge
from mobile_bundle.device.transport.probe import read_device_info
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import estimate_memory
from support.browser import Browser
from support.device_support import ANDROID, figured

MB = 1_000_000
MANIFEST: dict[str, Any] = {
    "model": {"name": "m", "context": 512},
    "predicted": {
        "peak_bytes": 100 * MB, "anon_bytes": 20 * MB, "file_bytes": 79 * MB, "kv_bytes_per_token": 1000,
        "context": 512,
    },
    "files": {
        "weights.ptd": {"bytes": 78 * MB}, "tokenizer.bin": {"bytes": MB}, "bin/arm64-v8a/mobile-run": {"bytes": MB},
        "bin/x86_64/mobile-run": {"bytes": 500 * MB},
    },
}  # fmt: skip
PHONE = read_device_info("R5CT", ANDROID)


def test_the_facts_of_an_android_phone():
    assert PHONE.model == "Nokia C2"
    assert PHONE.system == "Android 11"
    assert PHONE.label == "Nokia C2, Android 11"
    assert PHONE.abis == ["armeabi-v7a"]  # a 32-bit Android on a 64-bit processor
    assert PHONE.low_ram
    assert PHONE.lmk == {"ro.lmk.thrashing_limit": "30"}
    assert PHONE.memory_bytes == 1_900_000 * 1024
    assert PHONE.swap_bytes == PHONE.zram_bytes == 1_000_000 * 1024
    assert [cluster.max_khz for cluster in PHONE.clusters] == [1_400_000]
    assert PHONE.thermal_zones == {"mtktscpu": 41.5}
    assert not PHONE.root
    assert PHONE.free_bytes == 3_000_000 * 1024
    assert "asimddp" not in PHONE.features


def test_a_device_that_tells_nothing_is_no_error():
    facts = read_device_info("x", {})
    assert (facts.memory_bytes, facts.abis, facts.low_ram) == (0, [], None)


def test_why_a_bundle_cannot_run():
    facts = replace(PHONE, abis=["arm64-v8a"])
    assert reasons_against(MANIFEST, facts, 512, 0) == []
    assert choose_abi(MANIFEST, facts) == "arm64-v8a"
    (why,) = reasons_against(MANIFEST, PHONE, 512, 0)
    assert "runs armeabi-v7a, the bundle has arm64-v8a, x86_64" in why
    (why,) = reasons_against(MANIFEST, replace(facts, memory_bytes=90 * MB), 512, 0)
    assert "79.0 MB of files + 20.0 MB anonymous + 1.0 MB program = 100.0 MB at 512 tokens" in why
    (why,) = reasons_against(MANIFEST, replace(facts, available_bytes=60 * MB, swap_bytes=30 * MB), 512, 0)
    assert "60.0 MB available and 30.0 MB of swap" in why
    (why,) = reasons_against(MANIFEST, facts, 1024, 0)
    assert "trained for 512" in why
    short = replace(facts, free_bytes=90 * MB)  # of the 80 MB, without the other ABI's runner, and 33.6 MB to spare
    assert "too large for the device's storage" in reasons_against(MANIFEST, short, 512, 0)[0]
    assert reasons_against(MANIFEST, short, 512, 60 * MB) == []


def ended(record: ProcessRecord, own: Outcome = NO_RESULT, kills: int | None = None, logs: list[str] | None = None):
    traces = logs or []
    return classify(record, own, PHONE, kills, lambda: traces, lambda: traces, ["last words"])


def test_every_end_has_its_cause():
    assert ended(ProcessRecord(status=0), OK).ok
    assert ended(ProcessRecord(signal=9), kills=1).kind == "oom"
    lmkd = ["lowmemorykiller: Kill 'mobile-run' (77), low watermark is breached"]
    assert ended(ProcessRecord(signal=9), logs=lmkd) == Outcome(
        "oom", f"killed for want of memory (OOM): {lmkd[0]}", lmkd
    )
    assert "no log says why" in ended(ProcessRecord(status=137)).cause
    assert "counted no out-of-memory kill" in ended(ProcessRecord(signal=9), kills=0).cause
    illegal = ended(ProcessRecord(signal=4))
    assert illegal.kind == "illegal-instruction"
    assert "dot products (asimddp)" in illegal.cause
    crash = ended(ProcessRecord(signal=11), logs=["signal 11 (SIGSEGV), fault addr 0x0"])
    assert (crash.kind, crash.evidence) == ("crash", ["signal 11 (SIGSEGV), fault addr 0x0"])
    assert ended(ProcessRecord(status=1), Outcome("error", "no memory")).cause == "no memory"
    assert ended(ProcessRecord(status=3)).cause == "it ended with status 3: last words"
    assert ended(ProcessRecord(status=0)).kind == "error"
    assert ended(ProcessRecord(status=127, reason="Permission denied")).kind == "not-started"
    assert ended(ProcessRecord(signal=15, timed_out=True, seconds=5)).kind == "timeout"


def test_events_that_are_cut_off_are_passed_over():
    run = Run(0)
    take_runner_lines(run, ['{"event":"token","id":5,"text":"a"}', '{"event":"token","id":', "nonsense"])
    assert run.answer == [5]
    assert run.outcome == NO_RESULT


def test_the_device_state_is_read():
    state = parse_state("up 12.5\nkills oom_kill      3\navailable MemAvailable: 1000 kB\nclock 1400000\n"
                        "thermal Thermal Status: 2\nzone 41500 cpu\nzone -273000 off\n")  # fmt: skip
    assert (state.up_seconds, state.oom_kills, state.available_bytes) == (12.5, 3, 1_024_000)
    assert (state.clocks_khz, state.thermal_status, state.zones) == ([1_400_000], 2, {"cpu": 41.5})
    assert parse_state("kills \n").oom_kills is None


def test_runs_take_turns():
    assert in_turns(["a", "b"], lambda _: 3) == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert in_turns(["once", "twice"], lambda item: 2 if item == "twice" else 1)[-1] == ("once", 0)
    cells = plan_cells(Settings(prompt_tokens=4096), MANIFEST, PHONE)
    assert [cell.test for cell in cells][2:4] == ["pp512", "tg128"]  # as many as the model is trained for
    pressure = next(cell for cell in cells if cell.name == "pressure")
    used = PHONE.memory_bytes - PHONE.available_bytes
    assert pressure.pressure_bytes + used == PHONE.memory_bytes // 2


def test_another_cache_has_a_prediction_of_its_own(bundle):
    directory = bundle("affine-4bit")
    manifest = json.loads((directory / "manifest.json").read_text())
    with WeightsReader(directory / "weights.ptd") as weights:
        config = weights.config
    assert manifest_with(manifest, config, "int8") == manifest
    per_token = {}
    for kv in ("int8", "k8v4", "int4", "f16"):
        predicted = manifest_with(manifest, config, kv)["predicted"]
        per_token[kv] = predicted["kv_bytes_per_token"]
        assert predicted["file_bytes"] == manifest["predicted"]["file_bytes"]
        exact = estimate_memory(config, predicted["context"], threads=2, kv_type=kv)
        assert predicted["anon_bytes"] == exact.anon_bytes
        assert predicted["peak_bytes"] - predicted["anon_bytes"] == (
            manifest["predicted"]["peak_bytes"] - manifest["predicted"]["anon_bytes"]
        )
    assert [round(per_token[kv] / per_token["int8"], 3) for kv in ("k8v4", "int4", "f16")] == [0.765, 0.529, 1.882]


def missed(report: Report, **budgets: float) -> list[str]:
    limits = Budgets(**budgets)  # type: ignore[arg-type]
    return [f"{c.name}: {c.text}" for c in judge(report, MANIFEST, limits, 512, {"native": [1, 2]}) if not c.ok]


def whole(**more: Any) -> Run:
    return Run(0, Outcome("ok"), seconds=5.0, answer=[1, 2], peak_anon_bytes=20 * MB,
               peak=Peak(100 * MB, 100 * MB, 100 * MB), reason="cancelled", **more)  # fmt: skip


def test_the_verdict():
    good = figured(PHONE, MANIFEST, {name: [whole()] for name in ("warm-load", "long-context", "cancel")})
    assert missed(good) == []
    for cell, run, words in (
        ("long-context", replace(whole(), peak=Peak(112 * MB, 112 * MB, 112 * MB)), "peak as predicted: 112.0 MB"),
        ("long-context", replace(whole(), peak=Peak(88 * MB, 88 * MB, 88 * MB)), "(-12.0%)"),
        ("long-context", replace(whole(), peak_anon_bytes=23 * MB), "anonymous as predicted"),
        ("long-context", replace(whole(), peak=Peak(100 * MB, 96 * MB, 100 * MB)), "witnesses agree"),
        ("long-context", replace(whole(), peak=Peak(103 * MB, 100 * MB, 100 * MB)), "witnesses agree"),
        ("long-context", replace(whole(), peak=Peak(89 * MB, 100 * MB, 100 * MB)), "witnesses agree: sampler"),
        ("warm-load", replace(whole(), answer=[1, 3]), "same tokens: other tokens than this machine's: [1, 3]"),
        ("cancel", replace(whole(), reason="length"), "cancelled: it went on to its end"),
        ("cancel", Run(0, Outcome("oom", "killed")), "ran: killed"),
        ("soak", whole(timeline=[[0, 10, 0, 0, 0], [1, 10, 0, 0, 0], [2, 10, 0, 0, 0], [3, 11, 0, 0, 0]]), "not grow"),
    ):
        (found,) = missed(figured(PHONE, MANIFEST, {cell: [run]}))
        assert words in found
    late = replace(whole(), peak=Peak(91 * MB, 100 * MB, 100 * MB))  # the last sample was taken before the end
    assert missed(figured(PHONE, MANIFEST, {"long-context": [late]})) == []
    states = {"save": [whole(state_seconds=0.01)], "resume": [whole(kept_tokens=9, prompt_tokens=10)]}
    assert missed(figured(PHONE, MANIFEST, states)) == []
    for cells, words in (
        ({**states, "resume": [whole(kept_tokens=0, prompt_tokens=10)]}, "taken up: 0 of 10 tokens"),
        ({**states, "resume": [replace(states["resume"][0], answer=[2, 2])]}, "same answer: other tokens than save's"),
        ({**states, "save": [replace(whole(), peak=Peak(112 * MB, 112 * MB, 112 * MB))]}, "peak as predicted"),
        ({"long-context": [whole()], "lookup": [replace(whole(), answer=[1, 3])]}, "other tokens than long-context's"),
    ):
        (found,) = missed(figured(PHONE, MANIFEST, cells))
        assert words in found
    more = {"peak_bytes": 112 * MB, "anon_bytes": 32 * MB, "file_bytes": 79 * MB}  # the rows of logits that lookup has
    looked_up = replace(whole(), peak=Peak(112 * MB, 112 * MB, 112 * MB), peak_anon_bytes=32 * MB, predicted=more)
    assert missed(figured(PHONE, MANIFEST, {"lookup": [looked_up]})) == []
    under = figured(PHONE, MANIFEST, {"pressure": [replace(whole(), peak=Peak(50 * MB, 50 * MB, 50 * MB))]})
    assert missed(under) == []  # under pressure the kernel takes pages back
    for peak, misses in ((50, 0), (112, 1)):  # what was taken up needs no work space of a prompt
        taken = {**states, "resume": [replace(states["resume"][0], peak=Peak(peak * MB, peak * MB, peak * MB))]}
        assert len(missed(figured(PHONE, MANIFEST, taken))) == misses


def test_budgets():
    report = figured(PHONE, MANIFEST, {"decode": [whole(decode=[4.0, 6.0])], "cold-load": [whole(load_seconds=2.0)]})
    assert missed(report, max_peak=100 * MB, max_anon=20 * MB, min_decode=5, max_load=2) == []
    assert missed(report, max_peak=99 * MB) == ["--max-peak: 100.0 MB, at most 99.0 MB"]
    assert missed(report, max_anon=19 * MB) == ["--max-anon: 20.0 MB, at most 19.0 MB"]
    assert missed(report, min_decode=5.1) == ["--min-decode: 5.00 tokens/s, at least 5.1"]
    assert missed(report, max_load=1.9) == ["--max-load: 2.000 s, at most 1.9 s"]


def test_a_baseline_is_a_gate(tmp_path):
    def report(rate: float, peak: int, load: float) -> Report:
        runs = {"decode": [whole(decode=[rate])], "cold-load": [replace(whole(load_seconds=load), peak=Peak(peak))]}
        return figured(PHONE, MANIFEST, runs)

    kept = tmp_path / "baseline.json"
    kept.write_text(report(10.0, 100 * MB, 1.0).to_json())
    baseline = read_baseline(kept)

    def worse(than: Report) -> set[str]:
        return {f"{c.cell} {c.text.split()[0]}" for c in compare(baseline, than, Tolerances()) if not c.ok}

    assert worse(report(9.0, 104 * MB, 1.4)) == set()
    assert worse(report(8.0, 104 * MB, 1.4)) == {"decode 8.00"}
    assert worse(report(9.0, 106 * MB, 1.4)) == {"cold-load peak_rss_bytes:"}
    assert worse(report(9.0, 104 * MB, 1.6)) == {"cold-load load"}
    kept.write_text('{"report_version": 1}')
    with pytest.raises(UserError, match="damaged"):
        read_baseline(kept)
    kept.write_text("[]")
    with pytest.raises(UserError, match="make it again"):
        read_baseline(kept)


def test_a_report_in_its_three_forms():
    run = whole(decode=[4.0], timeline=[[0.0, 0, 0, 0, None], [0.05, 10 * MB, 50 * MB, 0, MB], [0.1, MB, MB, 0, MB]])
    bad = Run(0, Outcome("oom", "killed for want of memory (OOM): <script>", ["Out of memory: Killed <b>"]))
    report = figured(PHONE, MANIFEST, {"decode": [run], "long-context": [bad]})
    report.checks = judge(report, MANIFEST, Budgets(), 512, {})
    data = json.loads(report.to_json())
    Draft202012Validator(report_schema()).validate(data)
    assert data["verdict"]["passed"] is False
    page = device_page(report)
    assert "(OOM): <script>" not in page
    assert "&lt;script&gt;" in page
    assert "Killed &lt;b&gt;" in page
    assert page.count("<svg") >= 2  # for screens and for phones
    assert "://" not in page  # it needs nothing else
    text = "\n".join(report_lines(report))
    assert "Nokia C2, Android 11, armeabi-v7a" in text
    assert "missed: native long-context: ran: killed for want of memory (OOM)" in text
    assert text.endswith("verdict: MISSED, 2 of 3 checks kept")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_in_chromium(tmp_path, width, height):
    """On a screen and on a phone: no error, nothing asked of the network, no scrolling sideways, one drawing seen."""
    run = whole(decode=[4.0], timeline=[[0.05 * at, 20 * MB, at * MB, 0, 900 * MB] for at in range(1000)])
    report = figured(PHONE, MANIFEST, {"decode": [run]})
    page = tmp_path / "page.html"
    page.write_text(device_page(report), "utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, width, height, "light")
        assert browser.problems == []
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate("[...document.querySelectorAll('svg.plot')].filter(e => e.clientWidth).length") == 1
