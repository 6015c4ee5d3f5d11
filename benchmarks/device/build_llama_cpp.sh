#!/usr/bin/env bash
# build_llama_cpp.sh FOLDER: llama-bench and llama-simple from the llama-cpp-python source package, static, so that they
# run on the native lab as they are; and a GGUF of Qwen2.5-1.5B's shape (TQ2_0, head Q4_0). Needs python3, cmake, ninja,
# g++; some ten minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1"
version=0.3.36
python3 -m venv venv
[ -d src ] || {
  venv/bin/pip download -q --no-deps --no-binary=:all: "llama-cpp-python==$version" -d download
  tar xf download/*.tar.gz && mv "llama_cpp_python-$version" src
}
cmake -S src/vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
  -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DCMAKE_EXE_LINKER_FLAGS=-static -DOpenMP_gomp_LIBRARY="$(g++ -print-file-name=libgomp.a)" \
  -DOpenMP_pthread_LIBRARY="$(g++ -print-file-name=libpthread.a)"
ninja -C build -j2 llama-bench llama-simple
venv/bin/pip install -q numpy src/vendor/llama.cpp/gguf-py
venv/bin/python "$here/../llama_cpp/synthetic_gguf.py" qwen2.5-1.5b-tq2_0.gguf
