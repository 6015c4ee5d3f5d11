"""mobile-run where system calls are trapped, as Android's sandbox for apps does with those it does not know."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mobile_bundle.native.programs import runner_paths

TRAP = """
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* trap NUMBER PROGRAM ARGUMENTS...: runs a program in which that system call raises SIGSYS. */
int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)atoi(argv[1]), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 3;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 3;
  execv(argv[2], argv + 2);
  return 4;
}
"""
CALLS = {"madvise": 28, "sched_getaffinity": 204, "getdents64": 217, "fadvise64": 221}
"""System calls of x86-64 that the runner can do without."""


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trap")
    (directory / "trap.c").write_text(TRAP)
    subprocess.run(["cc", "-o", directory / "trap", directory / "trap.c"], check=True)
    tried = subprocess.run([directory / "trap", str(CALLS["getdents64"]), shutil.which("ls"), "/"], capture_output=True)
    if tried.returncode == 3:
        pytest.skip("this machine's kernel lets nobody filter system calls")
    assert tried.returncode == -31, "a program that does not expect it is ended by SIGSYS"
    return directory / "trap"


@pytest.mark.full
@pytest.mark.parametrize("call", CALLS)
def test_a_trapped_system_call_is_one_that_fails(bundle, trap, tmp_path, call):
    """Installing and answering go on without it."""
    directory = tmp_path / "a.mbundle"
    shutil.copytree(bundle("affine-4bit+entropy"), directory)
    ids = []
    for number in ("9999", str(CALLS[call])):  # the first is no system call at all
        process = subprocess.run(
            [trap, number, runner_paths()["x86_64"], "generate", directory, "--prompt", "The history of",
             "--max-new-tokens", "6", "--json", "--ignore-eos"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        assert process.returncode == 0, f"{process.returncode} {process.stdout[-500:]} {process.stderr}"
        events = [json.loads(line) for line in process.stdout.splitlines()]
        ids.append([event["id"] for event in events if event["event"] == "token"])
        (directory / "weights.cache").unlink()
    assert ids[0] == ids[1]
    assert len(ids[0]) == 6
